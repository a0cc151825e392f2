//! Files of environment variables: the one writer, for systemd (`EnvironmentFile=`) and for a
//! person's shell. Both read a value written here as the same text, and as that text only: what
//! neither could is refused, not mended.

use super::Wait;

/// The first line: whose file it is.
const HEAD: &str = "# Written by pf9-nodeletd; changes are undone.\n";

/// A file of environment variables, written line by line.
pub(super) struct EnvText {
    text: String,
    refused: Option<Unwritable>,
}

/// A variable that cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} cannot be set to {value:?}: {why}")]
pub(in crate::nodelet) struct Unwritable {
    name: String,
    value: String,
    why: &'static str,
}

/// A spec's text that cannot be written keeps what is there; another spec mends it.
impl From<Unwritable> for Wait {
    fn from(refused: Unwritable) -> Self {
        Self {
            what: format!("a spec whose text is valid in a unit: {refused}"),
            meanwhile: Vec::new(),
        }
    }
}

impl EnvText {
    /// A file for systemd.
    pub(super) fn new() -> Self {
        Self::with_head(HEAD)
    }

    /// A file with another first line, a comment.
    pub(super) fn with_head(head: &str) -> Self {
        Self {
            text: head.to_owned(),
            refused: None,
        }
    }

    /// Sets a variable. The first one that cannot be written spoils the file.
    pub(super) fn set(mut self, name: &str, value: &str) -> Self {
        match line(name, value) {
            Ok(line) => self.text.push_str(&line),
            Err(refused) => drop(self.refused.get_or_insert(refused)),
        }
        self
    }

    /// Puts a directory of ours in front of the shell's own path. For people only: systemd would
    /// not expand it.
    pub(super) fn path_first(mut self, dir: &'static str) -> Self {
        self.text.push_str(&format!("PATH={dir}:$PATH\n"));
        self
    }

    /// The whole text.
    pub(super) fn text(self) -> Result<String, Unwritable> {
        self.refused.map_or(Ok(self.text), Err)
    }
}

/// One line. Bare where no reader sees anything special in it, else in double quotes, in which both
/// know the same four characters.
fn line(name: &str, value: &str) -> Result<String, Unwritable> {
    let refuse = |why| {
        Err(Unwritable {
            name: name.to_owned(),
            value: value.to_owned(),
            why,
        })
    };
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || name.as_bytes()[0].is_ascii_digit() || !name.bytes().all(word) {
        return refuse("that is not a valid name of a variable");
    }
    if value.chars().any(char::is_control) {
        // A line break would be the next variable for some readers.
        return refuse("it has a control character in it");
    }
    if value.chars().any(is_no_character) {
        return refuse("it has an invalid character; systemd would ignore the line");
    }
    let bare = |b: u8| word(b) || b"-./:,=@%+[]".contains(&b);
    if value.bytes().all(bare) {
        return Ok(format!("{name}={value}\n"));
    }
    let mut line = format!("{name}=\"");
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            line.push('\\');
        }
        line.push(c);
    }
    line.push_str("\"\n");
    Ok(line)
}

/// Code points that Unicode keeps from ever being characters.
fn is_no_character(c: char) -> bool {
    let code = u32::from(c);
    (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// What systemd makes of such a file, by what its manual says about `EnvironmentFile=`: empty
    /// lines and lines that begin with `#` or `;` are skipped; a backslash at the end of a line
    /// continues it; a value may be bare (ends of blanks cut off, a backslash takes the next
    /// character as it is), or have parts in single quotes (as they stand) and in double quotes
    /// (where a backslash is dropped before `"`, `\`, `$`, `` ` ``, and with a line break).
    pub(in crate::nodelet::phase) fn as_systemd_reads(text: &str) -> BTreeMap<String, String> {
        let mut vars = BTreeMap::new();
        let mut chars = text.chars().peekable();
        while let Some(&first) = chars.peek() {
            if first.is_whitespace() {
                chars.next();
            } else if matches!(first, '#' | ';') {
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => drop(chars.next()),
                        '\n' => break,
                        _ => {}
                    }
                }
            } else {
                let mut name = String::new();
                let mut assigned = false;
                for c in chars.by_ref() {
                    match c {
                        '=' => assigned = true,
                        '\n' => {}
                        c => {
                            name.push(c);
                            continue;
                        }
                    }
                    break;
                }
                if assigned {
                    vars.insert(name.trim_end().to_owned(), value(&mut chars));
                }
            }
        }
        vars
    }

    fn value(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
        let mut out = String::new();
        let mut blanks = 0;
        while let Some(c) = chars.next() {
            match c {
                '\n' => break,
                ' ' | '\t' if out.is_empty() => {}
                ' ' | '\t' => {
                    out.push(c);
                    blanks += 1;
                    continue;
                }
                '\'' => out.extend(chars.by_ref().take_while(|c| *c != '\'')),
                '"' => loop {
                    match chars.next() {
                        None | Some('"') => break,
                        Some('\\') => match chars.next() {
                            None | Some('\n') => {}
                            Some(c @ ('"' | '\\' | '$' | '`')) => out.push(c),
                            Some(c) => out.extend(['\\', c]),
                        },
                        Some(c) => out.push(c),
                    }
                },
                '\\' => out.extend(chars.next().filter(|c| *c != '\n')),
                c => out.push(c),
            }
            blanks = 0;
        }
        out.truncate(out.len() - blanks);
        out
    }

    #[test]
    fn what_needs_no_quotes_has_none() {
        let text = EnvText::new()
            .set(
                "ETCD_INITIAL_CLUSTER",
                "a-1=https://[fd00::1]:2380,b=https://10.0.0.1:2380",
            )
            .set("EMPTY", "")
            .set("ODD", "a $b\"\\`#' ")
            .text()
            .expect("can be written");
        let bare = "ETCD_INITIAL_CLUSTER=a-1=https://[fd00::1]:2380,b=https://10.0.0.1:2380\n";
        assert_eq!(
            text,
            format!("{HEAD}{bare}EMPTY=\nODD=\"a \\$b\\\"\\\\\\`#' \"\n")
        );
    }

    #[test]
    fn what_cannot_be_written_is_refused_and_named() {
        for (name, value) in [
            ("A", "x\nETCD_FORCE_NEW_CLUSTER=true"),
            ("A", "x\r"),
            ("A", "\u{0}"),
            ("A", "\u{ffff}"),
            ("", "x"),
            ("1A", "x"),
            ("A B", "x"),
            ("A=B", "x"),
            ("A\n", "x"),
        ] {
            let refused = EnvText::new().set("OK", "1").set(name, value).text();
            let words = refused.expect_err("must be refused").to_string();
            assert!(words.contains(&format!("{name:?}")), "{words}");
        }
    }

    proptest! {
        /// Every value is read back as it was, or refused; no value makes another variable.
        #[test]
        fn systemd_reads_what_was_meant(values in proptest::collection::vec("[\\PC\n\t \"'\\\\$`#;=]{0,24}", 0..5)) {
            let mut file = EnvText::new();
            let mut meant = BTreeMap::new();
            for (i, value) in values.iter().enumerate() {
                let name = format!("V_{i}");
                file = file.set(&name, value);
                meant.insert(name, value.clone());
            }
            match file.text() {
                Ok(text) => prop_assert_eq!(as_systemd_reads(&text), meant),
                Err(_) => {
                    let refusable = |c: char| c.is_control() || is_no_character(c);
                    prop_assert!(values.iter().any(|v| v.chars().any(refusable)));
                }
            }
        }
    }

    /// The shell of this machine reads the same.
    #[test]
    fn a_shell_reads_what_was_meant() {
        let odd = "a $HOME `id` \"q\" 'p' \\ ~ * é #x";
        let text = EnvText::new()
            .set("ODD", odd)
            .text()
            .expect("can be written");
        let script = format!("{text}printf %s \"$ODD\"");
        let said = std::process::Command::new("/bin/sh")
            .args(["-c", &script])
            .output()
            .expect("sh");
        assert_eq!(String::from_utf8_lossy(&said.stdout), odd);
    }
}
