//! `tunnel top`: the open streams and their rates, the busiest first.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;

use super::super::args::TopArgs;
use super::super::context::CommandContext;
use super::super::output::{Ink, Screen, Show};
use super::super::words::short;
use super::silent;
use crate::app::Exit;
use crate::model::{
    Fault, StreamClass, StreamDirection, StreamStatus, Timestamp, TunnelStreams, paths,
};

/// Version of the report document.
const TOP_SCHEMA: u32 = 1;
/// Lines of a screen that are not streams: headline, gap, columns, last line.
const OTHER_LINES: usize = 5;

/// The streams of one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in super::super) struct TopReport {
    schema: u32,
    taken_at: Timestamp,
    /// How many are open.
    open: u32,
    /// Those that were listed, the busiest first.
    streams: Vec<Row>,
    /// How many fit the terminal.
    #[serde(skip)]
    pub(in super::super) room: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    #[serde(flatten)]
    stream: StreamStatus,
    /// Bytes a second from the plane; unknown before the second look.
    in_per_s: Option<u64>,
    /// Bytes a second to the plane.
    out_per_s: Option<u64>,
}

pub(super) async fn run(ctx: &CommandContext, args: &TopArgs) -> Result<Exit, Fault> {
    let once = args.once || args.json;
    let mut before = look(ctx).await?;
    if !once {
        ctx.out.live(true);
        ctx.out.repaint(&sized(ctx, rates(None, before.clone())));
    }
    loop {
        tokio::select! {
            // cancel-safe: both are
            () = ctx.stop.cancelled() => {
                ctx.out.live(false);
                return Ok(Exit::Ok);
            }
            () = tokio::time::sleep(args.interval) => {}
        }
        let after = look(ctx).await.inspect_err(|_| ctx.out.live(false))?;
        let report = sized(ctx, rates(Some(&before), after.clone()));
        if once {
            ctx.out.show(&report);
            return Ok(Exit::Ok);
        }
        ctx.out.repaint(&report);
        before = after;
    }
}

async fn look(ctx: &CommandContext) -> Result<TunnelStreams, Fault> {
    let streams = ctx.get(paths::COMMS_SOCKET, "/v1/streams").await;
    streams.map_err(|e| silent(ctx, "cannot show the streams", &e))
}

fn sized(ctx: &CommandContext, mut report: TopReport) -> TopReport {
    if let Some(rows) = ctx.out.rows() {
        report.room = rows.saturating_sub(OTHER_LINES).max(1);
    }
    report
}

/// The difference of two looks: pure.
pub(in super::super) fn rates(before: Option<&TunnelStreams>, after: TunnelStreams) -> TopReport {
    let key = |s: &StreamStatus| (s.session, s.stream);
    let old: BTreeMap<_, _> = before
        .map(|b| b.streams.iter().map(|s| (key(s), s)).collect())
        .unwrap_or_default();
    let passed = before.map(|b| after.taken_at.duration_since(b.taken_at).as_millis().max(1));
    let rate = |now: u64, then: Option<u64>| {
        let bytes = u128::from(now.saturating_sub(then.unwrap_or(0)));
        let millis = u128::try_from(passed?).ok()?;
        u64::try_from(bytes * 1000 / millis).ok()
    };
    let mut streams: Vec<Row> = after
        .streams
        .into_iter()
        .map(|stream| {
            let then = old.get(&key(&stream));
            Row {
                in_per_s: rate(stream.bytes_in, then.map(|s| s.bytes_in)),
                out_per_s: rate(stream.bytes_out, then.map(|s| s.bytes_out)),
                stream,
            }
        })
        .collect();
    streams.sort_by_key(|r| {
        let speed = r
            .in_per_s
            .unwrap_or(0)
            .saturating_add(r.out_per_s.unwrap_or(0));
        (Reverse(speed), r.stream.session, r.stream.stream)
    });
    TopReport {
        schema: TOP_SCHEMA,
        taken_at: after.taken_at,
        open: after.open,
        streams,
        room: usize::MAX,
    }
}

impl Show for TopReport {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        let time = self.taken_at.strftime("%H:%M:%S");
        let head = match self.open {
            1 => format!("{time}  1 stream"),
            n => format!("{time}  {n} streams"),
        };
        screen.line([(Ink::Bold, head)]);
        screen.gap();
        screen.line([(Ink::Dim, columns(width, Row::HEAD.map(str::to_owned)))]);
        let shown = self.streams.len().min(self.room);
        for row in self.streams.iter().take(shown) {
            let busy = row.in_per_s.unwrap_or(0) + row.out_per_s.unwrap_or(0) > 0;
            let ink = if busy { Ink::Plain } else { Ink::Dim };
            screen.line([(ink, columns(width, row.cells()))]);
        }
        let open = usize::try_from(self.open).unwrap_or(usize::MAX);
        if open > shown {
            screen.line([(Ink::Dim, format!("… and {} more", open - shown))]);
        }
        screen
    }
}

impl Row {
    const HEAD: [&'static str; 10] = [
        "SERVICE", "WHO", "BY", "CLASS", "WINDOW", "QUEUED", "IN", "OUT", "IN/S", "OUT/S",
    ];

    fn cells(&self) -> [String; 10] {
        let s = &self.stream;
        let rate = |r: Option<u64>| r.map_or("-".to_owned(), short);
        [
            s.service.clone(),
            s.who.clone(),
            match s.direction {
                StreamDirection::ToNode => "plane".to_owned(),
                StreamDirection::ToPlane => "node".to_owned(),
            },
            match s.class {
                StreamClass::Interactive => "inter".to_owned(),
                StreamClass::Bulk => "bulk".to_owned(),
            },
            short(s.window),
            short(s.queued),
            short(s.bytes_in),
            short(s.bytes_out),
            rate(self.in_per_s),
            rate(self.out_per_s),
        ]
    }
}

/// Cells in columns; where the terminal is narrow, without who and window.
fn columns(width: usize, cells: [String; 10]) -> String {
    /// Width of all columns with their gaps.
    const ALL: usize = 78;
    const WIDTHS: [(usize, bool); 10] = [
        (14, true),
        (12, false),
        (5, true),
        (5, true),
        (6, false),
        (6, true),
        (5, true),
        (5, true),
        (5, true),
        (5, true),
    ];
    const TEXT: usize = 4;
    let mut line = String::new();
    for (n, (cell, (wide, always))) in cells.iter().zip(WIDTHS).enumerate() {
        if !always && width < ALL {
            continue;
        }
        // What a peer says may be long; a column is not.
        let cell: String = cell.chars().take(wide).collect();
        if n < TEXT {
            line.push_str(&format!("{cell:<wide$} "));
        } else {
            line.push_str(&format!("{cell:>wide$} "));
        }
    }
    line.truncate(line.trim_end().len());
    line
}
