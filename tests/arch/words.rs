//! Every sentence that a screen, a log or a status can show, in one file: `tests/golden/words.txt`. A rewritten one is
//! read there, next to its neighbours. `PF9_BLESS=1` writes it.

use std::collections::BTreeSet;

use super::{blessed, is_test, product_code, sources};

/// Phrases that people had to guess at, and their replacements. The words of the field: desired and observed, drift,
/// sweep, trust anchor, roll back, retry.
const BETTER: &[(&str, &str)] = &[
    ("its content is another", "its content differs"),
    ("it is not known whether", "… is unknown"),
    ("and yet it is", "it was applied, but …"),
    ("come to rest", "converge"),
    ("stay so", "drift again"),
    ("is not there any more", "is gone"),
    ("tried again by itself", "retried automatically"),
    ("goes on by itself", "continues automatically"),
    ("it is no file", "it is not a file"),
    ("it is no directory", "it is not a directory"),
    ("it is no URL", "it is not a URL"),
    ("it is no JSON", "it is not valid JSON"),
    ("whom to believe", "trust anchors, trust document"),
    ("believed no more", "no longer trusted"),
    ("the data of now", "the present data"),
    ("the stack of before", "the previous stack"),
    ("not had ready", "not staged"),
    ("is put back", "is rolled back"),
    ("heard of lately", "reported lately"),
    ("second place", "archive"),
    ("nobody can be asked here", "no terminal to ask on"),
    ("takes no change", "accepts no writes"),
    ("somebody else's", "foreign, of another user"),
    ("is not known", "is unknown"),
    ("learnt", "found, discovered"),
    ("once more", "again"),
    ("put right", "repaired, corrected"),
    ("goes on with", "continues"),
    ("not begun", "not started"),
    ("is cut off", "is interrupted, is truncated"),
    ("in one go", "together, at once"),
    ("whoever", "the caller, the signer"),
];

/// String literals of a file, in order, as they are written; continued lines are joined.
fn literals(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find(['"', '\'', 'r', '/']) {
        let (before, tail) = rest.split_at(at);
        let in_a_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        rest = tail.get(1..).unwrap_or_default();
        if tail.starts_with("//") {
            rest = tail.split_once('\n').map_or("", |(_, next)| next);
        } else if let Some(raw) = raw(tail).filter(|_| !in_a_word) {
            found.push(raw.to_owned());
            rest = tail.split_once(raw).map_or("", |(_, next)| next);
            rest = rest.split_once('"').map_or("", |(_, next)| next);
        } else if tail.starts_with('"') {
            let end = end_of(rest);
            found.push(joined(rest.get(..end).unwrap_or_default()));
            rest = rest.get(end + 1..).unwrap_or_default();
        } else if tail.starts_with('\'') {
            // A character, or a lifetime.
            let escaped = rest.starts_with('\\');
            let mut chars = rest.char_indices().skip(1 + usize::from(escaped));
            if let Some((end, '\'')) = chars.next() {
                rest = rest.get(end + 1..).unwrap_or_default();
            }
        }
    }
    found
}

/// Content of a raw string at the beginning of a text.
fn raw(text: &str) -> Option<&str> {
    let open = text.strip_prefix('r')?;
    let hashes = open.len() - open.trim_start_matches('#').len();
    let body = open.get(hashes..)?.strip_prefix('"')?;
    let (inside, _) = body.split_once(&format!("\"{}", "#".repeat(hashes)))?;
    Some(inside)
}

/// End of a string, from after its opening quote.
fn end_of(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().position(|b| {
        let ends = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        ends
    });
    end.unwrap_or(text.len().saturating_sub(1))
}

fn joined(literal: &str) -> String {
    let mut parts = literal.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.trim_start())
}

/// Text for people: two words or more, on one line. Output of other programs, and whole embedded programs, are not
/// ours.
fn is_a_sentence(text: &str) -> bool {
    let is_word = |w: &&str| w.len() > 1 && w.chars().all(|c| c.is_ascii_alphabetic());
    let words = text
        .split([' ', ',', ':', ';', '.', '(', ')'])
        .filter(is_word);
    words.count() > 1 && !text.contains('\n')
}

/// Files with patterns for the output of other programs.
const OTHERS: &[&str] = &[
    "src/host/noise.rs",
    "src/os/apt.rs",
    "src/os/dnf.rs",
    "src/cli/examples.rs",
];

fn said() -> Vec<(String, Vec<String>)> {
    let mut all = Vec::new();
    for (path, text) in sources() {
        let name = path.display().to_string();
        if is_test(&path) || path.ends_with("rig.rs") || OTHERS.contains(&name.as_str()) {
            continue;
        }
        let mut seen = BTreeSet::new();
        let said = literals(&product_code(&text)).into_iter();
        let said: Vec<_> = said
            .filter(|s| is_a_sentence(s) && seen.insert(s.clone()))
            .collect();
        if !said.is_empty() {
            all.push((name, said));
        }
    }
    all.sort();
    all
}

#[test]
fn strings_are_found_however_they_are_written() {
    let code = "f('\"', 'a, \"one \\\"two\\\"\", b'\\'', r#\"raw \"x\" y\"#, \"long \\\n    one\"); // \"not this\"\nfor \"x\"";
    let wanted = ["one \\\"two\\\"", "raw \"x\" y", "long one", "x"];
    assert_eq!(literals(code), wanted);
}

#[test]
fn sentences_are_the_reviewed_ones() {
    let mut text = String::from(
        "Every sentence that a screen, a log or a status can show. Made by tests/arch/words.rs.\n",
    );
    let all = said();
    let count: usize = all.iter().map(|(_, said)| said.len()).sum();
    assert!(count > 3000, "only {count} were found");
    for (file, said) in all {
        text += &format!("\n== {file}\n");
        text.extend(said.iter().flat_map(|line| [line, "\n"]));
    }
    blessed("tests/golden/words.txt", &text);
}

#[test]
fn words_are_those_of_the_field() {
    let mut wrong = Vec::new();
    for (file, said) in said() {
        for line in said {
            for (word, better) in BETTER {
                if line.contains(word) {
                    wrong.push(format!(
                        "{file}: {line:?}: {word:?} is better said as {better:?}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
