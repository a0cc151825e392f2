use super::rests::result_of;
use super::*;
use crate::model::FaultCode;
use crate::nodelet::plan::Waits;
use crate::nodelet::step::Step;

fn planned(n: usize) -> Planned {
    Planned {
        phase: PhaseId::Kubelet,
        step: Step::Absent {
            path: format!("/x/{n}"),
        },
        why: "it is there".into(),
        restart: false,
    }
}

#[test]
fn the_result_of_a_check_is_one_plain_line() {
    let mut plan = Plan::default();
    assert_eq!(
        result_of(&plan, 18, 18, false),
        "ok - 18 of 18 phases converged"
    );
    plan.waits = Some(Waits {
        phase: PhaseId::Certs,
        what: "12 certificates from the plane".into(),
    });
    assert_eq!(
        result_of(&plan, 1, 18, false),
        "waits for 12 certificates from the plane - 1 of 18 phases converged"
    );
    plan.todo = (0..5).map(planned).collect();
    assert_eq!(
        result_of(&plan, 17, 18, false),
        "differs - 17 of 18 phases converged; now: remove /x/0 (it is there), \
         remove /x/1 (it is there), remove /x/2 (it is there), and 2 more"
    );
    plan.todo.truncate(1);
    assert_eq!(
        result_of(&plan, 17, 18, true),
        "differs - 17 of 18 phases converged; drift left alone, in maintenance: remove /x/0 (it is there)"
    );
}

#[test]
fn what_the_keeper_shows_is_not_the_loops_to_change_and_counting_on_wakes_nobody() {
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    let (mut board, mut rx) = NodeBoard::new(&fs);
    let keeper = board.etcd();
    let mut etcd = EtcdStatus {
        version: "3.7.3".into(),
        ..EtcdStatus::default()
    };
    keeper.show(Some(etcd.clone()));
    assert!(rx.has_changed().expect("open"));
    let revision = rx.borrow_and_update().revision;
    board.spec(Generation(3), Role::Master, None);
    let seen = rx.borrow_and_update().clone();
    assert_eq!(seen.etcd.as_ref(), Some(&etcd));
    assert!(seen.revision > revision);
    etcd.revision = 9;
    keeper.show(Some(etcd));
    assert!(!rx.has_changed().expect("open"), "nobody is woken");
    let now = rx.borrow_and_update().clone();
    assert_eq!(
        now.etcd.map(|e| e.revision),
        Some(9),
        "and who asks sees it"
    );
    assert_eq!(now.revision, seen.revision);
    keeper.show(None);
    assert!(rx.has_changed().expect("open"));
}

#[test]
fn every_check_leaves_a_line_of_bounded_length() {
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    std::fs::create_dir_all(fs.at("/var/log/pf9/kube")).expect("log dir");
    let (mut board, _rx) = NodeBoard::new(&fs);
    let took = Duration::from_millis(420);
    let at = Timestamp::UNIX_EPOCH;
    board.checked(at, &Plan::default(), took);
    let fault = Fault::new(FaultCode::Facts, "cannot look", "é".repeat(10_000));
    board.not_checked(at, &fault, took);
    let log = fs.read_text(paths::KUBE_LOG, 1 << 20).expect("read");
    let log = log.expect("a log");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        lines[0],
        "1970-01-01T00:00:00.000Z status check: ok - 0 of 0 phases converged \
         (took 0.4 s)"
    );
    assert!(lines[1].contains("not possible - cannot look"), "{log}");
    assert!(lines[1].chars().count() < RESULT_MAX + 80, "{log}");
}
