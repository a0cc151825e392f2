//! The rules as one table: name, urgency, hold time, possible causes, and the remedy. Their conditions are in `facts`
//! and `found`; when a notice is sent, in `engine`.

use std::fmt;
use std::str::FromStr;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

/// How soon a person has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Urgency {
    /// In working hours.
    Low,
    /// Today.
    High,
    /// Now: something in use is broken, or is about to be lost.
    Critical,
}

/// Whose alert may be the cause of a symptom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Of the same host or cluster.
    Same,
    /// The cluster it belongs to.
    Cluster,
    /// Any master of that cluster.
    Master,
    /// Any node of that cluster.
    Member,
    /// The whole fleet.
    Fleet,
}

/// One row.
pub(super) struct Row {
    /// Its name everywhere.
    pub(super) name: &'static str,
    pub(super) urgency: Urgency,
    /// Seconds it must hold before it fires.
    pub(super) hold_s: i64,
    /// Seconds it must be gone before it is resolved: something that flaps is one alert.
    pub(super) clear_s: i64,
    /// What is wrong, after the name of the subject.
    pub(super) what: &'static str,
    /// What a person should do.
    pub(super) fix: &'static str,
    /// Its possible causes, the likeliest first.
    pub(super) causes: &'static [(Rule, Reach)],
}

/// A silent host counts as not responding after this long, the figure operators know; see [`SILENT_BUSY_S`].
pub(super) const SILENT_S: i64 = 210;
/// The same while it converges.
pub(super) const SILENT_BUSY_S: i64 = 300;

/// Forecasts are made every six hours; one pass without it does not end it.
const FORESEEN_S: i64 = 13 * 3600;

macro_rules! rules {
    ($( $id:ident { $($field:ident : $value:expr),* $(,)? } )*) => {
        /// A rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum Rule { $( $id, )* }

        impl Rule {
            /// Every row.
            pub(crate) const ALL: &'static [Self] = &[ $( Self::$id, )* ];

            pub(super) fn row(self) -> &'static Row {
                match self { $( Self::$id => {
                    const ROW: Row = Row { name: stringify!($id), $($field: $value),* };
                    &ROW
                } )* }
            }
        }
    };
}

use Reach::{Cluster, Fleet, Master, Member, Same};
use Urgency::{Critical, High, Low};

rules! {
    FleetNotResponding {
        urgency: Critical, hold_s: SILENT_S, clear_s: 60,
        what: "has more than half of its hosts silent",
        fix: "is the plane reachable from outside (its address, a firewall, DNS)? Nodes continue \
            without it, and reconnect automatically",
        causes: &[],
    }
    HostNotResponding {
        urgency: High, hold_s: SILENT_S, clear_s: 120,
        what: "is not responding",
        fix: "is the machine on, and can it reach the plane? On it: pf9ctl status, pf9ctl tunnel. It reconnects \
            automatically",
        causes: &[(Rule::FleetNotResponding, Fleet)],
    }
    ClockSkew {
        urgency: High, hold_s: 120, clear_s: 120,
        what: "has a clock that differs from the plane's",
        fix: "timedatectl set-ntp true there, or install chrony; the node continues automatically",
        causes: &[(Rule::HostNotResponding, Same)],
    }
    DiskLow {
        urgency: High, hold_s: 300, clear_s: 300,
        what: "is short of room on a file system",
        fix: "free some space or enlarge the file system; what failed for it is retried automatically",
        causes: &[(Rule::HostNotResponding, Same)],
    }
    DiskFilling {
        urgency: Low, hold_s: 0, clear_s: FORESEEN_S,
        what: "has a file system that will be full",
        fix: "find what grows (du -x, journalctl --disk-usage, images), or enlarge the file system before that day",
        causes: &[(Rule::HostNotResponding, Same), (Rule::DiskLow, Same)],
    }
    EtcdFilling {
        urgency: Low, hold_s: 0, clear_s: FORESEEN_S,
        what: "has an etcd that will be full",
        fix: "find what grows, or raise etcdQuotaBytes; docs/alerts.md#etcdnearlyfull",
        causes: &[(Rule::HostNotResponding, Same), (Rule::EtcdNearlyFull, Same)],
    }
    EtcdSlowing {
        urgency: Low, hold_s: 0, clear_s: FORESEEN_S,
        what: "has an etcd whose disk gets slower",
        fix: "check what else writes to that disk and whether it is wearing out; give /var/lib/pf9/etcd a disk of its own; docs/alerts.md#etcddiskslow",
        causes: &[(Rule::HostNotResponding, Same), (Rule::EtcdUnhealthy, Same)],
    }
    MemoryGrowing {
        urgency: Low, hold_s: 0, clear_s: FORESEEN_S,
        what: "has a program whose memory keeps growing",
        fix: "systemctl restart UNIT frees it; report it with a support bundle (pf9ctl bundle)",
        causes: &[(Rule::HostNotResponding, Same), (Rule::MemoryLow, Same)],
    }
    MemoryLow {
        urgency: High, hold_s: 600, clear_s: 300,
        what: "is short of memory",
        fix: "stop some programs, or give the machine more memory",
        causes: &[(Rule::HostNotResponding, Same)],
    }
    MemoryStalled {
        urgency: High, hold_s: 300, clear_s: 300,
        what: "has programs that wait for memory",
        fix: "on it: pf9ctl status, and what uses memory (ps, pods without limits); stop some programs, or give the \
            machine more memory",
        causes: &[(Rule::HostNotResponding, Same), (Rule::MemoryLow, Same)],
    }
    DiskStalled {
        urgency: Low, hold_s: 900, clear_s: 300,
        what: "has programs that wait for its disks",
        fix: "find what reads and writes (iotop, a backup, pods), and whether a disk is failing (dmesg, smartctl); \
            give /var/lib/pf9/etcd a disk of its own",
        causes: &[(Rule::HostNotResponding, Same), (Rule::MemoryLow, Same), (Rule::MemoryStalled, Same)],
    }
    ClockNotSynchronised {
        urgency: Low, hold_s: 900, clear_s: 120,
        what: "has a clock that no time service keeps",
        fix: "timedatectl set-ntp true there, or install chrony; does it reach its servers (UDP 123)? \
            timedatectl timesync-status, chronyc sources",
        causes: &[(Rule::HostNotResponding, Same), (Rule::ClockSkew, Same)],
    }
    EtcdNoQuorum {
        urgency: Critical, hold_s: 60, clear_s: 60,
        what: "has an etcd without quorum: nothing can be written",
        fix: "bring silent masters back and leave those that answer alone; docs/alerts.md#etcdnoquorum",
        causes: &[(Rule::HostNotResponding, Master), (Rule::DiskLow, Master)],
    }
    EtcdUnhealthy {
        urgency: High, hold_s: 120, clear_s: 60,
        what: "has a member of etcd that is not healthy",
        fix: "pf9-plane cluster etcd NAME, and pf9ctl etcd status on that master",
        causes: &[(Rule::HostNotResponding, Same), (Rule::EtcdNoQuorum, Cluster), (Rule::DiskLow, Same)],
    }
    EtcdNearlyFull {
        urgency: High, hold_s: 900, clear_s: 300,
        what: "has an etcd that is nearly full",
        fix: "find what grows, or raise etcdQuotaBytes; docs/alerts.md#etcdnearlyfull",
        causes: &[(Rule::HostNotResponding, Same)],
    }
    EtcdBackupStale {
        urgency: High, hold_s: 0, clear_s: 0,
        what: "has no new backup of etcd",
        fix: "on the master: pf9ctl etcd status says why, pf9ctl etcd backup makes one now",
        causes: &[(Rule::HostNotResponding, Same), (Rule::EtcdNoQuorum, Cluster), (Rule::EtcdUnhealthy, Same),
                  (Rule::DiskLow, Same)],
    }
    ApiServerDown {
        urgency: Critical, hold_s: 120, clear_s: 30,
        what: "has an API server that does not answer",
        fix: "pf9ctl status on a master says what it waits for; pods keep running meanwhile",
        causes: &[(Rule::EtcdNoQuorum, Same), (Rule::HostNotResponding, Master), (Rule::DiskLow, Master)],
    }
    SharedAddress {
        urgency: Critical, hold_s: 60, clear_s: 60,
        what: "has a shared address that no master holds: workers do not reach the API",
        fix: "pf9ctl status on each master says why it does not take it; docs/alerts.md#sharedaddress",
        causes: &[(Rule::EtcdNoQuorum, Same), (Rule::ApiServerDown, Same), (Rule::HostNotResponding, Master),
                  (Rule::DiskLow, Master)],
    }
    ServiceStalled {
        urgency: High, hold_s: 300, clear_s: 60,
        what: "has a service that runs but does not work",
        fix: "journalctl -u UNIT there; it is restarted automatically, at growing intervals",
        causes: &[(Rule::HostNotResponding, Same), (Rule::DiskLow, Same), (Rule::MemoryLow, Same),
                  (Rule::MemoryStalled, Same)],
    }
    KubeletStalled {
        urgency: High, hold_s: 180, clear_s: 60,
        what: "has a kubelet that runs but does not work",
        fix: "journalctl -u pf9-kubelet there; it is restarted automatically, at growing intervals",
        causes: &[(Rule::HostNotResponding, Same), (Rule::ServiceStalled, Same), (Rule::DiskLow, Same),
                  (Rule::MemoryLow, Same), (Rule::MemoryStalled, Same)],
    }
    CertificateExpiring {
        urgency: High, hold_s: 0, clear_s: 0,
        what: "has a certificate that is about to expire and is not renewed",
        fix: "pf9ctl status there says why it is not renewed; of an authority: pf9-plane cluster authorities NAME rotate",
        causes: &[(Rule::HostNotResponding, Same), (Rule::ClockSkew, Same)],
    }
    HostNotConverging {
        urgency: High, hold_s: 300, clear_s: 60,
        what: "is not converging",
        fix: "pf9ctl status there, and /var/log/pf9/kube/kube.log; it is retried automatically",
        causes: &[(Rule::HostNotResponding, Same), (Rule::ClockSkew, Same), (Rule::EtcdNoQuorum, Cluster),
                  (Rule::DiskLow, Same), (Rule::EtcdUnhealthy, Same), (Rule::KubeletStalled, Same),
                  (Rule::ServiceStalled, Same), (Rule::ApiServerDown, Cluster)],
    }
    NodeNotReady {
        urgency: High, hold_s: 180, clear_s: 60,
        what: "is a node that is not Ready",
        fix: "kubectl describe node says why; pf9ctl status there",
        causes: &[(Rule::HostNotResponding, Same), (Rule::ApiServerDown, Cluster), (Rule::SharedAddress, Cluster),
                  (Rule::KubeletStalled, Same), (Rule::ServiceStalled, Same), (Rule::DiskLow, Same), (Rule::HostNotConverging, Same)],
    }
    UnitFlapping {
        urgency: High, hold_s: 0, clear_s: 600,
        what: "has something that had to be repaired five times in ten minutes",
        fix: "journalctl -u UNIT there; events of the host say what was found each time",
        causes: &[(Rule::HostNotResponding, Same), (Rule::DiskLow, Same), (Rule::MemoryLow, Same)],
    }
    AddressChanged {
        urgency: High, hold_s: 120, clear_s: 60,
        what: "has a node address that its machine no longer has",
        fix: "a worker follows automatically, a master while the others are well: pf9ctl status there; or give it \
            the address back",
        causes: &[(Rule::HostNotResponding, Same)],
    }
    UpgradeStopped {
        urgency: High, hold_s: 0, clear_s: 0,
        what: "has an upgrade that stopped",
        fix: "pf9-plane cluster upgrade NAME status (of agents: pf9-plane agent upgrade), then resume, cancel or back",
        causes: &[(Rule::HostNotResponding, Member), (Rule::DiskLow, Member)],
    }
}

impl Rule {
    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        self.row().name
    }

    /// How long it must be gone before it is resolved.
    pub(super) fn clear(self) -> SignedDuration {
        SignedDuration::from_secs(self.row().clear_s)
    }

    /// How long it must hold before it fires.
    pub(super) fn hold(self) -> SignedDuration {
        SignedDuration::from_secs(self.row().hold_s)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Rule {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|rule| rule.name() == text).copied();
        found.ok_or_else(|| format!("there is no rule {text:?}"))
    }
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The pages where people and their tools look the rules up.
    const PAGE: &str = include_str!("../../../../docs/alerts.md");

    /// Otherwise two alerts would wait for each other, and neither would be sent.
    #[test]
    fn nothing_is_its_own_cause() {
        for rule in Rule::ALL {
            let mut above = BTreeSet::new();
            let mut left = vec![*rule];
            while let Some(next) = left.pop() {
                for (cause, _) in next.row().causes {
                    assert_ne!(cause, rule, "{rule} by {next}");
                    if above.insert(*cause) {
                        left.push(*cause);
                    }
                }
            }
        }
    }

    #[test]
    fn every_rule_is_on_the_page_with_its_times_and_says_what_to_do() {
        for rule in Rule::ALL {
            let row = rule.row();
            let name = row.name;
            let urgency = serde_json::to_value(row.urgency).expect("a word");
            let urgency = urgency.as_str().expect("a word");
            let times = format!("{} s | {} s", row.hold_s, row.clear_s);
            let line = format!("| `{name}` | {urgency} | {times} |");
            assert!(PAGE.contains(&line), "docs/alerts.md has no line {line}");
            assert!(!row.what.is_empty() && row.fix.len() > 20, "{name}");
            assert_eq!(name.parse(), Ok(*rule));
            assert!(row.hold_s >= 0 && row.clear_s >= 0, "{name}");
        }
    }

    #[test]
    fn the_times_that_operators_know() {
        assert_eq!(Rule::HostNotResponding.row().hold_s, 210);
        assert_eq!(SILENT_BUSY_S, 300);
    }
}
