//! What newcomers rely on: the questions of `src/lib.rs`, names of types, words of comments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::{is_test, product_code, sources};

/// Files that one question may need.
const FILES_MAX: usize = 3;

/// `nodelet::phase` is `src/nodelet/phase.rs`, `crates/plane` is `crates/plane/src/lib.rs`.
fn map_of(module: &str) -> PathBuf {
    match module.starts_with("crates/") {
        true => Path::new(module).join("src/lib.rs"),
        false => Path::new("src").join(format!("{}.rs", module.replace("::", "/"))),
    }
}

/// The directory of a module's files.
fn room_of(module: &str) -> PathBuf {
    match module.starts_with("crates/") {
        true => Path::new(module).join("src"),
        false => map_of(module).with_extension(""),
    }
}

fn head_of(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    text.lines().take_while(|l| l.starts_with("//!")).collect()
}

/// "`a` (`b`, `c`), then `d`": each module with its named files.
fn answer(cell: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    let mut inside = false;
    for (at, piece) in cell.split('`').enumerate() {
        if at % 2 == 0 {
            let last = piece.rfind(['(', ')']);
            inside = last.map_or(inside, |at| {
                piece.get(at..).is_some_and(|p| p.starts_with('('))
            });
        } else if let (true, Some((_, files))) = (inside, found.last_mut()) {
            files.push(piece.to_owned());
        } else {
            found.push((piece.to_owned(), Vec::new()));
        }
    }
    found
}

/// Each question is answered by at most three files, which exist and which the head of their module names.
#[test]
fn questions_lead_to_files_that_heads_name() {
    assert_eq!(
        answer("`a` (`b`, `c`), then `d` (a row), `e`"),
        [
            ("a".to_owned(), vec!["b".to_owned(), "c".to_owned()]),
            ("d".to_owned(), vec![]),
            ("e".to_owned(), vec![])
        ]
    );
    let lib = fs::read_to_string("src/lib.rs").expect("the map");
    let (_, rows) = lib
        .split_once("//! | to change | begin at |\n//! |---|---|\n")
        .expect("the questions");
    let rows: Vec<_> = rows
        .lines()
        .map_while(|l| l.strip_prefix("//! | "))
        .collect();
    assert!(rows.len() >= 6, "{rows:?}");
    for row in rows {
        let (question, cell) = row.split_once(" | ").expect("two cells");
        let mut files = 0;
        for (module, named) in answer(cell) {
            let head = head_of(&map_of(&module));
            files += named.len().max(1);
            for name in &named {
                let file = room_of(&module).join(format!("{name}.rs"));
                assert!(file.exists(), "{question}: no {}", file.display());
                let here = head.contains(&format!("`{name}`"));
                assert!(here, "{question}: the head of {module} names no {name}");
            }
            if let (true, Some((parent, name))) = (named.is_empty(), module.rsplit_once("::")) {
                let here = head_of(&map_of(parent)).contains(&format!("`{name}`"));
                assert!(here, "{question}: the head of {parent} names no {name}");
            }
        }
        assert!(
            (1..=FILES_MAX).contains(&files),
            "{question}: {files} files"
        );
    }
}

/// A function, or a field as a configuration names it (`section.field`).
fn has(text: &str, name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    text.contains(&format!("fn {last}(")) || text.contains(&format!("pub {last}:"))
}

fn is_path(word: &str) -> bool {
    word.contains('/') && !word.contains(' ')
}

/// Each row of the page for a first change names at most three files to open, and they have what it names in them.
#[test]
fn a_first_change_opens_few_files() {
    let page = fs::read_to_string("CONTRIBUTING.md").expect("the page");
    let (_, table) = page
        .split_once("| … | open | then |\n|---|---|---|\n")
        .expect("the table");
    let rows: Vec<_> = table.lines().map_while(|l| l.strip_prefix("| ")).collect();
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        let mut files = 0;
        for (place, named) in answer(row.split(" | ").nth(1).expect("what to open")) {
            if !is_path(&place) {
                continue;
            }
            files += 1 + named.iter().filter(|name| is_path(name)).count();
            let text = match Path::new(&place).is_dir() {
                true => String::new(),
                false => fs::read_to_string(&place).unwrap_or_else(|e| panic!("{place}: {e}")),
            };
            for name in named {
                let there = match is_path(&name) {
                    true => Path::new(&name).exists(),
                    false => has(&text, &name),
                };
                assert!(there, "{row}: {place} has no {name}");
            }
        }
        assert!(files <= FILES_MAX, "{row}: {files} files");
    }
}

/// Within a crate every public type has a unique name: two of one name are told apart only by their paths.
#[test]
fn a_public_name_has_one_meaning() {
    let mut seen: BTreeMap<(PathBuf, String), BTreeSet<PathBuf>> = BTreeMap::new();
    for (path, text) in sources() {
        if is_test(&path) {
            continue;
        }
        let parts = path.iter().take_while(|part| *part != "src");
        let krate: PathBuf = parts.collect();
        for line in product_code(&text).lines() {
            let mut words = line.trim_start().split(' ');
            let public = words.next() == Some("pub");
            let kinds = ["struct", "enum", "trait", "type"];
            if !public || !words.next().is_some_and(|kind| kinds.contains(&kind)) {
                continue;
            }
            let name = words.next().unwrap_or_default();
            let name: String = name.chars().take_while(|c| c.is_alphanumeric()).collect();
            seen.entry((krate.clone(), name))
                .or_default()
                .insert(path.clone());
        }
    }
    assert!(seen.len() > 300, "only {} names", seen.len());
    let twice: Vec<_> = seen.iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:#?}");
}

/// A process is named or "it", and comments use the words of the field. Text that a service writes into its files is
/// not checked: a change would restart it.
#[test]
fn comments_are_plain() {
    const HARD: [&str; 12] = [
        "whoever",
        "whosever",
        "learnt",
        "somebody else's",
        "none any more",
        "in one go",
        "once more",
        "nobody named",
        "goes its way",
        "of which nobody",
        "as it were",
        "thereof",
    ];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let comment = line.trim_start().starts_with("//");
            let lower = line.to_lowercase();
            if comment && HARD.iter().any(|word| lower.contains(word)) {
                wrong.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Programs are started in one place, with a bound in time and in output; a trial of an overlay is run from it. The page's
/// terminal shows what its own says while it runs, and ends it by bounds of its own.
#[test]
fn programs_are_started_in_one_place() {
    const STARTERS: [&str; 4] = [
        "crates/plane/src/terminal/jail.rs",
        "crates/plane/src/terminal/run.rs",
        "src/host/exec.rs",
        "src/preflight/trial.rs",
    ];
    let mut starters = BTreeSet::new();
    for (path, text) in sources() {
        if !is_test(&path) && product_code(&text).contains("Command::new(") {
            starters.insert(path.display().to_string());
        }
    }
    assert_eq!(starters.into_iter().collect::<Vec<_>>(), STARTERS);
}
