//! `tunnel ping`: round trips of the protocol's own PING frames, end to end on every session.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::super::args::PingArgs;
use super::super::context::{ASK, CommandContext};
use super::super::output::{Ink, Screen, Show};
use super::{place, silent};
use crate::app::Exit;
use crate::local::Method;
use crate::model::{Fault, SessionPing, TunnelPing, paths};

/// Version of the report document.
const PING_SCHEMA: u32 = 1;

/// What all pings of one run brought.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(in super::super) struct PingReport {
    schema: u32,
    sessions: Vec<Summary>,
}

/// The pings of one session. Sums, not samples: a run may last for days.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Summary {
    slot: u8,
    endpoint: String,
    sent: u64,
    answered: u64,
    min_us: u64,
    avg_us: u64,
    max_us: u64,
    /// Standard deviation, as ping(8) computes it.
    mdev_us: u64,
}

/// Summaries in the making, by slot and endpoint.
#[derive(Debug, Default)]
pub(in super::super) struct Tallies(BTreeMap<(u8, String), Tally>);

#[derive(Debug, Default)]
struct Tally {
    sent: u64,
    answered: u64,
    min: u64,
    max: u64,
    sum: u128,
    squares: u128,
}

pub(super) async fn run(ctx: &CommandContext, args: &PingArgs) -> Result<Exit, Fault> {
    let client = ctx
        .socket(paths::COMMS_SOCKET)
        .map_err(|e| silent(ctx, "cannot ping the plane", &e))?;
    let mut tallies = Tallies::default();
    let mut seq = 0;
    loop {
        seq += 1;
        let asked = client.send::<_, TunnelPing>(Method::POST, "/v1/ping", &(), ASK);
        let answer = tokio::select! {
            // cancel-safe: a question that is dropped leaves nothing behind
            () = ctx.stop.cancelled() => break,
            answer = asked => answer.map_err(|e| silent(ctx, "cannot ping the plane", &e))?,
        };
        let sessions = answer.map(|a| a.sessions).unwrap_or_default();
        ctx.out.part(&round(seq, &sessions));
        for session in sessions {
            tallies.add(session);
        }
        if args.count.is_some_and(|count| seq >= count) {
            break;
        }
        tokio::select! {
            // cancel-safe: both are
            () = ctx.stop.cancelled() => break,
            () = tokio::time::sleep(args.interval) => {}
        }
    }
    let report = tallies.report();
    ctx.out.show(&report);
    Ok(match report.sessions.iter().any(|s| s.answered > 0) {
        true => Exit::Ok,
        false => Exit::Unavailable,
    })
}

/// The lines of one round.
pub(in super::super) fn round(seq: u64, sessions: &[SessionPing]) -> Screen {
    let mut screen = Screen::default();
    for session in sessions {
        let from = format!("session {} {}", session.slot, place(&session.endpoint));
        screen.line([match session.rtt_us {
            Some(us) => (Ink::Plain, format!("{from}: seq={seq} time={} ms", ms(us))),
            None => (Ink::Bad, format!("{from}: seq={seq} no answer")),
        }]);
    }
    if sessions.is_empty() {
        screen.line([(Ink::Bad, format!("seq={seq} no session is up"))]);
    }
    screen
}

impl Tallies {
    pub(in super::super) fn add(&mut self, ping: SessionPing) {
        let tally = self.0.entry((ping.slot, ping.endpoint)).or_default();
        tally.sent += 1;
        if let Some(us) = ping.rtt_us {
            tally.min = if tally.answered == 0 {
                us
            } else {
                tally.min.min(us)
            };
            tally.max = tally.max.max(us);
            tally.answered += 1;
            tally.sum += u128::from(us);
            tally.squares += u128::from(us).pow(2);
        }
    }

    pub(in super::super) fn report(self) -> PingReport {
        let sessions = self.0.into_iter();
        PingReport {
            schema: PING_SCHEMA,
            sessions: sessions.map(|(key, tally)| tally.summary(key)).collect(),
        }
    }
}

impl Tally {
    fn summary(&self, (slot, endpoint): (u8, String)) -> Summary {
        let n = u128::from(self.answered.max(1));
        let mean = self.sum / n;
        let variance = (self.squares / n).saturating_sub(mean.pow(2));
        Summary {
            slot,
            endpoint,
            sent: self.sent,
            answered: self.answered,
            min_us: self.min,
            avg_us: u64::try_from(mean).unwrap_or(u64::MAX),
            max_us: self.max,
            mdev_us: u64::try_from(variance.isqrt()).unwrap_or(u64::MAX),
        }
    }
}

impl Show for PingReport {
    fn screen(&self, _: usize) -> Screen {
        let mut screen = Screen::default();
        for s in &self.sessions {
            screen.gap();
            let head = format!("--- session {} {} ---", s.slot, place(&s.endpoint));
            screen.line([(Ink::Plain, head)]);
            let lost = (s.sent - s.answered) * 100 / s.sent.max(1);
            let counts = format!("{} sent, {} answered, {lost}% lost", s.sent, s.answered);
            screen.line([(Ink::Plain, counts)]);
            if s.answered > 0 {
                let [min, avg, max, mdev] = [s.min_us, s.avg_us, s.max_us, s.mdev_us].map(ms);
                let text = format!("rtt min/avg/max/mdev = {min}/{avg}/{max}/{mdev} ms");
                screen.line([(Ink::Plain, text)]);
            }
        }
        screen
    }
}

/// Milliseconds with three decimals, as ping(8) writes them.
fn ms(us: u64) -> String {
    format!("{}.{:03}", us / 1000, us % 1000)
}

/// What `--interval` takes: seconds.
pub(in super::super) fn interval(text: &str) -> Result<Duration, String> {
    /// Shorter would measure the asking.
    const MIN: f64 = 0.01;
    const MAX: f64 = 3600.0;
    let seconds: f64 = text.parse().map_err(|_| "it is not a number".to_owned())?;
    if !(MIN..=MAX).contains(&seconds) {
        return Err(format!("it must be {MIN} to {MAX} seconds"));
    }
    Ok(Duration::from_secs_f64(seconds))
}
