//! How a machine is: numbers, names of ours, times and faults. No text of another program, and no file's content.

use serde::{Deserialize, Serialize};

use super::{Fault, Timestamp};

/// How the machine is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Load average of one minute.
    pub load1: f64,
    /// Bytes of memory available.
    pub memory_available_bytes: u64,
    /// File systems that matter to us.
    pub disks: Vec<DiskHealth>,
    /// What is wrong with the machine itself, e.g. a full disk.
    pub warnings: Vec<Fault>,
    /// Programs of ours and of the node, those that run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub daemons: Vec<DaemonHealth>,
    /// How long programs waited for what is scarce; absent from an agent that does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
    /// What keeps the clock; absent from an agent that does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeKeeping>,
    /// What changed of the machine's own interfaces since hostagent started, the newest last; at most
    /// [`LINK_CHANGES_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub link_changes: Vec<LinkChange>,
}

/// Changes of interfaces that a status holds: what a day with a loose cable has, and still small.
pub const LINK_CHANGES_MAX: usize = 16;

/// The kernel's pressure stall information. A part is absent where the kernel does not measure it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// Processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Stall>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Stall>,
    /// Disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<Stall>,
}

/// For how much of the last 10 and 60 seconds programs waited, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// At least one of them.
    pub some10: f64,
    /// At least one of them, in a minute.
    pub some60: f64,
    /// All that could have run.
    pub full10: f64,
    /// All that could have run, in a minute.
    pub full60: f64,
}

/// Who keeps the clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeKeeping {
    /// The time service that runs, e.g. `chrony`; in a container `the machine`. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeper: Option<String>,
    /// Whether it has synchronised the clock since boot; absent where it does not say so in a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synchronised: Option<bool>,
}

/// One change of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkChange {
    /// When it was seen: at most a minute after it happened.
    pub at: Timestamp,
    /// e.g. `eth0`.
    pub name: String,
    /// What.
    pub what: LinkEvent,
}

/// What happened to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkEvent {
    /// It was not there before.
    Came,
    /// It is gone.
    Went,
    /// It carries data again.
    Up,
    /// It has no carrier, or was switched off.
    Down,
}

/// What one program holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonHealth {
    /// Its unit.
    pub unit: String,
    /// Bytes of memory that are its own: no file would give them back.
    pub memory_bytes: u64,
    /// Bytes at which it is ended; 0: what the machine has.
    #[serde(default)]
    pub limit_bytes: u64,
}

/// One file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskHealth {
    /// The path we care for, e.g. `/var/opt/pf9`.
    pub path: String,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes that may be used.
    pub available_bytes: u64,
    /// Inodes in all; 0 where the file system has no such number, or the agent does not tell.
    #[serde(default)]
    pub total_inodes: u64,
    /// Inodes that may be used.
    #[serde(default)]
    pub free_inodes: u64,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const STALL: Stall = Stall {
        some10: 4.0,
        some60: 3.0,
        full10: 2.0,
        full60: 1.0,
    };

    /// With all that it can say.
    pub(in crate::model) fn health(fault: Fault) -> Health {
        Health {
            load1: 0.5,
            memory_available_bytes: 1,
            disks: vec![DiskHealth {
                path: "/".into(),
                total_bytes: 2,
                available_bytes: 1,
                total_inodes: 4,
                free_inodes: 3,
            }],
            warnings: vec![fault],
            daemons: vec![DaemonHealth {
                unit: "pf9-comms.service".into(),
                memory_bytes: 1,
                limit_bytes: 2,
            }],
            pressure: Some(Pressure {
                cpu: Some(STALL),
                memory: Some(STALL),
                io: Some(STALL),
            }),
            time: Some(TimeKeeping {
                keeper: Some("systemd-timesyncd".into()),
                synchronised: Some(true),
            }),
            link_changes: vec![LinkChange {
                at: Timestamp::UNIX_EPOCH,
                name: "eth0".into(),
                what: LinkEvent::Down,
            }],
        }
    }
}
