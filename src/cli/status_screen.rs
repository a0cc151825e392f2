//! The status report as one screen. Pure: the same report gives the same lines.

use super::maintenance;
use super::output::{Ink, Screen, Show};
use super::status::{Overall, StatusReport, UnitReport, rows};
use super::words::{ago, rtt, size, span, took, until};
use crate::model::{
    AgentStage, AgentStatus, DownloadStatus, NodeStatus, PackageDatabase, PhaseId, PhaseState,
    PhaseStatus, Role, SessionKind, SessionState, SessionStatus, Timestamp, TunnelState,
    TunnelStatus, UpgradeStage, UpgradeState, UpgradeStatus,
};

impl Show for StatusReport {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        headline(&mut screen, self, width);
        reason(&mut screen, self, width);
        screen.gap();
        if let Some(id) = self.host_id {
            screen.row("host", Ink::Plain, &id.to_string(), width);
        }
        tunnel(&mut screen, self, width);
        // Before prep-node nothing runs, and that is as it should be.
        if self.state != Overall::NotPrepared {
            units(&mut screen, "agent", &self.agent, Some(self.version), width);
        }
        units(&mut screen, "node", &self.services, None, width);
        machine(&mut screen, self, width);
        if let Some(node) = &self.node {
            phases(&mut screen, node, self.taken_at, width);
        }
        screen.gap();
        screen
    }
}

fn headline(screen: &mut Screen, report: &StatusReport, width: usize) {
    let block = match report.state {
        Overall::Ok | Overall::Idle => Ink::GoodBlock,
        Overall::Converging | Overall::Offline | Overall::Maintenance => Ink::WarnBlock,
        Overall::Retrying => Ink::WarnBlock,
        Overall::Failed | Overall::AgentDown | Overall::NotPrepared => Ink::BadBlock,
    };
    let mut tail = vec![report.host_name.clone()];
    match &report.node {
        Some(node) if node.role != Role::None => {
            let role = match node.role {
                Role::Master => "master",
                Role::Worker => "worker",
                Role::None => "no role",
            };
            tail.push(match node.cluster_id {
                Some(id) => format!("{role} in cluster {id}"),
                None => role.to_owned(),
            });
        }
        Some(_) | None if report.state == Overall::Idle => {
            tail.push("a host without a role: attach it to a cluster on the plane".to_owned());
        }
        Some(_) | None => {}
    }
    let state = format!(" {} ", report.state.as_str().to_uppercase());
    let tail = tail.join(" · ");
    let room = width.saturating_sub(state.chars().count() + 4);
    let room = room.min(tail.chars().count());
    let gap = || (Ink::Plain, "  ".to_owned());
    screen.gap();
    let lead = vec![gap(), (block, state), gap()];
    screen.cells(lead, (Ink::Bold, tail.as_str()), room, Vec::new());
}

fn reason(screen: &mut Screen, report: &StatusReport, width: usize) {
    let Some(fault) = &report.reason else { return };
    screen.gap();
    screen.row("what", Ink::Bold, &fault.what, width);
    screen.row("why", Ink::Plain, &fault.why, width);
    if !fault.fix.is_empty() {
        screen.row("what to do", Ink::Plain, &fault.fix, width);
    }
    let attempts = report.node.as_ref().map_or(0, |n| n.attempts);
    // The end of a maintenance is a row of its own.
    let maintenance = report.state == Overall::Maintenance;
    if let Some(at) = fault.next_try.filter(|_| !maintenance) {
        let times = match attempts {
            0 => String::new(),
            n => format!(", {n} failed so far"),
        };
        let text = format!("{}{times}", until(report.taken_at, at));
        screen.row("next try", Ink::Plain, &text, width);
    }
}

fn tunnel(screen: &mut Screen, report: &StatusReport, width: usize) {
    let now = report.taken_at;
    match &report.tunnel {
        Some(tunnel) => {
            let (ink, text) = tunnel_words(tunnel, now);
            screen.pieces("tunnel", vec![mark(ink), (Ink::Plain, text)], width);
            if let Some(text) = limit(tunnel) {
                screen.row("", Ink::Warn, text, width);
            }
            for text in others(tunnel, now) {
                screen.row("", Ink::Warn, &text, width);
            }
        }
        None if report.host_id.is_some() => {
            screen.pieces(
                "tunnel",
                vec![
                    mark(Ink::Bad),
                    (Ink::Plain, "unknown: comms does not answer".into()),
                ],
                width,
            );
        }
        None => {}
    }
    let heard = report.tunnel.as_ref().and_then(|t| t.last_contact);
    let mut plane = Vec::new();
    if let Some(at) = heard {
        plane.push(format!("last heard {}", ago(now, at)));
    }
    if let Some(at) = report.acknowledged_at {
        plane.push(format!("accepted our status {}", ago(now, at)));
    }
    if let Some(generation) = report.generation.filter(|g| g.0 > 0) {
        plane.push(format!("spec {generation}"));
    }
    if !plane.is_empty() {
        screen.row("plane", Ink::Plain, &plane.join(" · "), width);
    }
    if let Some(refused) = &report.refused {
        screen.row("refused", Ink::Warn, &refused.to_string(), width);
    }
}

fn tunnel_words(tunnel: &TunnelStatus, now: Timestamp) -> (Ink, String) {
    let place = tunnel.endpoint.as_deref().unwrap_or("no endpoint");
    // The path is the same everywhere.
    let place = place.trim_end_matches("/v1/tunnel");
    match tunnel.state {
        TunnelState::Connected { since } => {
            let mut parts = vec![format!("connected for {}", span(now.duration_since(since)))];
            parts.extend(tunnel.rtt_us.map(rtt));
            if let (up, all @ 2..) = slots(tunnel) {
                parts.push(format!("{up} of {all} sessions"));
            }
            parts.push(place.to_owned());
            let ink = limit(tunnel).map_or(Ink::Good, |_| Ink::Warn);
            (ink, parts.join(" · "))
        }
        TunnelState::Connecting => (Ink::Warn, format!("connecting · {place}")),
        TunnelState::Waiting { next_try } => (
            Ink::Bad,
            format!("down · next try {} · {place}", until(now, next_try)),
        ),
        TunnelState::NotEnrolled => (Ink::Bad, "not enrolled".to_owned()),
    }
}

/// What the sessions are not good for, if none is good for everything.
fn limit(tunnel: &TunnelStatus) -> Option<&'static str> {
    let up = |s: &&SessionStatus| matches!(s.state, SessionState::Connected { .. });
    let best = tunnel.sessions.iter().filter(up).map(|s| s.kind).min();
    match best {
        Some(SessionKind::Full) | None => None,
        Some(SessionKind::RenewalOnly) => {
            Some("only to renew the host certificate, which has expired")
        }
        Some(SessionKind::RemovalOnly) => {
            Some("only to deliver the order of removal: the plane removed this host")
        }
    }
}

/// Sessions that carry streams, and all that should.
fn slots(tunnel: &TunnelStatus) -> (usize, usize) {
    let count = |wanted: fn(&SessionState) -> bool| {
        let states = tunnel.sessions.iter().map(|s| &s.state);
        states.filter(|s| wanted(s)).count()
    };
    let old = count(|s| matches!(s, SessionState::Draining { .. }));
    let up = count(|s| matches!(s, SessionState::Connected { .. }));
    (up, tunnel.sessions.len() - old)
}

/// Sessions that are down beside one that is up: the plane is reached, but by one way less.
fn others(tunnel: &TunnelStatus, now: Timestamp) -> Vec<String> {
    if !matches!(tunnel.state, TunnelState::Connected { .. }) {
        return Vec::new();
    }
    let down = tunnel.sessions.iter().filter_map(|s| match s.state {
        SessionState::Waiting { next_try } => Some((s, next_try)),
        SessionState::Connecting
        | SessionState::Connected { .. }
        | SessionState::Draining { .. } => None,
    });
    down.map(|(s, next_try)| {
        let why = s.last_end.as_ref().map(|e| e.fault.to_string());
        let why = why.map(|w| format!(" · {w}")).unwrap_or_default();
        format!(
            "session {} down, next try {}{why}",
            s.slot,
            until(now, next_try)
        )
    })
    .collect()
}

fn units(
    screen: &mut Screen,
    label: &str,
    units: &[UnitReport],
    version: Option<&str>,
    width: usize,
) {
    if units.is_empty() {
        return;
    }
    let mut pieces = Vec::new();
    for unit in units {
        pieces.push(mark(if unit.good { Ink::Good } else { Ink::Bad }));
        let plain = matches!(unit.state.as_str(), "running" | "done");
        let state = match plain {
            true => String::new(),
            false => format!(" {}", unit.state),
        };
        let restarts = match unit.restarts {
            0 => String::new(),
            n => format!(" ({n} restarts)"),
        };
        pieces.push((Ink::Plain, format!("{}{state}{restarts}   ", unit.name)));
    }
    pieces.extend(version.map(|v| (Ink::Dim, format!("version {v}"))));
    screen.pieces(label, pieces, width);
}

/// The version that is ordered: nothing is said of a host that has never had an order.
fn change(screen: &mut Screen, now: &AgentStatus, width: usize) {
    let Some(wanted) = &now.wanted else { return };
    let (ink, mut text) = match now.stage {
        AgentStage::Idle => return,
        AgentStage::Fetching => (Ink::Warn, format!("{wanted} is being downloaded")),
        AgentStage::Ready => (Ink::Warn, format!("{wanted} is ready")),
        AgentStage::Switching => (Ink::Warn, format!("{wanted} is switched to")),
        AgentStage::Proving => (Ink::Warn, format!("{wanted} has to prove itself healthy")),
        AgentStage::Proven => (Ink::Plain, format!("{wanted} is proven")),
        AgentStage::PutBack => (Ink::Bad, format!("{wanted} was rolled back")),
        AgentStage::Refused => (Ink::Bad, format!("{wanted} is refused")),
    };
    if let Some(good) = now.last_good.as_ref().filter(|good| *good != wanted) {
        text = format!("{text} · {good} was proven here last");
    }
    if let Some(why) = &now.why {
        text = format!("{text} · {}: {}", why.what, why.why);
    }
    screen.row("version", ink, &text, width);
    if let PackageDatabase::Pending { why } = &now.database {
        let text = format!("the package manager does not know it: {why}");
        screen.row("", Ink::Warn, &text, width);
    }
}

fn machine(screen: &mut Screen, report: &StatusReport, width: usize) {
    if let Some(order) = report.node.as_ref().and_then(|n| n.maintenance.as_ref()) {
        maintenance::row(screen, order, report.taken_at, width);
    }
    change(screen, &report.change, width);
    if let Some(stack) = report.node.as_ref().and_then(|n| n.stack.as_ref()) {
        screen.row("stack", Ink::Plain, &stack.to_string(), width);
    }
    if let Some(now) = report.node.as_ref().and_then(|n| n.upgrade.as_ref()) {
        upgrade(screen, now, report.taken_at, width);
    }
    if let Some(chosen) = report.node.as_ref().and_then(|n| n.kube_proxy.as_ref()) {
        screen.row("services", Ink::Plain, &chosen.to_string(), width);
    }
    if let Some(address) = report.node.as_ref().and_then(|n| n.api_address.as_ref()) {
        let since = address
            .since
            .map(|at| span(report.taken_at.duration_since(at)));
        let since = since.map(|s| format!(", for {s}")).unwrap_or_default();
        screen.row("API", Ink::Plain, &format!("{address}{since}"), width);
    }
    if let Some(text) = rows::certificates(&report.certificates, report.taken_at) {
        screen.row("certificates", Ink::Plain, &text, width);
    }
    if let Some(download) = &report.download {
        screen.row("download", Ink::Plain, &download_words(download), width);
    }
    let disks: Vec<String> = report
        .disks
        .iter()
        .map(|d| format!("{} free at {}", size(d.available_bytes), d.path))
        .collect();
    if !disks.is_empty() {
        screen.row("disk", Ink::Plain, &disks.join(" · "), width);
    }
    rows::of_the_machine(screen, report, width);
    if let Some(text) = rows::used(&report.used) {
        screen.row("ours on it", Ink::Plain, &text, width);
    }
    if let Some(node) = &report.node {
        rows::repairs(screen, node, report.taken_at, width);
    }
    rows::drift(screen, report, width);
    for warning in &report.warnings {
        screen.row("warning", Ink::Warn, &warning.to_string(), width);
    }
}

/// The node's part in the newest roll: where to, how far, and why not further.
fn upgrade(screen: &mut Screen, now: &UpgradeStatus, at: Timestamp, width: usize) {
    let ink = match now.state {
        UpgradeState::Ready | UpgradeState::Done => Ink::Plain,
        UpgradeState::Fetching
        | UpgradeState::Checking
        | UpgradeState::Draining
        | UpgradeState::Switching
        | UpgradeState::Updating
        | UpgradeState::Rebooting
        | UpgradeState::Proving
        | UpgradeState::PuttingBack => Ink::Warn,
        UpgradeState::PutBack | UpgradeState::Refused => Ink::Bad,
    };
    let since = span(at.duration_since(now.since));
    let times = match now.attempts {
        0 | 1 => String::new(),
        n => format!(" · started {n} times"),
    };
    let (stack, stage, state) = (&now.stack, now.stage, now.state);
    let (row, what) = match stage {
        UpgradeStage::Prepare | UpgradeStage::Etcd | UpgradeStage::Node => {
            ("upgrade", format!("to {stack} · stage {stage}"))
        }
        UpgradeStage::Os => {
            let found = now
                .os
                .map_or_else(|| "of the distribution".to_owned(), |os| os.words());
            ("updates", found)
        }
    };
    let text = format!("{what} · {state} for {since}{times}");
    screen.row(row, ink, &text, width);
    if let Some(fault) = &now.fault {
        screen.row("", ink, &fault.to_string(), width);
    }
}

fn download_words(download: &DownloadStatus) -> String {
    let percent = download.have.saturating_mul(100) / download.total.max(1);
    let text = format!(
        "{} · {percent} % of {}",
        download.stack,
        size(download.total)
    );
    match &download.fault {
        Some(fault) => format!("{text} · {fault}"),
        None => text,
    }
}

fn phases(screen: &mut Screen, node: &NodeStatus, now: Timestamp, width: usize) {
    let shown: Vec<&PhaseStatus> = node.phases.iter().filter(|p| is_shown(p)).collect();
    if shown.is_empty() {
        return;
    }
    let done = shown
        .iter()
        .filter(|p| p.state == PhaseState::Running)
        .count();
    screen.gap();
    screen.line([
        (Ink::Bold, "  phases".to_owned()),
        (Ink::Dim, format!("   {done} of {}", shown.len())),
    ]);
    let widest = shown.iter().map(|p| p.name.chars().count()).max();
    for phase in shown {
        phase_line(screen, phase, now, widest.unwrap_or(0), width);
    }
    if let Some(step) = &node.current_step {
        screen.gap();
        screen.row("now", Ink::Plain, step, width);
    }
}

/// Draining is only for leaving: a node that stays has nothing to say about it.
fn is_shown(phase: &PhaseStatus) -> bool {
    match phase.state {
        PhaseState::NotStarted | PhaseState::Running => phase.id != PhaseId::Drain,
        PhaseState::Waiting | PhaseState::Executing | PhaseState::Failed => true,
    }
}

/// Before a phase's name, and its time behind that.
const INDENT: usize = 9;
const TIME: usize = 11;

fn phase_line(
    screen: &mut Screen,
    phase: &PhaseStatus,
    now: Timestamp,
    name_width: usize,
    width: usize,
) {
    let (ink, sign) = match phase.state {
        PhaseState::Running => (Ink::Good, "✓"),
        PhaseState::Executing => (Ink::Warn, "▸"),
        PhaseState::Waiting => (Ink::Warn, "…"),
        PhaseState::Failed => (Ink::Bad, "✗"),
        PhaseState::NotStarted => (Ink::Dim, "·"),
    };
    let name_ink = match phase.state {
        PhaseState::NotStarted => Ink::Dim,
        PhaseState::Running | PhaseState::Waiting => Ink::Plain,
        PhaseState::Executing | PhaseState::Failed => Ink::Bold,
    };
    let time = match (phase.state, phase.took_ms, phase.started_at) {
        (PhaseState::Executing | PhaseState::Waiting, _, Some(at)) => span(now.duration_since(at)),
        (PhaseState::Running | PhaseState::Failed, Some(ms), _) => took(ms),
        (
            PhaseState::NotStarted
            | PhaseState::Waiting
            | PhaseState::Executing
            | PhaseState::Running
            | PhaseState::Failed,
            _,
            _,
        ) => String::new(),
    };
    // Beside the time where it fits; else below, in full: it is what a person looks for.
    let message = phase.message.as_deref().unwrap_or_default();
    let beside = name_width + 24 + message.chars().count() <= width;
    let lead = vec![
        (ink, format!("  {sign} ")),
        (Ink::Dim, format!("{:>3}  ", phase.order)),
    ];
    let message_beside = format!("  {}", if beside { message } else { "" });
    let rest = vec![
        (Ink::Dim, format!("{time:>TIME$}")),
        (Ink::Plain, message_beside),
    ];
    let room = name_width.min(width.saturating_sub(INDENT + TIME));
    screen.cells(lead, (name_ink, phase.name.as_str()), room, rest);
    if !beside {
        screen.wrapped(INDENT, message, width);
    }
}

fn mark(ink: Ink) -> (Ink, String) {
    let sign = match ink {
        Ink::Good => "✓ ",
        Ink::Warn => "… ",
        Ink::Plain
        | Ink::Bold
        | Ink::Dim
        | Ink::Bad
        | Ink::GoodBlock
        | Ink::WarnBlock
        | Ink::BadBlock => "✗ ",
    };
    (ink, sign.to_owned())
}
