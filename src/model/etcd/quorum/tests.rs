use proptest::prelude::*;
use uuid::Uuid;

use super::*;

/// `x` leaves, `X` leaves and does not answer, `s` stays, `S` stays and does not answer.
fn votes(text: &str) -> Vec<Vote> {
    let one = |(i, c): (usize, char)| Vote {
        name: format!("m{}", i + 1),
        leaves: c.eq_ignore_ascii_case(&'x'),
        answers: c.is_lowercase(),
    };
    text.chars().enumerate().map(one).collect()
}

#[test]
fn who_may_leave() {
    for (text, may) in [
        ("xss", true),
        ("Xss", true),
        ("xsS", false),
        ("XsS", false),
        ("xs", true),
        ("Xs", false),
        ("xS", false),
        ("xxs", true),
        ("xXs", false),
        ("xXss", true),
        ("xssSS", false),
        ("XXsss", true),
        ("xsssS", true),
        ("x", false),
        ("sSS", true),
    ] {
        assert_eq!(may_leave(&votes(text)).is_ok(), may, "{text}");
    }
}

#[test]
fn a_no_says_who_does_not_answer_and_what_would_allow_it() {
    let loss = may_leave(&votes("xsS")).expect_err("no");
    assert_eq!(
        loss.to_string(),
        "etcd has 3 members with a vote, 2 of them answer; of the 2 left 1 would and 2 must; no answer from m3"
    );
    assert!(loss.fix().contains("remove its host first"));
    let loss = may_leave(&votes("xSS")).expect_err("no");
    assert!(loss.why().contains("1 of them answers; 2 must"), "{loss}");
    assert!(loss.fix().contains("restore a backup"));
}

fn host(n: u8) -> HostId {
    HostId(Uuid::from_bytes([n; 16]))
}

fn member(n: u8, learner: bool, answers: bool) -> Listed {
    Listed {
        id: format!("{n:x}"),
        name: host(n).to_string(),
        learner,
        answers,
    }
}

fn gone(n: u8, id: Option<&str>) -> EtcdGone {
    EtcdGone {
        host_id: host(n),
        member_id: id.map(str::to_owned),
    }
}

#[test]
fn only_who_was_named_is_taken_out_and_one_at_a_time() {
    let all = [
        member(1, false, true),
        member(2, false, true),
        member(3, false, false),
    ];
    let masters = [host(1), host(2)];
    let next = |gone: &[EtcdGone]| next_out(&all, gone, &masters, "me");
    assert_eq!(next(&[]), Out::Nobody);
    assert_eq!(next(&[gone(3, None)]), Out::Take(all[2].clone()));
    assert_eq!(next(&[gone(3, Some("0003"))]), Out::Take(all[2].clone()));
    // Of another member of that host, one of its past.
    assert_eq!(next(&[gone(3, Some("ff"))]), Out::Nobody);
    // Named by nothing but its host, and that is a master: it is not followed.
    assert_eq!(next(&[gone(2, None)]), Out::Nobody);
    // A healthy one while another is dead waits; the dead one goes first.
    let both = [gone(2, Some("2")), gone(3, None)];
    assert_eq!(next(&both), Out::Take(all[2].clone()));
    assert!(matches!(next(&both[..1]), Out::Waits(m, _) if m == all[1]));
    // Also where the healthy one could: a learner and the dead one cost the rest nothing.
    let four = [
        all[1].clone(),
        all[0].clone(),
        member(4, false, true),
        all[2].clone(),
        member(5, true, true),
    ];
    let mut named = vec![gone(2, Some("2")), gone(3, None), gone(5, None)];
    let first = |named: &[EtcdGone]| next_out(&four, named, &masters, "1");
    assert_eq!(first(&named), Out::Take(four[4].clone()));
    named.pop();
    assert_eq!(first(&named), Out::Take(four[3].clone()));
    assert_eq!(first(&named[..1]), Out::Take(four[0].clone()));
    // Nobody takes out itself.
    assert_eq!(next_out(&four, &named[..1], &masters, "2"), Out::Nobody);
}

proptest! {
    /// What is allowed can be done in any order, and at every instant those who answer are a quorum. What is
    /// refused has an order that loses it.
    #[test]
    fn what_is_allowed_never_loses_the_quorum(
        all in proptest::collection::vec(any::<(bool, bool, u8)>(), 1..9),
    ) {
        let mut order: Vec<(Vote, u8)> = all
            .iter()
            .map(|(leaves, answers, n)| (Vote { name: "m".into(), leaves: *leaves, answers: *answers }, *n))
            .collect();
        let votes: Vec<Vote> = order.iter().map(|(v, _)| v.clone()).collect();
        let quorum = |members: &[(Vote, u8)]| {
            members.iter().filter(|(v, _)| v.answers).count() > members.len() / 2
        };
        let keeps = |mut members: Vec<(Vote, u8)>| {
            let mut good = quorum(&members);
            while members.first().is_some_and(|(v, _)| v.leaves) {
                members.remove(0);
                good &= quorum(&members);
            }
            good
        };
        order.sort_by_key(|(v, n)| (!v.leaves, *n));
        let mut worst = order.clone();
        worst.sort_by_key(|(v, _)| (!v.leaves, !v.answers));
        let leave = votes.iter().any(|v| v.leaves);
        let may = may_leave(&votes).is_ok();
        prop_assert_eq!(may, !leave || keeps(worst));
        prop_assert!(!leave || !may || keeps(order));
    }

    /// etcd's own look at the removal of a member that runs: `(active - 1) < 1 + (members - 1) / 2` is no.
    #[test]
    fn for_a_member_that_runs_it_is_etcds_own_rule(
        others in proptest::collection::vec(any::<bool>(), 1..9),
    ) {
        let mut listed: Vec<Listed> = others
            .iter()
            .enumerate()
            .map(|(n, answers)| member(n as u8 + 2, false, *answers))
            .collect();
        listed.push(member(1, false, true));
        let active = 1 + others.iter().filter(|a| **a).count();
        let etcd = active > (listed.len() - 1) / 2 + 1;
        prop_assert_eq!(may_remove(&listed, "1").is_ok(), etcd);
    }

    /// Who is taken out was named, and those who are left are a quorum.
    #[test]
    fn nobody_is_taken_out_who_was_not_named(
        all in proptest::collection::vec(any::<(bool, bool, bool)>(), 1..9),
    ) {
        let listed: Vec<Listed> = all
            .iter()
            .enumerate()
            .map(|(n, (learner, answers, _))| member(n as u8 + 1, *learner, *answers))
            .collect();
        let named: Vec<EtcdGone> = all
            .iter()
            .enumerate()
            .filter(|(_, (_, _, named))| *named)
            .map(|(n, _)| gone(n as u8 + 1, None))
            .collect();
        match next_out(&listed, &named, &[], "me") {
            Out::Nobody => prop_assert!(named.is_empty()),
            Out::Take(taken) => {
                prop_assert!(named.iter().any(|g| g.host_id.to_string() == taken.name));
                let left = listed.iter().filter(|m| m.id != taken.id && !m.learner);
                let (votes, answer) = left.fold((0, 0), |(v, a), m| (v + 1, a + usize::from(m.answers)));
                prop_assert!(answer > votes / 2 || taken.learner);
                prop_assert!(answer > 0);
            }
            Out::Waits(member, _) => {
                prop_assert!(may_remove(&listed, &member.id).is_err());
            }
        }
    }
}

#[test]
fn who_may_stand_still_for_a_moment() {
    let of = |text: &str| -> Vec<Listed> {
        let one = |(n, c): (usize, char)| member(n as u8 + 1, c == 'l', c != 'M');
        text.chars().enumerate().map(one).collect()
    };
    for (members, may) in [
        ("m", true),
        ("lmm", true),
        ("mm", true),
        ("mM", false),
        ("mmm", true),
        ("Mmm", true),
        ("mmM", false),
        ("mmmM", false),
        ("mmmmM", true),
        ("mmmMM", false),
        ("mml", true),
    ] {
        assert_eq!(may_pause(&of(members), "1").is_ok(), may, "{members}");
    }
    let loss = may_pause(&of("mmM"), "1").expect_err("no");
    assert_eq!(loss.silent, [host(3).to_string()]);
}

#[test]
fn who_is_gone_and_leads_is_taken_out_by_the_first_of_the_others() {
    let listed = [
        member(9, false, true),
        member(0x10, false, true),
        member(3, false, false),
        member(2, true, true),
        member(4, false, true),
    ];
    let gone = [EtcdGone {
        host_id: host(9),
        member_id: None,
    }];
    let masters: Vec<HostId> = [0x10, 3, 2, 4].map(host).into();
    let acts = |leader: &str, gone: &[EtcdGone]| {
        who_acts(&listed, gone, &masters, leader).map(|m| m.id.clone())
    };
    // The leader acts; where it is to go itself, or there is none: the first that answers and has a vote, by number.
    assert_eq!(acts("10", &gone).as_deref(), Some("10"));
    assert_eq!(acts("9", &[]).as_deref(), Some("9"));
    assert_eq!(acts("9", &gone).as_deref(), Some("4"));
    assert_eq!(acts("", &gone).as_deref(), Some("4"));
    let out = next_out(&listed, &gone, &masters, "4");
    assert!(matches!(out, Out::Take(m) if m.id == "9"));
}
