//! The fleet's roll as metrics for alerts and graphs, from what the plane itself knows.

use super::{AgentRoll, Part, Stand, runner};
use crate::refusal::Answer;
use crate::rolls::State;
use crate::store::Read;
use pf9_hostagent::telemetry::{MetricKind, MetricsText};

/// Metrics of the newest roll; `None` if there never was one.
pub(crate) fn of(rows: &impl Read) -> Answer<Option<MetricsText>> {
    let (roll, parts) = runner::load(rows)?;
    Ok(roll.map(|roll| text(&roll, roll.own(&parts).map(|(_, part)| part))))
}

fn text<'a>(roll: &AgentRoll, parts: impl Iterator<Item = &'a Part>) -> MetricsText {
    let mut text = MetricsText::default();
    let to = roll.to.to_string();
    let mut gauge = |name, help, value| {
        text.head(name, MetricKind::Gauge, help);
        text.row(name, &[("to", &to)], value);
    };
    let one = |yes: bool| f64::from(u8::from(yes));
    let help = "1 while an agent rollout is under way, also while it is paused or stopped.";
    gauge("pf9_agent_roll_under_way", help, one(roll.is_under_way()));
    let help = "1 while it is stopped because a host failed or was silent: a person is needed.";
    let stopped = roll.state == State::Stopped;
    gauge("pf9_agent_roll_stopped", help, one(stopped));
    let help = "The share of the fleet that it has reached, from 0 to 1.";
    let share = roll.policy.shares.get(roll.share).copied();
    gauge(
        "pf9_agent_roll_share_ratio",
        help,
        f64::from(share.unwrap_or(100)) / 100.0,
    );
    let help = "When it started.";
    let began = roll.began_at.as_second();
    gauge("pf9_agent_roll_began_seconds", help, began as f64);

    let mut hosts = [
        ("waiting", 0u32),
        ("told", 0),
        ("done", 0),
        ("failed", 0),
        ("late", 0),
        ("left-out", 0),
    ];
    for part in parts {
        let [waiting, told, done, failed, late, left_out] = &mut hosts;
        let (_, count) = match part.stand {
            Stand::Waiting => waiting,
            Stand::Told => told,
            Stand::Done => done,
            Stand::Failed => failed,
            Stand::Late => late,
            Stand::LeftOut => left_out,
        };
        *count += 1;
    }
    let name = "pf9_agent_roll_hosts";
    let help = "Hosts in it, by outcome: failed ones rolled themselves back or refused, late ones are silent.";
    text.head(name, MetricKind::Gauge, help);
    for (stand, count) in hosts {
        text.row(name, &[("to", &to), ("stand", stand)], f64::from(count));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::tests::{roll, v};

    #[test]
    fn metrics_show_progress_and_failures() {
        let mut roll = roll("0.2.1", &[10, 50, 100]);
        (roll.state, roll.share) = (State::Stopped, 1);
        let stands = [
            Stand::Done,
            Stand::Done,
            Stand::Failed,
            Stand::Late,
            Stand::Waiting,
        ];
        let parts = stands.map(|stand| Part {
            stand,
            ..Part::new(Some(v("0.2.0")), v("0.2.1"))
        });
        let text = String::from(text(&roll, parts.iter()));
        let samples: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
        let began = format!(
            "pf9_agent_roll_began_seconds{{to=\"0.2.1\"}} {}",
            roll.began_at.as_second()
        );
        assert_eq!(
            samples,
            [
                "pf9_agent_roll_under_way{to=\"0.2.1\"} 1",
                "pf9_agent_roll_stopped{to=\"0.2.1\"} 1",
                "pf9_agent_roll_share_ratio{to=\"0.2.1\"} 0.5",
                &began,
                "pf9_agent_roll_hosts{to=\"0.2.1\",stand=\"waiting\"} 1",
                "pf9_agent_roll_hosts{to=\"0.2.1\",stand=\"told\"} 0",
                "pf9_agent_roll_hosts{to=\"0.2.1\",stand=\"done\"} 2",
                "pf9_agent_roll_hosts{to=\"0.2.1\",stand=\"failed\"} 1",
                "pf9_agent_roll_hosts{to=\"0.2.1\",stand=\"late\"} 1",
                "pf9_agent_roll_hosts{to=\"0.2.1\",stand=\"left-out\"} 0",
            ]
        );
    }
}
