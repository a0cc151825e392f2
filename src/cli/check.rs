//! `node check`: can this machine become a node, and is the one that it is well? Changes nothing.
//!
//! | file | holds |
//! |---|---|
//! | `look` | everything that checks look at, gathered at once, each part judged as soon as it is there |
//! | `list` | `--list` |

pub(super) mod list;
pub(super) mod look;

use futures_util::StreamExt;
use serde::Serialize;

use super::args::{CheckArgs, Format};
use super::context::CommandContext;
use super::output::{Ink, Screen, Show};
use super::remote;
use crate::app::Exit;
use crate::host::extensions;
use crate::model::Fault;
use crate::preflight::{Check, CheckOutcome, REPORT_SCHEMA, Report, Skips, of_operators};

pub(super) async fn run(ctx: &CommandContext, args: &CheckArgs) -> Result<Exit, Fault> {
    if args.list {
        ctx.out.show(&list::List::ours());
        return Ok(Exit::Ok);
    }
    let skips = Skips::parse(&args.skip)?;
    if !args.remote.hosts.is_empty() {
        return Box::pin(remote::check(ctx, args)).await;
    }
    let stream = args.format() == Format::JsonStream;
    ctx.out
        .waiting("checking the machine, its network and its plane");
    let looking = all(ctx, args, &skips, stream);
    let report = tokio::select! {
        // cancel-safe: what was tried is removed by who tried, and nothing else was done
        report = looking => report?,
        () = ctx.stop.cancelled() => return Err(ctx.interrupted("the check did not finish")),
    };
    if stream {
        ctx.out.json_line(&Line::report(&report));
    } else {
        ctx.out.show(&report);
    }
    let fault = match args.strict {
        true => report.fault_strict(),
        false => report.fault(),
    };
    Ok(fault.as_ref().map_or(Exit::Ok, Exit::of))
}

async fn all(
    ctx: &CommandContext,
    args: &CheckArgs,
    skips: &Skips,
    stream: bool,
) -> Result<Report, Fault> {
    let mut parts = look::parts(ctx, args.plane.as_deref(), skips);
    let mut checks = Vec::new();
    while let Some(some) = parts.next().await {
        let some = some?;
        if stream {
            for check in &some {
                ctx.out.json_line(&Line::Check { check });
            }
        }
        checks.extend(some);
    }
    // Only root may have systemd run something.
    if ctx.uid == 0 && extensions::any(&ctx.host) {
        ctx.out.waiting("running operators' own checks");
        let some = of_operators(&extensions::run(&ctx.host).await);
        if stream {
            for check in &some {
                ctx.out.json_line(&Line::Check { check });
            }
        }
        checks.extend(some);
    }
    Ok(Report::new(checks))
}

/// A line of `--output json-stream`: each check as soon as it is judged, and the report's head at the end.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line<'a> {
    Check {
        #[serde(flatten)]
        check: &'a Check,
    },
    Report {
        schema: u32,
        verdict: CheckOutcome,
        ok: usize,
        warn: usize,
        fail: usize,
        skip: usize,
    },
}

impl Line<'_> {
    fn report(report: &Report) -> Self {
        Self::Report {
            schema: REPORT_SCHEMA,
            verdict: report.verdict,
            ok: report.count(CheckOutcome::Ok),
            warn: report.count(CheckOutcome::Warn),
            fail: report.count(CheckOutcome::Fail),
            skip: report.count(CheckOutcome::Skip),
        }
    }
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
        let (ink, text) = verdict(self);
        for part in super::output::wrap(&text, width.saturating_sub(2)) {
            screen.line([(ink, format!("  {part}"))]);
        }
        screen.gap();
        screen
    }
}

/// The longest id and a space.
const ID_WIDTH: usize = 21;
/// Narrower than this is narrow.
const NARROW: usize = 72;
/// Before the id: the mark.
const MARK_WIDTH: usize = 4;

fn lines(screen: &mut Screen, check: &Check, width: usize) {
    let (ink, mark) = match check.outcome {
        CheckOutcome::Ok => (Ink::Good, "✓"),
        CheckOutcome::Warn => (Ink::Warn, "!"),
        CheckOutcome::Fail => (Ink::Bad, "✗"),
        CheckOutcome::Skip => (Ink::Dim, "-"),
    };
    // The details stand below the finding.
    let indent = ID_WIDTH + MARK_WIDTH;
    let room = width.saturating_sub(indent);
    for (n, part) in super::output::wrap(&check.found, room)
        .into_iter()
        .enumerate()
    {
        let (mark, id) = if n == 0 {
            (mark, &*check.id)
        } else {
            (" ", "")
        };
        screen.line([
            (ink, format!("  {mark} ")),
            (Ink::Plain, format!("{id:<ID_WIDTH$}")),
            (ink_of_found(check.outcome), part),
        ]);
    }
    // On a narrow terminal below the id: beside it a line would have three words.
    let (below, room) = match width < NARROW {
        true => (MARK_WIDTH, width.saturating_sub(MARK_WIDTH - 2)),
        false => (indent, room),
    };
    let mut detail = |label: &str, text: &str| {
        if !text.is_empty() {
            let mut sub = Screen::default();
            sub.row(label, Ink::Plain, text, room);
            // A row begins two columns to the right of that.
            screen.indented(sub, below - 2);
        }
    };
    match check.outcome {
        CheckOutcome::Ok => {}
        CheckOutcome::Skip => detail("left out", &check.why),
        CheckOutcome::Warn | CheckOutcome::Fail => {
            detail("wanted", &check.wanted);
            detail("why", &check.why);
            detail("what to do", &check.fix);
            for (n, line) in check.evidence.iter().enumerate() {
                detail(if n == 0 { "seen" } else { "" }, line);
            }
        }
    }
}

fn ink_of_found(outcome: CheckOutcome) -> Ink {
    match outcome {
        CheckOutcome::Ok | CheckOutcome::Skip => Ink::Dim,
        CheckOutcome::Warn | CheckOutcome::Fail => Ink::Bold,
    }
}

fn verdict(report: &Report) -> (Ink, String) {
    let counts = [
        (report.count(CheckOutcome::Fail), "failed"),
        (report.count(CheckOutcome::Warn), "to know about"),
        (report.count(CheckOutcome::Skip), "left out"),
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
    let good = report.count(CheckOutcome::Ok);
    let (ink, fit) = match report.verdict {
        CheckOutcome::Fail => (Ink::Bad, "is not fit for a node"),
        CheckOutcome::Warn => (Ink::Warn, "is fit for a node"),
        CheckOutcome::Ok | CheckOutcome::Skip => (Ink::Good, "is fit for a node"),
    };
    (ink, format!("This machine {fit}: {good} good{tail}."))
}
