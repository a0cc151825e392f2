use super::*;
use crate::model::{FaultCode, PhaseId};
use crate::nodelet::phase::{self, samples};
use crate::nodelet::step::Step;
use crate::nodelet::trial;

/// Releases of Kubernetes whose sample has containerd 2.2.9, 2.3.7 and 2.4.2, and what those print about
/// the reviewed files of `tests/golden/containerd`.
fn dumps() -> [(&'static str, String); 3] {
    [("1.34.4", "2.2"), ("1.36.3", "2.3"), ("1.37.2", "2.4")].map(|(kubernetes, containerd)| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden/containerd")
            .join(containerd)
            .join("dump.toml");
        (kubernetes, std::fs::read_to_string(path).expect("a dump"))
    })
}

/// The newest.
fn newest() -> (&'static str, String) {
    let [_, _, newest] = dumps();
    newest
}

const CNI: &str = "plugins.\"io.containerd.cri.v1.runtime\".cni.bin_dirs";

fn the_trial(kubernetes: &str, drop_ins: &[(&str, &str)]) -> TrialStep {
    let mut ctx = samples::ordinary(samples::master(kubernetes));
    ctx.node.runtime.cdi = true;
    ctx.node.runtime.nri = true;
    for (name, text) in drop_ins {
        ctx.drop_ins.files.insert((*name).into(), (*text).into());
    }
    let steps = phase::steps(PhaseId::Stack, &ctx).expect("the stack is at hand");
    steps
        .into_iter()
        .find_map(|s| match s {
            Step::Tried(trial) if trial.program == "containerd" => Some(trial),
            _ => None,
        })
        .expect("it is tried")
}

fn said(stdout: &str) -> ProgramOutput {
    ProgramOutput {
        ended: ProgramEnd::Code(0),
        stdout: stdout.into(),
        stderr: String::new(),
    }
}

fn refused(trial: &TrialStep, said: &ProgramOutput) -> String {
    let fault = trial::verdict(trial, said).expect_err("refused");
    assert_eq!(fault.code, FaultCode::ConfigRefused);
    assert!(!fault.fix.is_empty());
    fault.to_string()
}

/// Gives every setting of a dump to `change`, and prints what it leaves.
fn without(dump: &str, key: &[String], other: Option<Value>) -> String {
    fn at<'a>(table: &'a mut Table, key: &[String]) -> Option<&'a mut Table> {
        key.iter()
            .try_fold(table, |t, part| t.get_mut(part)?.as_table_mut())
    }
    let mut table: Table = dump.parse().expect("TOML");
    let (last, parents) = key.split_last().expect("a key");
    let parent = at(&mut table, parents).expect("it is there");
    match other {
        Some(other) => parent.insert(last.clone(), other),
        None => parent.remove(last),
    };
    table.to_string()
}

#[test]
fn what_the_real_programs_say_of_our_files_is_accepted() {
    for (kubernetes, dump) in dumps() {
        trial::verdict(&the_trial(kubernetes, &[]), &said(&dump)).expect(kubernetes);
    }
}

#[test]
fn every_key_of_ours_that_is_dropped_or_changed_is_named() {
    for (kubernetes, dump) in dumps() {
        let trial = the_trial(kubernetes, &[]);
        let ours: Table = trial.files[CONFIG].parse().expect("TOML");
        let keys = leaves(&ours);
        assert!(keys.len() > 20, "{}", keys.len());
        for key in keys.keys() {
            let gone = refused(&trial, &said(&without(&dump, key, None)));
            assert!(gone.contains(&shown(key)), "{} in {gone}", shown(key));
            let odd = Value::String("odd".into());
            let other = refused(&trial, &said(&without(&dump, key, Some(odd))));
            let words = format!("{} is \"odd\" for it", shown(key));
            assert!(other.contains(&words), "{words} in {other}");
        }
    }
}

#[test]
fn a_key_that_is_read_elsewhere_is_told_with_the_place() {
    let (kubernetes, dump) = newest();
    let socket = ["plugins", "io.containerd.server.v1.grpc", "address"].map(str::to_owned);
    let moved = without(&dump, &socket, None)
        + "\n[elsewhere]\naddress = \"/run/pf9-containerd/containerd.sock\"\n";
    let words = refused(&the_trial(kubernetes, &[]), &said(&moved));
    let place = "plugins.\"io.containerd.server.v1.grpc\".address is not read there, but at \
                 elsewhere.address";
    assert!(words.contains(place), "{words}");
}

/// What 2.4.2 prints about such a file: the section as it stands there, and the other socket as the
/// one that counts.
#[test]
fn a_section_that_is_printed_and_ignored_is_refused() {
    let (kubernetes, dump) = newest();
    let mut trial = the_trial(kubernetes, &[]);
    let text = trial.files[CONFIG].replace("plugins.\"io.containerd.server.v1.grpc\"", "grpc");
    trial.files.insert(CONFIG.into(), text);
    let printed = dump + "\n[grpc]\naddress = \"/run/pf9-containerd/containerd.sock\"\n";
    let words = refused(&trial, &said(&printed));
    assert!(words.contains("ignores the section [grpc]"), "{words}");
}

/// What containerd prints of a plugin that it does not have: all that was written, the question as well.
fn with_plugin_it_lacks(dump: &str, plugin: &str) -> String {
    let mut table: Table = dump.parse().expect("TOML");
    let plugins = table["plugins"].as_table_mut().expect("plugins");
    let section = plugins.entry(plugin).or_insert(Value::Table(Table::new()));
    let section = section.as_table_mut().expect("a section");
    section.insert(NOBODY_READS.to_owned(), true.into());
    table.to_string()
}

/// As `io.containerd.grpc.v1.cri` became two others in 2.0.
#[test]
fn each_plugin_of_ours_that_it_does_not_have_is_named() {
    for (kubernetes, dump) in dumps() {
        let trial = the_trial(kubernetes, &[]);
        let asked: Table = trial.files[CONTAINERD_ASKS].parse().expect("TOML");
        let ours: Table = trial.files[CONFIG].parse().expect("TOML");
        let imports = ours["imports"].as_array().expect("imports");
        assert_eq!(
            imports.last().and_then(Value::as_str),
            Some(CONTAINERD_ASKS)
        );
        let plugins = ours["plugins"].as_table().expect("plugins");
        assert!(plugins.len() > 3, "{plugins:?}");
        for plugin in plugins.keys() {
            let question = &asked["plugins"][plugin][NOBODY_READS];
            assert_eq!(question.as_bool(), Some(true), "{plugin} is asked about");
            let words = refused(&trial, &said(&with_plugin_it_lacks(&dump, plugin)));
            let lacks = format!("it has no plugin {plugin}: ");
            assert_eq!(words.matches(&lacks).count(), 1, "{plugin}: {words}");
            assert!(words.contains("a newer agent"), "{words}");
        }
    }
}

#[test]
fn a_drop_in_for_a_plugin_that_it_does_not_have_is_refused() {
    let (kubernetes, dump) = newest();
    let plugin = "io.containerd.snapshotter.v1.devmaper";
    let text =
        format!("version = 4\n[plugins.\"{plugin}\"]\npool_name = \"a\"\nroot_path = \"/b\"\n");
    let trial = the_trial(kubernetes, &[("50-x.toml", &text)]);
    let printed = with_plugin_it_lacks(&joined(&dump, &text), plugin);
    let words = refused(&trial, &said(&printed));
    let lacks = format!("conf.d/50-x.toml: it has no plugin {plugin}: ");
    assert_eq!(words.matches(&lacks).count(), 1, "{words}");
    assert!(words.contains("correct the drop-in"), "{words}");
    // One that it has does not print the question.
    trial::verdict(&trial, &said(&joined(&dump, &text))).expect("it reads all of it");
}

#[test]
fn a_program_of_another_schema_than_its_manifest_says_is_refused() {
    let (_, dump) = newest();
    let words = refused(&the_trial("1.34.4", &[]), &said(&dump));
    assert!(
        words.contains("version 4") && words.contains("version 3"),
        "{words}"
    );
    let older = ProgramOutput {
        ended: ProgramEnd::Code(1),
        stdout: String::new(),
        stderr:
            "level=warning msg=\"x\"\ncontainerd: expected containerd config version equal to or \
                 less than `3`, got `4`\n"
                .into(),
    };
    let words = refused(&the_trial("1.37.2", &[]), &older);
    assert!(
        words.contains("less than `3`, got `4`") && !words.contains("level="),
        "{words}"
    );
    let late = ProgramOutput {
        ended: ProgramEnd::Late,
        ..older
    };
    assert!(refused(&the_trial("1.37.2", &[]), &late).contains("in time"));
    let garbage = refused(&the_trial("1.37.2", &[]), &said("= garbage"));
    assert!(garbage.contains("cannot be read"), "{garbage}");
}

const GOOD: &str = r#"version = 4
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "nvidia"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.nvidia]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.nvidia.options]
BinaryName = "/usr/bin/nvidia-container-runtime"
"#;

/// As containerd joins them: what the drop-in says wins.
fn joined(dump: &str, drop_in: &str) -> String {
    fn join(into: &mut Table, from: Table) {
        for (key, value) in from {
            match (into.get_mut(&key), value) {
                (Some(Value::Table(into)), Value::Table(from)) => join(into, from),
                (_, value) => drop(into.insert(key, value)),
            }
        }
    }
    let mut table: Table = dump.parse().expect("TOML");
    let mut from: Table = drop_in.parse().expect("TOML");
    from.remove("version");
    join(&mut table, from);
    table.to_string()
}

#[test]
fn a_drop_in_is_taken_over_when_all_of_it_counts() {
    let (kubernetes, dump) = newest();
    let trial = the_trial(kubernetes, &[("99-nvidia.toml", GOOD)]);
    trial::verdict(&trial, &said(&joined(&dump, GOOD))).expect("good");
    let words = refused(&trial, &said(&dump));
    assert!(
        words.contains("conf.d/99-nvidia.toml: plugins.") && words.contains("is dropped"),
        "{words}"
    );
}

#[test]
fn a_drop_in_that_would_break_the_runtime_is_refused_with_words() {
    let (kubernetes, dump) = newest();
    let table = "[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.x]\n";
    for (text, part) in [
        (
            "version = 5\n".to_owned(),
            "is of version 5, this containerd reads 4 and older",
        ),
        (
            "version = 2\n".to_owned(),
            "is of version 2; version 3 to 4",
        ),
        (table.to_owned(), "names no version"),
        (
            format!("version = 4\n{table}snapshotter = \"a\"\n"),
            "runtime x has no runtime_type",
        ),
        (
            format!("version = 4\n{table}runtime_type = \"\"\n"),
            "runtime x has no runtime_type",
        ),
        (
            "version = 4\nimports = [\"/tmp/*\"]\n".to_owned(),
            "imports other files",
        ),
        (
            "version = 3\n[grpc]\naddress = \"/x\"\n".to_owned(),
            "has a section [grpc]",
        ),
        (
            "version = 4\n[debug]\nlevel = \"debug\"\naddress = \"/x\"\n".to_owned(),
            "has a section [debug]",
        ),
        ("version = \n".to_owned(), "is not valid TOML"),
    ] {
        let trial = the_trial(kubernetes, &[("50-x.toml", &text)]);
        // Whatever the program says: some of these it takes.
        let words = refused(&trial, &said(&dump));
        assert!(
            words.contains("50-x.toml") && words.contains(part),
            "{part} in {words}"
        );
        assert!(words.contains("correct the drop-in"), "{words}");
    }
}

#[test]
fn a_drop_in_that_changes_what_is_ours_is_named_with_the_key() {
    let (kubernetes, dump) = newest();
    let text = "version = 4\n[plugins.\"io.containerd.cri.v1.runtime\".cni]\nbin_dirs = [\"/x\"]\n";
    let trial = the_trial(kubernetes, &[("50-x.toml", text)]);
    let words = refused(&trial, &said(&joined(&dump, text)));
    assert!(
        words.contains(CNI) && words.contains("conf.d/50-x.toml says so"),
        "{words}"
    );
    assert!(words.contains("correct the drop-in"), "{words}");
}

#[test]
fn what_could_not_be_taken_over_is_said_and_not_left_out() {
    let (kubernetes, dump) = newest();
    let mut trial = the_trial(kubernetes, &[]);
    trial.judge = crate::nodelet::step::Judge::Containerd {
        schema: 4,
        unread: vec!["drop-in /etc/x/a.toml may be written by others than root".into()],
    };
    assert!(refused(&trial, &said(&dump)).contains("/etc/x/a.toml may be written"));
}

#[test]
fn times_may_be_printed_otherwise_than_they_were_written() {
    let text = |t: &str| Value::String(t.into());
    for (meant, printed) in [
        ("5m", "5m0s"),
        ("90s", "1m30s"),
        ("0.5s", "500ms"),
        ("0", "0"),
    ] {
        assert!(
            same(&text(meant), &text(printed), false),
            "{meant} {printed}"
        );
    }
    for (meant, printed) in [
        ("5m", "5ms"),
        ("5m", "6m0s"),
        ("", "0s"),
        ("5x", "5m"),
        ("m", "0s"),
    ] {
        assert!(
            !same(&text(meant), &text(printed), false),
            "{meant} {printed}"
        );
    }
}
