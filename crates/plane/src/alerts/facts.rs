//! The parts of a status that matter to the rules: pure, and small, because they are kept in memory for every host.
//!
//! A status is reduced when it arrives and not again with every pass. What depends on time or other rows (silence,
//! expiring certificates, which hosts are masters) is left to `found`. What the machine is short of, and who keeps its
//! clock: `machine`.

mod machine;

use std::collections::VecDeque;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::rules::{Rule, Urgency};
use pf9_hostagent::model::{
    DiskHealth, EtcdStatus, Event, Expiry, HostId, HostStatus, NodeState, Role, ServiceState,
    ServiceStatus,
};

/// Most local findings per host: a host can report anything.
const LOCAL_MAX: usize = 32;
/// Certificates whose expiry is kept, the most pressing first.
const CERTIFICATES_MAX: usize = 8;
/// Longest name of a machine, in characters; the limit of DNS.
const NAME_MAX: usize = 253;
/// Longest part name and longest message, in characters.
const PART_MAX: usize = 80;
const WORDS_MAX: usize = 400;
/// Addresses kept per machine; [`pf9_hostagent::model::FACTS_ADDRESSES_MAX`] is what root signs.
const ADDRESSES_MAX: usize = 64;
/// etcd members that are read; clusters have three to seven.
const MEMBERS_MAX: usize = 16;

/// Percent: kubelet evicts pods below 10 % of bytes and 5 % of inodes; below the second number programs fail.
const BYTES_LOW: (u64, u64) = (10, 3);
const INODES_LOW: (u64, u64) = (5, 1);
/// Percent of etcd's quota.
const ETCD_LOW: u64 = 80;

/// This many repairs of one thing within [`FLAPS_WITHIN`] are flapping.
pub(super) const FLAPS: usize = 5;
pub(super) const FLAPS_WITHIN: SignedDuration = SignedDuration::from_mins(10);
/// Things per host whose repairs are counted.
const FLAPPERS_MAX: usize = 16;

/// How long before its expiry an authority is reported: a person has to order its successor, and nodes take days.
const AUTHORITY_AHEAD: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What one host last reported.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HostFacts {
    /// By the plane's clock.
    pub(super) heard_at: Timestamp,
    pub(super) state: NodeState,
    /// As it calls itself.
    pub(super) hostname: String,
    pub(super) role: Role,
    pub(super) attempts: u32,
    /// Since when it is in trouble: it fails, or retries.
    pub(super) trouble_since: Option<Timestamp>,
    /// Why it is not `ok`.
    pub(super) reason: String,
    /// How far its clock is behind the plane's.
    pub(super) behind: SignedDuration,
    pub(super) addresses: Vec<IpAddr>,
    /// Why root put it in maintenance, and until when.
    pub(super) rests: Option<(String, Timestamp)>,
    pub(super) local: Vec<Local>,
    pub(super) etcd: Option<Etcd>,
    /// What a master reports about the masters' shared address.
    pub(super) shared: Option<Shared>,
    /// The most pressing first.
    pub(super) ends: Vec<End>,
}

/// A finding that a host reports about itself and that depends on nothing else.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Local {
    pub(super) rule: Rule,
    pub(super) part: String,
    pub(super) urgency: Urgency,
    pub(super) why: String,
    pub(super) tried: String,
}

/// When a certificate needs a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) name: String,
    /// From then on it is overdue.
    pub(super) late_at: Timestamp,
    pub(super) not_after: Timestamp,
    /// Why its last renewal failed.
    pub(super) failed: String,
}

/// What a master reports about its etcd.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Etcd {
    /// It does not answer, or is unhealthy.
    pub(super) fault: Option<String>,
    pub(super) has_leader: bool,
    /// Voting members, by host; the host of a member that never started is unknown.
    pub(super) votes: Vec<(Option<HostId>, Option<bool>)>,
    pub(super) backup_at: Option<Timestamp>,
    pub(super) backup_failing: Option<String>,
}

/// The masters' shared address, as one of them sees it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shared {
    pub(super) address: IpAddr,
    pub(super) here: bool,
    /// Why this master cannot take it over, or what is wrong with it.
    pub(super) fault: Option<String>,
}

/// Repairs per thing on a host, by the host's clock and by when the plane learned of them, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Flaps(Vec<(String, VecDeque<(Timestamp, Timestamp)>)>);

/// Reduces a status; `before`: the facts of the previous one.
pub(super) fn of(
    status: &HostStatus,
    heard_at: Timestamp,
    before: Option<&HostFacts>,
) -> HostFacts {
    let node = status.node.as_ref();
    let attempts = node.map_or(0, |n| n.attempts);
    let troubled = match status.state {
        NodeState::Retrying | NodeState::Failed => true,
        // Between two attempts after a failure.
        NodeState::Converging => attempts > 0,
        NodeState::Ok | NodeState::Maintenance => false,
    };
    let since = before.and_then(|b| b.trouble_since).unwrap_or(heard_at);
    let addresses = status.inventory.addresses.iter().take(ADDRESSES_MAX);
    let rests = node.and_then(|n| n.maintenance.as_ref());
    let why = |fault: &pf9_hostagent::model::Fault| cut(&fault.to_string());
    let tried = match attempts {
        0 => String::new(),
        n => format!("nodelet tried it {n} times, and continues"),
    };
    let mut local = disks(&status.health.disks, &tried);
    local.extend(machine::said(status));
    local.extend(node.iter().flat_map(|n| n.services.iter()).filter_map(|s| {
        let revived = node.into_iter().flat_map(|n| &n.revived);
        let revived = revived.filter(|r| r.unit == s.unit).map(|r| r.times).sum();
        service(s, revived)
    }));
    let etcd = node.and_then(|n| n.etcd.as_ref());
    local.extend(etcd.and_then(nearly_full));
    local.truncate(LOCAL_MAX);
    HostFacts {
        heard_at,
        state: status.state,
        hostname: status.inventory.hostname.chars().take(NAME_MAX).collect(),
        role: node.map_or(Role::None, |n| n.role),
        attempts,
        trouble_since: troubled.then_some(since),
        reason: status.reason.as_ref().map(why).unwrap_or_default(),
        behind: heard_at.duration_since(status.sent_at),
        addresses: addresses.copied().collect(),
        rests: rests.map(|m| (cut(&m.reason), m.until)),
        local,
        etcd: etcd.map(etcd_of),
        shared: node
            .and_then(|n| n.api_address.as_ref())
            .map(|said| Shared {
                address: said.address,
                here: said.here,
                fault: said.fault.as_ref().map(why),
            }),
        ends: ends(&status.certificates),
    }
}

fn percent(part: u64, whole: u64) -> Option<u64> {
    part.saturating_mul(100).checked_div(whole)
}

/// Bytes and inodes of every file system the agent watches.
fn disks(disks: &[DiskHealth], tried: &str) -> Vec<Local> {
    let low = |part: String, what: &str, left: Option<u64>, (low, least): (u64, u64)| {
        let left = left.filter(|left| *left < low)?;
        Some(Local {
            rule: Rule::DiskLow,
            part,
            urgency: match left < least {
                true => Urgency::Critical,
                false => Urgency::High,
            },
            why: format!("{left} % of its {what} are free"),
            tried: tried.to_owned(),
        })
    };
    let each = disks.iter().flat_map(|disk| {
        let bytes = percent(disk.available_bytes, disk.total_bytes);
        let inodes = percent(disk.free_inodes, disk.total_inodes);
        let path = part(&disk.path);
        [
            low(path.clone(), "bytes", bytes, BYTES_LOW),
            low(format!("{path}, inodes"), "inodes", inodes, INODES_LOW),
        ]
    });
    each.flatten().collect()
}

/// An unhealthy service of the node; `revived`: how often it was killed and restarted.
fn service(service: &ServiceStatus, revived: u32) -> Option<Local> {
    let state = match service.state {
        ServiceState::Well => return None,
        ServiceState::Ill => "reports unhealthy",
        ServiceState::Silent => "does not answer",
    };
    let (rule, named) = match service.unit.as_str() {
        pf9_hostagent::host::ours::units::KUBELET => (Rule::KubeletStalled, String::new()),
        // Its members and its quorum have rules of their own.
        pf9_hostagent::host::ours::units::ETCD => return None,
        unit => (Rule::ServiceStalled, part(unit)),
    };
    Some(Local {
        rule,
        part: named,
        urgency: rule.row().urgency,
        why: cut(&format!(
            "it {state}: {}",
            service
                .why
                .as_deref()
                .unwrap_or("it no longer reports anything")
        )),
        tried: match revived {
            0 => "it is probed every 20 s, and restarted if the probes keep failing".into(),
            n => format!("it was restarted {n} times"),
        },
    })
}

fn nearly_full(etcd: &EtcdStatus) -> Option<Local> {
    let full = etcd.alarms.iter().any(|a| a.alarm == "NOSPACE");
    let used = percent(etcd.db_in_use_bytes, etcd.quota_bytes);
    let used = used.filter(|used| full || *used > ETCD_LOW)?;
    Some(Local {
        rule: Rule::EtcdNearlyFull,
        part: String::new(),
        urgency: match full {
            true => Urgency::Critical,
            false => Urgency::High,
        },
        why: format!("{used} % of its quota are in use"),
        tried: match full {
            true => "nodelet compacts and defragments, and disarms the alarm if that helps".into(),
            false => String::new(),
        },
    })
}

fn etcd_of(etcd: &EtcdStatus) -> Etcd {
    let votes = etcd.members.iter().filter(|m| !m.learner);
    let votes = votes.take(MEMBERS_MAX);
    let corrupt = etcd.alarms.iter().any(|a| a.alarm == "CORRUPT");
    let corrupt = corrupt.then(|| "members have different data".to_owned());
    let failing = etcd.backups.failing.as_ref();
    Etcd {
        fault: etcd.fault.as_ref().map(|f| cut(&f.to_string())).or(corrupt),
        has_leader: etcd.leader.is_some(),
        votes: votes.map(|m| (m.name.parse().ok(), m.healthy)).collect(),
        backup_at: etcd.backups.last.as_ref().map(|b| b.taken_at),
        backup_failing: failing.map(|f| cut(&f.to_string())),
    }
}

/// Certificates and when each needs a person: when half of the time left after its renewal was due is over as well. For
/// an authority: a month before its expiry.
fn ends(certificates: &[Expiry]) -> Vec<End> {
    let end = |expiry: &Expiry| {
        let late_at = match expiry.renew_at {
            Some(due) => due + expiry.not_after.duration_since(due) / 2,
            None => expiry
                .not_after
                .checked_sub(AUTHORITY_AHEAD)
                .unwrap_or(Timestamp::MIN),
        };
        End {
            name: part(&expiry.name),
            late_at,
            not_after: expiry.not_after,
            failed: expiry
                .fault
                .as_ref()
                .map_or_else(String::new, |f| cut(&f.to_string())),
        }
    };
    let mut all: Vec<End> = certificates.iter().map(end).collect();
    all.sort_by(|a, b| (a.late_at, &a.name).cmp(&(b.late_at, &b.name)));
    all.dedup_by(|a, b| a.name == b.name);
    all.truncate(CERTIFICATES_MAX);
    // Kept for every host.
    all.shrink_to_fit();
    all
}

// === impl Flaps ===

impl Flaps {
    /// Takes in delivered events. True if something flaps now.
    pub(super) fn hear(&mut self, events: &[Event], heard_at: Timestamp) -> bool {
        for event in events {
            let Some(of) = repaired(event) else {
                continue;
            };
            let at = match self.0.iter().position(|(name, _)| *name == of) {
                Some(at) => at,
                None => {
                    if self.0.len() == FLAPPERS_MAX {
                        // The one with the oldest report.
                        let newest = |(_, times): &(String, VecDeque<(Timestamp, Timestamp)>)| {
                            times.back().map(|t| t.1)
                        };
                        let oldest = (0..self.0.len()).min_by_key(|i| newest(&self.0[*i]));
                        oldest.map(|oldest| self.0.remove(oldest));
                    }
                    self.0.push((of, VecDeque::new()));
                    self.0.len() - 1
                }
            };
            let times = &mut self.0[at].1;
            times.push_back((event.at, heard_at));
            if times.len() > FLAPS {
                times.pop_front();
            }
        }
        self.now(heard_at).next().is_some()
    }

    /// What flaps. The rate is by the host's own clock, which may be wrong; recency by the plane's.
    pub(super) fn now(&self, now: Timestamp) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(move |(name, times)| {
            let (first, last) = (times.front()?, times.back()?);
            let quick = last.0.duration_since(first.0).abs() <= FLAPS_WITHIN;
            let lately = now.duration_since(last.1) <= FLAPS_WITHIN;
            (times.len() == FLAPS && quick && lately).then_some(name.as_str())
        })
    }
}

/// What was repaired, from an event's message: `pf9-kubelet.service was restarted: …`, `repaired: … (…)`.
fn repaired(event: &Event) -> Option<String> {
    let message = event.message.as_str();
    let what = match event.kind.as_str() {
        "service-revived" => message.split(' ').next()?,
        "repaired" => message.strip_prefix("repaired: ")?.split(" (").next()?,
        _ => return None,
    };
    (!what.is_empty()).then(|| part(what))
}

/// Cut to the length of a name.
pub(super) fn part(text: &str) -> String {
    text.chars().take(PART_MAX).collect()
}

/// Cut to the length of a message.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(WORDS_MAX).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::recover::tests::reports;
    use pf9_hostagent::model::{Fault, FaultCode};

    pub(in crate::alerts) fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + s).expect("time")
    }

    fn disk(bytes: (u64, u64), inodes: (u64, u64)) -> DiskHealth {
        DiskHealth {
            path: "/var/lib".into(),
            available_bytes: bytes.0,
            total_bytes: bytes.1,
            free_inodes: inodes.0,
            total_inodes: inodes.1,
        }
    }

    #[test]
    fn a_disk_is_low_by_its_bytes_or_by_its_inodes_and_worse_when_programs_fail() {
        let found = |bytes, inodes| -> Vec<(String, Urgency)> {
            let all = disks(&[disk(bytes, inodes)], "");
            all.into_iter().map(|l| (l.part, l.urgency)).collect()
        };
        assert_eq!(found((10, 100), (5, 100)), []);
        assert_eq!(
            found((9, 100), (50, 100)),
            [("/var/lib".into(), Urgency::High)]
        );
        assert_eq!(
            found((2, 100), (50, 100)),
            [("/var/lib".into(), Urgency::Critical)]
        );
        let inodes = "/var/lib, inodes".to_owned();
        assert_eq!(found((50, 100), (4, 100)), [(inodes, Urgency::High)]);
        assert_eq!(found((0, 0), (0, 0)), [], "an older agent tells no inodes");
    }

    #[test]
    fn trouble_lasts_over_retries_and_ends_with_ok() {
        let mut status = reports(
            1,
            Some((Role::Worker, pf9_hostagent::model::ClusterId::random())),
        );
        let mut facts: Option<HostFacts> = None;
        let mut say = |state, attempts, s| {
            status.state = state;
            status.node.as_mut().expect("node").attempts = attempts;
            facts = Some(of(&status, at(s), facts.as_ref()));
            facts.as_ref().and_then(|f| f.trouble_since)
        };
        assert_eq!(say(NodeState::Converging, 0, 0), None, "it is at work");
        assert_eq!(say(NodeState::Retrying, 1, 10), Some(at(10)));
        assert_eq!(say(NodeState::Converging, 1, 20), Some(at(10)));
        assert_eq!(say(NodeState::Failed, 9, 30), Some(at(10)));
        assert_eq!(say(NodeState::Ok, 0, 40), None);
        assert_eq!(say(NodeState::Retrying, 1, 50), Some(at(50)));
    }

    #[test]
    fn five_repairs_of_one_thing_in_ten_minutes_flap_whatever_the_hosts_clock_says() {
        let event = |message: &str, s: i64| Event {
            id: format!("{s}"),
            seq: None,
            at: at(s),
            kind: "repaired".into(),
            message: message.into(),
            fault: None,
        };
        let kubelet = "repaired: start pf9-kubelet.service (it is not running)";
        let flaps = |events: Vec<Event>, heard: i64| {
            let mut flaps = Flaps::default();
            flaps.hear(&events, at(heard))
        };
        let every = |s: i64, n: i64| (0..n).map(|i| event(kubelet, i * s)).collect::<Vec<_>>();
        assert!(!flaps(every(100, 4), 400));
        assert!(flaps(every(100, 5), 400));
        assert!(flaps(every(100, 5), -90_000), "the host's clock is away");
        assert!(!flaps(every(200, 9), 1600), "over more than ten minutes");
        let mut two = every(100, 4);
        two.push(event("repaired: write a file (it differs)", 400));
        assert!(!flaps(two, 400), "another thing");
        let mut old = Flaps::default();
        assert!(old.hear(&every(1, 5), at(0)));
        assert_eq!(old.now(at(600)).count(), 1);
        assert_eq!(old.now(at(601)).count(), 0);
    }

    #[test]
    fn what_a_host_reports_is_bounded() {
        let mut flaps = Flaps::default();
        let many: Vec<Event> = (0..200)
            .map(|n| Event {
                id: n.to_string(),
                seq: None,
                at: at(n),
                kind: "service-revived".into(),
                message: format!("{n}{} was started again", "u".repeat(500)),
                fault: None,
            })
            .collect();
        flaps.hear(&many, at(0));
        assert_eq!(flaps.0.len(), FLAPPERS_MAX);
        assert!(flaps.0.iter().all(|(name, _)| name.len() <= PART_MAX));
        let mut status = reports(1, None);
        status.health.disks = (0..100).map(|_| disk((0, 100), (0, 100))).collect();
        status.certificates = (0..100)
            .map(|n| Expiry::new(format!("c{n}"), at(n)))
            .collect();
        let fault = Fault::new(FaultCode::Unit, "x", "y".repeat(9000));
        status.reason = Some(fault);
        let facts = of(&status, at(0), None);
        assert_eq!(facts.local.len(), LOCAL_MAX);
        assert_eq!(facts.ends.len(), CERTIFICATES_MAX);
        assert_eq!(facts.reason.chars().count(), WORDS_MAX);
    }

    #[test]
    fn a_certificate_needs_a_person_when_its_renewal_is_late_and_an_authority_a_month_before() {
        let day = |n: i64| at(n * 86_400);
        let renewed = Expiry {
            renew_at: Some(day(60)),
            ..Expiry::new("kubelet/server", day(90))
        };
        let authority = Expiry::new("cluster authority", day(1000));
        let ends = ends(&[authority, renewed.clone(), renewed]);
        let told: Vec<(&str, Timestamp)> =
            ends.iter().map(|e| (e.name.as_str(), e.late_at)).collect();
        assert_eq!(
            told,
            [("kubelet/server", day(75)), ("cluster authority", day(970))]
        );
    }
}
