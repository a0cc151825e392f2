use proptest::prelude::*;

use super::*;

fn listed(text: &str) -> Vec<Listed> {
    // `m` answers, `M` does not, `l` learns.
    let one = |(n, c): (usize, char)| Listed {
        id: format!("{:x}", n + 1),
        name: format!("m{}", n + 1),
        learner: c == 'l',
        answers: c != 'M',
    };
    text.chars().enumerate().map(one).collect()
}

fn at(own: u64, leader: Option<u64>) -> Standpoint {
    Standpoint {
        own: format!("{own:x}"),
        leader: leader.map(|l| format!("{l:x}")),
        term: 3,
    }
}

fn asks(members: &str, at: &Standpoint, followed: u64, unwell: u64) -> RestartTurn {
    asks_after(members, at, followed, unwell, 0)
}

fn asks_after(
    members: &str,
    at: &Standpoint,
    followed: u64,
    unwell: u64,
    silent: u64,
) -> RestartTurn {
    let view = RestartView {
        silent_for: Duration::from_secs(silent),
        at,
        followed_for: Duration::from_secs(followed),
        unwell_for: Duration::from_secs(unwell),
        listed: &listed(members),
        leader_goes: false,
    };
    turn(&view, &Pace::of(None))
}

fn waits(turn: &RestartTurn, word: &str) -> bool {
    matches!(turn, RestartTurn::Wait(what) if what.contains(word))
}

#[test]
fn who_leads_goes_when_the_others_do_without_it_and_who_follows_takes_the_lead() {
    let (leads, follows) = (at(1, Some(1)), at(1, Some(2)));
    assert_eq!(asks("mmm", &leads, 4, 0), RestartTurn::Go);
    assert!(waits(&asks("mmm", &leads, 3, 0), "down or healthy"));
    assert_eq!(
        asks("mmm", &follows, 15, 0),
        RestartTurn::TakeTheLead("2".into())
    );
    assert!(waits(&asks("mmm", &follows, 14, 0), "one at a time"));
    // A wait for a member names it.
    for at in [&leads, &follows] {
        assert!(waits(&asks("mmM", at, 99, 0), "m3 to answer"));
        assert!(waits(&asks("mM", at, 99, 0), "m2 to answer"));
    }
    // Three of five are left; but it may be starting again, unless it is silent for longer than that.
    assert!(waits(
        &asks_after("mmmmM", &leads, 99, 0, 29),
        "m5 to answer"
    ));
    assert_eq!(asks_after("mmmmM", &leads, 4, 0, 30), RestartTurn::Go);
    assert!(waits(&asks("mmmMM", &leads, 4, 0), "m4, m5"));
    assert_eq!(
        asks("mm", &leads, 4, 0),
        RestartTurn::Go,
        "two stand still in turn"
    );
    assert!(waits(&asks("mmm", &at(1, None), 99, 0), "a leader"));
}

#[test]
fn nobody_waits_for_a_turn_whom_nobody_counts_on() {
    for (members, own) in [
        ("m", at(1, Some(1))),
        ("lmm", at(1, Some(2))),
        ("mmm", at(9, Some(1))),
    ] {
        assert_eq!(asks(members, &own, 0, 0), RestartTurn::Go, "{members}");
    }
    // It does not answer: for a moment that is an election, for longer it takes no part.
    for members in ["Mmm", "MMM", "MM", "MmM"] {
        assert!(
            waits(&asks(members, &at(1, Some(2)), 99, 29), "this member"),
            "{members}"
        );
        assert_eq!(
            asks(members, &at(1, None), 0, 30),
            RestartTurn::Go,
            "{members}"
        );
    }
}

#[test]
fn a_leader_that_is_to_go_is_taken_out_first() {
    let (at, listed) = (at(1, Some(2)), listed("mmm"));
    let view = RestartView {
        at: &at,
        followed_for: Duration::from_secs(99),
        unwell_for: Duration::ZERO,
        silent_for: Duration::ZERO,
        listed: &listed,
        leader_goes: true,
    };
    assert!(waits(
        &turn(&view, &Pace::of(None)),
        "member 2 to be taken out"
    ));
    assert!(held(&view).is_some(), "the rest of the plan takes it out");
}

/// Members in a world with a raft of its own: one leads, a dead one does not, and what they know of each other is
/// stale.
struct World {
    members: Vec<Sim>,
    leader: Option<usize>,
    term: u64,
    elects_at: u64,
    random: u64,
}

#[derive(Clone, Default)]
struct Sim {
    needs_from: Option<u64>,
    down_until: u64,
    /// It was told to stop, has handed over the lead, and answers for a moment yet.
    answers_until: u64,
    follows: Option<(Option<usize>, u64, u64)>,
    looks_at: u64,
    silent_since: Option<u64>,
    /// The others, as they were asked; done with it at this time.
    asked: Option<(u64, u64, Vec<Listed>)>,
    /// systemd has the command.
    stops_at: Option<u64>,
}

impl World {
    fn random(&mut self, below: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below.max(1)
    }

    fn up(&self, n: usize, now: u64) -> bool {
        self.members[n].down_until <= now
    }

    fn list(&self, now: u64) -> Vec<Listed> {
        let one = |n: usize| Listed {
            id: format!("{:x}", n + 1),
            name: String::new(),
            learner: false,
            answers: (self.up(n, now) || now < self.members[n].answers_until)
                && self.leader.is_some(),
        };
        (0..self.members.len()).map(one).collect()
    }

    fn lead(&mut self, n: Option<usize>) {
        self.leader = n;
        self.term += 1;
    }

    /// A tick of 100 ms.
    fn tick(&mut self, now: u64) {
        let count = self.members.len();
        for n in 0..count {
            if self.members[n].stops_at.is_some_and(|at| at <= now) {
                self.members[n].stops_at = None;
                self.members[n].needs_from = None;
                self.members[n].answers_until = now + self.random(15);
                self.members[n].down_until = now + 20 + self.random(60);
                if self.leader == Some(n) {
                    // It hands the lead over, or the others take a while to notice.
                    let next = (0..count).rfind(|m| *m != n && self.up(*m, now));
                    let hands_over = self.random(2) == 0;
                    self.lead(next.filter(|_| hands_over));
                    self.elects_at = now + 10 + self.random(10);
                }
            }
        }
        let up: Vec<usize> = (0..count).filter(|n| self.up(*n, now)).collect();
        if self.leader.is_none() && now >= self.elects_at && up.len() > count / 2 {
            let next = up[usize::try_from(self.random(up.len() as u64)).expect("small")];
            self.lead(Some(next));
        }
        for n in 0..count {
            let due = self.members[n].needs_from.is_some_and(|from| from <= now);
            if due && self.up(n, now) && self.members[n].stops_at.is_none() {
                self.look(n, now);
            }
        }
    }

    fn at(&self, n: usize) -> Standpoint {
        Standpoint {
            own: format!("{:x}", n + 1),
            leader: self.leader.map(|l| format!("{:x}", l + 1)),
            term: self.term,
        }
    }

    fn silent_for(&mut self, n: usize, now: u64, listed: &[Listed]) -> Duration {
        let silent = listed.iter().enumerate().any(|(m, l)| m != n && !l.answers);
        let since = &mut self.members[n].silent_since;
        *since = since.filter(|_| silent).or(silent.then_some(now));
        Duration::from_millis(since.map_or(0, |since| (now - since) * 100))
    }

    fn look(&mut self, n: usize, now: u64) {
        let pace = Pace::of(None);
        match self.members[n].asked.take() {
            None if self.members[n].looks_at <= now => {
                let same = self.members[n]
                    .follows
                    .filter(|f| (f.0, f.1) == (self.leader, self.term));
                let since = same.map_or(now, |f| f.2);
                self.members[n].follows = Some((self.leader, self.term, since));
                let takes = self.random(30);
                self.members[n].asked = Some((now, now + takes, self.list(now)));
            }
            None => {}
            Some((began, done, listed)) if done > now => {
                self.members[n].asked = Some((began, done, listed));
            }
            Some((began, _, listed)) => {
                self.members[n].looks_at = now + 5;
                let (leader, term, since) = self.members[n].follows.expect("it looked");
                let at = Standpoint {
                    leader: leader.map(|l| format!("{:x}", l + 1)),
                    term,
                    ..self.at(n)
                };
                let view = RestartView {
                    at: &at,
                    followed_for: Duration::from_millis((began - since) * 100),
                    unwell_for: Duration::ZERO,
                    silent_for: self.silent_for(n, now, &listed),
                    listed: &listed,
                    leader_goes: false,
                };
                match turn(&view, &pace) {
                    RestartTurn::Wait(_) => {}
                    RestartTurn::TakeTheLead(_) => {
                        if self.leader == leader {
                            self.lead(Some(n));
                        }
                    }
                    RestartTurn::Go => {
                        if self.at(n) == at {
                            // As late as it may be.
                            self.members[n].stops_at = Some(now + self.random(10));
                        }
                    }
                }
            }
        }
    }
}

proptest! {
    /// Whatever comes late, whichever member leads, and however long a start takes: no two are down at a time, and
    /// each of them has been restarted in the end.
    #[test]
    fn one_is_down_at_a_time_and_everybody_has_his_turn(
        count in prop::sample::select(vec![2usize, 3, 5, 7]),
        needs in prop::collection::vec(prop::option::weighted(0.8, 0u64..120), 7),
        random in any::<u64>(),
    ) {
        let mut world = World {
            members: (0..count).map(|n| Sim { needs_from: needs[n], ..Sim::default() }).collect(),
            leader: Some(0),
            term: 1,
            elects_at: 0,
            random,
        };
        // Minutes, in tenths of a second.
        for now in 0..6000 {
            world.tick(now);
            let down = (0..count).filter(|n| !world.up(*n, now)).count();
            prop_assert!(down <= 1, "{down} are down at {now}");
        }
        let waiting = world.members.iter().filter(|m| m.needs_from.is_some()).count();
        prop_assert_eq!(waiting, 0, "they wait for ever");
    }
}
