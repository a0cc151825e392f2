//! The architecture rules as tests.
//!
//! | file | holds |
//! |---|---|
//! | `arch/arrows` | which module may use which: the table, its pictures |
//! | `arch/maps`   | the questions of `src/lib.rs` and of `CONTRIBUTING.md`, names of types, words of comments, who starts programs |
//! | `arch/pages`  | what the pages promise, name, link to and show is there |
//! | `arch/words`  | every sentence that people are shown, in one file |
//! | here          | file lengths, who may print, bans, codes that nobody says |

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "arch/arrows.rs"]
mod arrows;
#[path = "arch/maps.rs"]
mod maps;
#[path = "arch/pages.rs"]
mod pages;
#[path = "arch/words.rs"]
mod words;

/// Longest file that can be read in one sitting.
const LINES_MAX: usize = 600;
/// Files that may write to standard output.
const PRINTERS: &[&str] = &[
    "src/cli/output.rs",
    "crates/plane/src/command.rs",
    "crates/plane/src/command/output.rs",
];

/// Files that are compiled for tests only.
fn is_test(path: &Path) -> bool {
    let named = [
        "tests.rs",
        "testing.rs",
        "golden.rs",
        "seam/walk.rs",
        "app/memory.rs",
        "host/no_threads.rs",
    ]
    .iter()
    .any(|name| path.ends_with(name));
    let room =
        |part: std::path::Component<'_>| ["tests", "golden"].iter().any(|r| part.as_os_str() == *r);
    named || path.components().any(room)
}

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut dirs = vec![
        root.join("src"),
        root.join("crates/plane/src"),
        root.join("crates/tunnel/src"),
    ];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("source directory") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("source file");
                let short = path
                    .strip_prefix(env!("CARGO_MANIFEST_DIR"))
                    .expect("inside the package");
                found.push((short.to_path_buf(), text));
            }
        }
    }
    assert!(found.len() > 50, "the walk found too little");
    found
}

/// `src/local/server.rs` and `src/local.rs` belong to `local`, `crates/tunnel/src/wire/frame.rs` to `wire`, and all of
/// `crates/plane` is one.
fn module_of(path: &Path) -> Option<String> {
    if path.starts_with("crates/plane") {
        return Some("plane".to_owned());
    }
    let mut parts = path.iter().skip_while(|part| *part != "src").skip(1);
    let first = parts.next()?.to_str()?;
    Some(first.trim_end_matches(".rs").to_owned())
}

/// Code without comments and without its test modules.
fn product_code(text: &str) -> String {
    let tests = ["", "pub(crate) ", "pub(super) "];
    let tests = tests.map(|to| format!("#[cfg(test)]\n{to}mod tests {{"));
    let begins = tests.iter().filter_map(|t| text.find(t.as_str())).min();
    let code = begins.and_then(|at| text.get(..at)).unwrap_or(text);
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A golden file with the `wanted` text; `PF9_BLESS=1` writes it.
fn blessed(path: &str, wanted: &str) {
    if std::env::var_os("PF9_BLESS").is_some() {
        fs::write(path, wanted).expect("write");
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    let differs = text.lines().zip(wanted.lines()).find(|(a, b)| a != b);
    assert!(
        text == wanted,
        "{path} is an older one: PF9_BLESS=1 ({differs:?})"
    );
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(path, text)| (text.lines().count(), path))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "over {LINES_MAX} lines: {long:#?}");
}

#[test]
fn only_the_printers_print() {
    let chatty: Vec<_> = sources()
        .into_iter()
        .filter(|(path, text)| {
            if is_test(path) {
                return false;
            }
            let code = product_code(text);
            let prints = ["println!", "print!(", "eprintln!", "stdout()"]
                .iter()
                .any(|p| code.contains(p));
            prints && !PRINTERS.iter().any(|p| path.ends_with(p))
        })
        .map(|(path, _)| path)
        .collect();
    assert!(chatty.is_empty(), "these print: {chatty:#?}");
}

#[test]
fn programs_are_thin() {
    const MAIN_MAX: usize = 60;
    for (path, text) in sources() {
        if path.starts_with("src/bin") {
            let lines = text.lines().count();
            assert!(lines <= MAIN_MAX, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn nothing_is_banned_in_the_product() {
    // Bans that no lint knows: each would break a promise silently.
    const THREADS: &str = "it panics where no thread can be started: host::work";
    const BANNED: &[(&str, &str, &[&str])] = &[
        ("unbounded_channel", "every queue has a bound", &[]),
        ("tokio::spawn(", "tasks belong to a group", &[]),
        ("fs::write(", "writes are atomic: host::fs", &[]),
        ("process::exit", "return an Exit", &[]),
        ("spawn_blocking", THREADS, &["src/host/work.rs"]),
        ("block_in_place", THREADS, &[]),
        ("tokio::fs", THREADS, &[]),
        // Asks in a task of its own, whose panic is an answer.
        ("lookup_host", THREADS, &["src/egress/race.rs"]),
        ("thread::spawn(", THREADS, &[]),
    ];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if is_test(&path) {
            continue;
        }
        let code = product_code(&text);
        for (word, why, but) in BANNED {
            if code.contains(word) && !but.iter().any(|b| path.ends_with(b)) {
                wrong.push(format!("{}: {word} ({why})", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The plane's handlers read requests with its own extractors: the library's refuse in its own words, without a code.
#[test]
fn the_plane_refuses_bad_requests_in_its_own_words() {
    const READERS: [&str; 4] = ["Path", "Query", "Form", "Json"];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if is_test(&path) || path.ends_with("plane/src/http.rs") {
            continue;
        }
        let code = product_code(&text);
        for part in code.split("axum::extract::").skip(1) {
            let end = if part.starts_with('{') { "}" } else { ";" };
            let named = part.split(end).next().unwrap_or_default();
            let words = named.split(|c: char| !c.is_alphanumeric());
            if let Some(word) = words.into_iter().find(|w| READERS.contains(w)) {
                wrong.push(format!("{}: axum::extract::{word}", path.display()));
            }
        }
        // A body is read by `http::Doc`; as an argument this would read one.
        if code.contains("    Json(") && code.contains("): Json<") {
            wrong.push(format!("{}: Json as an argument", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Changing a disk or reading the clock without a point at which a test can break it (`src/seam.rs`). What a person's own
/// command and the checks of a machine write is no daemon's: what is shown or packed for a person, a lock, what a failed
/// `node prep` takes back; scratch files.
#[test]
fn daemons_change_disks_and_read_the_clock_through_the_seam() {
    const NOT_DAEMONS: [&str; 8] = [
        "src/cli/before.rs",
        "src/cli/bundle.rs",
        "src/cli/context.rs",
        "src/cli/leftovers.rs",
        "src/cli/output.rs",
        "src/preflight/sync.rs",
        "src/preflight/trial.rs",
        "src/seam",
    ];
    const WORDS: [&str; 18] = [
        "OpenOptions::new()",
        ".write(true)",
        "File::create",
        "fs::rename(",
        "fs::create_dir",
        "fs::remove_file(",
        "fs::remove_dir",
        "fs::copy(",
        "fs::hard_link(",
        "fs::set_permissions(",
        "DirBuilder::new()",
        "unix::fs::symlink(",
        "unix::fs::chown(",
        "fchown(",
        "renameat",
        "linkat(",
        "Timestamp::now",
        "Zoned::now",
    ];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let daemon = !NOT_DAEMONS.iter().any(|p| path.starts_with(p));
        if is_test(&path) || path.ends_with("rig.rs") || path.ends_with("seam.rs") || !daemon {
            continue;
        }
        let code = product_code(&text);
        for word in WORDS {
            if code.contains(word) {
                wrong.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Fault injection is in no release: it does not compile there, and no program and no default enables it.
#[test]
fn no_release_has_points() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("Cargo.toml")).expect("Cargo.toml");
    let features = text.split("[features]").nth(1).expect("features");
    let features = features.split("\n[").next().expect("their end");
    let asks: Vec<_> = features
        .lines()
        .filter(|l| !l.trim_start().starts_with('#') && l.contains("fault"))
        .collect();
    assert_eq!(
        asks,
        [
            "default = []",
            "fault = [\"dep:proptest\", \"dep:tempfile\", \"tokio/test-util\"]"
        ]
    );
    assert!(!text.contains("required-features = [\"fault"));
    // The plane's crate has programs that only tests run, and only they enable it.
    let text = fs::read_to_string(root.join("crates/plane/Cargo.toml")).expect("Cargo.toml");
    let mut of_tests = BTreeSet::new();
    for part in text.split("\n[").filter(|part| part.contains("fault\"]")) {
        let name = part
            .split("name = \"")
            .nth(1)
            .and_then(|rest| rest.split('"').next());
        of_tests.insert(name.unwrap_or_else(|| part.lines().next().unwrap_or_default()));
    }
    let known = ["clients", "features]", "it", "pf9-agent-of-tests"];
    assert_eq!(of_tests.into_iter().collect::<Vec<_>>(), known);
    let seam = fs::read_to_string(root.join("src/seam.rs")).expect("the seam");
    let guard = "#[cfg(all(feature = \"fault\", not(debug_assertions)))]\ncompile_error!(";
    assert!(seam.contains(guard), "a release with it would compile");
    for script in [
        "scripts/package",
        "scripts/lib/tools.py",
        "scripts/lib/bench_join.py",
    ] {
        let text = fs::read_to_string(root.join(script)).expect("script");
        for build in text
            .lines()
            .filter(|l| l.contains("build") && l.contains("release"))
        {
            assert!(
                !build.contains("all-features") && !build.contains("fault"),
                "{script}: {build}"
            );
        }
    }
}

/// A new kind of step, question, artefact or outcome must be handled wherever kinds matter: in matches that name each
/// (clippy's `wildcard_enum_match_arm` enforces the rest), not by singling one out.
#[test]
fn kinds_are_not_picked_out_of_the_closed_enums() {
    const ENUMS: [&str; 6] = [
        "Step",
        "Probe",
        "ArtefactKind",
        "Before",
        "StepPart",
        "Proof",
    ];
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in sources() {
        if is_test(&path) || path.ends_with("rig.rs") || !path.starts_with("src/nodelet") {
            continue;
        }
        seen += 1;
        let code = product_code(&text);
        for name in ENUMS {
            let picked = code.contains(&format!("let {name}::"))
                || code.split("matches!(").skip(1).any(|call| {
                    let call = call.split(';').next().unwrap_or(call);
                    let call: String = call.chars().take(200).collect();
                    call.contains(&format!(" {name}::"))
                });
            if picked {
                wrong.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(seen > 30, "the walk found too little");
    assert!(
        wrong.is_empty(),
        "decided outside an exhaustive match: {wrong:#?}"
    );
}

/// Processes, sockets and mounts are read in one place each: two parsers disagree sooner or later.
#[test]
fn processes_are_looked_at_in_one_place() {
    const READERS: [(&str, &[&str]); 5] = [
        ("list(\"/proc\")", &[]),
        ("at(\"/proc\")", &["src/host/proc.rs"]),
        ("/proc/{pid}", &["src/host/proc.rs"]),
        ("/proc/net/tcp", &["src/host/proc.rs"]),
        ("/mountinfo", &["src/host/mounts.rs", "src/host/proc.rs"]),
    ];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if is_test(&path) || path.ends_with("rig.rs") {
            continue;
        }
        let code = product_code(&text);
        for (word, readers) in READERS {
            if code.contains(word) && !readers.iter().any(|r| path.ends_with(r)) {
                wrong.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A code that nothing uses is a promise to programs that nothing keeps.
#[test]
fn every_fault_code_is_spoken_by_somebody() {
    use pf9_hostagent::model::FaultCode;
    let spoken: String = sources()
        .into_iter()
        .filter(|(path, _)| !path.ends_with("model/fault_code.rs") && !is_test(path))
        .map(|(_, text)| product_code(&text))
        .collect();
    for code in FaultCode::ALL {
        // Made from the name of a check: `preflight` tests that each has one.
        if code.word().starts_with("check-") {
            continue;
        }
        let used = spoken
            .match_indices(&format!("FaultCode::{code:?}"))
            .any(|(at, found)| {
                let rest = spoken.get(at + found.len()..).unwrap_or_default();
                !rest.starts_with(char::is_alphanumeric)
            });
        assert!(used, "nothing says {code}: take its row out");
    }
}
