//! Until the plane has a report of the host, with the reason when it has none.

use std::time::Duration;

use crate::cli::context::CommandContext;
use crate::cli::output::Ink;
use crate::model::{Fault, FaultCode, HostStatus, Timestamp, TunnelState, TunnelStatus, paths};

/// A plane that is near has heard of the host by then: until then it is asked more often.
const SOON: Duration = Duration::from_secs(2);

/// Waits until the tunnel is up and the plane has taken a status that was sent after `since`.
pub(super) async fn heard(
    ctx: &CommandContext,
    longest: Duration,
    since: Timestamp,
) -> Result<Option<u64>, Fault> {
    let began = tokio::time::Instant::now();
    let deadline = began + longest;
    let mut up = false;
    let mut rtt = None;
    let mut last: Option<Fault> = None;
    loop {
        let tunnel = ctx
            .get::<TunnelStatus>(paths::COMMS_SOCKET, "/v1/status")
            .await;
        match tunnel {
            Ok(tunnel) => {
                rtt = tunnel.rtt_us.or(rtt);
                let now_up = matches!(tunnel.state, TunnelState::Connected { .. });
                if now_up && !up {
                    ctx.out.step(Ink::Good, "tunnel is up");
                }
                up = now_up;
                if !up {
                    last = tunnel.last_fault.or(last);
                }
            }
            Err(e) => last = Some(e.fault("comms does not answer")),
        }
        if up {
            let status = ctx
                .get::<HostStatus>(paths::HOSTAGENT_SOCKET, "/v1/status")
                .await;
            match status {
                Ok(s) if s.acknowledged_at.is_some_and(|at| at >= since) => {
                    ctx.out
                        .step(Ink::Good, "the plane has accepted a status of this host");
                    return Ok(rtt);
                }
                Ok(_) => {}
                Err(e) => last = Some(e.fault("hostagent does not answer")),
            }
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(late(up, longest, last));
        }
        let what = match up {
            true => "waiting until the plane accepts the first status",
            false => "waiting for the tunnel",
        };
        let (passed, most) = (began.elapsed().as_secs(), longest.as_secs());
        ctx.out
            .waiting(&format!("{what}: {passed} of at most {most} s"));
        let pause = match began.elapsed() < SOON {
            true => ctx.pause / 5,
            false => ctx.pause,
        };
        tokio::time::sleep(pause).await;
    }
}

fn late(up: bool, longest: Duration, last: Option<Fault>) -> Fault {
    let what = match up {
        true => "the plane has not accepted a status of this host",
        false => "the tunnel to the plane did not come up",
    };
    let why = match &last {
        Some(fault) => format!("{}: {}", fault.what, fault.why),
        None => "no reason was reported".to_owned(),
    };
    let code = match &last {
        Some(fault) if !up => fault.code,
        Some(_) | None => FaultCode::PlaneTimeout,
    };
    let fix = match last {
        Some(fault) if !fault.fix.is_empty() => fault.fix,
        Some(_) | None => "see journalctl -u 'pf9-*'".to_owned(),
    };
    Fault::new(code, format!("{what} within {} s", longest.as_secs()), why).fix(fix)
}

/// The tunnel is up, and how long a round trip takes.
pub(super) async fn connected(ctx: &CommandContext) -> Option<Option<u64>> {
    let status = ctx
        .get::<TunnelStatus>(paths::COMMS_SOCKET, "/v1/status")
        .await;
    let status = status.ok()?;
    matches!(status.state, TunnelState::Connected { .. }).then_some(status.rtt_us)
}
