//! What this machine is, read from `/sys`, and the machine this identity was made on.
//!
//! | file | who writes | what |
//! |---|---|---|
//! | `/etc/pf9/machine.json`     | root, at enrolment, or when the plane took another machine for this host | the machine this identity belongs to |
//! | `/run/pf9-machine.json`     | root, before comms starts | what the machine is now, with what only root may read |

use std::collections::BTreeSet;

use super::store::{FILE_MAX, IdentityError, damaged, json};
use crate::host::fs::{Attrs, Found, HostFs};
use crate::model::{
    Fault, FaultCode, HostId, Likeness, MACHINE_INTERFACES_MAX, MACHINE_SCHEMA, MachineMarks, paths,
};
use crate::telemetry::chain;

/// A line of `/sys`.
const LINE_MAX: u64 = 4096;
/// Interfaces that are looked through for physical ones: a node has a virtual one per pod.
const NAMES_MAX: usize = 4096;
const DMI: &str = "/sys/class/dmi/id";
const NET: &str = "/sys/class/net";
/// Serial number of boards without a BIOS.
const DEVICE_TREE: &str = "/sys/firmware/devicetree/base/serial-number";
/// Placeholders of firmware without a serial number; lower case.
const NO_NUMBER: &[&str] = &[
    "none",
    "n/a",
    "na",
    "unknown",
    "default",
    "default string",
    "not specified",
    "not applicable",
    "not available",
    "to be filled by o.e.m.",
    "system serial number",
    "chassis serial number",
    "empty",
    "invalid",
    "oem",
    "0123456789",
    "1234567890",
    "123456789",
    "03000200-0400-0500-0006-000700080009",
];

/// Looks at the machine. Parts that this user may not read are absent.
pub fn look_at_machine(fs: &HostFs, host: HostId) -> MachineMarks {
    let firmware = |kind: &str, path: &str| {
        let text = line(fs, path)?;
        says_something(&text).then(|| MachineMarks::digest(host, kind, &text))
    };
    // A container sees the firmware of the machine it runs on, as all its neighbours do.
    let contained = ["/run/systemd/container", "/.dockerenv"]
        .iter()
        .any(|p| !matches!(fs.found(p), Ok(Found::Nothing)));
    let (uuid, serial) = match contained {
        true => (None, None),
        false => (
            firmware("uuid", &format!("{DMI}/product_uuid")),
            firmware("serial", &format!("{DMI}/product_serial"))
                .or_else(|| firmware("serial", DEVICE_TREE)),
        ),
    };
    MachineMarks {
        schema: MACHINE_SCHEMA,
        uuid,
        serial,
        interfaces: interfaces(fs)
            .iter()
            .map(|address| MachineMarks::digest(host, "interface", address))
            .collect(),
    }
}

/// What is known of this machine now: what root noted before this program started, or else what
/// this user may read.
pub fn this_machine(fs: &HostFs, host: HostId) -> MachineMarks {
    let noted = fs.read(paths::MACHINE_NOW, FILE_MAX).ok().flatten();
    let noted = noted.and_then(|bytes| serde_json::from_slice::<MachineMarks>(&bytes).ok());
    noted
        .filter(|marks| marks.validate().is_ok())
        .unwrap_or_else(|| look_at_machine(fs, host))
}

/// Root notes what the machine is, for programs that may read less.
pub fn note_machine(fs: &HostFs, marks: &MachineMarks) -> Result<(), IdentityError> {
    let path = paths::MACHINE_NOW;
    Ok(fs.write(path, &json(path, marks)?, &Attrs::mode(0o644))?)
}

/// The machine this identity was made on; `None` when that is unknown.
pub fn pinned_machine(fs: &HostFs) -> Result<Option<MachineMarks>, IdentityError> {
    let Some(bytes) = fs.read(paths::MACHINE, FILE_MAX)? else {
        return Ok(None);
    };
    let marks: MachineMarks =
        serde_json::from_slice(&bytes).map_err(|e| damaged(paths::MACHINE, e))?;
    marks
        .validate()
        .map_err(|why| damaged(paths::MACHINE, why))?;
    Ok(Some(marks))
}

/// Why a copy of this disk would not know itself for one; `None`: it would.
pub fn machine_fault(fs: &HostFs) -> Option<Fault> {
    let why = match pinned_machine(fs) {
        Ok(Some(_)) => return None,
        Ok(None) => format!("{} is missing", paths::MACHINE),
        Err(e) => chain(&e),
    };
    let what = "a copy of this machine's disk would not notice that it is a copy";
    Some(Fault::new(FaultCode::MachineUnknown, what, why).fix(
        "nothing while the plane is reachable: the file is rewritten from the plane's record of \
         this machine",
    ))
}

/// Whether `seen` is the machine this identity was made on.
pub fn is_our_machine(fs: &HostFs, seen: &MachineMarks) -> Result<Likeness, IdentityError> {
    Ok(pinned_machine(fs)?.map_or(Likeness::Unknown, |pinned| pinned.likeness(seen)))
}

/// Writes down the machine this identity belongs to.
pub(super) fn pin(fs: &HostFs, marks: &MachineMarks) -> Result<(), IdentityError> {
    let path = paths::MACHINE;
    Ok(fs.write(path, &json(path, marks)?, &Attrs::mode(0o644))?)
}

/// Hardware addresses of physical interfaces, those that are enslaved with their own.
fn interfaces(fs: &HostFs) -> BTreeSet<String> {
    let mut names = fs.list(NET).unwrap_or_default();
    names.sort();
    let physical = names.into_iter().take(NAMES_MAX).filter_map(|name| {
        let of = |file: &str| line(fs, &format!("{NET}/{name}/{file}"));
        // Bridges, bonds, tunnels and the ends of pods' cables have no device behind them.
        let device = fs.found(format!("{NET}/{name}/device")).ok()?;
        if device == Found::Nothing {
            return None;
        }
        // A bond gives its members one address; the one they were made with is beside it.
        let address = of("bonding_slave/perm_hwaddr").or_else(|| of("address"))?;
        let made = address.split(':').count() == 6 && says_something(&address);
        made.then_some(address)
    });
    physical.take(MACHINE_INTERFACES_MAX).collect()
}

fn line(fs: &HostFs, path: &str) -> Option<String> {
    let text = fs.read_text(path, LINE_MAX).ok().flatten()?;
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// False for what stands where a number should be.
fn says_something(text: &str) -> bool {
    let text = text.trim().to_ascii_lowercase();
    let mut digits = text.chars().filter(char::is_ascii_alphanumeric);
    let first = digits.next();
    // All zeros, all ones, and a single sign.
    let all_alike = digits.all(|c| Some(c) == first);
    !all_alike && !NO_NUMBER.contains(&text.as_str())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Machine {
        fs: HostFs,
        _dir: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("tempdir");
            Self {
                fs: HostFs::new(dir.path()),
                _dir: dir,
            }
        }
        fn put(&self, path: &str, text: &str) {
            let at = self.fs.at(path);
            std::fs::create_dir_all(at.parent().expect("parent")).expect("dir");
            std::fs::write(at, text).expect("write");
        }
        fn interface(&self, name: &str, address: &str, physical: bool) {
            self.put(&format!("{NET}/{name}/address"), &format!("{address}\n"));
            if physical {
                symlink(
                    "../0000:00:03.0",
                    self.fs.at(format!("{NET}/{name}/device")),
                )
                .expect("link");
            }
        }
    }

    #[test]
    fn physical_parts_count_and_nothing_else() {
        let host = HostId::random();
        let machine = Machine::new();
        machine.put(&format!("{DMI}/product_uuid"), "4c4c4544-0042-3510-8052\n");
        machine.put(&format!("{DMI}/product_serial"), "To Be Filled By O.E.M.\n");
        machine.interface("eth0", "52:54:00:12:34:56", true);
        machine.interface("eth1", "00:00:00:00:00:00", true);
        machine.interface("docker0", "02:42:aa:bb:cc:dd", false);
        machine.interface("veth1", "0e:11:22:33:44:55", false);
        // A bond's member shows the bond's address.
        machine.interface("eth2", "52:54:00:12:34:56", true);
        machine.put(
            &format!("{NET}/eth2/bonding_slave/perm_hwaddr"),
            "52:54:00:aa:aa:aa\n",
        );
        let marks = look_at_machine(&machine.fs, host);
        assert!(marks.uuid.is_some());
        assert_eq!(marks.serial, None, "a placeholder is not a number");
        let wanted = ["52:54:00:12:34:56", "52:54:00:aa:aa:aa"]
            .map(|a| MachineMarks::digest(host, "interface", a));
        assert_eq!(marks.interfaces, BTreeSet::from(wanted));

        machine.put("/run/systemd/container", "lxc");
        let contained = look_at_machine(&machine.fs, host);
        assert_eq!((contained.uuid, contained.serial), (None, None));
        assert!(look_at_machine(&Machine::new().fs, host).is_empty());
    }

    #[test]
    fn placeholders_say_nothing() {
        for nothing in [
            "",
            " ",
            "0",
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF",
            "None",
        ] {
            assert!(!says_something(nothing), "{nothing:?}");
        }
        for number in ["CN7792194B", "4c4c4544-0042", "VMware-56 4d 1c"] {
            assert!(says_something(number), "{number}");
        }
    }

    #[test]
    fn roots_note_counts_and_a_broken_one_does_not() {
        let host = HostId::random();
        let machine = Machine::new();
        machine.interface("eth0", "52:54:00:12:34:56", true);
        let own = look_at_machine(&machine.fs, host);
        machine.put(paths::MACHINE_NOW, "{");
        assert_eq!(this_machine(&machine.fs, host), own);
        let mut noted = own.clone();
        noted.uuid = Some(MachineMarks::digest(host, "uuid", "x1"));
        note_machine(&machine.fs, &noted).expect("note");
        assert_eq!(this_machine(&machine.fs, host), noted);

        assert_eq!(
            is_our_machine(&machine.fs, &own).expect("judged"),
            Likeness::Unknown
        );
        pin(&machine.fs, &noted).expect("pin");
        let same = is_our_machine(&machine.fs, &noted).expect("judged");
        assert_eq!(same, Likeness::Same(Vec::new()));
    }
}
