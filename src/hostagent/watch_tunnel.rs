//! Task: when the certificates of the tunnel end, as comms says. It owns them; the status document
//! has to tell of them.

use std::time::Duration;

use super::Agent;
use super::spool::Topic;
use crate::local::Client;
use crate::model::{Expiry, Fault, Timestamp, TunnelStatus, paths};

/// A certificate of a year does not change faster than anybody reads of it.
const EVERY_MAX: Duration = Duration::from_secs(60);
/// One that lives for seconds is looked at as often.
const EVERY_MIN: Duration = Duration::from_secs(1);
/// comms answers from memory.
const ASK: Duration = Duration::from_secs(5);

pub(super) async fn run(agent: Agent) {
    loop {
        match ask(&agent).await {
            Ok(status) => {
                tell(&agent, &status.certificates);
                agent.board.set(|f| &mut f.tunnel, status.certificates);
            }
            // What was said last still holds: a certificate does not end later because comms is down.
            Err(fault) => tracing::debug!(code = fault.code.word(), "{fault}"),
        }
        let wait = agent.board.read(|f| pause(&f.tunnel, agent.now()));
        tokio::time::sleep(wait).await;
    }
}

/// A renewal is an event, once.
fn tell(agent: &Agent, all: &[Expiry]) {
    for Expiry {
        name, not_after, ..
    } in all
    {
        let topic = Topic {
            name: format!("certificate/tunnel/{name}"),
            value: not_after.to_string(),
            idle: None,
        };
        let message = format!("certificate {name} of the tunnel is valid until {not_after}");
        agent
            .events
            .emit_about(topic, "certificate-new", message, None);
    }
}

async fn ask(agent: &Agent) -> Result<TunnelStatus, Fault> {
    let failed = |e: crate::local::LocalError| e.fault("comms does not report its certificates");
    let client = Client::unix(agent.fs.at(paths::COMMS_SOCKET)).map_err(failed)?;
    client.get("/v1/status", ASK).await.map_err(failed)
}

/// A tenth of what is left of the one that ends first.
fn pause(all: &[Expiry], now: Timestamp) -> Duration {
    let left = all.iter().map(|e| e.not_after.duration_since(now)).min();
    let left = left.and_then(|left| Duration::try_from(left).ok());
    left.map_or(EVERY_MIN, |left| (left / 10).clamp(EVERY_MIN, EVERY_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_soon_is_looked_at_often() {
        let at = |s| Timestamp::from_second(s).expect("time");
        let pause = |ends: &[i64]| {
            let all: Vec<_> = ends.iter().map(|s| Expiry::new("x", at(*s))).collect();
            pause(&all, at(1000)).as_secs()
        };
        assert_eq!(pause(&[]), 1, "nothing is known yet");
        assert_eq!(pause(&[900]), 1);
        assert_eq!(pause(&[1200, 9_000_000]), 20);
        assert_eq!(pause(&[9_000_000]), 60);
    }
}
