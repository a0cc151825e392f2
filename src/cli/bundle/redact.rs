//! Removes from text what may not leave a machine in a support bundle.
//!
//! ```text
//! line ─ blocks (PEM) ─ words (password=…, Bearer …, //user:pass@) ─ shapes (long random text) ─ known secrets ─► line
//! any entry, as it would be written ─ known secrets? ─► it stays here, and the manifest says so
//! ```
//!
//! Two ways that do not know of each other. By what it looks like, which finds secrets of programs that we do not know;
//! and by what it *is*: the secrets that lie on this machine are read, and looked for in everything that is written,
//! plain and in base64. What was taken out leaves a mark, the same for the same text within one bundle, so that a
//! person can tell two apart; it is made with a random salt that goes with the program.

use serde_json::Value;

use crate::model::Digest;

use super::known::Known;

/// Longest line that is looked at as one; the rest is dropped.
const LINE_MAX: usize = 64 * 1024;
/// Random text of this length is a secret until proven otherwise; a UUID and a name are shorter or look otherwise.
const RANDOM_MIN: usize = 32;

/// What stands for text whose length would say something, or that is many lines.
const BLOCK: &str = "<removed: a key>";

/// Names whose values are secret, wherever they are part of a name.
const SECRET_NAMES: [&str; 17] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "api_key",
    "apikey",
    "api-key",
    "access_key",
    "accesskey",
    "access-key",
    "private_key",
    "key-data",
    "authorization",
    "cookie",
    "ticket",
];
/// Names that end like this say where, or how many.
const HARMLESS_ENDS: [&str; 7] = ["file", "path", "dir", "name", "count", "seconds", "_s"];

/// Takes secrets out of text.
pub(super) struct Redactor {
    known: Known,
    salt: [u8; 16],
}

/// Text without them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cleaned {
    pub(super) text: String,
    /// How often something was taken out.
    pub(super) redactions: u64,
}

impl Redactor {
    pub(super) fn new(known: Known) -> Self {
        let salt = uuid::Uuid::new_v4().into_bytes();
        Self { known, salt }
    }

    /// Every secret out of a text of other programs, such as a log.
    pub(super) fn clean(&self, text: &str) -> Cleaned {
        let mut done = Cleaned {
            text: String::with_capacity(text.len()),
            redactions: 0,
        };
        let mut block = Block::None;
        for line in text.split_inclusive('\n') {
            let (line, end) = match line.strip_suffix('\n') {
                Some(line) => (line, "\n"),
                None => (line, ""),
            };
            let line = clip(line);
            let line = self.blocks(line, &mut block, &mut done.redactions);
            let Some(line) = line else { continue };
            let line = self.words(&line, &mut done.redactions);
            let line = self.shapes(&line, &mut done.redactions);
            let line = self.known(&line, &mut done.redactions);
            done.text.push_str(&line);
            done.text.push_str(end);
        }
        done
    }

    /// The secrets of this machine out of a document of our own, whose shape is published.
    pub(super) fn clean_known(&self, text: &str) -> Cleaned {
        let mut redactions = 0;
        let text = self.known(text, &mut redactions);
        Cleaned { text, redactions }
    }

    /// Every secret out of the texts of a document of our own: words of others are among them.
    pub(super) fn clean_json(&self, mut value: Value) -> Cleaned {
        let mut redactions = 0;
        self.texts(&mut value, &mut redactions);
        let text = serde_json::to_string_pretty(&value).unwrap_or_default() + "\n";
        Cleaned { text, redactions }
    }

    fn texts(&self, value: &mut Value, count: &mut u64) {
        match value {
            Value::String(text) => {
                let cleaned = self.clean(text);
                *count += cleaned.redactions;
                *text = cleaned.text;
            }
            Value::Array(all) => all.iter_mut().for_each(|one| self.texts(one, count)),
            Value::Object(all) => all.values_mut().for_each(|one| self.texts(one, count)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Whether a secret of this machine is in there.
    pub(super) fn leaks(&self, bytes: &[u8]) -> bool {
        self.known.is_in(bytes)
    }

    fn mark(&self, text: &str) -> String {
        let digest = Digest::of(&[&self.salt, text.as_bytes()].concat());
        let tag: String = digest.to_string().chars().take(6).collect();
        format!("<removed:{tag}>")
    }

    /// Private keys and whatever else stands between BEGIN and END; `None`: the line is within one.
    fn blocks(&self, line: &str, block: &mut Block, count: &mut u64) -> Option<String> {
        const BEGIN: &str = "-----BEGIN ";
        const END: &str = "-----END ";
        let mut rest = line;
        let mut out = String::new();
        if *block == Block::Inside {
            let (_, after) = rest.split_once(END)?;
            *block = Block::None;
            rest = after.split_once("-----").map_or("", |(_, after)| after);
        }
        while let Some((before, after)) = rest.split_once(BEGIN) {
            *count += 1;
            out.push_str(before);
            out.push_str(BLOCK);
            // On one line, with \n for line breaks, or from here to a later one.
            match after.split_once(END) {
                Some((_, tail)) => {
                    rest = tail.split_once("-----").map_or("", |(_, after)| after);
                }
                None => {
                    *block = Block::Inside;
                    return Some(out);
                }
            }
        }
        out.push_str(rest);
        Some(out)
    }

    /// `password=…`, `"token": "…"`, `Bearer …`, `//user:pass@`.
    fn words(&self, line: &str, count: &mut u64) -> String {
        let mut out = String::with_capacity(line.len());
        let mut rest = line;
        while let Some(at) = rest.find(is_name_char) {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            let end = from.find(|c| !is_name_char(c)).unwrap_or(from.len());
            let (name, after) = from.split_at(end);
            out.push_str(name);
            rest = after;
            if let Some(len) = userinfo(name, after) {
                *count += 1;
                out.push_str("://");
                out.push_str(&self.mark(after.get(3..3 + len).unwrap_or_default()));
                rest = after.get(3 + len..).unwrap_or_default();
            } else if let Some((lead, value)) = secret_value(name, after) {
                let (lead, value) = (after.get(..lead), after.get(lead..lead + value));
                let (lead, value) = (lead.unwrap_or_default(), value.unwrap_or_default());
                *count += 1;
                out.push_str(lead);
                out.push_str(&self.mark(value));
                rest = after.get(lead.len() + value.len()..).unwrap_or_default();
            }
        }
        out.push_str(rest);
        out
    }

    /// Long random text: keys, tokens, digests (which no reader needs either: a mark tells two apart).
    fn shapes(&self, line: &str, count: &mut u64) -> String {
        runs(line, |run| {
            looks_random(run, RANDOM_MIN).then(|| {
                *count += 1;
                self.mark(run)
            })
        })
    }

    fn known(&self, text: &str, count: &mut u64) -> String {
        let text = runs(text, |run| {
            self.known.has_part_of(run).then(|| {
                *count += 1;
                self.mark(run)
            })
        });
        self.known.replace_short(text, |short| {
            *count += 1;
            self.mark(short)
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    None,
    Inside,
}

fn clip(line: &str) -> &str {
    let mut end = line.len().min(LINE_MAX);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.get(..end).unwrap_or_default()
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.'
}

/// A character of base64 in either alphabet; names and paths consist of the same.
pub(super) fn is_run_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_' | '-')
}

/// Rewrites each run of characters of base64; `None` leaves it.
fn runs(text: &str, mut rewrite: impl FnMut(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(is_run_char) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let end = from.find(|c| !is_run_char(c)).unwrap_or(from.len());
        let (run, after) = from.split_at(end);
        match rewrite(run) {
            Some(new) => out.push_str(&new),
            None => out.push_str(run),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The length of `user:pass` where `://user:pass@` follows the name of a scheme.
fn userinfo(scheme: &str, after: &str) -> Option<usize> {
    let authority = after.strip_prefix("://").filter(|_| !scheme.is_empty())?;
    let end = authority.find(|c: char| c == '/' || c == '"' || c == '\'' || c.is_whitespace());
    let authority = authority.get(..end.unwrap_or(authority.len()))?;
    authority.rfind('@')
}

/// Where the value begins behind a name that says it is secret, and how long it is.
fn secret_value(name: &str, after: &str) -> Option<(usize, usize)> {
    let lower = name.to_ascii_lowercase();
    let scheme = ["bearer", "Bearer", "BEARER", "Basic", "Negotiate"].contains(&name);
    let is_secret = SECRET_NAMES.iter().any(|s| lower.contains(s))
        && !HARMLESS_ENDS.iter().any(|e| lower.ends_with(e));
    if !scheme && !is_secret {
        return None;
    }
    let mut chars = after.char_indices().peekable();
    // The end of a quoted name, perhaps with a backslash before the quote.
    while chars
        .next_if(|(_, c)| matches!(c, '"' | '\'' | '\\'))
        .is_some()
    {}
    let mut separated = false;
    let mut blank = false;
    while let Some((_, c)) = chars.next_if(|(_, c)| matches!(c, ' ' | '\t' | ':' | '=')) {
        separated |= c == ':' || c == '=';
        blank |= c == ' ' || c == '\t';
    }
    // `Bearer x` and `--password x`, but not every sentence with the word.
    if !separated && !(blank && (scheme || name.starts_with("--"))) {
        return None;
    }
    let mut quote = None;
    while let Some((_, c)) = chars.next_if(|(_, c)| matches!(c, '"' | '\'' | '\\')) {
        if c != '\\' {
            quote = Some(c);
        }
    }
    let (start, _) = *chars.peek()?;
    let value = after.get(start..)?;
    // A header's value goes to the end of the line: `Authorization: Basic x`.
    let ends = |c: char| match quote {
        Some(quote) => c == quote || c == '\\',
        None if lower.contains("authorization") || lower.contains("cookie") => c == '"',
        None => c.is_whitespace() || matches!(c, ',' | ';' | '&' | ')' | ']' | '}' | '"' | '\''),
    };
    let len = value.find(ends).unwrap_or(value.len());
    (len > 0).then_some((start, len))
}

/// Whether a run is random text and no name, path, number or UUID.
pub(super) fn looks_random(run: &str, least: usize) -> bool {
    let body = run.trim_matches('=');
    if body.len() < least || is_uuid(body) {
        return false;
    }
    let has = |class: fn(char) -> bool| body.chars().any(class);
    let (upper, lower, digit) = (
        has(|c| c.is_ascii_uppercase()),
        has(|c| c.is_ascii_lowercase()),
        has(|c| c.is_ascii_digit()),
    );
    // Letters and digits without a break: no name is that long.
    let longest = body
        .split(|c: char| !c.is_ascii_alphanumeric())
        .map(str::len)
        .max();
    let longest = longest.unwrap_or(0);
    // A path has short names, one that begins with a slash is one.
    let path = body.starts_with('/') || body.contains('/') && longest < least / 2;
    let words = body.contains('-') && longest < least / 2;
    digit && (upper || lower) && longest >= least || upper && lower && digit && !path && !words
}

fn is_uuid(text: &str) -> bool {
    let lengths = [8, 4, 4, 4, 12];
    let parts: Vec<&str> = text.split('-').collect();
    parts.len() == lengths.len()
        && parts
            .iter()
            .zip(lengths)
            .all(|(p, len)| p.len() == len && p.chars().all(|c| c.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn clean(text: &str) -> String {
        Redactor::new(Known::default()).clean(text).text
    }

    #[test]
    fn what_says_that_it_is_secret_goes_and_the_rest_stays() {
        let secret = "hunter2";
        let lines = [
            "password=hunter2 next=kept",
            "PASSWORD = 'hunter2', kept",
            "{\"token\": \"hunter2\", \"kept\": 1}",
            "escaped {\\\"client_secret\\\":\\\"hunter2\\\",\\\"x\\\":\\\"kept\\\"}",
            "GET /x?token=hunter2&page=kept",
            "AWS_SECRET_ACCESS_KEY=hunter2",
            "curl --password hunter2 kept",
            "Authorization: Basic hunter2",
            "authorization=\"Bearer hunter2\" kept",
            "sent Bearer hunter2 kept",
            "https_proxy=http://user:hunter2@proxy:3128/kept",
            "dial http://hunter2@proxy kept",
            "Cookie: session=hunter2; other=hunter2",
        ];
        for line in lines {
            let said = clean(line);
            assert!(!said.contains(secret), "{line} → {said}");
            assert!(said.contains("<removed:"), "{line} → {said}");
            assert_eq!(
                line.contains("kept"),
                said.contains("kept"),
                "{line} → {said}"
            );
        }
    }

    #[test]
    fn what_an_operator_needs_stays() {
        let lines = [
            "2026-11-21T10:00:00.123Z  INFO the token was used, ask for another",
            "host 6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11 connected to wss://plane.example:8443/v1/tunnel",
            "--token-file /root/token",
            "read /var/lib/pf9/kubelet/pods/6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11/volumes/kubernetes.io~projected",
            "kube-system/coredns-controller-manager-with-a-long-name-1 is Ready",
            "keys_seconds=17 tokens: none",
        ];
        for line in lines {
            let said = clean(line);
            if !line.starts_with("keys_seconds") {
                assert_eq!(said, line);
            }
        }
    }

    #[test]
    fn keys_go_however_they_are_broken_over_lines() {
        let body = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgZm9vYmFyYmF6cXV4";
        let block =
            format!("-----BEGIN PRIVATE KEY-----\n{body}\nshort==\n-----END PRIVATE KEY-----");
        let one_line = block.replace('\n', "\\n");
        // The end of one whose beginning was truncated with the older part of a log.
        let tail = format!("{body}\n-----END PRIVATE KEY-----\nkept");
        for text in [
            format!("a {block} kept\nb"),
            format!("key: \"{one_line}\" kept"),
            tail,
        ] {
            let said = clean(&text);
            assert!(
                !said.contains("MIGH") && !said.contains("short=="),
                "{said}"
            );
            assert!(said.contains("kept"), "{said}");
        }
        // One that never ends takes the rest with it.
        assert!(!clean("-----BEGIN PRIVATE KEY-----\nabc\ndef\n").contains("def"));
    }

    #[test]
    fn random_text_goes_and_is_told_apart_by_its_mark() {
        let redactor = Redactor::new(Known::default());
        let one = "a3f1c2d4e5b6978812345678deadbeefa3f1c2d4e5b6978812345678deadbeef";
        let two = one.replace('a', "b");
        let said = redactor.clean(&format!("{one} {two} {one}")).text;
        let marks: Vec<&str> = said.split(' ').collect();
        assert_eq!(marks[0], marks[2]);
        assert_ne!(marks[0], marks[1]);
        let jwt =
            "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEyMyJ9.eyJpc3MiOiJrdWJlcm5ldGVzL3NlcnZpY2VhY2NvdW50In0";
        assert!(!redactor.clean(jwt).text.contains("eyJ"));
        // Another bundle's marks say nothing of this one's.
        assert_ne!(Redactor::new(Known::default()).clean(one).text, marks[0]);
    }

    proptest! {
        #[test]
        fn whatever_it_is_it_ends_and_what_it_gives_is_text(text in "\\PC{0,300}|([a-z:=\"/@ \\-\\n]{0,200})") {
            let once = clean(&text);
            prop_assert!(once.lines().count() <= text.lines().count() + 1);
        }

        /// A secret of any letters behind a name that says so.
        #[test]
        fn a_value_behind_a_secret_name_is_never_there(value in "[A-Za-z0-9!#$%*+./_~^-]{5,60}", quote in prop::bool::ANY) {
            let text = match quote {
                true => format!("x password=\"{value}\" y"),
                false => format!("x password={value} y"),
            };
            let (plain, quoted) = (format!("={value}"), format!("\"{value}\""));
            let said = clean(&text);
            prop_assert!(!said.contains(&plain) && !said.contains(&quoted), "{}", said);
        }
    }
}
