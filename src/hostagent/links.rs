//! What changes of the machine's own interfaces: one look beside the one before it. Pure, but for [`states`].

use std::collections::BTreeMap;

use crate::host::fs::HostFs;
use crate::model::{Interface, LINK_CHANGES_MAX, LinkChange, LinkEvent, Timestamp};

/// A word of the kernel's.
const STATE_MAX: u64 = 64;
/// Its words for an interface that carries nothing. Some that carry data have no word for it (`unknown`).
const DOWN: [&str; 3] = ["down", "lowerlayerdown", "notpresent"];

/// Whether each interface carries data, by name.
pub(super) type LinkStates = BTreeMap<String, bool>;

/// What changed so far.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// The look before; `None`: this is the first one, and nothing is news.
    before: Option<LinkStates>,
    changes: Vec<LinkChange>,
}

impl Links {
    /// Looks again; all that changed so far, the newest last.
    pub(super) fn see(&mut self, now: LinkStates, at: Timestamp) -> Vec<LinkChange> {
        // No machine has none while this runs: it could not be looked at.
        if now.is_empty() {
            return self.changes.clone();
        }
        if let Some(before) = &self.before {
            let of = |(name, what)| LinkChange { at, name, what };
            self.changes.extend(between(before, &now).map(of));
            let old = self.changes.len().saturating_sub(LINK_CHANGES_MAX);
            self.changes.drain(..old);
        }
        self.before = Some(now);
        self.changes.clone()
    }
}

fn between(before: &LinkStates, now: &LinkStates) -> impl Iterator<Item = (String, LinkEvent)> {
    let went = before.keys().filter(move |name| !now.contains_key(*name));
    let went = went.map(|name| (name.clone(), LinkEvent::Went));
    let others = now.iter().filter_map(move |(name, up)| {
        let what = match (before.get(name), up) {
            (None, _) => LinkEvent::Came,
            (Some(false), true) => LinkEvent::Up,
            (Some(true), false) => LinkEvent::Down,
            (Some(true), true) | (Some(false), false) => return None,
        };
        Some((name.clone(), what))
    });
    went.chain(others)
}

/// The kernel's word for each of these. What it does not say counts as up: a look that failed is no change.
pub(super) fn states(fs: &HostFs, interfaces: &[Interface]) -> LinkStates {
    let state = |interface: &Interface| {
        let path = format!("/sys/class/net/{}/operstate", interface.name);
        let text = fs.read_text(path, STATE_MAX).ok().flatten();
        let up = text.is_none_or(|text| !DOWN.contains(&text.trim()));
        (interface.name.clone(), up)
    };
    interfaces.iter().map(state).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("time")
    }

    fn look(all: &[(&str, bool)]) -> LinkStates {
        all.iter()
            .map(|(name, up)| ((*name).to_owned(), *up))
            .collect()
    }

    #[test]
    fn what_comes_goes_or_changes_is_told_once_with_its_time() {
        let mut links = Links::default();
        let first = look(&[("eth0", true), ("eth1", true)]);
        assert_eq!(
            links.see(first.clone(), at(1)),
            [],
            "nothing is known of before"
        );
        assert_eq!(links.see(first, at(2)), []);
        links.see(look(&[("bond0", false), ("eth0", false)]), at(3));
        links.see(look(&[]), at(3));
        let told = links.see(look(&[("bond0", false), ("eth0", true)]), at(4));
        let told: Vec<_> = told
            .iter()
            .map(|c| (c.at.as_second(), c.name.as_str(), c.what))
            .collect();
        assert_eq!(
            told,
            [
                (3, "eth1", LinkEvent::Went),
                (3, "bond0", LinkEvent::Came),
                (3, "eth0", LinkEvent::Down),
                (4, "eth0", LinkEvent::Up),
            ]
        );
    }

    #[test]
    fn a_loose_cable_fills_no_status() {
        let mut links = Links::default();
        let mut told = Vec::new();
        for second in 0..100 {
            told = links.see(look(&[("eth0", second % 2 == 0)]), at(second));
        }
        assert_eq!(told.len(), LINK_CHANGES_MAX);
        assert_eq!(told.last().map(|c| c.at), Some(at(99)), "the newest stay");
    }

    #[test]
    fn the_state_is_the_kernels_word_and_no_text_of_it_is_passed_on() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let words = [
            ("a", Some("up\n"), true),
            ("b", Some("down\n"), false),
            ("c", Some("unknown\n"), true),
            ("d", Some("lowerlayerdown\n"), false),
            ("e", None, true),
        ];
        let mut all = Vec::new();
        for (name, word, _) in words {
            if let Some(word) = word {
                let at = fs.at(format!("/sys/class/net/{name}"));
                std::fs::create_dir_all(&at).expect("directory");
                std::fs::write(at.join("operstate"), word).expect("write");
            }
            all.push(Interface {
                name: name.to_owned(),
                mac: String::new(),
                addresses: Vec::new(),
                networks: Vec::new(),
            });
        }
        let wanted: LinkStates = words
            .into_iter()
            .map(|(name, _, up)| (name.to_owned(), up))
            .collect();
        assert_eq!(states(&fs, &all), wanted);
    }
}
