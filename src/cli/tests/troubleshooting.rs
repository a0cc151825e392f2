//! `docs/troubleshooting.md` is made of the table of remedies, and names only what there is: verbs with their options,
//! and units. The verbs of `pf9-plane` are looked at beside its command line. `PF9_BLESS=1` rewrites the page.

use std::fmt::Write as _;

use super::*;
use crate::cli::args::command;
use crate::host::ours::units;
use crate::model::remedies::ROOMS;

const PAGE: &str = "docs/troubleshooting.md";

const HEAD: &str = "# Troubleshooting

Generated from the program by a test, as `pf9ctl explain` shows it: every fault code, what it means, its usual cause, what to do. A failure says
all this itself, with the names of the case; this page is for a reader who has only the code, from an alert, a log or a script. The code is in
every JSON value with a fault (`code`), in log lines and in the plane's answers.

First steps for any failure:

- `pf9ctl status`: one screen with the state, why, what to do and the next try; changes nothing
- `pf9ctl node check`: checks the machine, the way to the plane, and the agent; changes nothing
- `pf9ctl logs kube -n 50`: what was recently done to this node, in plain words
- `pf9ctl explain CODE`: this page's text for a code, on the machine itself; without a code all of them
- `pf9ctl bundle`: everything that support needs, without keys and passwords; works even if all daemons are down

While the agent or its tunnel is down the node and its pods keep running. Capitals in commands stand for your own words; every `pf9-plane` verb
takes `--state-dir` as well. Exit codes and thresholds of checks: [checks.md](checks.md); alerts: [alerts.md](alerts.md).

";

/// The anchor that a heading gets.
fn anchor(title: &str) -> String {
    let kept = |c: &char| c.is_ascii_alphanumeric() || " -".contains(*c);
    let all = title.to_lowercase();
    all.chars()
        .filter(kept)
        .collect::<String>()
        .replace(' ', "-")
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for room in ROOMS {
        let (title, n) = (room.title, room.rows.len());
        writeln!(page, "- [{title}](#{}) ({n})", anchor(title)).expect("text");
    }
    for room in ROOMS {
        writeln!(page, "\n## {}\n\n{}", room.title, room.about).expect("text");
        let mut rows: Vec<_> = room.rows.iter().collect();
        rows.sort_by_key(|row| row.code.word());
        for row in rows {
            let (means, why, what_to_do) = (row.means, row.why, row.what_to_do);
            let word = row.code.word();
            write!(
                page,
                "\n### `{word}`\n\n{means}\n\n- why: {why}\n- do: {what_to_do}\n"
            )
            .expect("text");
        }
    }
    page.push_str(
        "\n## Any other code\n\nIt is of a newer program than this page. Its own sentences say what it is; read the page of that version.\n",
    );
    page
}

#[test]
fn the_page_of_remedies_is_made_of_the_table() {
    golden_at(PAGE, &page());
}

/// What stands between backticks, and what does not.
fn split(page: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for (n, piece) in page.split('`').enumerate() {
        match n % 2 {
            0 => outside.push(piece),
            _ => inside.push(piece),
        }
    }
    (inside, outside)
}

/// A word of a command, or what a person would write in its place.
fn example(word: &str) -> &str {
    let is_place = word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    match word {
        "HOST" => "0b6d1a7c-5b1e-4c57-8f6c-2f4a39f0a111",
        "URL" => "https://plane.example",
        _ if is_place => "x",
        word => word,
    }
}

#[test]
fn every_verb_that_a_remedy_names_is_one() {
    let page = page();
    let (inside, outside) = split(&page);
    let mut seen = 0;
    for line in inside.iter().filter(|line| line.starts_with("pf9ctl ")) {
        let parsed = command().try_get_matches_from(line.split(' ').map(example));
        assert!(parsed.is_ok(), "{line}: {parsed:?}");
        seen += 1;
    }
    assert!(seen > 50, "{seen} commands were looked at");
    // What is not marked as a command is not looked at.
    for text in outside {
        for program in ["pf9ctl ", "pf9-plane ", "systemctl ", "journalctl "] {
            assert!(!text.contains(program), "{text}");
        }
    }
}

#[test]
fn every_unit_that_a_remedy_names_is_one() {
    let known = [
        units::CONTAINERD,
        units::ETCD,
        units::KUBELET,
        units::KUBE_PROXY,
        units::COMMS,
        units::HOSTAGENT,
        units::NODELET,
        units::NODELET_SOCKET,
        units::OS_UPDATE,
    ];
    let page = page();
    for piece in split(&page).0 {
        let is_units = piece.starts_with("systemctl ") || piece.starts_with("journalctl ");
        let words = piece
            .split(' ')
            .filter(|w| is_units && w.starts_with("pf9-"));
        for unit in words {
            let whole = match unit.contains('.') {
                true => unit.to_owned(),
                false => format!("{unit}.service"),
            };
            assert!(known.contains(&whole.as_str()), "{piece}");
        }
    }
}

#[test]
fn remedies_are_lines_that_fit_among_each_other() {
    for row in ROOMS.iter().flat_map(|room| room.rows) {
        for text in [row.means, row.why, row.what_to_do] {
            let word = row.code.word();
            assert!(!text.is_empty() && !text.contains('\n'), "{word}");
            assert!(!text.ends_with(['.', ' ', ';']), "{word}: {text}");
            assert_eq!(text.matches('`').count() % 2, 0, "{word}: {text}");
        }
    }
}
