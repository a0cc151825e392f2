//! What the packages install for people: manual pages and completions, made of the command line and of the commented
//! configuration. A page that no longer says what the program does fails here; `PF9_BLESS=1` rewrites it.

use clap::Command;
use clap::error::ErrorKind;
use roff::{Inline, Roff, bold, italic, roman};

use super::super::examples::EXAMPLES;
use super::*;
use crate::app::Daemon;
use crate::model::{OperationKind, paths};

const MANUAL: &str = "pf9-hostagent";

fn page(name: &str, section: u8, about: &str) -> Roff {
    let mut page = Roff::new();
    let (title, section) = (name.to_uppercase(), section.to_string());
    page.control(
        "TH",
        [
            title.as_str(),
            &section,
            // No date: it would be that of the build.
            " ",
            MANUAL,
            "System Administration",
        ],
    );
    page.control("SH", ["NAME"]);
    page.text([roman(format!("{name} - {about}"))]);
    page
}

/// One line's worth of text: clap keeps line breaks of paragraphs only.
fn flow(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn paragraphs(page: &mut Roff, text: &str) {
    for (n, part) in text.split("\n\n").enumerate() {
        if n > 0 {
            page.control("PP", []);
        }
        page.text([roman(flow(part))]);
    }
}

/// Lines that stay as they are.
fn verbatim(page: &mut Roff, text: &str) {
    page.control("nf", []);
    for line in text.lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []);
}

fn options(page: &mut Roff, command: &Command) {
    let shown = command.get_arguments().filter(|a| !a.is_hide_set());
    for arg in shown {
        let id = arg.get_id().as_str();
        // The same on every page of every program.
        if id == "help" || id == "version" {
            continue;
        }
        let mut name: Vec<Inline> = Vec::new();
        if let Some(short) = arg.get_short() {
            name.push(bold(format!("-{short}")));
            name.push(roman(", "));
        }
        if let Some(long) = arg.get_long() {
            name.push(bold(format!("--{long}")));
        }
        if arg.get_action().takes_values() {
            let values = arg.get_value_names().unwrap_or_default();
            let value = values.first().map_or(id, |v| v.as_str());
            if !name.is_empty() {
                name.push(roman(" "));
            }
            name.push(italic(value));
        }
        let mut words = arg
            .get_long_help()
            .or(arg.get_help())
            .map(|h| h.to_string());
        let possible: Vec<String> = match arg.get_action().takes_values() {
            true => arg
                .get_possible_values()
                .iter()
                .map(|v| v.get_name().to_owned())
                .collect(),
            false => Vec::new(),
        };
        if !possible.is_empty() {
            let words = words.get_or_insert_default();
            words.push_str(&format!(". One of: {}", possible.join(", ")));
        }
        let defaults = arg.get_default_values();
        if let ([default], true) = (defaults, arg.get_action().takes_values()) {
            let words = words.get_or_insert_default();
            words.push_str(&format!(". Default: {}", default.to_string_lossy()));
        }
        page.control("TP", []);
        page.text(name);
        let words = words.unwrap_or_default();
        page.text([roman(flow(words.trim_start_matches(". ")))]);
    }
}

fn leaves(command: &Command, path: &str, found: &mut Vec<(String, Command)>) {
    for verb in command.get_subcommands() {
        if verb.is_hide_set() || verb.get_name() == "help" {
            continue;
        }
        let path = format!("{path} {}", verb.get_name());
        if verb.has_subcommands() {
            leaves(verb, &path, found);
        } else {
            found.push((path, verb.clone()));
        }
    }
}

fn verbs() -> Vec<(String, Command)> {
    let mut root = command();
    root.build();
    let mut found = Vec::new();
    leaves(&root, "pf9ctl", &mut found);
    found
}

fn exits(page: &mut Roff) {
    page.control("SH", ["EXIT STATUS"]);
    for exit in Exit::ALL {
        page.control("TP", []);
        page.text([bold(exit.code().to_string())]);
        page.text([roman(exit.meaning())]);
    }
}

const FILES: [(&str, &str); 10] = [
    (
        "/etc/pf9/hostagent.toml, /etc/pf9/conf.d/*.toml",
        "Configuration; see hostagent.toml(5).",
    ),
    (
        "/etc/pf9/conf.d/50-proxy.toml, /etc/pf9/proxy-credentials",
        "What proxy set writes; only the tunnel's user can read the credentials.",
    ),
    ("/etc/pf9/conf.d/60-pf9ctl.toml", "What config set writes."),
    (
        "/etc/pf9/operator.toml",
        "For host, cluster, node join and node leave: plane, token_file or application_credential_file, and perhaps \
         ca_file and project.",
    ),
    (
        "/etc/pf9/operations.toml",
        "Which operations of the plane are done on this host; see pf9-operations(5).",
    ),
    (
        "/etc/pf9/services.d/*.toml",
        "What the plane may reach through the tunnel; see pf9-services(5).",
    ),
    (
        "/run/pf9/comms.sock",
        "The tunnel's own API; GET /v1/metrics is Prometheus text.",
    ),
    (
        "/var/log/pf9/",
        "Logs; kube/kube.log tells the story of the node in plain words.",
    ),
    (
        "/opt/pf9/agent",
        "The programs of each version, in a directory called after it; current is the one that runs, last-good the one \
         that was proven on this machine last.",
    ),
    (
        "/var/opt/pf9/agent/switch.json",
        "The newest change of the version, and how far it is.",
    ),
];

fn files(page: &mut Roff) {
    page.control("SH", ["FILES"]);
    for (path, words) in FILES {
        page.control("TP", []);
        page.text([italic(path)]);
        page.text([roman(words)]);
    }
}

fn see_also(page: &mut Roff, but: &str) {
    page.control("SH", ["SEE ALSO"]);
    let all = [
        ("pf9ctl", 8),
        ("pf9-comms", 8),
        ("pf9-hostagent", 8),
        ("pf9-nodeletd", 8),
        ("hostagent.toml", 5),
        ("pf9-operations", 5),
        ("pf9-services", 5),
    ];
    let mut words = Vec::new();
    for (name, section) in all.into_iter().filter(|(name, _)| *name != but) {
        if !words.is_empty() {
            words.push(roman(", "));
        }
        words.push(bold(name));
        words.push(roman(format!("({section})")));
    }
    page.text(words);
}

#[test]
fn the_page_of_pf9ctl_is_made_of_its_command_line() {
    let mut page = page(
        "pf9ctl",
        8,
        "the operator's hand on a node of a managed Kubernetes",
    );
    page.control("SH", ["SYNOPSIS"]);
    page.text([
        bold("pf9ctl"),
        roman(" "),
        italic("VERB"),
        roman(" [options]"),
    ]);
    page.control("SH", ["DESCRIPTION"]);
    let words = "Makes this machine a host of a management plane, shows how it is and why, and undoes it. Every verb writes \
                 JSON with --json, and its help has examples. No secret is ever an argument: they come from files, or from \
                 standard input. Colours are for terminals, unless NO_COLOR is set.";
    page.text([roman(words)]);
    page.control("SH", ["VERBS"]);
    for (path, verb) in verbs() {
        page.control("SS", [path.as_str()]);
        let about = verb.get_long_about().or(verb.get_about());
        paragraphs(&mut page, &about.map(|a| a.to_string()).unwrap_or_default());
        options(&mut page, &verb);
        if let Some(examples) = verb.get_after_long_help() {
            page.control("PP", []);
            verbatim(&mut page, &examples.to_string());
        }
    }
    page.control("SH", ["NAMES OF OTHER TOOLS"]);
    for (name, is) in crate::cli::known::KNOWN
        .into_iter()
        .chain(crate::cli::known::FLAGS)
    {
        page.control("TP", []);
        page.text([bold(name)]);
        page.text([roman(is)]);
    }
    files(&mut page);
    exits(&mut page);
    see_also(&mut page, "pf9ctl");
    golden_at("packaging/man/pf9ctl.8", &page.to_roff());
}

#[test]
fn each_daemon_has_a_page() {
    let says = |name: &str| match name {
        "pf9-comms" => {
            "Moves bytes and knows no document. It is the only process of the agent that talks to the network outside the \
             node, as the user pf9-comms, without a capability. The plane reaches through it what pf9-services(5) names, \
             and nothing else."
        }
        "pf9-hostagent" => {
            "Moves documents and runs nothing, as the user pf9, without a capability: it keeps the last accepted spec, \
             hands it to pf9-nodeletd, gathers what is to be told, and downloads."
        }
        "pf9-nodeletd" => {
            "Changes the machine, as root, and talks to nobody outside it. It believes a spec only by its signature. \
             systemd starts it when its socket is asked; with a wrong configuration it answers all the same, and says why \
             nothing is done."
        }
        other => panic!("{other} has no words"),
    };
    for daemon in Daemon::ALL {
        let mut command = daemon.command();
        command.build();
        let mut page = page(daemon.name, 8, daemon.about);
        page.control("SH", ["SYNOPSIS"]);
        page.text([bold(daemon.name), roman(" [options]")]);
        page.control("SH", ["DESCRIPTION"]);
        page.text([roman(says(daemon.name))]);
        let started = "It is started by its unit and takes no other configuration than hostagent.toml(5). SIGTERM ends it \
                       in order.";
        page.control("PP", []);
        page.text([roman(started)]);
        page.control("SH", ["OPTIONS"]);
        options(&mut page, &command);
        files(&mut page);
        exits(&mut page);
        see_also(&mut page, daemon.name);
        golden_at(&format!("packaging/man/{}.8", daemon.name), &page.to_roff());
    }
}

fn shipped(path: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(path).expect("shipped file")
}

/// Words and settings of the commented file: `#[section]`, `# words`, `#key = default`.
#[test]
fn the_page_of_the_configuration_is_the_shipped_file() {
    let text = shipped("packaging/etc/hostagent.toml");
    let mut page = page("hostagent.toml", 5, "configuration of the pf9 host agent");
    page.control("SH", ["DESCRIPTION"]);
    let mut section = String::new();
    let mut words: Vec<&str> = Vec::new();
    let mut settings = 0;
    let mut begun = false;
    for line in text.lines().chain([""]) {
        let bare = line.trim_start_matches('#');
        if bare.starts_with('[') {
            section = bare.trim_matches(['[', ']']).to_owned();
            page.control("SS", [format!("[{section}]").as_str()]);
            begun = true;
        } else if let Some(said) = bare.strip_prefix(' ') {
            words.push(said);
        } else if let Some((key, default)) = bare.split_once(" = ") {
            settings += 1;
            page.control("TP", []);
            page.text([bold(key), roman(format!(" (default {default})"))]);
            let said = match words.as_slice() {
                [] => "Said above.".to_owned(),
                some => flow(&some.join(" ")),
            };
            page.text([roman(said)]);
            words.clear();
        } else if bare.is_empty() && !words.is_empty() {
            if begun {
                page.control("PP", []);
            }
            page.text([roman(flow(&words.join(" ")))]);
            words.clear();
        }
    }
    page.control("SH", ["EXAMPLES"]);
    verbatim(
        &mut page,
        "sudo pf9ctl config set comms.ping_s 5\npf9ctl config show --effective\npf9ctl config validate",
    );
    see_also(&mut page, "hostagent.toml");
    assert!(settings >= 13 && !section.is_empty(), "{settings} settings");
    golden_at("packaging/man/hostagent.toml.5", &page.to_roff());
}

#[test]
fn the_page_of_the_allow_list_is_the_shipped_file() {
    let text = shipped("packaging/etc/services.d/kubernetes.toml");
    let (head, services) = text.split_once("[[service]]").expect("services");
    let mut page = page(
        "pf9-services",
        5,
        "what the plane may reach on a node through the tunnel",
    );
    page.control("SH", ["SYNOPSIS"]);
    page.text([italic("/etc/pf9/services.d/*.toml")]);
    page.control("SH", ["DESCRIPTION"]);
    let lines = head.lines().map(|l| l.trim_start_matches('#'));
    let (said, keys): (Vec<&str>, Vec<&str>) = lines.partition(|l| !l.starts_with("   "));
    page.text([roman(flow(&said.join(" ")))]);
    page.control("SH", ["KEYS"]);
    verbatim(&mut page, &keys.join("\n"));
    page.control("SH", ["EXAMPLES"]);
    verbatim(&mut page, &format!("[[service]]{services}"));
    see_also(&mut page, "pf9-services");
    golden_at("packaging/man/pf9-services.5", &page.to_roff());
}

/// What each operation does, for root who allows it.
const OPERATIONS: [(&str, &str); 9] = [
    ("ping", "Answers, and does nothing."),
    (
        "resend-status",
        "Looks at the machine and sends its status anew.",
    ),
    (
        "run-checks",
        "Looks what differs from the spec, and tells it; nothing is changed.",
    ),
    (
        "restart",
        "Starts one of the agent's or the node's own units again.",
    ),
    (
        "rotate",
        "Orders one of the node's certificates anew, before its time.",
    ),
    ("backup", "Makes a backup of etcd now, on a master."),
    (
        "log-level",
        "Has a daemon log more or less, for a time; as pf9ctl log-level does.",
    ),
    (
        "bundle",
        "Makes a support bundle, sealed, and sends it to the plane. Only where support.bundle_on_request is true as well: \
         see hostagent.toml(5).",
    ),
    (
        "logs",
        "Sends what the agent, kubelet, etcd and the runtime logged, sealed. Only where support.logs is true, or after \
         pf9ctl support allow.",
    ),
];

#[test]
fn the_page_of_operations_names_each_that_there_is() {
    let mut page = page(
        "pf9-operations",
        5,
        "which operations of the plane are done on this host",
    );
    page.control("SH", ["SYNOPSIS"]);
    page.text([italic(paths::OPERATIONS_ALLOWED)]);
    page.control("SH", ["DESCRIPTION"]);
    paragraphs(
        &mut page,
        "An operation is one thing that the plane orders once, signed, from a closed list. It is done only where root of this \
         host allows it: by this file, whose one key, allow, is the list of those that are. Without the file those are allowed \
         that disturb nothing. A file that is wrong, or that somebody else than root could have written, allows nothing. It is \
         read anew for each operation.",
    );
    page.control("SH", ["OPERATIONS"]);
    let words = OPERATIONS.map(|(word, _)| word);
    assert_eq!(
        words,
        OperationKind::WORDS,
        "each that there is, in its order"
    );
    for (word, says) in OPERATIONS {
        let without = match OperationKind::HARMLESS.contains(&word) {
            true => "",
            false => " Not allowed without the file.",
        };
        page.control("TP", []);
        page.text([bold(word)]);
        page.text([roman(format!("{says}{without}"))]);
    }
    page.control("SH", ["EXAMPLES"]);
    let harmless = OperationKind::HARMLESS
        .map(|word| format!("\"{word}\""))
        .join(", ");
    verbatim(
        &mut page,
        &format!(
            "# As without the file, and restarts.\nallow = [{harmless}, \"restart\"]\n\n# None at all.\nallow = []"
        ),
    );
    see_also(&mut page, "pf9-operations");
    golden_at("packaging/man/pf9-operations.5", &page.to_roff());
}

#[test]
fn completions_are_made_of_the_command_line() {
    use clap_complete::{Shell, generate};
    for (shell, file) in [
        (Shell::Bash, "pf9ctl.bash"),
        (Shell::Zsh, "_pf9ctl"),
        (Shell::Fish, "pf9ctl.fish"),
    ] {
        let mut text = Vec::new();
        generate(shell, &mut visible(command()), "pf9ctl", &mut text);
        let text = String::from_utf8(text).expect("text");
        assert!(
            text.contains("bundle") && !text.contains("--root"),
            "{file}"
        );
        golden_at(&format!("packaging/completions/{file}"), &text);
    }
}

/// Without what is hidden: shells would offer it.
fn visible(command: Command) -> Command {
    let mut new = Command::new(&*command.get_name().to_owned().leak());
    if let Some(about) = command.get_about() {
        new = new.about(about.clone());
    }
    for arg in command.get_arguments().filter(|a| !a.is_hide_set()) {
        new = new.arg(arg.clone());
    }
    for verb in command.get_subcommands().filter(|v| !v.is_hide_set()) {
        new = new.subcommand(visible(verb.clone()));
    }
    new
}

/// Help that teaches: each verb shows how it is called.
#[test]
fn every_verb_has_examples() {
    let without: Vec<String> = verbs()
        .into_iter()
        .filter(|(path, verb)| {
            let help = verb.get_after_long_help().map(|h| h.to_string());
            !help.is_some_and(|h| h.starts_with("Examples:\n") && h.contains(path.as_str()))
        })
        .map(|(path, _)| path)
        .collect();
    assert!(without.is_empty(), "{without:#?}");
}

#[test]
fn every_group_of_verbs_says_what_to_begin_with() {
    let mut root = command();
    root.build();
    let groups = root
        .get_subcommands()
        .filter(|v| v.has_subcommands() && !v.is_hide_set() && v.get_name() != "help");
    let mut seen = 0;
    for group in groups {
        let help = group.get_after_help().map(ToString::to_string);
        let begins = format!("pf9ctl {} ", group.get_name());
        assert!(
            help.is_some_and(|h| h.starts_with("Examples:\n") && h.contains(&begins)),
            "{begins}"
        );
        seen += 1;
    }
    assert!(seen > 10, "{seen}");
}

/// The words of an example, as a shell reads them up to its first operator; `None`: it is not of this program.
fn words(line: &str) -> Option<Vec<String>> {
    let line = line.strip_prefix("sudo ").unwrap_or(line);
    let mut all = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '|' | '<' | '>' | '&' | '#') => break,
            (None, ' ') => all.push(String::new()),
            (_, _) => all.last_mut()?.push(c),
        }
    }
    all.retain(|word| !word.is_empty());
    (all.first()? == "pf9ctl").then_some(all)
}

#[test]
fn every_example_is_a_line_that_the_program_takes() {
    let mut seen = 0;
    for (_, lines) in EXAMPLES {
        let lines = lines.join("\n").replace("\\\n", " ");
        for words in lines.lines().filter_map(words) {
            seen += 1;
            if let Err(e) = command().try_get_matches_from(&words) {
                assert_eq!(e.kind(), ErrorKind::DisplayHelp, "{words:?}: {e}");
            }
        }
    }
    assert!(seen > 90, "{seen}");
}
