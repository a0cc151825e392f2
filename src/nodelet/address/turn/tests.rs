use proptest::prelude::*;

use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn record(version: u64, holder: Option<&str>) -> Record {
    Record {
        version: version.to_string(),
        holder: holder.map(str::to_owned),
        proved: true,
        acquired: None,
        transitions: 0,
        leaving: false,
    }
}

fn begun(version: u64) -> Record {
    Record {
        proved: false,
        ..record(version, None)
    }
}

#[test]
fn the_holder_is_done_before_another_may_begin() {
    let slowest = (HOLD + KERNEL_LATE).mul_f64(1.0 + RATES_DIFFER_MAX);
    assert!(slowest < LEASE.mul_f64(1.0 - RATES_DIFFER_MAX));
    // Late by an election of etcd (its time-out, twice at most), and it stays where it is: the kernel
    // takes whole seconds.
    let told = Duration::from_secs(HOLD.as_secs());
    assert!(RENEW + MS(2000) < told);
    // Ten seconds, minus a moment for the write and the announcement.
    assert!(LEASE + LOOK + MS(2000) < MS(10_000));
}

#[test]
fn a_lease_of_another_is_taken_when_nobody_wrote_it_for_its_time_and_not_before() {
    let mut turn = Turn::new("a".into());
    assert_eq!(turn.next(MS(0), true), Some(Ask::Look));
    turn.looked(MS(0), Some(record(1, Some("b"))));
    turn.looked(MS(5000), Some(record(2, Some("b"))));
    turn.looked(MS(6000), Some(record(2, Some("b"))));
    assert_eq!(turn.next(MS(10_999), true), Some(Ask::Look));
    assert_eq!(turn.wakes(MS(6500), true), MS(7000));
    assert_eq!(turn.next(MS(11_000), false), Some(Ask::Look), "it cannot");
    let over = Ask::Write(record(2, Some("b")));
    assert_eq!(turn.next(MS(11_000), true), Some(over));
    turn.written(MS(11_000), MS(11_100), record(3, Some("a")));
    assert_eq!(turn.left(MS(11_100)), Some(MS(4400)));
    assert_eq!(turn.left(MS(15_500)), None);
    // Another one wrote: it is over at once.
    turn.looked(MS(12_000), Some(record(4, Some("c"))));
    assert_eq!(turn.left(MS(12_000)), None);
}

#[test]
fn what_was_given_back_is_taken_at_once_and_ones_own_after_a_restart() {
    let mut turn = Turn::new("a".into());
    turn.looked(MS(50), Some(record(1, None)));
    assert!(matches!(turn.next(MS(50), true), Some(Ask::Write(_))));
    let mut again = Turn::new("a".into());
    again.looked(MS(50), Some(record(1, Some("a"))));
    assert_eq!(again.left(MS(50)), None, "a name alone is no right");
    assert!(matches!(again.next(MS(50), true), Some(Ask::Write(_))));
    again.written(MS(50), MS(60), record(2, Some("a")));
    assert_eq!(again.yields(MS(70)), Some(record(2, Some("a"))));
    assert_eq!(again.left(MS(70)), None);
}

#[test]
fn a_lease_that_somebody_deleted_is_begun_anew_and_waited_for() {
    let mut has = Turn::new("a".into());
    has.written(MS(0), MS(10), record(1, Some("a")));
    has.refused(MS(1000));
    has.looked(MS(1001), None);
    assert!(has.left(MS(1001)).is_some(), "nobody else can have it yet");
    assert_eq!(has.next(MS(1001), true), Some(Ask::Begin));
    assert_ne!(has.next(MS(1001), false), Some(Ask::Begin));
    has.looked(MS(1010), Some(begun(2)));
    assert_eq!(has.next(MS(7009), true), Some(Ask::Look));
    assert_eq!(has.next(MS(7010), true), Some(Ask::Write(begun(2))));
}

/// Answers that do not come, or are refusals that say nothing, at the pace that the keeper asks at.
#[test]
fn who_hears_nothing_any_more_is_done_when_its_time_is_over_and_asks_on() {
    for answer_takes in [MS(3000), MS(5)] {
        let mut turn = Turn::new("a".into());
        turn.written(MS(0), MS(10), record(1, Some("a")));
        let (mut now, mut asked) = (MS(10), 0);
        while now < MS(20_000) {
            now = turn.wakes(now, true).max(now);
            let ask = turn.next(now, true).expect("it is time");
            assert!(matches!(ask, Ask::Write(_)), "{ask:?}");
            asked += 1;
            now += answer_takes;
            turn.unanswered(now);
            assert_eq!(turn.left(now).is_some(), now < HOLD, "{now:?}");
        }
        assert!(asked >= 5, "{asked}");
        // Nobody else wrote meanwhile.
        turn.written(now, now, record(2, Some("a")));
        assert!(turn.left(now).is_some());
    }
}

#[test]
fn nobody_has_it_when_the_lease_names_nobody_or_is_not_written_any_more() {
    let mut turn = Turn::new("a".into());
    assert_eq!(turn.nobodys(MS(99_000)), None, "nothing is known");
    turn.looked(MS(1000), None);
    assert_eq!(turn.nobodys(MS(3000)), Some(MS(2000)));
    turn.looked(MS(4000), Some(record(1, Some("b"))));
    assert_eq!(turn.nobodys(MS(9999)), None, "b may have it");
    assert_eq!(turn.nobodys(MS(11_000)), Some(MS(1000)));
    turn.looked(MS(12_000), Some(record(2, Some("b"))));
    assert_eq!(turn.nobodys(MS(17_999)), None, "b wrote");
    turn.looked(MS(18_000), Some(record(3, None)));
    assert_eq!(turn.nobodys(MS(20_000)), Some(MS(2000)), "given back");
    turn.written(MS(21_000), MS(21_010), record(4, Some("a")));
    assert_eq!(turn.nobodys(MS(21_020)), None);
    assert_eq!(
        turn.nobodys(MS(29_010)),
        Some(MS(2000)),
        "not written again"
    );
    // Somebody deletes the lease of one that has the address.
    turn.written(MS(30_000), MS(30_010), record(5, Some("a")));
    turn.looked(MS(30_020), None);
    assert_eq!(turn.nobodys(MS(31_000)), None);
}

#[test]
fn who_leaves_says_so_first_goes_when_all_have_looked_and_stands_aside() {
    let mut turn = Turn::new("a".into());
    turn.leave(MS(0));
    assert!(turn.has_left(MS(0)), "it has nothing to give");
    turn.written(MS(0), MS(10), record(1, Some("a")));
    turn.leave(MS(100));
    assert!(turn.is_leaving(MS(100)) && !turn.has_left(MS(100)));
    let said = Record {
        leaving: true,
        ..record(2, Some("a"))
    };
    assert_eq!(
        turn.next(MS(100), true),
        Some(Ask::Write(record(1, Some("a"))))
    );
    turn.written(MS(100), MS(110), said.clone());
    let goes = MS(100) + NOTICE;
    assert!(!turn.goes(goes - MS(1)) && turn.goes(goes));
    assert!(turn.wakes(goes - MS(1), false) <= goes);
    assert_eq!(turn.yields(goes), Some(said.clone()));
    turn.looked(goes + MS(10), Some(record(3, None)));
    // It is free, and not for the one that just left.
    assert_ne!(
        turn.next(goes + LEASE - MS(1), true),
        Some(Ask::Write(record(3, None)))
    );
    assert!(!turn.has_left(goes + MS(20)));
    assert_eq!(
        turn.wakes(goes + MS(10), true),
        goes + MS(10) + LOOK_CLOSELY
    );
    let mut nobody = turn.clone();
    assert!(nobody.has_left(goes + LEASE), "nobody wants it");
    assert_eq!(
        nobody.next(goes + LEASE, true),
        Some(Ask::Write(record(3, None)))
    );
    nobody.written(goes + LEASE, goes + LEASE, record(4, Some("a")));
    assert!(!nobody.is_leaving(goes + LEASE) && nobody.left(goes + LEASE).is_some());
    turn.looked(goes + MS(120), Some(record(4, Some("b"))));
    assert!(turn.has_left(goes + MS(120)), "another one has it");

    // The others look closely from the word on.
    let mut other = Turn::new("b".into());
    other.looked(MS(200), Some(said));
    assert_eq!(other.wakes(MS(200), true), MS(200) + LOOK_CLOSELY);

    // A master whose API server stops answering does not wait for it.
    let mut deaf = Turn::new("a".into());
    deaf.written(MS(0), MS(10), record(1, Some("a")));
    deaf.leave(MS(100));
    deaf.unanswered(MS(3000));
    assert!(!deaf.has_left(MS(3000)) && deaf.has_left(MS(100) + LEAVING_MAX));
    assert!(
        !deaf.is_leaving(MS(100) + LEAVING_MAX),
        "nor is it said later"
    );
}

// === many masters, any order of things ===

/// What happens to one request.
#[derive(Clone, Copy, Debug)]
struct Fate {
    /// Until the API server does it.
    there: u16,
    /// Until its answer is there.
    back: u16,
    lost: bool,
}

/// What a master is.
#[derive(Clone, Copy, Debug)]
struct Machine {
    /// Its clock's rate, in hundredths of a per cent from the true one.
    rate: i16,
    offset: u32,
    /// Its program is stopped in this time, and continues where it was.
    stopped: (u16, u16),
    /// Its API server does not answer in this time.
    deaf: (u16, u16),
    /// Its API server is about to be stopped.
    leaves: u16,
}

struct Under {
    ask: Ask,
    leaving: bool,
    sent: Duration,
    done: u64,
    back: u64,
    answer: Option<Result<Option<Record>, ()>>,
    lost: bool,
}

struct Master {
    is: Machine,
    turn: Turn,
    under: Option<Under>,
    /// When its kernel takes the address away, by its own clock, at the latest.
    has_until: Option<Duration>,
}

impl Master {
    fn clock(&self, now: u64) -> Duration {
        let rate = 1.0 + f64::from(self.is.rate) / 10_000.0;
        Duration::from_secs_f64((f64::from(self.is.offset) + now as f64 * rate) / 1000.0)
    }

    fn has(&self, now: u64) -> bool {
        self.has_until.is_some_and(|until| self.clock(now) < until)
    }
}

fn within((from, long): (u16, u16), now: u64) -> bool {
    (u64::from(from)..u64::from(from) + u64::from(long)).contains(&now)
}

/// The API server does what it was asked.
fn serve(
    lease: &mut Option<Record>,
    ask: &Ask,
    me: &str,
    leaving: bool,
    count: &mut u64,
) -> Result<Option<Record>, ()> {
    let next = match ask {
        Ask::Look => return Ok(lease.clone()),
        Ask::Begin if lease.is_none() => begun(*count + 1),
        Ask::Write(over) if lease.as_ref().is_some_and(|l| l.version == over.version) => Record {
            leaving,
            ..record(*count + 1, Some(me))
        },
        Ask::Begin | Ask::Write(_) => return Err(()),
    };
    *count += 1;
    *lease = Some(next);
    Ok(lease.clone())
}

fn step(m: &mut Master, now: u64, lease: &mut Option<Record>, count: &mut u64, fate: Fate) {
    let clock = m.clock(now);
    let me = m.turn.me.clone();
    if let Some(under) = &mut m.under
        && now >= under.done
        && under.answer.is_none()
    {
        under.answer = Some(serve(lease, &under.ask, &me, under.leaving, count));
    }
    if within(m.is.stopped, now) {
        return;
    }
    if let Some(under) = m.under.take_if(|u| now >= u.back) {
        match (under.lost, under.ask, under.answer) {
            (true, _, _) | (_, _, None) => m.turn.unanswered(clock),
            (_, Ask::Look | Ask::Begin, Some(Ok(seen))) => m.turn.looked(clock, seen),
            (_, Ask::Write(_), Some(Ok(Some(written)))) => {
                m.turn.written(under.sent, clock, written);
                // The kernel takes whole seconds, and is late by what it may be.
                if let Some(left) = m.turn.left(clock).filter(|l| l.as_secs() > 0) {
                    m.has_until = Some(clock + Duration::from_secs(left.as_secs()) + KERNEL_LATE);
                }
            }
            (_, _, Some(Ok(None) | Err(()))) => m.turn.refused(clock),
        }
    }
    if now.abs_diff(u64::from(m.is.leaves)) < STEP / 2 + 1 {
        m.turn.leave(clock);
    }
    if m.under.is_none() && m.turn.goes(clock) {
        m.has_until = None;
        if let Some(mine) = m.turn.yields(clock)
            && !within(m.is.deaf, now)
            && lease.as_ref().is_some_and(|l| l.version == mine.version)
        {
            *count += 1;
            *lease = Some(record(*count, None));
        }
    }
    if m.turn.left(clock).is_none() {
        m.has_until = None;
    }
    if m.under.is_none()
        && let Some(ask) = m.turn.next(clock, true)
    {
        let deaf = within(m.is.deaf, now);
        m.under = Some(Under {
            ask,
            leaving: m.turn.is_leaving(clock),
            sent: clock,
            done: if deaf {
                u64::MAX
            } else {
                now + u64::from(fate.there)
            },
            back: now + u64::from(fate.there) + u64::from(fate.back),
            answer: None,
            lost: fate.lost || deaf,
        });
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    let late = prop_oneof![4 => 0u16..60, 1 => 0u16..3000];
    (late.clone(), late, prop::bool::weighted(0.1)).prop_map(|(there, back, lost)| Fate {
        there,
        back,
        lost,
    })
}

fn machine() -> impl Strategy<Value = Machine> {
    let most = (RATES_DIFFER_MAX * 10_000.0) as i16;
    let rate = prop_oneof![Just(-most), Just(most), -most..=most];
    let time = || (0u16..40_000, 0u16..15_000);
    let all = (rate, any::<u32>(), time(), time(), any::<u16>());
    all.prop_map(|(rate, offset, stopped, deaf, leaves)| Machine {
        rate,
        offset: offset % 1_000_000,
        stopped,
        deaf,
        leaves,
    })
}

/// Milliseconds of one step of the world.
const STEP: u64 = 25;

fn masters(machines: Vec<Machine>) -> Vec<Master> {
    let named = machines.into_iter().zip(["a", "b", "c"]);
    let master = |(is, name): (Machine, &str)| Master {
        is,
        turn: Turn::new(name.into()),
        under: None,
        has_until: None,
    };
    named.map(master).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Requests late, lost or done and not answered, programs stopped, API servers deaf, clocks that
    /// differ, the lease deleted: never two at a time.
    #[test]
    fn no_two_masters_have_it(
        machines in prop::collection::vec(machine(), 3),
        fates in prop::collection::vec(fate(), 64),
        deleted in 0u64..60_000,
    ) {
        let mut masters = masters(machines);
        let (mut lease, mut count, mut drawn) = (None, 0, 0);
        for now in (0..60_000).step_by(STEP as usize) {
            if (deleted..deleted + STEP).contains(&now) {
                lease = None;
            }
            for m in &mut masters {
                drawn += 1;
                step(m, now, &mut lease, &mut count, fates[drawn % fates.len()]);
            }
            let have: Vec<&str> =
                masters.iter().filter(|m| m.has(now)).map(|m| m.turn.me.as_str()).collect();
            prop_assert!(have.len() < 2, "{have:?} at {now}");
        }
    }

    /// While API servers answer a master has it, and when that one stops permanently another has it within ten seconds.
    #[test]
    fn who_is_gone_is_followed_within_ten_seconds(
        machines in prop::collection::vec(machine(), 3), at in 12_000u64..20_000, late in 0u16..400,
    ) {
        let well = |m: Machine| Machine { stopped: (0, 0), deaf: (0, 0), leaves: u16::MAX, ..m };
        let mut masters = masters(machines.into_iter().map(well).collect());
        let (mut lease, mut count) = (None, 0);
        let mut gone = None;
        let fate = Fate { there: late / 2, back: late / 2, lost: false };
        for now in (0..at + 10_000).step_by(STEP as usize) {
            for (i, m) in masters.iter_mut().enumerate() {
                if gone != Some(i) {
                    step(m, now, &mut lease, &mut count, fate);
                }
            }
            if gone.is_none() && now >= at {
                gone = masters.iter().position(|m| m.has(now));
                prop_assert!(gone.is_some(), "nobody has it at {now}");
            }
        }
        let now = at + 10_000;
        let others = masters.iter().enumerate().filter(|(i, _)| gone != Some(*i));
        prop_assert_eq!(others.filter(|(_, m)| m.has(now)).count(), 1);
    }

    /// Who leaves in order is followed in a moment: a look of the others, and a write.
    #[test]
    fn who_leaves_in_order_is_followed_at_once(
        machines in prop::collection::vec(machine(), 3), at in 12_000u64..20_000, late in 0u16..100,
    ) {
        let well = |m: Machine| Machine { stopped: (0, 0), deaf: (0, 0), leaves: u16::MAX, ..m };
        let mut masters = masters(machines.into_iter().map(well).collect());
        let (mut lease, mut count) = (None, 0);
        let fate = Fate { there: late / 2, back: late / 2, lost: false };
        let (mut leaver, mut away) = (None, 0);
        for now in (0..at + 8_000).step_by(STEP as usize) {
            if leaver.is_none() && now >= at {
                leaver = masters.iter().position(|m| m.has(now));
                let m = &mut masters[leaver.expect("somebody has it")];
                m.turn.leave(m.clock(now));
            }
            for m in &mut masters {
                step(m, now, &mut lease, &mut count, fate);
            }
            if leaver.is_some() && masters.iter().all(|m| !m.has(now)) {
                away += STEP;
            }
        }
        let has = masters.iter().position(|m| m.has(at + 8_000));
        prop_assert!(has.is_some() && has != leaver, "{has:?} after {leaver:?}");
        let most = LOOK_CLOSELY.as_millis() as u64 + 2 * u64::from(late) + 4 * STEP;
        prop_assert!(away <= most, "away for {away} ms of {most}");
    }
}
