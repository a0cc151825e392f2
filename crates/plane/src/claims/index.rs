//! Who stated which name or address, as rows: an enrolment reads those that it may meet, not every host.
//!
//! It only says where to look: what a host has is in its own row. Hosts of other projects and clusters are in it as
//! well; the reader decides which of them count.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Deserialize;

use crate::records::{HOSTS, Host};
use crate::store::{Read, Rows, Store, StoreError, Write};
use pf9_hostagent::model::{HostId, NodeFacts};

/// `name/<name>/<host>` and `address/<address>/<host>`.
const CLAIMS: Rows<()> = Rows::new("claims");

/// Addresses of an IP version that a node may get: the first, or the second where the first is the one that masters
/// share.
const OF_A_VERSION: usize = 2;

/// The fields of a host that are read here.
#[derive(Deserialize)]
struct Stated {
    id: HostId,
    facts: Option<NodeFacts>,
}

const STATED: Rows<Stated> = HOSTS.as_type();

/// Where others look for a machine with these facts.
fn places(facts: &NodeFacts) -> BTreeSet<String> {
    let of_version = |v4: bool| {
        let mut first: Vec<IpAddr> = Vec::new();
        for ip in facts.addresses.iter().filter(|ip| ip.is_ipv4() == v4) {
            if first.len() < OF_A_VERSION && !first.contains(ip) {
                first.push(*ip);
            }
        }
        first.into_iter().map(at_address)
    };
    let name = facts.node_name().ok();
    let name = name.map(|name| match name.as_str().parse() {
        Ok(ip) => at_address(ip),
        Err(_) => format!("name/{name}"),
    });
    name.into_iter()
        .chain(of_version(true))
        .chain(of_version(false))
        .collect()
}

fn at_address(ip: IpAddr) -> String {
    format!("address/{}", ip.to_canonical())
}

fn keys(host: HostId, facts: Option<&NodeFacts>) -> BTreeSet<String> {
    let places = facts.map(places).unwrap_or_default();
    places
        .into_iter()
        .map(|at| format!("{at}/{host}"))
        .collect()
}

/// Takes in what a host states now instead of what it stated before; `None`: nothing, or it is gone.
pub(crate) fn note(
    write: &mut Write,
    host: HostId,
    before: Option<&NodeFacts>,
    now: Option<&NodeFacts>,
) -> Result<(), StoreError> {
    let (before, now) = (keys(host, before), keys(host, now));
    for key in before.difference(&now) {
        write.remove(&CLAIMS, key)?;
    }
    for key in now.difference(&before) {
        write.put(&CLAIMS, key, &())?;
    }
    Ok(())
}

/// The hosts that state the name, or one of the first addresses, of a machine with these facts.
pub(crate) fn rivals(rows: &impl Read, facts: &NodeFacts) -> Result<Vec<Host>, StoreError> {
    let mut ids = BTreeSet::new();
    for place in places(facts) {
        let found = rows.with_prefix(&CLAIMS, &format!("{place}/"))?;
        let hosts = found.iter().filter_map(|(key, ())| key.rsplit('/').next());
        ids.extend(hosts.map(str::to_owned));
    }
    let mut rivals = Vec::new();
    for id in ids {
        rivals.extend(rows.get(&HOSTS, &id)?);
    }
    Ok(rivals)
}

/// Makes the index what the hosts' rows say, when the plane starts: an older version may have changed hosts without it.
pub(crate) fn settle(store: &Store) -> Result<(), StoreError> {
    let rows = store.read()?;
    let mut wanted = BTreeSet::new();
    for (_, stated) in rows.all(&STATED)? {
        wanted.extend(keys(stated.id, stated.facts.as_ref()));
    }
    let there: BTreeSet<String> = rows
        .all(&CLAIMS)?
        .into_iter()
        .map(|(key, ())| key)
        .collect();
    drop(rows);
    if wanted == there {
        return Ok(());
    }
    store.write(|write| {
        for key in there.difference(&wanted) {
            write.remove(&CLAIMS, key)?;
        }
        for key in wanted.difference(&there) {
            write.put(&CLAIMS, key, &())?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::compute::tests::{host, host_row};
    use crate::records::tables;

    fn store() -> (Store, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&dir.path().join("s"), &tables()).expect("store");
        (store, dir)
    }

    fn facts(name: u8, addresses: &[u8]) -> NodeFacts {
        let all: Vec<IpAddr> = addresses
            .iter()
            .map(|n| match n % 2 {
                0 => IpAddr::from([10, 0, 0, *n]),
                _ => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(*n)]),
            })
            .collect();
        let name = match name {
            // One that reads like an address.
            0 => "10.0.0.2".to_owned(),
            n => format!("n{n}"),
        };
        NodeFacts::new(&name, &all)
    }

    fn put(store: &Store, n: u8, facts: Option<NodeFacts>, with_index: bool) {
        let done: Result<(), StoreError> = store.write(|w| {
            let key = host(n).to_string();
            let before = w.get(&HOSTS, &key)?.and_then(|h: Host| h.facts);
            let row = Host {
                facts: facts.clone(),
                ..host_row(n, None)
            };
            if with_index {
                note(w, row.id, before.as_ref(), facts.as_ref())?;
            }
            w.put(&HOSTS, &key, &row)
        });
        done.expect("put");
    }

    fn found(store: &Store, facts: &NodeFacts) -> BTreeSet<HostId> {
        let rivals = rivals(&store.read().expect("read"), facts).expect("rivals");
        rivals.into_iter().map(|h| h.id).collect()
    }

    #[test]
    fn hosts_are_found_by_their_name_and_by_what_may_be_their_address() {
        let (store, _dir) = store();
        put(&store, 1, Some(facts(1, &[2, 4, 6, 3])), true);
        put(&store, 2, Some(facts(2, &[8])), true);
        for (name, address, finds) in [
            (1, 20, &[1][..]),
            (9, 2, &[1]),
            (9, 4, &[1]),
            (9, 3, &[1]),
            // Never a node's own.
            (9, 6, &[]),
            (2, 2, &[1, 2]),
        ] {
            let finds: BTreeSet<HostId> = finds.iter().map(|n| host(*n)).collect();
            assert_eq!(
                found(&store, &facts(name, &[address])),
                finds,
                "{name} {address}"
            );
        }
        put(&store, 1, Some(facts(1, &[10])), true);
        assert_eq!(found(&store, &facts(9, &[2])), [].into(), "it moved");
        put(&store, 1, None, true);
        assert_eq!(found(&store, &facts(1, &[10])), [].into(), "it is gone");
    }

    #[test]
    fn hosts_of_an_older_version_are_found_after_a_start() {
        let (store, _dir) = store();
        put(&store, 1, Some(facts(1, &[2])), true);
        put(&store, 1, Some(facts(3, &[2])), false);
        put(&store, 2, Some(facts(2, &[4])), false);
        settle(&store).expect("settled");
        assert_eq!(found(&store, &facts(1, &[30])), [].into());
        assert_eq!(found(&store, &facts(3, &[4])), [host(1), host(2)].into());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// An enrolment that is refused beside all hosts is refused beside those that the index names.
        #[test]
        fn the_index_misses_nobody(
            all in prop::collection::vec((0..6u8, prop::collection::vec(0..12u8, 0..5)), 1..6),
            (name, addresses) in (0..6u8, prop::collection::vec(0..12u8, 1..3)),
            shared in prop::option::of(0..12u8),
        ) {
            let (store, _dir) = store();
            for (n, (name, addresses)) in (1..).zip(&all) {
                put(&store, n, Some(facts(*name, addresses)), true);
            }
            let shared = shared.and_then(|n| facts(1, &[n]).addresses.first().copied());
            let mine = facts(name, &addresses);
            let rows = store.read().expect("read");
            let every: Vec<Host> = rows.all(&HOSTS).expect("all").into_iter().map(|(_, h)| h).collect();
            let judged = |hosts: &[Host]| {
                let mut taken = pf9_hostagent::model::Taken::default();
                crate::claims::add_hosts(&mut taken, hosts, None, shared);
                crate::claims::check("x", &mine, &taken, shared).map_err(|r| r.fault.code)
            };
            let rivals = rivals(&rows, &mine).expect("rivals");
            prop_assert_eq!(judged(&rivals), judged(&every));
        }
    }
}
