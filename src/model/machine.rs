//! What a copy of a machine does not share with it, and the judgement of it: pure.
//!
//! A disk that is copied takes the host's key along. What it does not take: the firmware's serial
//! number and UUID, and the hardware addresses of physical network interfaces. They are kept as
//! digests salted with the host id, so no serial number leaves the machine and marks of two hosts
//! cannot be compared. `/etc/machine-id` is copied with the disk and says nothing here.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Digest, Fault, FaultCode, HostId};

/// Version of the marks.
pub const MACHINE_SCHEMA: u32 = 1;
/// Most interfaces that are looked at: a machine with more is recognised by the first ones by name.
pub const MACHINE_INTERFACES_MAX: usize = 32;

/// What is known of a machine. Parts that cannot be read or say nothing are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineMarks {
    /// [`MACHINE_SCHEMA`].
    pub schema: u32,
    /// The firmware's UUID of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Digest>,
    /// The firmware's serial number of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Digest>,
    /// Hardware addresses of physical interfaces.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub interfaces: BTreeSet<Digest>,
}

/// Whether two sets of marks are of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// The same machine, and these parts of it were replaced.
    Same(Vec<&'static str>),
    /// Another machine; what differs.
    Another(Vec<&'static str>),
    /// Nothing is known on both sides.
    Unknown,
}

/// Two sides of one mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compared {
    Agrees,
    Differs,
    Silent,
}

const UUID: &str = "firmware UUID";
const SERIAL: &str = "serial number";
const INTERFACES: &str = "network interfaces";

// === impl MachineMarks ===

impl MachineMarks {
    /// Nothing is known: a machine that says nothing of itself.
    pub fn is_empty(&self) -> bool {
        self.uuid.is_none() && self.serial.is_none() && self.interfaces.is_empty()
    }

    /// A mark as it is kept.
    pub fn digest(host: HostId, kind: &str, value: &str) -> Digest {
        let value = value.trim().to_ascii_lowercase();
        Digest::of(format!("{host}\0{kind}\0{value}").as_bytes())
    }

    /// What a peer sent: its bounds.
    pub fn validate(&self) -> Result<(), String> {
        if self.schema != MACHINE_SCHEMA {
            return Err(format!("schema {} is not {MACHINE_SCHEMA}", self.schema));
        }
        if self.interfaces.len() > MACHINE_INTERFACES_MAX {
            return Err(format!("more than {MACHINE_INTERFACES_MAX} interfaces"));
        }
        Ok(())
    }

    /// Whether `seen` is the machine that these marks are of.
    ///
    /// The UUID decides where both have one; the serial number where they have none (some
    /// hypervisors show that of the machine below, the same for all of its guests); the interfaces
    /// where that is silent too. A UUID that differs is overruled only by all that is left: the
    /// firmware was rewritten and the rest stayed.
    pub fn likeness(&self, seen: &Self) -> Likeness {
        let uuid = compare(self.uuid, seen.uuid);
        let serial = compare(self.serial, seen.serial);
        let interfaces = self.compare_interfaces(seen);
        let same = match (uuid, serial, interfaces) {
            (Compared::Silent, Compared::Silent, Compared::Silent) => return Likeness::Unknown,
            (Compared::Agrees, _, _) => true,
            (Compared::Differs, serial, interfaces) => {
                serial == Compared::Agrees && interfaces == Compared::Agrees
            }
            (Compared::Silent, Compared::Agrees, _) => true,
            // A reader without access to the firmware's marks sees the interfaces alone, and a new
            // interface in the old machine looks like another machine to it.
            (Compared::Silent, Compared::Silent, Compared::Differs)
                if self.firmware() != seen.firmware() =>
            {
                return Likeness::Unknown;
            }
            (Compared::Silent, _, interfaces) => interfaces == Compared::Agrees,
        };
        let differs: Vec<_> = [(uuid, UUID), (serial, SERIAL), (interfaces, INTERFACES)]
            .into_iter()
            .filter(|(compared, _)| *compared == Compared::Differs)
            .map(|(_, name)| name)
            .collect();
        match same {
            true => Likeness::Same(differs),
            false => Likeness::Another(differs),
        }
    }

    /// Which parts are known, for people.
    pub fn known(&self) -> Vec<&'static str> {
        let has = [
            (self.uuid.is_some(), UUID),
            (self.serial.is_some(), SERIAL),
            (!self.interfaces.is_empty(), INTERFACES),
        ];
        has.into_iter()
            .filter(|(has, _)| *has)
            .map(|(_, name)| name)
            .collect()
    }

    /// Whether anything of the firmware is known.
    fn firmware(&self) -> bool {
        self.uuid.is_some() || self.serial.is_some()
    }

    fn compare_interfaces(&self, seen: &Self) -> Compared {
        if self.interfaces.is_empty() || seen.interfaces.is_empty() {
            return Compared::Silent;
        }
        match self.interfaces.is_disjoint(&seen.interfaces) {
            true => Compared::Differs,
            false => Compared::Agrees,
        }
    }
}

fn compare(a: Option<Digest>, b: Option<Digest>) -> Compared {
    match (a, b) {
        (Some(a), Some(b)) if a == b => Compared::Agrees,
        (Some(_), Some(_)) => Compared::Differs,
        (Some(_), None) | (None, Some(_) | None) => Compared::Silent,
    }
}

/// The words for a machine that is not the one its identity was made on.
pub fn copied_by_marks(host: HostId, differs: &[&str]) -> Fault {
    let why = format!(
        "this is not the machine that enrolled: other {}",
        differs.join(", ")
    );
    copied(host, why)
}

/// The words for a machine that shows what another one has shown since.
pub fn copied_by_ticket(host: HostId) -> Fault {
    let why = "its session ticket was used by another machine since, or its disk was reset";
    copied(host, why)
}

/// The words for a machine that comes while another one is here.
pub fn copied_while_connected(host: HostId) -> Fault {
    let why = "another machine with this identity is connected and answering";
    copied(host, why)
}

/// The words for a machine that shows no ticket, where the host was handed one.
pub fn copied_without_ticket(host: HostId) -> Fault {
    let why = "it shows no session ticket, although the host has one: its key may have been copied";
    copied(host, why)
}

fn copied(host: HostId, why: impl Into<String>) -> Fault {
    Fault::new(
        FaultCode::IdentityCopied,
        format!("host {host} is used by two machines"),
        why,
    )
    .fix(
        "on the copy: pf9ctl identity reset, then pf9ctl node prep with a new token; if it is the only machine (a moved \
         disk, a replaced mainboard, a disk that was reset): pf9-plane host accept-machine HOST BOOT_ID, with its \
         own boot id (/proc/sys/kernel/random/boot_id there)",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marks(uuid: u8, serial: u8, interfaces: &[u8]) -> MachineMarks {
        let some = |n: u8| (n > 0).then(|| Digest::of(&[n]));
        MachineMarks {
            schema: MACHINE_SCHEMA,
            uuid: some(uuid),
            serial: some(serial),
            interfaces: interfaces.iter().map(|n| Digest::of(&[*n])).collect(),
        }
    }

    fn likeness(pinned: (u8, u8, &[u8]), seen: (u8, u8, &[u8])) -> Likeness {
        let (p, s) = (
            marks(pinned.0, pinned.1, pinned.2),
            marks(seen.0, seen.1, seen.2),
        );
        p.likeness(&s)
    }

    #[test]
    fn the_cases_people_meet() {
        use Likeness::{Another, Same, Unknown};
        let here: (u8, u8, &[u8]) = (1, 1, &[1, 2]);
        assert_eq!(likeness(here, here), Same(vec![]));
        // A new card, or all of them.
        assert_eq!(likeness(here, (1, 1, &[2, 3])), Same(vec![]));
        assert_eq!(likeness(here, (1, 1, &[7])), Same(vec![INTERFACES]));
        // A copied disk in another machine; a copied guest.
        assert_eq!(
            likeness(here, (9, 9, &[9])),
            Another(vec![UUID, SERIAL, INTERFACES])
        );
        assert_eq!(
            likeness(here, (9, 1, &[9])),
            Another(vec![UUID, INTERFACES])
        );
        // The firmware was rewritten.
        assert_eq!(likeness(here, (9, 1, &[1])), Same(vec![UUID]));
        // Without firmware marks the addresses decide.
        assert_eq!(likeness((0, 0, &[1]), (0, 0, &[1, 4])), Same(vec![]));
        assert_eq!(
            likeness((0, 0, &[1]), (0, 0, &[4])),
            Another(vec![INTERFACES])
        );
        // A guest that moved: the serial number of the machine below is another one.
        assert_eq!(likeness((0, 1, &[1]), (0, 9, &[1])), Same(vec![SERIAL]));
        // Who may not read the firmware does not accuse.
        assert_eq!(likeness(here, (0, 0, &[7])), Unknown);
        assert_eq!(likeness(here, (0, 0, &[])), Unknown);
        assert_eq!(likeness((0, 0, &[]), here), Unknown);
    }

    fn any_marks() -> impl Strategy<Value = MachineMarks> {
        (0u8..4, 0u8..4, prop::collection::vec(1u8..5, 0..4)).prop_map(|(u, s, i)| marks(u, s, &i))
    }

    proptest! {
        /// The verdict is symmetric between the pinned and the seen machine; a machine matches itself; and no mismatch
        /// is reported without a mark that both know and that differs.
        #[test]
        fn judged_alike_from_both_sides(a in any_marks(), b in any_marks()) {
            let verdict = a.likeness(&b);
            prop_assert_eq!(&verdict, &b.likeness(&a));
            match &verdict {
                Likeness::Another(differs) => prop_assert!(!differs.is_empty()),
                Likeness::Same(_) => {}
                Likeness::Unknown => {}
            }
            match a.likeness(&a) {
                Likeness::Same(differs) => prop_assert!(differs.is_empty()),
                Likeness::Unknown => prop_assert!(a.is_empty()),
                Likeness::Another(_) => prop_assert!(false, "a machine is itself"),
            }
        }

        /// To learn more of a machine whose UUID agrees never makes it another one.
        #[test]
        fn one_uuid_is_one_machine(a in any_marks(), mut b in any_marks()) {
            prop_assume!(a.uuid.is_some());
            b.uuid = a.uuid;
            prop_assert!(matches!(a.likeness(&b), Likeness::Same(_)));
        }
    }

    #[test]
    fn marks_of_two_hosts_cannot_be_compared() {
        let (a, b) = (HostId::random(), HostId::random());
        let of = |host| MachineMarks::digest(host, "uuid", "4C4C4544-0042");
        assert_ne!(of(a), of(b));
        assert_eq!(of(a), MachineMarks::digest(a, "uuid", " 4c4c4544-0042\n"));
    }
}
