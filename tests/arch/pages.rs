//! What the pages say is so.
//!
//! | | test |
//! |---|---|
//! | promises  | [`every_promise_names_tests_that_are_there`] |
//! | paths     | [`pages_name_files_that_are_there`] |
//! | links     | [`links_of_pages_lead_somewhere`] |
//! | screens   | [`screens_of_pages_are_those_of_the_programs`] |

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::blessed;

/// The page names tests for each promise; each of them exists and runs, and was seen to fail without its guard.
#[test]
fn every_promise_names_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/architecture.md")).expect("page");
    let (_, rest) = page.split_once("### Who holds them").expect("the table");
    let (table, _) = rest.split_once("\n## ").expect("its end");
    let (mut held, mut seen_to_fail) = (BTreeSet::new(), BTreeSet::new());
    let mut unseen = Vec::new();
    for row in table.lines() {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let Some(promise) = cells.next().and_then(|c| c.parse::<u32>().ok()) else {
            continue;
        };
        let mut tests = cells.next().unwrap_or_default().split('`').skip(1);
        while let (Some(named), Some(after)) = (tests.next(), tests.next()) {
            let (file, test) = named.split_once(": ").expect("file: test");
            let text = fs::read_to_string(root.join(file))
                .unwrap_or_else(|e| panic!("promise {promise}: {file}: {e}"));
            assert!(
                is_a_test(&text, test),
                "promise {promise}: {file} has no test {test}"
            );
            held.insert(promise);
            if after.trim_start().starts_with('†') {
                seen_to_fail.insert(promise);
            } else {
                unseen.push(named.to_owned());
            }
        }
    }
    // Removing their guard on a machine takes minutes for each.
    unseen.retain(|named| !named.starts_with("tests/node/"));
    assert!(
        unseen.is_empty(),
        "not seen to fail without its guard: {unseen:#?}"
    );
    let (_, list) = page.split_once("## Promises").expect("the promises");
    let (list, _) = list.split_once("### Who").expect("their end");
    let promised: BTreeSet<u32> = list
        .lines()
        .filter_map(|line| line.split_once(". ")?.0.parse().ok())
        .collect();
    assert_eq!(held, promised, "each promise names a test");
    assert_eq!(
        seen_to_fail, promised,
        "each promise has a test that was seen to fail without its guard"
    );
}

/// A function of this name under a test's attribute, and not ignored.
fn is_a_test(text: &str, name: &str) -> bool {
    let before = text.split_once(&format!("fn {name}("));
    let Some((above, _)) = before.and_then(|(before, _)| before.rsplit_once('\n')) else {
        return false;
    };
    let attributes = above.lines().rev().map(str::trim);
    let mut attributes = attributes.take_while(|l| l.starts_with('#') || l.starts_with("//"));
    let mut is_test = false;
    let left_out = attributes.any(|line| {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        line.starts_with("#[ignore") || line.starts_with("#[cfg(")
    });
    is_test && !left_out
}

/// Every path in backquotes on a page exists.
#[test]
fn pages_name_files_that_are_there() {
    let roots = [
        "src/",
        "crates/",
        "tests/",
        "scripts/",
        "docs/",
        "packaging/",
        "systemd/",
        "benches/",
    ];
    let mut named = 0;
    let of_developers = ["CHANGELOG.md", "CONTRIBUTING.md"].map(str::to_owned);
    for page in pages().into_iter().chain(of_developers) {
        let text = fs::read_to_string(&page).expect("page");
        let quoted = text.split('`').skip(1).step_by(2);
        for word in quoted {
            // A program with its arguments, a test with its name.
            let path = word.split([' ', ':']).next().unwrap_or_default();
            let is_path = roots.iter().any(|root| path.starts_with(root));
            if !is_path || path.contains(['*', '{', '<', '…']) {
                continue;
            }
            named += 1;
            assert!(
                Path::new(path).exists(),
                "{page} names {path}, which is not there"
            );
        }
    }
    assert!(named > 50, "only {named} paths were found");
}

/// Links from page to page lead to pages, and to headings that are there.
#[test]
fn links_of_pages_lead_somewhere() {
    let anchors = |text: &str| -> BTreeSet<String> {
        let heads = text.lines().filter(|line| line.starts_with('#'));
        let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
        heads
            .map(|line| line.trim_start_matches('#').trim().to_lowercase())
            .map(|head| {
                head.chars()
                    .filter(kept)
                    .collect::<String>()
                    .replace(' ', "-")
            })
            .collect()
    };
    let mut links = 0;
    for page in pages().into_iter().chain(["CONTRIBUTING.md".to_owned()]) {
        let text = fs::read_to_string(&page).expect("page");
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let target = target.trim();
            if target.contains("://") || target.contains(char::is_whitespace) {
                continue;
            }
            links += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let beside = Path::new(&page).with_file_name(file);
            let file = if file.is_empty() {
                PathBuf::from(&page)
            } else {
                beside
            };
            let there =
                fs::read_to_string(&file).unwrap_or_else(|e| panic!("{page}: {target}: {e}"));
            let found = anchor.is_empty() || anchors(&there).contains(anchor);
            assert!(found, "{page}: {target}: no such heading");
        }
    }
    assert!(links > 20, "only {links} links were found");
}

/// A page with its screens as in the golden files, and how many there are.
fn with_screens(text: &str) -> (String, usize) {
    let (mut out, mut count) = (String::new(), 0);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        out += &format!("{line}\n");
        let screen = line.strip_prefix("<!-- screen: ");
        let Some(path) = screen.and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        let golden = fs::read_to_string(path).expect("a golden file");
        out += &format!("```\n{}\n```\n", golden.trim_matches('\n'));
        count += 1;
        if lines.next_if_eq(&"```").is_some() {
            lines.by_ref().find(|line| *line == "```");
        }
    }
    (out, count)
}

/// Pages that people read.
fn pages() -> Vec<String> {
    let docs = fs::read_dir("docs").expect("docs");
    let docs = docs.map(|entry| entry.expect("entry").path().display().to_string());
    let pages = docs.filter(|path| path.ends_with(".md"));
    ["README.md".to_owned()].into_iter().chain(pages).collect()
}

/// Text that only a program's screen has, in blocks that no golden file stands for.
fn looks_like_a_screen(text: &str) -> Option<&str> {
    const MARKS: [&str; 4] = ["✓ ", "✗ ", "what to do  ", "why       "];
    const SAYS: [&str; 2] = ["pf9ctl: ", "pf9-plane: "];
    let is_said = |line: &str| {
        MARKS.iter().any(|mark| line.contains(mark)) || SAYS.iter().any(|who| line.starts_with(who))
    };
    let mut is_golden = false;
    let mut block = false;
    for line in text.lines() {
        match line.starts_with("```") {
            true => block = !block,
            false if !block && !line.is_empty() => is_golden = line.starts_with("<!-- screen: "),
            false => {}
        }
        if block && !is_golden && is_said(line) {
            return Some(line);
        }
    }
    None
}

/// Pages show people what they will see. `PF9_BLESS=1` writes it there.
#[test]
fn screens_of_pages_are_those_of_the_programs() {
    let mut screens = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).expect("page");
        let (wanted, count) = with_screens(&text);
        screens += count;
        blessed(&page, &wanted);
        let other = looks_like_a_screen(&wanted);
        assert!(other.is_none(), "{page}: no golden file has {other:?}");
    }
    assert!(screens >= 6, "only {screens} screens");
    for drawn in [
        "```\n  ✓ x\n```",
        "a\n```\npf9ctl: no\n```",
        "<!-- screen: x -->\na\n```\n✗ x\n```",
    ] {
        assert!(looks_like_a_screen(drawn).is_some(), "{drawn}");
    }
    assert_eq!(
        looks_like_a_screen("<!-- screen: x -->\n```\n✗ x\n```\n"),
        None
    );
}
