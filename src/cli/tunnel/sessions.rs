//! `tunnel status`: every session and what the kernel knows of it.

use serde::Serialize;

use super::super::context::CommandContext;
use super::super::output::{Ink, Screen, Show};
use super::super::words::{ago, bytes, rtt, span, until};
use super::{place, silent};
use crate::app::Exit;
use crate::model::{Fault, SessionState, SessionStatus, Timestamp, TunnelStatus, paths};

/// What comms says, and when it was asked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in super::super) struct Sessions {
    /// When.
    pub(in super::super) taken_at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub(in super::super) tunnel: TunnelStatus,
}

pub(super) async fn run(ctx: &CommandContext) -> Result<Exit, Fault> {
    let tunnel = ctx.get(paths::COMMS_SOCKET, "/v1/status").await;
    let tunnel = tunnel.map_err(|e| silent(ctx, "cannot show the tunnel", &e))?;
    let report = Sessions {
        taken_at: ctx.now(),
        tunnel,
    };
    ctx.out.show(&report);
    let up = |s: &SessionStatus| matches!(s.state, SessionState::Connected { .. });
    Ok(match report.tunnel.sessions.iter().any(up) {
        true => Exit::Ok,
        false => Exit::Unavailable,
    })
}

impl Show for Sessions {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        for session in &self.tunnel.sessions {
            screen.gap();
            lines(&mut screen, session, self.taken_at, width);
        }
        if self.tunnel.sessions.is_empty() {
            screen.gap();
            screen.line([(Ink::Plain, "  there is no session".to_owned())]);
        }
        screen.gap();
        screen
    }
}

fn lines(screen: &mut Screen, session: &SessionStatus, now: Timestamp, width: usize) {
    let where_to = place(session.endpoint.as_deref().unwrap_or("no endpoint"));
    let (ink, mark, words) = match session.state {
        SessionState::Connected { since } => {
            let words = format!("connected for {}", span(now.duration_since(since)));
            (Ink::Good, "✓", words)
        }
        SessionState::Draining { until: end, .. } => {
            let words = format!("draining, cut {}", until(now, end));
            (Ink::Warn, "…", words)
        }
        SessionState::Connecting => (Ink::Warn, "…", "connecting".to_owned()),
        SessionState::Waiting { next_try } => {
            let words = format!("down, next try {}", until(now, next_try));
            (Ink::Bad, "✗", words)
        }
    };
    let label = format!("session {}", session.slot);
    let text = format!("{words} · {where_to}");
    screen.pieces(
        &label,
        vec![(ink, format!("{mark} ")), (Ink::Plain, text)],
        width,
    );
    if has_numbers(session.state) {
        let mut parts: Vec<String> = session.rtt_us.map(rtt).into_iter().collect();
        if let (Some(part), Some(jitter)) = (parts.first_mut(), session.jitter_us) {
            part.push_str(&format!(" ± {}", rtt(jitter)));
        }
        parts.push(match session.streams {
            1 => "1 stream".to_owned(),
            n => format!("{n} streams"),
        });
        parts.push(format!("{} in", bytes(session.bytes_in)));
        parts.push(format!("{} out", bytes(session.bytes_out)));
        if session.reconnects > 0 {
            parts.push(format!("reconnected {} times", session.reconnects));
        }
        screen.row("", Ink::Plain, &parts.join(" · "), width);
        if let Some(tcp) = session.tcp {
            let text = format!(
                "{} ± {} · window {} segments · {} unacknowledged · {} lost · {} sent again",
                rtt(tcp.rtt_us.into()),
                rtt(tcp.rttvar_us.into()),
                tcp.cwnd,
                tcp.unacked,
                tcp.lost,
                tcp.retransmits
            );
            screen.row("kernel", Ink::Plain, &text, width);
        }
    } else if let Some(at) = session.last_contact {
        screen.row("last heard", Ink::Plain, &ago(now, at), width);
    }
    if let Some(end) = &session.last_end {
        let text = format!("{}: {}", ago(now, end.at), end.fault);
        screen.row("last end", Ink::Dim, &text, width);
    }
}

fn has_numbers(state: SessionState) -> bool {
    match state {
        SessionState::Connected { .. } | SessionState::Draining { .. } => true,
        SessionState::Connecting | SessionState::Waiting { .. } => false,
    }
}
