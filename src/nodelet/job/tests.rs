//! The table of [`super`], and what must hold whatever happens.

use proptest::prelude::*;

use super::*;
use crate::model::{ClusterId, FaultCode, HostId, Timestamp};
use crate::nodelet::testing::{Cas, node, spec};

/// What a spec asks for, small enough to try all.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wants {
    None,
    /// The node that is installed.
    Same,
    OtherCluster,
    OtherRole,
    OtherName,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum SpecState {
    Never,
    Newest(u64, Wants),
    Lost(Option<(u64, Wants)>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Local {
    No,
    UpTo(u64),
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum There {
    Empty,
    Installed(u64),
    Removing(u64),
    /// With whether the machine's authority is the cluster's.
    Unknown(bool),
}

fn authorities() -> crate::model::Authorities {
    static ONCE: std::sync::OnceLock<crate::model::Authorities> = std::sync::OnceLock::new();
    ONCE.get_or_init(|| Cas::new().authorities).clone()
}

fn fault() -> Fault {
    Fault::new(FaultCode::Internal, "cannot use it", "it is broken")
}

fn document(generation: u64, wants: Wants) -> Arc<Spec> {
    let mut wanted = node(authorities());
    if wants == Wants::OtherCluster {
        wanted.cluster_id = ClusterId::random();
    }
    if wants == Wants::OtherName {
        wanted.node_name = "n2".parse().expect("name");
    }
    let assignment = match wants {
        Wants::None => Assignment::None,
        Wants::OtherRole => Assignment::Master(Box::new(wanted)),
        Wants::Same | Wants::OtherCluster | Wants::OtherName => {
            Assignment::Worker(Box::new(wanted))
        }
    };
    Arc::new(spec(generation, assignment))
}

fn job(seen: SpecState, local: Local, there: There) -> Job {
    let orders = Orders {
        spec: match seen {
            SpecState::Never => SpecSeen::Never,
            SpecState::Newest(g, wants) => SpecSeen::Newest(document(g, wants)),
            SpecState::Lost(before) => SpecSeen::Lost {
                why: fault(),
                before: before.map(|(g, wants)| document(g, wants)),
            },
        },
        local: match local {
            Local::No => LocalSeen::No,
            Local::UpTo(g) => LocalSeen::UpTo(Generation(g)),
            Local::Lost => LocalSeen::Lost(fault()),
        },
        local_force: false,
    };
    let now = |g| Installed {
        role: Role::Worker,
        node: node(authorities()),
        generation: Generation(g),
    };
    let pem = authorities().cluster;
    match there {
        There::Empty => decide(&orders, &LedgerSeen::Empty),
        There::Installed(g) => decide(&orders, &LedgerSeen::Installed(&now(g))),
        There::Removing(g) => decide(&orders, &LedgerSeen::Removing(&now(g))),
        There::Unknown(same) => {
            let authority = if same { pem.as_str() } else { "another" };
            let seen = LedgerSeen::Unknown {
                why: fault(),
                authority: Some(authority),
                of_another_version: false,
            };
            decide(&orders, &seen)
        }
    }
}

fn held(seen: SpecState, there: There) -> Hold {
    match job(seen, Local::No, there) {
        Job::Hold(hold) => *hold,
        other => panic!("no hold: {other:?}"),
    }
}

/// One thing to do, and the one that helps: a document that is gone comes again, one that is there and
/// cannot be read or trusted has a remedy of its own.
#[test]
fn what_to_do_fits_why_a_document_cannot_be_used() {
    let broken = Fault::new(FaultCode::StateBroken, "cannot use it", "it is cut").fix("the disk");
    let newer = Fault::new(
        FaultCode::StateNotUnderstood,
        "cannot use it",
        "it has schema 9",
    )
    .fix("install the version of the agent that wrote it");
    let stranger = Fault::new(
        FaultCode::StateNotUnderstood,
        "cannot use it",
        "signed by key x",
    )
    .fix("run pf9ctl node prep --force with a new token");
    let now = Installed {
        role: Role::Worker,
        node: node(authorities()),
        generation: Generation(7),
    };
    let held = |orders: &Orders, ledger: &LedgerSeen<'_>| match decide(orders, ledger) {
        Job::Hold(hold) => hold.fault,
        other => panic!("no hold: {other:?}"),
    };
    let spec = |why: &Fault, ledger: &LedgerSeen<'_>| {
        let lost = SpecSeen::Lost {
            why: why.clone(),
            before: None,
        };
        let orders = Orders {
            spec: lost,
            local: LocalSeen::No,
            local_force: false,
        };
        held(&orders, ledger)
    };
    let ledger = |why: &Fault| {
        let seen = LedgerSeen::Unknown {
            why: why.clone(),
            authority: None,
            of_another_version: false,
        };
        held(&Orders::default(), &seen)
    };
    for there in [LedgerSeen::Empty, LedgerSeen::Installed(&now)] {
        assert!(
            spec(&broken, &there)
                .fix
                .starts_with("nothing while hostagent runs")
        );
        for why in [&newer, &stranger] {
            let said = spec(why, &there);
            assert!(said.fix.starts_with(&why.fix), "{said}");
            assert!(!said.to_string().contains("nothing while"), "{said}");
            assert_eq!(said.to_string().matches(&why.fix).count(), 1, "{said}");
        }
    }
    assert!(ledger(&broken).fix.contains("restore the ledger"));
    let said = ledger(&newer);
    assert_eq!(said.fix, newer.fix, "{said}");
    assert!(!said.to_string().contains("restore the ledger"), "{said}");
}

#[test]
fn without_a_spec_what_is_installed_stays_and_is_kept_in_repair() {
    let hold = held(SpecState::Never, There::Installed(7));
    assert!(hold.wants_spec);
    let keeps = hold.keeps.expect("it is kept");
    assert_eq!(
        (keeps.role, keeps.generation),
        (Role::Worker, Generation(7))
    );
    assert_eq!(
        hold.fault.to_string(),
        "the role of this machine stays as it is: its spec is lost: it is missing; nothing while hostagent runs: it \
         hands the spec over again; to remove the role: pf9ctl node decommission"
    );
}

#[test]
fn what_another_host_id_is_told_removes_nothing_however_new_it_is() {
    let there = Installed {
        role: Role::Worker,
        node: node(authorities()),
        generation: Generation(5),
    };
    let told = |generation, wants| {
        let mut spec = (*document(generation, wants)).clone();
        spec.host_id = HostId::random();
        let orders = Orders {
            spec: SpecSeen::Newest(Arc::new(spec)),
            local: LocalSeen::No,
            local_force: false,
        };
        decide(&orders, &LedgerSeen::Installed(&there))
    };
    for wants in [
        Wants::None,
        Wants::OtherCluster,
        Wants::OtherRole,
        Wants::OtherName,
    ] {
        for generation in [1, 5, 6, 99] {
            let Job::Hold(hold) = told(generation, wants) else {
                panic!("{wants:?} by generation {generation} is obeyed");
            };
            assert_eq!(hold.keeps.map(|w| w.generation), Some(Generation(5)));
            assert!(hold.fault.why.contains("now it is host"), "{}", hold.fault);
        }
    }
    // Attached to the cluster it is in, it is the same node.
    assert!(matches!(told(2, Wants::Same), Job::Node(_)));
}

#[test]
fn a_spec_from_before_that_says_none_removes_nothing() {
    // Attached by 3, detached by 4 (never worked on), attached by 5; the fifth is broken.
    for installed in [3, 5] {
        let hold = held(
            SpecState::Lost(Some((4, Wants::None))),
            There::Installed(installed),
        );
        assert!(hold.wants_spec);
        assert_eq!(hold.keeps.expect("kept").generation, Generation(installed));
    }
    // One from before that is newer than what is installed and the same node: worked by.
    let hold = held(SpecState::Lost(Some((4, Wants::Same))), There::Installed(3));
    assert_eq!(hold.keeps.expect("kept").generation, Generation(4));
}

#[test]
fn an_order_of_removal_must_be_newer() {
    for wants in [
        Wants::None,
        Wants::OtherCluster,
        Wants::OtherRole,
        Wants::OtherName,
    ] {
        let order = match wants {
            Wants::None => RemovalOrder::NoRole,
            Wants::Same | Wants::OtherCluster | Wants::OtherRole | Wants::OtherName => {
                RemovalOrder::Another
            }
        };
        let newer = job(SpecState::Newest(8, wants), Local::No, There::Installed(7));
        assert_eq!(newer, Job::Remove(order, Generation(8)));
        for generation in [1, 6, 7] {
            let hold = held(SpecState::Newest(generation, wants), There::Installed(7));
            assert_eq!(hold.fault.code, FaultCode::RoleKept);
            assert!(!hold.wants_spec);
        }
    }
    let older = held(SpecState::Newest(6, Wants::Same), There::Installed(7));
    assert_eq!(older.keeps.expect("kept").generation, Generation(7));
}

#[test]
fn roots_order_goes_for_what_was_there_and_not_for_what_came_after() {
    let none = |seen, g| job(seen, Local::UpTo(5), There::Installed(g));
    let newest = SpecState::Newest(5, Wants::Same);
    assert_eq!(
        none(newest, 5),
        Job::Remove(RemovalOrder::Local, Generation(5))
    );
    assert_eq!(
        none(SpecState::Never, 4),
        Job::Remove(RemovalOrder::Local, Generation(0))
    );
    assert!(matches!(
        none(SpecState::Newest(6, Wants::Same), 6),
        Job::Node(_)
    ));
    assert!(matches!(none(SpecState::Never, 6), Job::Hold(_)));
    let gone = |seen| job(seen, Local::UpTo(5), There::Empty);
    assert_eq!(gone(newest), Job::Nothing(Generation(5)));
    assert!(matches!(
        gone(SpecState::Newest(6, Wants::Same)),
        Job::Node(_)
    ));
}

#[test]
fn a_lost_ledger_is_written_anew_only_where_the_machine_shows_the_same_cluster() {
    let same = SpecState::Newest(5, Wants::Same);
    assert!(matches!(
        job(same, Local::No, There::Unknown(true)),
        Job::Node(_)
    ));
    for (seen, local, authority) in [
        (same, Local::No, false),
        (same, Local::UpTo(4), true),
        (same, Local::Lost, true),
        (SpecState::Newest(5, Wants::None), Local::No, true),
        (SpecState::Never, Local::No, true),
    ] {
        let Job::Hold(hold) = job(seen, local, There::Unknown(authority)) else {
            panic!("{seen:?} {local:?} {authority}");
        };
        assert_eq!((hold.fault.code.word(), hold.keeps), ("ledger-lost", None));
    }
}

#[test]
fn on_roots_word_a_role_goes_although_its_ledger_is_lost() {
    for seen in [
        SpecState::Newest(5, Wants::Same),
        SpecState::Never,
        SpecState::Lost(None),
    ] {
        for authority in [false, true] {
            let job = job(seen, Local::UpTo(5), There::Unknown(authority));
            assert!(
                matches!(job, Job::Remove(RemovalOrder::Local, _)),
                "{seen:?}: {job:?}"
            );
        }
    }
    // Not where a later program knows what it made.
    let orders = Orders {
        spec: SpecSeen::Newest(document(5, Wants::Same)),
        local: LocalSeen::UpTo(Generation(5)),
        local_force: false,
    };
    let seen = LedgerSeen::Unknown {
        why: fault(),
        authority: None,
        of_another_version: true,
    };
    assert!(matches!(decide(&orders, &seen), Job::Hold(_)));
    // Of the node that the machine shows it is, and of no other.
    let authority = authorities().cluster;
    let node = lost_node(&orders, Some(&authority)).expect("known");
    assert_eq!(node.role, Role::Worker);
    assert_eq!(lost_node(&orders, Some("another")), None);
    assert_eq!(lost_node(&orders, None), None);
}

fn wants() -> impl Strategy<Value = Wants> {
    prop_oneof![
        Just(Wants::None),
        Just(Wants::Same),
        Just(Wants::OtherCluster),
        Just(Wants::OtherRole),
        Just(Wants::OtherName),
    ]
}

fn seen() -> impl Strategy<Value = SpecState> {
    prop_oneof![
        Just(SpecState::Never),
        (0u64..6, wants()).prop_map(|(g, w)| SpecState::Newest(g, w)),
        prop::option::of((0u64..6, wants())).prop_map(SpecState::Lost),
    ]
}

fn local() -> impl Strategy<Value = Local> {
    prop_oneof![
        Just(Local::No),
        (0u64..6).prop_map(Local::UpTo),
        Just(Local::Lost)
    ]
}

fn there() -> impl Strategy<Value = There> {
    prop_oneof![
        Just(There::Empty),
        (0u64..6).prop_map(There::Installed),
        (0u64..6).prop_map(There::Removing),
        any::<bool>().prop_map(There::Unknown),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_role_goes_only_on_an_order_that_says_so(seen in seen(), local in local(), there in there()) {
        if let Job::Remove(..) = job(seen, local, there) {
            let by_plane = matches!((seen, there),
                (SpecState::Newest(g, wants), There::Installed(i)) if g > i && wants != Wants::Same);
            let by_root = matches!((local, there),
                (Local::UpTo(last), There::Installed(i)) if i <= last)
                || matches!((local, there), (Local::UpTo(_), There::Unknown(_)));
            prop_assert!(by_plane || by_root || matches!(there, There::Removing(_)));
        }
    }

    #[test]
    fn nothing_is_said_to_be_there_only_where_nothing_is(
        seen in seen(), local in local(), there in there()
    ) {
        if let Job::Nothing(_) = job(seen, local, there) {
            prop_assert_eq!(there, There::Empty);
        }
    }

    #[test]
    fn a_node_is_made_only_by_the_newest_spec(seen in seen(), local in local(), there in there()) {
        if let Job::Node(work) = job(seen, local, there) {
            let SpecState::Newest(g, wants) = seen else {
                return Err(TestCaseError::fail("by another"));
            };
            prop_assert_eq!(work.generation, Generation(g));
            match there {
                There::Empty => {}
                There::Installed(i) => prop_assert!(g >= i && wants == Wants::Same),
                There::Removing(_) => prop_assert!(false, "before the removal is over"),
                There::Unknown(same) => prop_assert!(same),
            }
            if let Local::UpTo(last) = local {
                prop_assert!(g > last, "root took it away");
            }
            prop_assert!(local != Local::Lost);
        }
    }

    #[test]
    fn a_hold_keeps_what_is_installed_or_nothing(seen in seen(), local in local(), there in there()) {
        if let Job::Hold(hold) = job(seen, local, there) {
            prop_assert!(!hold.fault.fix.is_empty());
            if let Some(keeps) = &hold.keeps {
                let There::Installed(i) = there else {
                    return Err(TestCaseError::fail("it begins something"));
                };
                prop_assert!(keeps.generation >= Generation(i));
                prop_assert_eq!(keeps.node.cluster_id, node(authorities()).cluster_id);
            }
        }
    }
}

#[test]
fn what_is_shown_of_an_assignment() {
    assert_eq!(shown(None), (Role::None, None));
    let spec = document(1, Wants::Same);
    let (role, cluster) = shown(Some(&spec.assignment));
    assert_eq!((role, cluster.is_some()), (Role::Worker, true));
    let other = Spec {
        host_id: HostId::random(),
        issued_at: Timestamp::UNIX_EPOCH,
        ..(*document(1, Wants::None)).clone()
    };
    assert_eq!(shown(Some(&other.assignment)), (Role::None, None));
}
