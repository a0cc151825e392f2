use super::*;
use crate::alerts::facts::{self, tests::at};
use crate::compute::tests::{add, cluster, host, host_row};
use crate::recover::tests::reports;
use pf9_hostagent::model::{EtcdMemberStatus, EtcdStatus, HostStatus};

/// As it is read of a host's row.
pub(in crate::alerts) fn glance(n: u8, cluster: Option<ClusterId>) -> Glance {
    let row = serde_json::to_value(host_row(n, cluster)).expect("a row");
    serde_json::from_value(row).expect("a glance at it")
}

struct Fleet {
    hosts: Vec<Glance>,
    clusters: BTreeMap<ClusterId, Cluster>,
    heard: BTreeMap<HostId, Heard>,
    seen: BTreeMap<ClusterId, ClusterSeen>,
    started: Timestamp,
}

impl Fleet {
    /// Three healthy masters and a worker, with fresh reports.
    fn new() -> Self {
        let mut c = cluster();
        c.settings.etcd_backup.every_minutes = 0;
        add(&mut c, &[(1, true), (2, true), (3, true), (4, false)]).expect("attach");
        let hosts = (1..=4).map(|n| glance(n, Some(c.id))).collect();
        let mut fleet = Self {
            hosts,
            clusters: [(c.id, c)].into(),
            heard: BTreeMap::new(),
            seen: BTreeMap::new(),
            started: at(-1000),
        };
        for n in 1..=4 {
            fleet.say(n, 0, |_| {});
        }
        fleet
    }

    fn cluster(&self) -> &Cluster {
        self.clusters.values().next().expect("one")
    }

    fn say(&mut self, n: u8, s: i64, change: impl FnOnce(&mut HostStatus)) {
        let (role, id) = (
            self.cluster().member(host(n)).expect("member").role,
            self.cluster().id,
        );
        let mut status = reports(1, Some((role, id)));
        (status.host_id, status.sent_at) = (host(n), at(s));
        status.inventory.addresses = vec![self.cluster().member(host(n)).expect("member").ip];
        if let Some(node) = &mut status.node {
            node.role = role;
            node.etcd = (role == Role::Master).then(|| etcd(&[]));
        }
        change(&mut status);
        let heard = self.heard.entry(host(n)).or_default();
        heard.facts = Some(facts::of(&status, at(s), heard.facts.as_ref()));
    }

    fn world<T>(&self, now: i64, use_it: impl FnOnce(&World<'_>) -> T) -> T {
        use_it(&World {
            now: at(now),
            started: self.started,
            hosts: &self.hosts,
            clusters: &self.clusters,
            heard: &self.heard,
            seen: &self.seen,
            connected: &|_| false,
            agents_stopped: None,
        })
    }

    /// Rule and host of all findings at that time.
    fn found(&self, now: i64) -> Vec<(Rule, Option<u8>)> {
        let number = |subject| match subject {
            Subject::Host(id) => (1..=4).find(|n| host(*n) == id),
            Subject::Cluster(_) | Subject::Fleet => None,
        };
        let all = self.world(now, all);
        all.into_keys()
            .map(|k| (k.rule, number(k.subject)))
            .collect()
    }

    fn finding(&self, now: i64, rule: Rule) -> Finding {
        let all = self.world(now, all);
        let mut found = all.into_values().filter(|f| f.key.rule == rule);
        found.next().expect("found")
    }
}

/// A master's report about three members, of which these do not answer.
fn etcd(silent: &[u8]) -> EtcdStatus {
    let members = (1..=3).map(|n| EtcdMemberStatus {
        id: n.to_string(),
        name: host(n).to_string(),
        healthy: Some(!silent.contains(&n)),
        ..Default::default()
    });
    EtcdStatus {
        members: members.collect(),
        leader: Some("1".into()),
        ..Default::default()
    }
}

#[test]
fn a_fleet_that_is_well_has_nothing() {
    assert_eq!(Fleet::new().found(30), []);
}

#[test]
fn silence_counts_from_the_last_report_and_a_converging_host_gets_longer() {
    let mut fleet = Fleet::new();
    for n in 1..=3 {
        fleet.say(n, 1000, |_| {});
    }
    let quiet = fleet.finding(1000, Rule::HostNotResponding);
    assert_eq!(quiet.key.subject, Subject::Host(host(4)));
    assert_eq!(quiet.since, Some(at(0)));
    assert_eq!(quiet.hold.as_secs(), 210);
    fleet.say(4, 0, |s| s.state = NodeState::Converging);
    assert_eq!(
        fleet.finding(1000, Rule::HostNotResponding).hold.as_secs(),
        300
    );
    // A tunnel that is away for less is no finding.
    assert_eq!(fleet.found(1000 + SUSPECT.as_secs() - 1).len(), 1);
}

#[test]
fn a_plane_that_was_down_blames_no_host() {
    let mut fleet = Fleet::new();
    fleet.started = at(100_000);
    assert_eq!(fleet.found(100_060), []);
    let quiet = fleet.finding(100_200, Rule::HostNotResponding);
    assert_eq!(quiet.since, Some(at(100_000)), "counted from the start");
    assert!(
        quiet.why.contains("before the plane was started"),
        "{}",
        quiet.why
    );
}

#[test]
fn a_host_that_does_not_converge_is_reported_in_the_known_words() {
    let mut fleet = Fleet::new();
    fleet.say(4, 0, |s| {
        s.state = NodeState::Retrying;
        s.node.as_mut().expect("node").attempts = 7;
    });
    let found = fleet.finding(10, Rule::HostNotConverging);
    assert_eq!(found.names.host.as_deref(), Some("node-4"));
    assert_eq!(
        found.says,
        "is not converging, status Retrying, role worker, retries 7"
    );
    assert_eq!(found.tried, "it failed 7 times, and is retried");
}

#[test]
fn a_dead_member_is_reported_by_the_others() {
    let mut fleet = Fleet::new();
    for n in [1, 2] {
        fleet.say(n, 500, |s| {
            s.node.as_mut().expect("node").etcd = Some(etcd(&[3]))
        });
    }
    fleet.say(4, 500, |_| {});
    assert_eq!(
        fleet.found(500),
        [
            (Rule::HostNotResponding, Some(3)),
            (Rule::EtcdUnhealthy, Some(3))
        ]
    );
    // No leader: the cluster has no quorum. The last report of the silent one is stale.
    for n in [1, 2] {
        fleet.say(n, 600, |s| {
            let mut said = etcd(&[2, 3]);
            said.leader = None;
            s.node.as_mut().expect("node").etcd = Some(said);
        });
    }
    assert!(fleet.found(600).contains(&(Rule::EtcdNoQuorum, None)));
}

#[test]
fn the_planes_observation_of_nodes_counts_while_fresh() {
    let mut fleet = Fleet::new();
    let id = fleet.cluster().id;
    let nodes: BTreeMap<String, Option<bool>> = [
        ("node-4".to_owned(), Some(false)),
        ("node-1".to_owned(), None),
    ]
    .into();
    let seen = ClusterSeen {
        nodes: Some((at(0), nodes)),
        api: Some((at(0), Err("no answer".into()))),
    };
    fleet.seen.insert(id, seen);
    assert_eq!(
        fleet.found(10),
        [(Rule::ApiServerDown, None), (Rule::NodeNotReady, Some(4))]
    );
    let key = Key {
        rule: Rule::NodeNotReady,
        subject: Subject::Host(host(4)),
        part: String::new(),
    };
    let known = |now| fleet.world(now, |w| is_known(w, &key, Some(id)));
    assert!(known(10));
    assert!(!known(10 + SEEN_FOR.as_secs()), "nobody looked since");
}

#[test]
fn clocks_addresses_certificates_and_backups_are_found() {
    let mut fleet = Fleet::new();
    fleet.say(1, 0, |s| s.sent_at = at(-600));
    fleet.say(2, 0, |s| {
        s.inventory.addresses = vec!["192.0.2.9".parse().expect("ip")]
    });
    fleet.say(3, 0, |s| {
        s.certificates = vec![pf9_hostagent::model::Expiry::new(
            "cluster authority",
            at(60),
        )];
    });
    assert_eq!(
        fleet.found(10),
        [
            (Rule::ClockSkew, Some(1)),
            (Rule::CertificateExpiring, Some(3)),
            (Rule::AddressChanged, Some(2)),
        ]
    );
    assert_eq!(
        fleet.finding(10, Rule::ClockSkew).why,
        "it is 10 min behind the plane's"
    );
    let end = |now| fleet.finding(now, Rule::CertificateExpiring).urgency;
    assert_eq!((end(59), end(60)), (Urgency::High, Urgency::Critical));
    let id = fleet.cluster().id;
    let c = fleet.clusters.get_mut(&id).expect("cluster");
    c.settings.etcd_backup.every_minutes = 60;
    let day = 86_400;
    assert!(fleet.found(day).contains(&(Rule::EtcdBackupStale, Some(1))));
}

/// From the reports of masters that are not silent; a fault of one of them is listed although another one has the
/// address.
#[test]
fn a_shared_address_without_a_holder_and_unable_masters_are_found() {
    use pf9_hostagent::model::{ApiAddressStatus, Fault, FaultCode};
    let mut fleet = Fleet::new();
    let id = fleet.cluster().id;
    let ip: std::net::IpAddr = "10.1.0.250".parse().expect("ip");
    let say = |fleet: &mut Fleet, n: u8, s: i64, here: bool, fault: Option<&str>| {
        let fault = fault.map(|why| Fault::new(FaultCode::ApiAddressForeign, "it is taken", why));
        fleet.say(n, s, |status| {
            let node = status.node.as_mut().expect("a node");
            node.api_address = Some(ApiAddressStatus {
                address: ip,
                here,
                interface: None,
                holder: None,
                since: None,
                fault,
            });
        });
    };
    for n in 1..=3 {
        say(&mut fleet, n, 0, false, None);
    }
    assert_eq!(fleet.found(10), [], "the cluster has none");
    let c = fleet.clusters.get_mut(&id).expect("cluster");
    (c.settings.master_ip, c.settings.master_vip) = (Some(ip), true);
    assert_eq!(fleet.found(10), [(Rule::SharedAddress, None)]);
    say(&mut fleet, 1, 0, true, None);
    assert_eq!(fleet.found(10), [], "it is on one of them");
    say(&mut fleet, 2, 0, false, Some("52:54:00:00:00:01 answers"));
    let found = fleet.finding(10, Rule::SharedAddress);
    assert_eq!(found.urgency, Urgency::High, "{found:?}");
    assert!(
        found.says.contains("node-2") && found.why.contains("52:54:00"),
        "{found:?}"
    );
    // Its holder is silent: its last report does not count.
    for n in [2, 3] {
        say(
            &mut fleet,
            n,
            200,
            false,
            (n == 2).then_some("52:54:00:00:00:01 answers"),
        );
    }
    let found = fleet.finding(200, Rule::SharedAddress);
    assert_eq!((found.urgency, &*found.key.part), (Urgency::Critical, ""));
    let words = "no master that reports holds 10.1.0.250; node-2: it is taken: 52:54:00";
    assert!(found.why.starts_with(words), "{}", found.why);
    // The first masters are being set up: none could have it.
    for n in [1, 2, 3] {
        say(&mut fleet, n, 200, false, None);
        let facts = fleet.heard.get_mut(&host(n)).and_then(|h| h.facts.as_mut());
        facts.expect("facts").state = NodeState::Converging;
    }
    assert_eq!(fleet.found(200), [(Rule::HostNotResponding, Some(4))]);
}

#[test]
fn a_silent_fleet_is_one_finding() {
    let mut fleet = Fleet::new();
    assert!(
        !fleet.found(500).contains(&(Rule::FleetNotResponding, None)),
        "four are no fleet"
    );
    for n in 10..20 {
        fleet.hosts.push(glance(n, None));
        let facts = fleet.heard[&host(4)].facts.clone();
        fleet.heard.entry(host(n)).or_default().facts = facts;
    }
    assert!(fleet.found(500).contains(&(Rule::FleetNotResponding, None)));
}

#[test]
fn what_hosts_say_of_themselves_and_a_stopped_upgrade_are_found() {
    use crate::rolls::{State, testing::roll_to};
    use pf9_hostagent::host::ours::units;
    use pf9_hostagent::model::{
        EtcdAlarm, Event, Pressure, ServiceState, ServiceStatus, Stall, TimeKeeping,
    };
    let mut fleet = Fleet::new();
    let full = |fleet: &mut Fleet, used: u64, alarm: Option<&str>| {
        fleet.say(1, 0, |s| {
            let etcd = s.node.as_mut().and_then(|n| n.etcd.as_mut());
            let etcd = etcd.expect("etcd");
            (etcd.quota_bytes, etcd.db_in_use_bytes) = (100, used);
            etcd.alarms.extend(alarm.map(|alarm| EtcdAlarm {
                member: "1".into(),
                alarm: alarm.into(),
            }));
        });
    };
    full(&mut fleet, 80, None);
    assert_eq!(fleet.found(10), [], "it has room");
    full(&mut fleet, 81, None);
    fleet.say(2, 0, |s| {
        let service = |unit: &str, state| ServiceStatus {
            unit: unit.into(),
            state,
            since: at(0),
            why: None,
        };
        s.node.as_mut().expect("a node").services = vec![
            service(units::KUBELET, ServiceState::Silent),
            // The members have rules of their own.
            service(units::ETCD, ServiceState::Ill),
            service("pf9-kube-proxy.service", ServiceState::Ill),
            service("pf9-containerd.service", ServiceState::Well),
        ];
    });
    fleet.say(3, 0, |s| {
        (s.inventory.memory_bytes, s.health.memory_available_bytes) = (100, 4);
        let stall = Stall {
            full60: 90.0,
            ..Stall::default()
        };
        s.health.pressure = Some(Pressure {
            cpu: None,
            memory: Some(stall),
            io: Some(stall),
        });
    });
    fleet.say(4, 0, |s| s.health.time = Some(TimeKeeping::default()));
    let repaired = (0..5).map(|n| Event {
        id: n.to_string(),
        seq: None,
        at: at(n),
        kind: "service-revived".into(),
        message: "pf9-kubelet.service was restarted: it hung".into(),
        fault: None,
    });
    let repaired: Vec<Event> = repaired.collect();
    let heard = fleet.heard.get_mut(&host(4)).expect("heard");
    assert!(heard.flaps.hear(&repaired, at(5)));
    assert_eq!(
        fleet.found(10),
        [
            (Rule::MemoryLow, Some(3)),
            (Rule::MemoryStalled, Some(3)),
            (Rule::DiskStalled, Some(3)),
            (Rule::ClockNotSynchronised, Some(4)),
            (Rule::EtcdNearlyFull, Some(1)),
            (Rule::ServiceStalled, Some(2)),
            (Rule::KubeletStalled, Some(2)),
            (Rule::UnitFlapping, Some(4)),
        ]
    );
    let urgency = |fleet: &Fleet| fleet.finding(10, Rule::EtcdNearlyFull).urgency;
    assert_eq!(urgency(&fleet), Urgency::High);
    full(&mut fleet, 50, Some("NOSPACE"));
    assert_eq!(urgency(&fleet), Urgency::Critical, "until it is disarmed");

    let id = fleet.cluster().id;
    let c = fleet.clusters.get_mut(&id).expect("cluster");
    let mut roll = roll_to(c, &c.stack);
    let stopped = (Rule::UpgradeStopped, None);
    for state in [State::Running, State::Stopped, State::Done] {
        roll.state = state;
        let c = fleet.clusters.get_mut(&id).expect("cluster");
        c.roll = Some(roll.clone());
        let found = fleet.found(10).contains(&stopped);
        assert_eq!(found, state == State::Stopped, "{state:?}");
    }
}
