//! The lease as the API has it: `pf9-api-address` in `kube-system`. Pure.
//!
//! It is an object of Kubernetes' own kind for such things, so `kubectl get lease -n kube-system` shows
//! who has the address. Its times are for people; nothing here counts by them.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::turn::{LEASE, Record};
use crate::model::Timestamp;

/// Where leases of the system are.
pub(super) const COLLECTION: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
/// What ours is called.
const NAME: &str = "pf9-api-address";
/// The address that had been looked for on the network before it was first taken.
const PROVED: &str = "pf9.io/address";
/// Its holder is about to give it back.
const LEAVING: &str = "pf9.io/leaving";
/// Longest version or name that is kept: the API server's are shorter.
const WORD_MAX: usize = 256;

/// Where it is.
pub(super) fn path() -> String {
    format!("{COLLECTION}/{NAME}")
}

/// What it says of this address; `None`: it is no lease that could be written over.
pub(super) fn read(object: &Value, address: IpAddr) -> Option<Record> {
    let text = |at: &str| {
        let text = object.pointer(at).and_then(Value::as_str);
        text.filter(|t| !t.is_empty() && t.len() <= WORD_MAX)
    };
    let transitions = object.pointer("/spec/leaseTransitions");
    Some(Record {
        version: text("/metadata/resourceVersion")?.to_owned(),
        holder: text("/spec/holderIdentity").map(str::to_owned),
        proved: text("/metadata/annotations/pf9.io~1address") == Some(&address.to_string()),
        acquired: text("/spec/acquireTime").map(str::to_owned),
        transitions: transitions.and_then(Value::as_u64).unwrap_or_default(),
        leaving: text("/metadata/annotations/pf9.io~1leaving").is_some(),
    })
}

/// A lease that was never held.
pub(super) fn begun(now: Timestamp) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": NAME, "namespace": "kube-system"},
        "spec": {
            "holderIdentity": "",
            "leaseDurationSeconds": LEASE.as_secs(),
            "renewTime": format!("{now:.6}"),
        },
    })
}

/// The lease with this holder (none: it is given back), over what it was. `leaving`: the holder is about to give it back.
pub(super) fn written(
    over: &Record,
    holder: Option<&str>,
    leaving: bool,
    address: IpAddr,
    now: Timestamp,
) -> Value {
    // As Go reads it back: six digits, neither more nor fewer.
    let now = format!("{now:.6}");
    let passes = holder.is_some() && over.holder.as_deref() != holder;
    let acquired = over.acquired.clone().filter(|_| !passes);
    let transitions = over.transitions + u64::from(passes && over.proved);
    let mut metadata = json!({
        "name": NAME,
        "namespace": "kube-system",
        "resourceVersion": over.version,
        "annotations": {PROVED: address.to_string()},
    });
    if leaving {
        metadata["annotations"][LEAVING] = "true".into();
    }
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": {
            "holderIdentity": holder.unwrap_or_default(),
            "leaseDurationSeconds": LEASE.as_secs(),
            "acquireTime": acquired.unwrap_or_else(|| now.clone()),
            "renewTime": now,
            "leaseTransitions": transitions,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip() -> IpAddr {
        "10.1.0.250".parse().expect("ip")
    }

    fn read_back(mut object: Value, version: &str) -> Record {
        object["metadata"]["resourceVersion"] = version.into();
        read(&object, ip()).expect("a lease")
    }

    #[test]
    fn what_is_written_is_read_back_and_each_passing_is_counted() {
        let now = Timestamp::from_second(1_800_000_000).expect("time");
        let begun = read_back(begun(now), "6");
        assert_eq!((begun.holder.as_deref(), begun.proved), (None, false));
        let first = written(&begun, Some("n1"), false, ip(), now);
        assert_eq!(first["spec"]["acquireTime"], "2027-01-15T08:00:00.000000Z");
        assert_eq!(first["metadata"]["resourceVersion"], "6");
        let first = read_back(first, "7");
        assert_eq!((first.holder.as_deref(), first.proved), (Some("n1"), true));
        let later = Timestamp::from_second(1_800_000_001).expect("time");
        assert!(!first.leaving);
        let again = written(&first, Some("n1"), true, ip(), later);
        assert_eq!(again["metadata"]["resourceVersion"], "7");
        let again = read_back(again, "8");
        assert_eq!((&again.acquired, again.transitions), (&first.acquired, 0));
        assert!(again.leaving);
        let free = read_back(written(&again, None, false, ip(), later), "9");
        assert!(!free.leaving, "who takes it does not leave");
        assert_eq!((free.holder.as_deref(), free.transitions), (None, 0));
        assert!(free.proved, "any master may take it at once");
        let other = read_back(written(&free, Some("n2"), false, ip(), later), "10");
        assert_ne!(other.acquired, first.acquired);
        assert_eq!(other.transitions, 1);
    }

    #[test]
    fn what_is_no_lease_is_none_and_one_of_another_address_proves_nothing() {
        assert_eq!(read(&json!({"metadata": {}}), ip()), None);
        let long = json!({"metadata": {"resourceVersion": "1".repeat(300)}});
        assert_eq!(read(&long, ip()), None);
        let begun = read_back(begun(Timestamp::UNIX_EPOCH), "1");
        let elsewhere = "10.1.0.251".parse().expect("ip");
        let other = written(&begun, Some("n1"), false, elsewhere, Timestamp::UNIX_EPOCH);
        assert!(!read_back(other, "1").proved);
    }
}
