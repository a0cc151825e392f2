//! A typed line as words. There is no shell: what a shell would act on is refused, not passed on as text: the person
//! meant it. Quotes are a shell's: `'…'` as it stands, `"…"` with `\"` and `\\`.

/// Longest line: four times the longest that people type.
pub(super) const LINE_MAX: usize = 4096;
/// Most words of it.
pub(super) const WORDS_MAX: usize = 64;

/// Why a line is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoLine {
    #[error("the line is empty")]
    Empty,
    #[error("the line has {0} bytes, at most {LINE_MAX} are taken")]
    Long(usize),
    #[error("the line has more than {WORDS_MAX} words")]
    Many,
    #[error("the line has a character that does not show itself (U+{0:04X}); type it anew")]
    Hidden(u32),
    #[error("a quote is not closed")]
    Open,
    #[error("{0:?} is for a shell, and there is none here; quote it where it belongs to a name")]
    Shell(char),
}

/// Invisible characters: control characters, and those that reverse or hide text around them.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Its words.
pub(super) fn words(line: &str) -> Result<Vec<String>, NoLine> {
    if line.len() > LINE_MAX {
        return Err(NoLine::Long(line.len()));
    }
    if let Some(c) = line.chars().find(|c| is_hidden(*c) && *c != '\t') {
        return Err(NoLine::Hidden(c.into()));
    }
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            ' ' | '\t' => words.extend(word.take()),
            '\'' => {
                let into = word.get_or_insert_default();
                loop {
                    match rest.next().ok_or(NoLine::Open)? {
                        '\'' => break,
                        c => into.push(c),
                    }
                }
            }
            '"' => {
                let into = word.get_or_insert_default();
                loop {
                    match rest.next().ok_or(NoLine::Open)? {
                        '"' => break,
                        '\\' => match rest.next().ok_or(NoLine::Open)? {
                            c @ ('"' | '\\') => into.push(c),
                            c => into.extend(['\\', c]),
                        },
                        c => into.push(c),
                    }
                }
            }
            '\\' => word
                .get_or_insert_default()
                .push(rest.next().ok_or(NoLine::Open)?),
            '|' | '&' | ';' | '<' | '>' | '`' | '$' | '(' | ')' => return Err(NoLine::Shell(c)),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match words.len() {
        0 => Err(NoLine::Empty),
        1..=WORDS_MAX => Ok(words),
        _ => Err(NoLine::Many),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes_are_a_shells_and_nothing_else_of_a_shell_is_there() {
        let of = |line: &str| words(line);
        let said = |line: &str, wanted: &[&str]| {
            assert_eq!(
                of(line),
                Ok(wanted.iter().map(|w| (*w).to_owned()).collect()),
                "{line}"
            );
        };
        said("get pods", &["get", "pods"]);
        said("  get\t pods  ", &["get", "pods"]);
        said(
            "get -o 'jsonpath={.items[*].metadata.name}'",
            &["get", "-o", "jsonpath={.items[*].metadata.name}"],
        );
        said(
            r#"get "a b" c\ d '' "x\"\\\n""#,
            &["get", "a b", "c d", "", r#"x"\\n"#],
        );
        said("get 'a|b' \"$(x)\"", &["get", "a|b", "$(x)"]);
        for (line, why) in [
            ("", NoLine::Empty),
            ("   ", NoLine::Empty),
            ("get 'pods", NoLine::Open),
            ("get \"pods", NoLine::Open),
            ("get \"pods\\", NoLine::Open),
            ("get pods\\", NoLine::Open),
            ("get pods | grep x", NoLine::Shell('|')),
            ("get pods; id", NoLine::Shell(';')),
            ("get pods && id", NoLine::Shell('&')),
            ("get $(id)", NoLine::Shell('$')),
            ("get `id`", NoLine::Shell('`')),
            ("get pods > /etc/x", NoLine::Shell('>')),
            ("get pods\nid", NoLine::Hidden(10)),
            ("get 'pods\nid'", NoLine::Hidden(10)),
            ("get pods\r", NoLine::Hidden(13)),
            ("get \u{1b}[2J", NoLine::Hidden(27)),
            ("get \0", NoLine::Hidden(0)),
            ("get \u{202e}sdop", NoLine::Hidden(0x202e)),
        ] {
            assert_eq!(of(line), Err(why), "{line:?}");
        }
        assert_eq!(
            of(&"a".repeat(LINE_MAX + 1)),
            Err(NoLine::Long(LINE_MAX + 1))
        );
        assert_eq!(of(&"a ".repeat(WORDS_MAX + 1)), Err(NoLine::Many));
    }

    proptest! {
        /// Whatever is typed: no word has what does not show itself, and every word quoted anew is read back.
        #[test]
        fn words_are_what_they_look_like(line in "\\PC{0,60}") {
            if let Ok(found) = words(&line) {
                prop_assert!(found.iter().flat_map(|w| w.chars()).all(|c| !is_hidden(c) || c == '\t'));
                let quoted: Vec<String> = found.iter().map(|w| format!("'{}'", w.replace('\'', "'\\''"))).collect();
                prop_assert_eq!(words(&quoted.join(" ")), Ok(found));
            }
        }
    }
}
