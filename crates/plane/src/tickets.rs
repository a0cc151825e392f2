//! Session tickets: pure.
//!
//! Every session presents a ticket and receives the next one. A copied machine takes along the current ticket; as soon
//! as one of the two has used it and the one after it, the other one's is old, which reveals it.
//!
//! Acceptable are the newest ticket, and the one before it as long as the newest was never presented, because its host
//! may have crashed between receiving and storing it. No more than one ticket is ever lost that way: a host that
//! presents the previous one receives a new newest.
//!
//! Tickets are numbered in a chain per endpoint, which the host names: it dials an endpoint once at a time, so two of
//! its sessions never use one chain at once.

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};

use pf9_hostagent::model::{Digest, HostId, Secret};

/// Chains per host: endpoints that it knows. Beyond that the least recently used one is dropped.
pub(super) const CHAINS_MAX: usize = 8;
/// Longest name of a chain, hex digits.
pub(super) const CHAIN_NAME_MAX: usize = 16;
/// Longest ticket: a number, random bytes and a MAC, as text.
pub(super) const TICKET_MAX: usize = 160;

/// The stored state of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chain {
    pub(super) name: String,
    /// Number of the newest ticket.
    pub(super) number: u64,
    /// Digest of the newest ticket.
    pub(super) newest: Digest,
    /// What was presented when it was issued: another ticket, or none.
    pub(super) shown: Option<Digest>,
}

/// A presented ticket, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) chain: String,
    pub(super) number: u64,
    pub(super) digest: Digest,
}

/// Value of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// The session may start.
    Good,
    /// It may start, and the plane's own store is older than the ticket: it was restored.
    Newer,
    /// Another machine has used it since.
    Old,
    /// None was presented, where there should be one.
    Missing,
}

/// Judges what a host presents (`tickets`: all it has) for a session in `chain`.
pub(super) fn worth(chains: &[Chain], chain: &str, tickets: &[Shown]) -> Worth {
    let shown = tickets.iter().find(|t| t.chain == chain);
    match (find(chains, chain), shown) {
        (Some(known), shown) => known.worth(shown),
        // The plane's store is older than this chain.
        (None, Some(_)) => Worth::Newer,
        (None, None) if chains.is_empty() => Worth::Good,
        // A new endpoint: a ticket of another one identifies the host.
        (None, None) => {
            let vouched = tickets
                .iter()
                .filter_map(|t| Some(find(chains, &t.chain)?.worth(Some(t))));
            let good = |worth| matches!(worth, Worth::Good | Worth::Newer);
            match vouched.fold(
                Worth::Missing,
                |best, worth| if good(best) { best } else { worth },
            ) {
                worth if good(worth) => Worth::Good,
                worth => worth,
            }
        }
    }
}

/// Updates the chain after a ticket was issued to a host that presented `shown`.
pub(super) fn handed(chains: &mut Vec<Chain>, name: &str, shown: Option<&Shown>, fresh: &Fresh) {
    chains.retain(|c| c.name != name);
    // The most recently used one is last.
    let surplus = (chains.len() + 1).saturating_sub(CHAINS_MAX);
    chains.drain(..surplus);
    chains.push(Chain {
        name: name.to_owned(),
        number: fresh.number,
        newest: fresh.digest,
        shown: shown.map(|s| s.digest),
    });
}

/// The number of the next ticket of a chain.
pub(super) fn next_number(chains: &[Chain], name: &str, shown: Option<&Shown>) -> u64 {
    let known = find(chains, name).map_or(0, |c| c.number);
    known.max(shown.map_or(0, |s| s.number)).saturating_add(1)
}

/// A new ticket.
pub(super) struct Fresh {
    pub(super) text: Secret<String>,
    pub(super) digest: Digest,
    pub(super) number: u64,
}

/// Makes a ticket.
pub(super) fn make(
    key: &hmac::Key,
    host: HostId,
    chain: &str,
    number: u64,
    random: &Secret<String>,
) -> Fresh {
    let body = format!("{number}.{}", random.expose());
    let mark = hmac::sign(key, &bound(host, chain, &body));
    let text = format!("{body}.{}", hex(mark.as_ref()));
    Fresh {
        digest: Digest::of(text.as_bytes()),
        text: Secret::new(text),
        number,
    }
}

/// Parses a ticket; `None` if this plane never made it for this host and chain.
pub(super) fn read(key: &hmac::Key, host: HostId, chain: &str, text: &str) -> Option<Shown> {
    if text.len() > TICKET_MAX {
        return None;
    }
    let (body, mark) = text.rsplit_once('.')?;
    let mark = unhex(mark)?;
    hmac::verify(key, &bound(host, chain, body), &mark).ok()?;
    Some(Shown {
        chain: chain.to_owned(),
        number: body.split_once('.')?.0.parse().ok()?,
        digest: Digest::of(text.as_bytes()),
    })
}

fn bound(host: HostId, chain: &str, body: &str) -> Vec<u8> {
    format!("{host}\0{chain}\0{body}").into_bytes()
}

fn find<'a>(chains: &'a [Chain], name: &str) -> Option<&'a Chain> {
    chains.iter().find(|c| c.name == name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let pairs = (0..text.len()).step_by(2);
    pairs
        .map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok())
        .collect()
}

impl Chain {
    fn worth(&self, shown: Option<&Shown>) -> Worth {
        let digest = shown.map(|s| s.digest);
        if digest == Some(self.newest) || digest == self.shown {
            return Worth::Good;
        }
        match shown {
            None => Worth::Missing,
            Some(shown) if shown.number > self.number => Worth::Newer,
            Some(_) => Worth::Old,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A plane with the chains of one host.
    struct Plane {
        key: hmac::Key,
        host: HostId,
        chains: Vec<Chain>,
        made: u64,
    }

    /// A machine's disk.
    #[derive(Clone, Default)]
    struct Disk(Vec<(String, String)>);

    impl Disk {
        fn store(&mut self, chain: &str, ticket: String) {
            self.0.retain(|(c, _)| c != chain);
            self.0.push((chain.to_owned(), ticket));
        }
    }

    impl Plane {
        fn new() -> Self {
            Self {
                key: hmac::Key::new(hmac::HMAC_SHA256, b"key"),
                host: HostId::random(),
                chains: Vec::new(),
                made: 0,
            }
        }

        /// A session starts; the issued ticket, or why not.
        fn begin(&mut self, chain: &str, disk: &Disk) -> Result<String, Worth> {
            let read = |(c, t): &(String, String)| read(&self.key, self.host, c, t);
            let tickets: Vec<Shown> = disk.0.iter().filter_map(read).collect();
            match worth(&self.chains, chain, &tickets) {
                Worth::Good | Worth::Newer => {}
                refused @ (Worth::Old | Worth::Missing) => return Err(refused),
            }
            let shown = tickets.iter().find(|t| t.chain == chain);
            self.made += 1;
            let random = Secret::new(format!("r{}", self.made));
            let number = next_number(&self.chains, chain, shown);
            let fresh = make(&self.key, self.host, chain, number, &random);
            handed(&mut self.chains, chain, shown, &fresh);
            Ok(fresh.text.expose().clone())
        }
    }

    proptest! {
        /// Whatever is lost between issuing and storing, however often, on any endpoint: a machine without a copy is
        /// never refused.
        #[test]
        fn a_machine_that_is_alone_always_gets_in(
            begins in prop::collection::vec((0u8..3, any::<bool>()), 1..60),
        ) {
            let (mut plane, mut disk) = (Plane::new(), Disk::default());
            // It was stored once before another endpoint was added.
            let first = plane.begin("e0", &disk).expect("first");
            disk.store("e0", first);
            for (endpoint, stored) in begins {
                let chain = format!("e{endpoint}");
                let handed = plane.begin(&chain, &disk);
                prop_assert!(handed.is_ok(), "{handed:?}");
                if stored {
                    disk.store(&chain, handed.expect("ticket"));
                }
            }
        }

        /// A disk is copied and both machines run: within three sessions, after one of them has had two in a row, one
        /// is refused, and from then on only ever the same one.
        #[test]
        fn of_two_machines_one_is_refused_and_stays_so(
            turns in prop::collection::vec(any::<bool>(), 12..60),
        ) {
            let (mut plane, mut disk) = (Plane::new(), Disk::default());
            let ticket = plane.begin("e", &disk).expect("first");
            disk.store("e", ticket);
            let mut disks = [disk.clone(), disk];
            let mut refused: Option<usize> = None;
            let mut begun = [0; 2];
            for turn in turns {
                let who = usize::from(turn);
                match plane.begin("e", &disks[who]) {
                    Ok(ticket) => {
                        prop_assert_ne!(refused, Some(who), "the refused one came back");
                        disks[who].store("e", ticket);
                        begun[who] += 1;
                    }
                    Err(worth) => {
                        prop_assert_eq!(worth, Worth::Old);
                        prop_assert!(refused.is_none_or(|r| r == who), "both are refused");
                        refused = Some(who);
                    }
                }
            }
            prop_assert!(refused.is_some() || begun[0] < 3 || begun[1] < 3);
        }
    }

    #[test]
    fn the_ticket_before_is_good_until_the_newest_was_shown() {
        let (mut plane, mut disk) = (Plane::new(), Disk::default());
        disk.store("e", plane.begin("e", &Disk::default()).expect("first"));
        let before = disk.clone();
        // Issued and not stored, three times.
        for _ in 0..3 {
            plane.begin("e", &disk).expect("again");
        }
        disk.store("e", plane.begin("e", &disk).expect("stored"));
        assert!(plane.begin("e", &before).is_ok(), "never shown so far");
        let mut copy = before.clone();
        copy.store("e", plane.begin("e", &before).expect("handed to the copy"));
        plane.begin("e", &copy).expect("shown");
        assert_eq!(plane.begin("e", &before), Err(Worth::Old));
        assert_eq!(plane.begin("e", &Disk::default()), Err(Worth::Missing));
    }

    #[test]
    fn a_plane_that_was_restored_takes_what_is_newer_than_it() {
        let (mut plane, mut disk) = (Plane::new(), Disk::default());
        disk.store("e", plane.begin("e", &disk).expect("first"));
        let backup = plane.chains.clone();
        for _ in 0..3 {
            disk.store("e", plane.begin("e", &disk).expect("more"));
        }
        plane.chains = backup;
        disk.store("e", plane.begin("e", &disk).expect("newer than the plane"));
        disk.store("e", plane.begin("e", &disk).expect("and on"));
        plane.chains.clear();
        plane.begin("e", &disk).expect("the plane knows nothing");
    }

    #[test]
    fn forged_foreign_and_endless_tickets_are_none() {
        let plane = Plane::new();
        let random = Secret::new("r".to_owned());
        let ticket = make(&plane.key, plane.host, "e", 7, &random).text;
        let text = ticket.expose();
        assert!(read(&plane.key, plane.host, "e", text).is_some());
        assert!(read(&plane.key, plane.host, "f", text).is_none());
        assert!(read(&plane.key, HostId::random(), "e", text).is_none());
        let later = text.replacen('7', "9", 1);
        assert!(read(&plane.key, plane.host, "e", &later).is_none());
        for bad in ["", ".", "7", "7.r.zz", "7.r.é", &"9".repeat(1000)] {
            assert!(read(&plane.key, plane.host, "e", bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn chains_are_bounded_and_a_new_one_needs_a_voucher() {
        let (mut plane, mut disk) = (Plane::new(), Disk::default());
        for n in 0..20 {
            let chain = format!("e{n}");
            disk.store(&chain, plane.begin(&chain, &disk).expect("vouched"));
            assert!(plane.chains.len() <= CHAINS_MAX);
        }
        assert_eq!(plane.begin("new", &Disk::default()), Err(Worth::Missing));
    }
}
