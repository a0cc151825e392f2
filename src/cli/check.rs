//! `check-node`: can this machine become a node? Changes nothing.

use super::args::CheckArgs;
use super::context::Context;
use super::output::{Ink, Screen, Show};
use crate::app::Exit;
use crate::host::extensions;
use crate::model::Fault;
use crate::preflight::{Check, Facts, Report, Severity};

pub(super) async fn run(ctx: &Context, args: &CheckArgs) -> Result<Exit, Fault> {
    let facts = Facts::read(&ctx.host, ctx.uid, ctx.now())?;
    let mut report = Report::of(&facts, &args.skip)?;
    // Only root may have systemd run something.
    if ctx.uid == 0 && extensions::any(&ctx.host) {
        ctx.out.waiting("running operators' own checks");
        report = report.with(&extensions::run(&ctx.host).await);
    }
    ctx.out.show(&report);
    Ok(report.fault().as_ref().map_or(Exit::Ok, Exit::of))
}

impl Show for Report {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        let mut group = None;
        for check in &self.checks {
            if group != Some(check.group) {
                group = Some(check.group);
                screen.gap();
                screen.line([(Ink::Bold, format!("  {}", check.group.as_str()))]);
            }
            lines(&mut screen, check, width);
        }
        screen.gap();
        screen.line([verdict(self)]);
        screen.gap();
        screen
    }
}

fn lines(screen: &mut Screen, check: &Check, width: usize) {
    let (ink, mark) = match check.severity {
        Severity::Ok => (Ink::Good, "✓"),
        Severity::Warn => (Ink::Warn, "!"),
        Severity::Fail => (Ink::Bad, "✗"),
        Severity::Skip => (Ink::Dim, "-"),
    };
    const ID_WIDTH: usize = 21;
    screen.line([
        (ink, format!("  {mark} ")),
        (Ink::Plain, format!("{:<ID_WIDTH$}", check.id)),
        (ink_of_found(check.severity), check.found.clone()),
    ]);
    // The details stand below the finding.
    let indent = ID_WIDTH + 4;
    let mut detail = |label: &str, text: &str| {
        if !text.is_empty() {
            let mut sub = Screen::default();
            sub.row(
                label,
                Ink::Plain,
                text,
                width.saturating_sub(indent).max(40),
            );
            screen.indented(sub, indent - 2);
        }
    };
    match check.severity {
        Severity::Ok => {}
        Severity::Skip => detail("left out", &check.why),
        Severity::Warn | Severity::Fail => {
            detail("wanted", &check.wanted);
            detail("why", &check.why);
            detail("what to do", &check.fix);
        }
    }
}

fn ink_of_found(severity: Severity) -> Ink {
    match severity {
        Severity::Ok | Severity::Skip => Ink::Dim,
        Severity::Warn | Severity::Fail => Ink::Bold,
    }
}

fn verdict(report: &Report) -> (Ink, String) {
    let counts = [
        (report.count(Severity::Fail), "failed"),
        (report.count(Severity::Warn), "to know about"),
        (report.count(Severity::Skip), "left out"),
    ];
    let odd: Vec<String> = counts
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| format!("{n} {word}"))
        .collect();
    let tail = match odd.as_slice() {
        [] => String::new(),
        some => format!(", {}", some.join(", ")),
    };
    let good = report.count(Severity::Ok);
    match report.verdict {
        Severity::Fail => (
            Ink::Bad,
            format!("  This machine cannot become a node: {good} good{tail}."),
        ),
        Severity::Warn => (
            Ink::Warn,
            format!("  This machine can become a node: {good} good{tail}."),
        ),
        Severity::Ok | Severity::Skip => (
            Ink::Good,
            format!("  This machine can become a node: {good} good{tail}."),
        ),
    }
}
