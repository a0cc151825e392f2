//! `explain`: what a code means, how it usually comes about, what to do. For a person who has only the code, from an alert, a
//! log or a script; `docs/troubleshooting.md` is made of the same rows.

use clap::Parser;
use serde::Serialize;

use super::context::CommandContext;
use super::output::{Ink, Screen, Show};
use crate::app::Exit;
use crate::model::remedies::{ROOMS, Remedy, Room};
use crate::model::{Fault, FaultCode};

/// Most codes that are suggested for a mistyped one.
const NEAR_MAX: usize = 5;
/// Column of the meanings in the list.
const MEANING_COLUMN: usize = 30;

#[derive(Debug, Parser)]
pub(super) struct ExplainArgs {
    /// As it stands in JSON, in logs and in alerts. Without one: every code with its meaning.
    #[arg(value_name = "CODE")]
    code: Option<String>,
    /// One JSON value instead of lines for people.
    #[arg(long)]
    pub(super) json: bool,
}

/// One code.
#[derive(Debug, Serialize)]
struct Explained {
    code: &'static str,
    means: &'static str,
    why: &'static str,
    #[serde(rename = "do")]
    what_to_do: &'static str,
    /// Where it is met.
    met: &'static str,
    /// How `pf9ctl` ends with it.
    exit: u8,
}

pub(super) fn run(ctx: &CommandContext, args: &ExplainArgs) -> Result<Exit, Fault> {
    match &args.code {
        Some(code) => ctx.out.show(&find(code)?),
        None => ctx.out.show(&All::new()),
    }
    Ok(Exit::Ok)
}

fn find(text: &str) -> Result<Explained, Fault> {
    // As people copy it: with the signs around it.
    let word = text.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let word = word.to_lowercase().replace('_', "-");
    let rows = || {
        ROOMS
            .iter()
            .flat_map(|room| room.rows.iter().map(move |row| (room, row)))
    };
    if let Some((room, row)) = rows().find(|(_, row)| row.code.word() == word) {
        return Ok(Explained::of(room, row));
    }
    let near: Vec<&str> = rows()
        .map(|(_, row)| row.code.word())
        .filter(|code| is_near(code, &word))
        .take(NEAR_MAX)
        .collect();
    let why = match near.as_slice() {
        [] => "this program knows no such code; a newer one may".to_owned(),
        some => format!("there is no such code; there are {}", some.join(", ")),
    };
    let what = format!("cannot explain {text:?}");
    Err(Fault::new(FaultCode::Usage, what, why).fix("pf9ctl explain shows every code"))
}

/// One has a part of the other, or begins like it.
fn is_near(code: &str, word: &str) -> bool {
    const ALIKE: usize = 4;
    let begins = word.get(..ALIKE).is_some_and(|head| code.starts_with(head));
    let mut parts = word.split('-').filter(|part| part.len() >= ALIKE);
    begins || parts.any(|part| code.contains(part))
}

impl Explained {
    fn of(room: &Room, row: &Remedy) -> Self {
        Self {
            code: row.code.word(),
            means: row.means,
            why: row.why,
            what_to_do: row.what_to_do,
            met: room.title,
            exit: Exit::of(&Fault::new(row.code, "", "")).code(),
        }
    }
}

impl Show for Explained {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        let exit = Exit::ALL.iter().find(|e| e.code() == self.exit);
        let ends = exit.map_or("", |e| e.meaning());
        screen.gap();
        screen.row("code", Ink::Bold, self.code, width);
        screen.row("means", Ink::Plain, self.means, width);
        screen.row("why", Ink::Plain, self.why, width);
        // Commands stand between signs for the page.
        let what_to_do = self.what_to_do.replace('`', "");
        screen.row("do", Ink::Good, &what_to_do, width);
        screen.row("met", Ink::Dim, self.met, width);
        screen.row(
            "exit code",
            Ink::Dim,
            &format!("{}: {ends}", self.exit),
            width,
        );
        screen.gap();
        screen
    }
}

/// Every code.
#[derive(Debug, Serialize)]
struct All {
    codes: Vec<Explained>,
}

impl All {
    fn new() -> Self {
        let of = |room: &'static Room| {
            let mut rows: Vec<_> = room
                .rows
                .iter()
                .map(|row| Explained::of(room, row))
                .collect();
            rows.sort_by_key(|row| row.code);
            rows
        };
        Self {
            codes: ROOMS.iter().flat_map(of).collect(),
        }
    }
}

impl Show for All {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        let mut met = "";
        for row in &self.codes {
            if row.met != met {
                met = row.met;
                screen.gap();
                screen.line([(Ink::Bold, met.to_owned())]);
            }
            let room = width.saturating_sub(MEANING_COLUMN).max(20);
            for (n, part) in super::output::wrap(row.means, room).into_iter().enumerate() {
                let code = if n == 0 { row.code } else { "" };
                let lead = MEANING_COLUMN - 3;
                screen.line([(Ink::Plain, format!("  {code:<lead$} ")), (Ink::Dim, part)]);
            }
        }
        screen.gap();
        screen
    }
}
