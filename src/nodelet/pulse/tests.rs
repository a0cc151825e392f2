use proptest::prelude::*;

use super::verdict::{Pulse, Said, Service, Up};
use super::*;
use crate::host::fs::{Attrs, HostFs};
use crate::nodelet::status::NodeBoard;

const KUBELET: Service = Service::Kubelet;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn silent() -> Said {
    Said::Silent("no answer".into())
}

fn up(invocation: u32, age: u64, worked: u64) -> Option<Up> {
    Some(Up {
        invocation: invocation.to_string(),
        age: s(age),
        worked: Some(s(worked)),
    })
}

/// The seconds at which a service is ended that says the same in every round; each end is a new start. `works`: seconds
/// of processor time that it uses in each round.
fn ends(said: &Said, service: Service, works: u64, until: u64) -> Vec<u64> {
    let (mut pulse, mut ends, mut started) = (Pulse::default(), Vec::new(), 0);
    for (round, now) in (1000..until).step_by(20).enumerate() {
        let begun = u32::try_from(ends.len()).expect("few");
        let used = round as u64 * works;
        let up = up(begun, now - started, used);
        if pulse.hear(service, said.clone(), up, s(now)).is_some() {
            ends.push(now);
            started = now;
        }
    }
    ends
}

#[test]
fn what_hangs_is_ended_in_two_minutes_and_then_ever_more_seldom() {
    let ends = ends(&silent(), KUBELET, 0, 40_000);
    assert_eq!(ends[0], 1120);
    let pauses: Vec<u64> = ends.windows(2).map(|w| w[1] - w[0]).collect();
    assert_eq!(pauses[..5], [300, 600, 1200, 2400, 3600], "{pauses:?}");
    assert!(pauses[5..].iter().all(|p| *p == 3600), "{pauses:?}");
}

#[test]
fn one_that_works_has_longer_and_one_that_says_what_ails_it_too() {
    assert_eq!(ends(&silent(), KUBELET, 2, 2000)[0], 1300);
    // Timers of its runtime are no work.
    assert_eq!(ends(&silent(), KUBELET, 0, 2000)[0], 1120);
    assert_eq!(ends(&Said::Ill("500".into()), KUBELET, 0, 2000)[0], 1300);
    assert!(ends(&Said::Nothing, KUBELET, 0, 9000).is_empty());
}

#[test]
fn one_that_has_just_been_started_is_left_alone_and_so_is_one_that_does_not_run() {
    let mut pulse = Pulse::default();
    for now in (0..170).step_by(20) {
        let heard = pulse.hear(KUBELET, silent(), up(1, now, 0), s(now));
        assert_eq!(heard, None, "{now}");
    }
    assert!(
        pulse
            .hear(KUBELET, silent(), up(1, 180, 0), s(180))
            .is_some()
    );
    for now in (2000..9000).step_by(20) {
        assert_eq!(pulse.hear(KUBELET, silent(), None, s(now)), None);
    }
}

#[test]
fn a_machine_that_is_too_slow_for_us_too_says_nothing_of_anybody() {
    let mut pulse = Pulse::default();
    for now in (1000..9000).step_by(70) {
        let in_time = pulse.is_in_time(s(now), IN_TIME);
        assert_eq!(in_time, now == 1000);
        if in_time {
            pulse.hear(KUBELET, silent(), up(1, now, 0), s(now));
        }
    }
    // Earlier results do not count either.
    for now in (9000..9120).step_by(20) {
        assert!(pulse.is_in_time(s(now), IN_TIME));
        assert_eq!(pulse.hear(KUBELET, silent(), up(1, now, 0), s(now)), None);
    }
    assert!(
        pulse
            .hear(KUBELET, silent(), up(1, 9120, 0), s(9120))
            .is_some()
    );
}

#[test]
fn what_was_well_for_an_hour_after_it_begins_anew() {
    let mut pulse = Pulse::default();
    let hang = |from: u64, pulse: &mut Pulse| {
        (from..from + 4000).step_by(20).find(|now| {
            let up = up(u32::try_from(from).expect("small"), 4000, 0);
            pulse.hear(KUBELET, silent(), up, s(*now)).is_some()
        })
    };
    assert_eq!(hang(0, &mut pulse), Some(120));
    pulse.hear(KUBELET, Said::Well, None, s(200));
    assert_eq!(hang(220, &mut pulse), Some(420), "the first pause");
    pulse.hear(KUBELET, Said::Well, None, s(4100));
    let third = hang(4120, &mut pulse);
    assert_eq!(third, Some(4240), "it had helped");
}

proptest! {
    /// A service that answers now and then is slow and not hung, whatever the rest of the time.
    #[test]
    fn a_service_that_answers_now_and_then_is_left_alone(
        rounds in proptest::collection::vec((0u8..4, 1u64..60, 0u64..3), 1..400),
    ) {
        let (mut pulse, mut now, mut worked, mut well) = (Pulse::default(), 1000, 0, 1000);
        for (kind, pause, works) in rounds {
            now += pause;
            worked += works;
            let said = match kind {
                _ if now - well >= 100 => Said::Well,
                0 => Said::Well,
                1 => Said::Ill("503".into()),
                _ => silent(),
            };
            if said == Said::Well {
                well = now;
            }
            prop_assert_eq!(pulse.hear(KUBELET, said, up(1, now, worked), s(now)), None);
        }
    }
}

/// A question that is not answered takes most of the time to the next one, and puts it off by nothing; so the fourth of a
/// silent service is asked a minute after the first.
#[test]
fn four_questions_in_vain_are_a_minute() {
    let began = Instant::now();
    let quick = next(began, began + s(1));
    assert_eq!(quick - began, EVERY);
    let mut asked = began;
    for _ in 0..3 {
        asked = next(asked, asked + ANSWER);
    }
    assert_eq!(asked - began, s(60));
    // More than one question waited: some rest between them, and still in time.
    let slow = next(began, began + ANSWER + ANSWER);
    assert_eq!(slow - began, ANSWER + ANSWER + PAUSE);
    assert!(slow - began < IN_TIME);
}

/// The keeper of this master's backups defragments it, for as long as its disk takes.
#[test]
fn an_etcd_that_is_defragmented_is_not_taken_for_one_that_hangs() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (board, _status) = NodeBoard::new(&HostFs::new(dir.path()));
    let (pulse, keeper) = (board.pulse(), board.etcd());
    assert!(!pulse.halts_etcd(), "no master");
    let show = |chore: Option<&str>| {
        keeper.show(Some(crate::model::EtcdStatus {
            chore: chore.map(str::to_owned),
            ..Default::default()
        }));
        pulse.halts_etcd()
    };
    assert!(show(Some("defragment etcd's database")));
    assert!(show(Some("free space in etcd")));
    assert!(!show(Some("back up etcd")), "it answers meanwhile");
    assert!(!show(None));

    let all = || vec![(Service::Etcd, silent()), (KUBELET, silent())];
    assert_eq!(excused(all(), false), all());
    let nothing = (Service::Etcd, Said::Nothing);
    assert_eq!(excused(all(), true), [nothing, (KUBELET, silent())]);
    let well = vec![(Service::Etcd, Said::Well)];
    assert_eq!(excused(well.clone(), true), well);
}

/// A machine on which kubelet's unit is a process of this test.
struct Machine {
    _dir: tempfile::TempDir,
    fs: HostFs,
    child: tokio::process::Child,
    keeper: PulseKeeper,
    status: watch::Receiver<crate::model::NodeStatus>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        std::fs::create_dir_all(fs.at("/var/log/pf9/kube")).expect("directory");
        let child = tokio::process::Command::new("/bin/sleep")
            .arg("600")
            .kill_on_drop(true)
            .spawn()
            .expect("child");
        let (board, status) = NodeBoard::new(&fs);
        let (_, job) = watch::channel(Job::Nothing(crate::model::Generation(1)));
        let progress = crate::app::Progress::default();
        let keeper = PulseKeeper::new(
            Host::new(fs.clone()),
            job,
            board.pulse(),
            progress.beat("pulse"),
            CancellationToken::new(),
        );
        Self {
            _dir: dir,
            fs,
            child,
            keeper,
            status,
        }
    }

    fn pid(&self) -> u32 {
        self.child.id().expect("pid")
    }

    /// What systemd says of it, as long as it lives.
    async fn state(&self) -> UnitState {
        let text = format!(
            "#!/bin/sh\necho 'Id=pf9-kubelet.service\nLoadState=loaded\nActiveState=active\n\
             InvocationID=a\nActiveEnterTimestampMonotonic=1\nMainPID={}'\n",
            self.pid()
        );
        let attrs = Attrs::mode(0o755);
        self.fs
            .write("/usr/bin/systemctl", text.as_bytes(), &attrs)
            .expect("write");
        let unit = KUBELET.unit();
        let all = self.keeper.host.units.show(&[unit.to_owned()]).await;
        all.expect("systemd")[unit].clone()
    }
}

#[tokio::test]
async fn a_process_that_was_stopped_is_killed_and_that_is_told_and_counted() {
    let mut machine = Machine::new();
    let pid = i32::try_from(machine.pid()).expect("small");
    kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("stop");
    for now in (0..120).step_by(20) {
        let state = machine.state().await;
        machine
            .keeper
            .act_on(KUBELET, silent(), Some(&state), s(now));
        let died = machine.child.try_wait().expect("wait");
        assert_eq!(died, None, "after {now} s");
        assert_eq!(machine.status.borrow().revived, []);
    }
    let state = machine.state().await;
    machine
        .keeper
        .act_on(KUBELET, silent(), Some(&state), s(120));
    let ended = machine.child.wait().await.expect("wait");
    assert!(!ended.success());
    let shown = machine.status.borrow().revived.clone();
    let [revived] = shown.as_slice() else {
        panic!("{shown:?}");
    };
    assert_eq!((&*revived.unit, revived.times), (KUBELET.unit(), 1));
    let log = std::fs::read_to_string(machine.fs.at(crate::model::paths::KUBE_LOG)).expect("log");
    assert!(
        log.contains("pf9-kubelet.service runs but does not work and is restarted (1 times so far): no answer, for 120 s"),
        "{log}"
    );
}

#[test]
fn how_services_are_is_told_and_is_news_only_when_it_changes() {
    let at = |s| Timestamp::from_second(s).expect("time");
    let ill = |why: &str| Said::Ill(why.into());
    let first = told(
        &[],
        &[(KUBELET, Said::Well), (Service::Etcd, Said::Nothing)],
        at(1),
    );
    assert_eq!(first.len(), 1, "of whom nothing was learnt nothing is told");
    assert_eq!(
        (first[0].state, first[0].since),
        (ServiceState::Well, at(1))
    );
    assert_eq!(told(&first, &[(KUBELET, Said::Well)], at(2)), first);
    assert_eq!(told(&first, &[(KUBELET, Said::Nothing)], at(2)), first);
    let bad = told(&first, &[(KUBELET, ill("for 1 s"))], at(3));
    assert_eq!((bad[0].state, bad[0].since), (ServiceState::Ill, at(3)));
    assert_eq!(told(&bad, &[(KUBELET, ill("for 2 s"))], at(4)), bad);
    let worse = told(&bad, &[(KUBELET, silent())], at(5));
    assert_eq!(
        (worse[0].state, worse[0].since),
        (ServiceState::Silent, at(5))
    );
}
