//! The host that this machine is, and the agent that keeps it one: judged here, gathered by the caller.

use super::{Finding, Thresholds};
use crate::model::{Expiry, Fault, FaultCode, HostId, Timestamp};

/// What the checks of identity and agent look at.
#[derive(Clone, Debug)]
pub struct AgentSeen {
    /// The clock.
    pub now: Timestamp,
    /// Its host id; none: it is not enrolled.
    pub host_id: Option<HostId>,
    /// The unusable part of the identity.
    pub identity: Option<Fault>,
    /// Why not all of it could be read.
    pub not_read: Option<String>,
    /// When each certificate ends.
    pub certificates: Vec<Expiry>,
    /// Why the configuration cannot be used.
    pub config: Option<Fault>,
    /// Whether the daemons do what they should.
    pub daemons: Daemons,
    /// The tunnel is up.
    pub connected: bool,
    /// When the plane last took a status.
    pub heard: Option<Timestamp>,
}

/// The daemons of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Daemons {
    /// Each with its state and how often it was restarted, e.g. `comms`, `running`, 0.
    pub states: Vec<(String, String, u32)>,
    /// What is wrong with them.
    pub fault: Option<Fault>,
}

/// What all of these say where the machine is no host.
const NO_HOST: &str = "this machine is not a host of a plane; pf9ctl node prep makes it one";

fn no_host(wanted: &str) -> Finding {
    Finding::new("not a host", wanted).skip(NO_HOST)
}

pub(super) fn identity(seen: &AgentSeen) -> Finding {
    let wanted = "key, certificate and authorities match, and are this machine's";
    let Some(host) = seen.host_id else {
        return match &seen.identity {
            Some(fault) => of(Finding::new("cannot be read", wanted), fault),
            None => no_host(wanted),
        };
    };
    let finding = Finding::new(format!("host {host}"), wanted);
    match (&seen.identity, &seen.not_read) {
        (Some(fault), _) => of(finding, fault),
        (None, Some(why)) => finding.skip(why.clone()),
        (None, None) => finding,
    }
}

fn of(finding: Finding, fault: &Fault) -> Finding {
    let finding = finding.fail(fault.why.clone(), fault.fix.clone());
    finding.code(fault.code)
}

pub(super) fn certificates(seen: &AgentSeen) -> Finding {
    let days = Thresholds::ours().certificates.days_good;
    let wanted = format!("each valid for {days} days or more, or renewed by then");
    if seen.host_id.is_none() {
        return no_host(&wanted);
    }
    if seen.certificates.is_empty() {
        return Finding::new("none seen", wanted).skip("only root, or a running agent, knows them");
    }
    let left = |c: &Expiry| c.not_after.duration_since(seen.now);
    let in_days = |c: &Expiry| left(c).as_secs().div_euclid(86_400);
    let lines: Vec<String> = seen
        .certificates
        .iter()
        .map(|c| format!("{}: {}", c.name, life(in_days(c), c.not_after)))
        .collect();
    let soonest = seen.certificates.iter().min_by_key(|c| c.not_after);
    let found = soonest.map_or_else(String::new, |c| {
        let many = seen.certificates.len();
        format!(
            "{many}, {} expires first: {}",
            c.name,
            life(in_days(c), c.not_after)
        )
    });
    let finding = Finding::new(found, wanted).evidence(lines);
    let warnings: Vec<Fault> = seen
        .certificates
        .iter()
        .filter_map(|c| c.warning(seen.now))
        .collect();
    let expired = warnings
        .iter()
        .find(|w| w.code == FaultCode::CertificateExpired);
    let fix = |fault: &Fault| match fault.fix.is_empty() {
        true => {
            "let the agent reach the plane: it renews them automatically (pf9ctl status)".to_owned()
        }
        false => fault.fix.clone(),
    };
    if let Some(fault) = expired {
        let why = format!("{}: {}", fault.what, fault.why);
        return finding.fail(why, fix(fault)).code(fault.code);
    }
    if let Some(fault) = warnings.first() {
        let why = format!("{}: {}", fault.what, fault.why);
        return finding.warn(why, fix(fault)).code(fault.code);
    }
    // One that is renewed by itself has a time for that, and warns when it is late.
    let short = |c: &&Expiry| c.renew_at.is_none() && in_days(c) < days;
    match seen.certificates.iter().find(short) {
        Some(c) => finding.warn(
            format!("{} expires soon, and nothing is known to renew it", c.name),
            "check its authorities on the plane: pf9-plane keys list",
        ),
        None => finding,
    }
}

fn life(days: i64, end: Timestamp) -> String {
    let end = end.strftime("%Y-%m-%d");
    match days {
        d if d < 0 => format!("ended {end}"),
        0 => format!("less than a day, until {end}"),
        1 => format!("1 day, until {end}"),
        d => format!("{d} days, until {end}"),
    }
}

pub(super) fn configuration(seen: &AgentSeen) -> Finding {
    let wanted = "every key known, every value in its range";
    match &seen.config {
        None => Finding::new("can be used", wanted),
        Some(fault) => of(Finding::new("cannot be used", wanted), fault),
    }
}

pub(super) fn daemons(seen: &AgentSeen) -> Finding {
    let wanted = "comms and hostagent run, nodelet waits for its socket or runs";
    if seen.host_id.is_none() {
        return no_host(wanted);
    }
    let said: Vec<String> = seen
        .daemons
        .states
        .iter()
        .map(|(name, state, _)| format!("{name} {state}"))
        .collect();
    let finding = Finding::new(said.join(", "), wanted);
    if let Some(fault) = &seen.daemons.fault {
        return of(finding, fault);
    }
    let most = Thresholds::ours().agent.restarts_good;
    let again = seen.daemons.states.iter().find(|(_, _, n)| *n > most);
    match again {
        None => finding,
        Some((name, _, n)) => finding.warn(
            format!("{name} was restarted {n} times since boot"),
            format!("journalctl -u pf9-{name} shows why it exited"),
        ),
    }
}

pub(super) fn connection(seen: &AgentSeen) -> Finding {
    let most = Thresholds::ours().agent.heard_good_s;
    let wanted = format!("the tunnel is up, and a status was accepted within {most} s");
    if seen.host_id.is_none() {
        return no_host(&wanted);
    }
    if seen.daemons.fault.is_some() {
        return Finding::new("not known", wanted).skip("the daemons that know do not answer");
    }
    let ago = seen
        .heard
        .map(|at| seen.now.duration_since(at).as_secs().max(0));
    let heard = ago.map_or_else(
        || "the plane has not accepted a status of this host".to_owned(),
        |s| format!("the plane accepted a status {s} s ago"),
    );
    let finding = match seen.connected {
        true => Finding::new(format!("connected; {heard}"), wanted),
        false => Finding::new(format!("not connected; {heard}"), wanted),
    };
    if seen.connected && ago.is_some_and(|s| s <= most) {
        return finding;
    }
    finding.warn(
        "the node continues with its last orders; it gets no new ones",
        "pf9ctl status says why and when the next try is; pf9ctl proxy test tests the way",
    )
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::super::CheckOutcome;
    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().expect("time")
    }

    fn host() -> AgentSeen {
        let end = |days: i64| now() + SignedDuration::from_hours(24 * days);
        AgentSeen {
            now: now(),
            host_id: Some(HostId::random()),
            identity: None,
            not_read: None,
            certificates: vec![
                Expiry::new("plane-ca", end(3000)),
                Expiry::new("host", end(310)),
            ],
            config: None,
            daemons: Daemons {
                states: vec![("comms".into(), "running".into(), 0)],
                fault: None,
            },
            connected: true,
            heard: Some(now() - SignedDuration::from_secs(30)),
        }
    }

    type CheckRule = fn(&AgentSeen) -> Finding;

    #[test]
    fn a_good_host_passes_and_what_is_no_host_is_left_out() {
        let all: [CheckRule; 5] = [identity, certificates, configuration, daemons, connection];
        for rule in all {
            let finding = rule(&host());
            assert_eq!(finding.outcome, CheckOutcome::Ok, "{finding:?}");
        }
        let mut bare = host();
        bare.host_id = None;
        for rule in [identity as CheckRule, certificates, daemons, connection] {
            assert_eq!(rule(&bare).outcome, CheckOutcome::Skip);
        }
        assert!(
            certificates(&host())
                .found
                .contains("host expires first: 310 days")
        );
    }

    #[test]
    fn each_defect_is_named() {
        let fault =
            || Fault::new(FaultCode::IdentityDamaged, "x", "the key is broken").fix("enrol");
        type Case = (
            fn(&mut AgentSeen, Fault),
            CheckRule,
            CheckOutcome,
            &'static str,
        );
        let cases: [Case; 9] = [
            (
                |s, f| s.identity = Some(f),
                identity,
                CheckOutcome::Fail,
                "the key is broken",
            ),
            (
                |s, f| {
                    s.host_id = None;
                    s.identity = Some(f);
                },
                identity,
                CheckOutcome::Fail,
                "broken",
            ),
            (
                |s, _| s.certificates[1].not_after = s.now,
                certificates,
                CheckOutcome::Fail,
                "expired",
            ),
            (
                |s, _| s.certificates[0].not_after = s.now + SignedDuration::from_hours(30),
                certificates,
                CheckOutcome::Warn,
                "plane-ca expires soon",
            ),
            (
                |s, f| s.config = Some(f),
                configuration,
                CheckOutcome::Fail,
                "broken",
            ),
            (
                |s, f| s.daemons.fault = Some(f),
                daemons,
                CheckOutcome::Fail,
                "broken",
            ),
            (
                |s, _| s.daemons.states[0].2 = 9,
                daemons,
                CheckOutcome::Warn,
                "9 times",
            ),
            (
                |s, _| s.connected = false,
                connection,
                CheckOutcome::Warn,
                "last orders",
            ),
            (
                |s, _| s.heard = None,
                connection,
                CheckOutcome::Warn,
                "last orders",
            ),
        ];
        for (spoil, rule, outcome, words) in cases {
            let mut seen = host();
            spoil(&mut seen, fault());
            let finding = rule(&seen);
            assert_eq!(finding.outcome, outcome, "{finding:?}");
            assert!(finding.why.contains(words), "{finding:?}");
            assert!(!finding.fix.is_empty(), "{finding:?}");
        }
    }
}
