//! The secrets that lie on this machine, so that they can be looked for.
//!
//! They are kept as pieces: a long one as many short ones, so that a part of it, in whatever lines it was broken, is
//! found; and each in the three ways in which base64 shows it.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use crate::host::fs::HostFs;
use crate::model::paths;

use super::redact::{is_run_char, looks_random};

/// Length of the pieces of a long secret that are looked for; random text repeats none of this length by accident.
const PIECE: usize = 16;
/// A shorter one is looked for only where a name says what it is: it would be found everywhere.
const SHORT_MIN: usize = 5;
/// A part of a short one in base64: what is shorter is in every text.
const SHORT_ENCODED_MIN: usize = 8;
/// Random text in a file of secrets.
const RANDOM_MIN: usize = 20;
/// Largest file of secrets.
const FILE_MAX: u64 = 256 * 1024;
/// Files of secrets on a master: keys, kubeconfigs, tickets.
const FILES_MAX: usize = 512;
/// Levels below a directory of secrets.
const DEPTH_MAX: usize = 6;

/// Pieces of secrets.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pieces: HashSet<[u8; PIECE]>,
    short: Vec<String>,
    /// Files that secrets were read of.
    files: usize,
}

/// Files that hold nothing but secrets, or hold some.
const FILES: [&str; 7] = [
    paths::HOST_KEY,
    paths::HOST_NEXT,
    paths::ORDER_KEY,
    paths::PROXY_CREDENTIALS,
    paths::ETCD_ARCHIVE_CREDENTIALS,
    paths::TICKETS,
    paths::SERVICE_ACCOUNT_KEY,
];
/// Directories in which files of such names are looked for.
const DIRS: [&str; 4] = [
    "/etc/pf9",
    "/var/lib/pf9/kubelet",
    paths::NODELET_STATE,
    "/var/opt/pf9/comms",
];

/// The three ways in which base64 shows bytes, by where among others they stand, in both alphabets; without the edges,
/// which depend on the others.
fn dresses(bytes: &[u8]) -> impl Iterator<Item = String> {
    (0..3).flat_map(move |skip| {
        let part = bytes.get(skip..).unwrap_or_default();
        let part = part.get(..part.len() / 3 * 3).unwrap_or_default();
        [STANDARD.encode(part), URL_SAFE.encode(part)]
    })
}

fn is_secret_name(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let ends = [".key", "key.pem", ".kubeconfig", "credentials", "token"];
    let below = ["/kubeconfigs/", paths::ORDER_KEYS_OFFERED];
    ends.iter().any(|end| name.ends_with(end)) || below.iter().any(|dir| path.contains(dir))
}

impl Known {
    /// Those of this machine, as far as the caller may read them.
    pub(super) fn of(host: &HostFs) -> Self {
        let mut known = Self::default();
        for path in FILES {
            known.file(host, path);
        }
        for dir in DIRS {
            known.walk(host, dir, 0);
        }
        known
    }

    fn walk(&mut self, host: &HostFs, dir: &str, depth: usize) {
        let Ok(names) = host.list(dir) else { return };
        for name in names {
            if self.files >= FILES_MAX {
                return;
            }
            let path = format!("{dir}/{name}");
            let is_dir = std::fs::symlink_metadata(host.at(&path)).is_ok_and(|m| m.is_dir());
            match is_dir {
                true if depth < DEPTH_MAX => self.walk(host, &path, depth + 1),
                true => {}
                false if is_secret_name(&path) => self.file(host, &path),
                false => {}
            }
        }
    }

    fn file(&mut self, host: &HostFs, path: &str) {
        use std::io::Read;
        let mut bytes = Vec::new();
        let Ok(file) = host.open_plain(path) else {
            return;
        };
        if file.take(FILE_MAX).read_to_end(&mut bytes).is_err() {
            return;
        }
        self.files += 1;
        let text = String::from_utf8_lossy(&bytes);
        if path.ends_with("credentials") {
            self.credentials(&text);
        } else if path.ends_with("token") {
            self.secret(text.trim());
        } else {
            self.text(&text);
        }
    }

    /// `user:password`, `name = value`: the value alone, and both as HTTP shows them.
    pub(super) fn credentials(&mut self, text: &str) {
        for line in text.lines().map(str::trim) {
            if let Some((_, value)) = line.split_once('=').filter(|(name, _)| !name.contains(':')) {
                self.secret(value.trim().trim_matches('"'));
            } else if let Some((_, password)) = line.split_once(':') {
                self.secret(password);
                self.secret(line);
            }
        }
    }

    /// Everything in a text of secrets that could be one.
    pub(super) fn text(&mut self, text: &str) {
        let mut whole = String::new();
        let mut inside = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("-----") {
                inside = line.starts_with("-----BEGIN") && !line.contains("CERTIFICATE");
                self.base64_of(std::mem::take(&mut whole).as_bytes());
                continue;
            }
            if inside {
                whole.push_str(line);
                self.pieces_of(line);
            }
        }
        self.base64_of(whole.as_bytes());
        self.base64_of(text.as_bytes());
        if !text.contains("-----BEGIN") {
            let words = text.split(|c| !is_run_char(c));
            // Words, names and paths in a file of secrets are none.
            for word in words.filter(|w| looks_random(w, RANDOM_MIN)) {
                self.secret(word);
                // A kubeconfig has its keys in base64.
                let inner = STANDARD
                    .decode(word)
                    .ok()
                    .and_then(|b| String::from_utf8(b).ok());
                if let Some(inner) = inner.filter(|t| t.contains("-----BEGIN")) {
                    self.text(&inner);
                }
            }
        }
    }

    /// One secret.
    pub(super) fn secret(&mut self, secret: &str) {
        if secret.len() < SHORT_MIN {
            return;
        }
        if secret.len() >= PIECE {
            self.pieces_of(secret);
            self.base64_of(secret.as_bytes());
        } else if !self.short.iter().any(|s| s == secret) {
            self.short.push(secret.to_owned());
            let whole = STANDARD.encode(secret);
            self.short.push(whole.trim_end_matches('=').to_owned());
            let long = |encoded: &String| encoded.len() >= SHORT_ENCODED_MIN;
            self.short.extend(dresses(secret.as_bytes()).filter(long));
        }
    }

    fn pieces_of(&mut self, text: &str) {
        let bytes = text.as_bytes();
        for piece in bytes.chunks_exact(PIECE) {
            self.pieces.extend(<[u8; PIECE]>::try_from(piece));
        }
        // The last whole piece, so that none is shorter than what is looked for.
        let last = bytes
            .len()
            .checked_sub(PIECE)
            .and_then(|at| bytes.get(at..));
        self.pieces
            .extend(last.and_then(|l| <[u8; PIECE]>::try_from(l).ok()));
    }

    /// As base64 shows them.
    fn base64_of(&mut self, bytes: &[u8]) {
        if bytes.len() < PIECE {
            return;
        }
        for encoded in dresses(bytes) {
            self.pieces_of(&encoded);
        }
    }

    /// Whether a run of such characters has a piece of one.
    pub(super) fn has_part_of(&self, run: &str) -> bool {
        if self.pieces.is_empty() {
            return false;
        }
        let windows = run.as_bytes().windows(PIECE);
        windows
            .filter_map(|w| <[u8; PIECE]>::try_from(w).ok())
            .any(|w| self.pieces.contains(&w))
    }

    /// Whether any is in these bytes.
    pub(super) fn is_in(&self, bytes: &[u8]) -> bool {
        let pieces = !self.pieces.is_empty()
            && bytes
                .windows(PIECE)
                .filter_map(|w| <[u8; PIECE]>::try_from(w).ok())
                .any(|w| self.pieces.contains(&w));
        pieces
            || self.short.iter().any(|short| {
                let short = short.as_bytes();
                bytes.windows(short.len()).any(|w| w == short)
            })
    }

    /// Short ones, wherever they stand.
    pub(super) fn replace_short(&self, text: String, mut by: impl FnMut(&str) -> String) -> String {
        self.short.iter().fold(text, |text, short| {
            if !text.contains(short.as_str()) {
                return text;
            }
            let mark = by(short);
            text.replace(short.as_str(), &mark)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_of_a_file_are_no_secrets() {
        let mut known = Known::default();
        known.text("{\"schema\": 1, \"kind\": \"pf9-order-key-of-this-host\", \"host\": \"6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11\"}");
        assert!(!known.has_part_of("6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11"));
        assert!(!known.has_part_of("pf9-order-key-of-this-host"));
    }

    proptest! {
        /// Whatever stands around it, and wherever lines are broken: a part of 31 letters has a whole piece.
        #[test]
        fn a_long_secret_is_found_in_every_dress(secret in "[A-Z][a-z][0-9][A-Za-z0-9+/]{45,90}", before in "[ -~]{0,5}", cut in 0_usize..12) {
            let mut known = Known::default();
            known.secret(&secret);
            let part = &secret[cut..cut + 31];
            prop_assert!(known.is_in(part.as_bytes()));
            let dressed = STANDARD.encode(format!("{before}{secret}"));
            prop_assert!(known.is_in(dressed.as_bytes()), "{dressed}");
            let url = URL_SAFE.encode(format!("{before}{secret}"));
            prop_assert!(known.is_in(url.as_bytes()), "{url}");
        }

        #[test]
        fn a_password_is_found_as_http_shows_it(password in "[A-Za-z][A-Za-z0-9]{5,12}") {
            let mut known = Known::default();
            known.credentials(&format!("node:{password}\n"));
            let around = format!("x{password}y");
            prop_assert!(known.is_in(around.as_bytes()));
            let header = STANDARD.encode(format!("node:{password}"));
            let cleaned = known.replace_short(header.clone(), |_| "-".to_owned());
            prop_assert!(known.is_in(header.as_bytes()) && cleaned != header, "{header}");
        }
    }
}
