//! kubectl on the page, as the person who is signed in.
//!
//! ```text
//! page ─► POST …/clusters/{cluster}/kubectl
//!   line (words) ─► allowed (argv) ─► program (the stack's kubectl) ─► jail (a process in a box)
//!   page ◄─ events ◄─ output (text) ◄──────────────────────────────────┘      │ its only way out
//!                                              proxy, as the person ◄── DIR/api.sock
//! ```
//!
//! | file | what |
//! |---|---|
//! | `line`    | a typed line as words |
//! | `allowed` | which commands and flags there are |
//! | `program` | the kubectl of the cluster's stack |
//! | `jail`    | the box that it runs in |
//! | `run`     | one command, from its start to its end |
//! | `output`  | what it writes, as text |
//!
//! The box has no credential: its socket is the plane's, which looks with each request whether the login that the
//! command was typed with is still good and what the person may. So a reader changes nothing by this either; nobody is
//! `system:masters`; and to sign out ends it. Bounds: [`EACH_MAX`], [`PROJECT_MAX`], [`ALL_MAX`], [`TIME`],
//! [`TIME_LONG`], [`OUTPUT_MAX`], [`KEPT_MAX`]. Rejected: to call the API ourselves, which would be another kubectl; a
//! shell, which cannot be bounded; and a token for each command, a write for what the login says already.

mod allowed;
pub(crate) mod jail;
mod line;
mod output;
mod program;
mod run;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::audit::Asked;
use crate::guard::Person;
use crate::http::{Doc, Path};
use crate::people::{ProjectId, UserId};
use crate::qbert::cluster_id;
use crate::refusal::{Answer, Refusal, chain};
use crate::state::{self, Plane};
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::model::{Digest, Fault, FaultCode};
use run::Run;

/// Commands of one person at a time: one that follows, and one beside it.
const EACH_MAX: usize = 2;
/// Commands of one project at once: half stays for others.
const PROJECT_MAX: usize = 8;
/// Commands of all at once: each is a process of some 60 MiB.
const ALL_MAX: usize = 16;
/// How long one may take.
const TIME: Duration = Duration::from_secs(60);
/// How long one may that watches (`-w`, `-f`) or waits until something is done (`drain`).
const TIME_LONG: Duration = Duration::from_secs(600);
/// How long a page may take to read how it ended.
const LAST: Duration = Duration::from_secs(5);
/// Most output of a command: nobody reads more on a page.
const OUTPUT_MAX: usize = 1024 * 1024;
/// Longest command: the audit keeps it whole, and two megabytes of those of a project.
const KEPT_MAX: usize = 1000;
/// Longest text to be applied.
const TEXT_MAX: usize = 256 * 1024;
/// Bytes of a request: the text and the line, escaped.
const BODY_MAX: usize = 2 * 1024 * 1024;
/// Pieces of output that wait for a slow page.
const AHEAD: usize = 8;

/// What the page asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    line: String,
    /// What `apply` reads.
    #[serde(default)]
    text: Option<String>,
}

/// What the page's terminal is run with.
#[derive(Clone, Debug)]
pub struct TerminalConfig {
    /// The program that has the jail; absent: this one.
    pub jail: Option<PathBuf>,
    /// How long a command may take.
    pub time: Duration,
    /// How long one may that watches or waits.
    pub time_long: Duration,
}

impl Default for TerminalConfig {
    fn default() -> Self {
        Self {
            jail: None,
            time: TIME,
            time_long: TIME_LONG,
        }
    }
}

/// Running commands, and their programs.
pub(crate) struct Terminal {
    jail: PathBuf,
    time: Duration,
    time_long: Duration,
    all: Arc<Semaphore>,
    taken: Mutex<BTreeMap<Whose, usize>>,
    /// Only one kubectl is taken out of its stack at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The place of one command.
struct Seat {
    terminal: Arc<Terminal>,
    whose: [Whose; 2],
    _all: OwnedSemaphorePermit,
}

/// The owner of a share of the places.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Person(UserId),
    Project(ProjectId),
}

impl Terminal {
    pub(crate) fn new(config: TerminalConfig) -> io::Result<Self> {
        Ok(Self {
            jail: config.jail.map_or_else(std::env::current_exe, Ok)?,
            time: config.time,
            time_long: config.time_long,
            all: Arc::new(Semaphore::new(ALL_MAX)),
            taken: Mutex::default(),
            turn: Arc::default(),
        })
    }

    fn seat(self: &Arc<Self>, user: &UserId, project: &ProjectId) -> Answer<Seat> {
        let full = |why: String| {
            let fault = Fault::new(FaultCode::TooOften, "the command was not run", why)
                .fix("end one that runs, or wait for it");
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, fault)
        };
        let all = Arc::clone(&self.all).try_acquire_owned();
        let all = all.map_err(|_| full(format!("{ALL_MAX} commands of all people run")))?;
        let mine = Whose::Person(user.clone());
        let ours = Whose::Project(project.clone());
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = |whose: &Whose| taken.get(whose).copied().unwrap_or_default();
        if runs(&mine) >= EACH_MAX {
            return Err(full(format!("{EACH_MAX} commands of yours run")));
        }
        if runs(&ours) >= PROJECT_MAX {
            return Err(full(format!("{PROJECT_MAX} commands of your project run")));
        }
        for whose in [&mine, &ours] {
            *taken.entry(whose.clone()).or_default() += 1;
        }
        drop(taken);
        Ok(Seat {
            terminal: Arc::clone(self),
            whose: [mine, ours],
            _all: all,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let taken = self.terminal.taken.lock();
        let mut taken = taken.unwrap_or_else(PoisonError::into_inner);
        for whose in &self.whose {
            if let Some(run) = taken.get_mut(whose) {
                *run -= 1;
                if *run == 0 {
                    taken.remove(whose);
                }
            }
        }
    }
}

/// Takes away what a plane that was killed left of commands.
pub(crate) fn tidy(files: &HostFs) {
    if let Err(e) = files.remove_tree(run::DIR) {
        tracing::warn!(why = chain(&e), "directories of commands stay");
    }
}

fn judged(wanted: &Wanted) -> Result<allowed::Command, String> {
    let words = line::words(&wanted.line).map_err(|e| e.to_string())?;
    let command = allowed::command(&words)?;
    let len = command.shown().len();
    if len > KEPT_MAX {
        return Err(format!(
            "the command has {len} bytes as the audit keeps it, at most {KEPT_MAX} are taken"
        ));
    }
    let text = wanted
        .text
        .as_deref()
        .filter(|text| !text.trim().is_empty());
    match (command.reads_text, text) {
        (true, None) => Err("apply wants a text: paste it below the command".to_owned()),
        (false, Some(_)) => Err("only apply reads a text; take it away, or apply it".to_owned()),
        (true, Some(text)) if text.len() > TEXT_MAX => Err(format!(
            "the text has {} bytes, at most {TEXT_MAX} are taken",
            text.len()
        )),
        (true | false, _) => Ok(command),
    }
}

/// `POST …/clusters/{cluster}/kubectl`: one command, and what it says, as server-sent events.
pub(crate) async fn post(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
    Path((_, id)): Path<(String, String)>,
    Doc(wanted): Doc<Wanted, BODY_MAX>,
) -> Answer<Response> {
    let cluster = state::cluster(&plane.read()?, cluster_id(&id)?)?;
    let command = match judged(&wanted) {
        Ok(command) => command,
        Err(why) => {
            // Not the line: one that is no command may be a password.
            let asked = Asked::ran(&plane, &who, &cluster, "a line that is no command here");
            asked.answered(StatusCode::BAD_REQUEST.as_u16()).await;
            return Err(Refusal::bad(
                FaultCode::CommandRefused,
                "the command was not run",
                why,
            ));
        }
    };
    let seat = plane.terminal.seat(&who.user.id, &cluster.project)?;
    let program = program::of(&plane, &cluster).await?;
    let mut did = command.shown();
    if let Some(text) = wanted.text.as_ref().filter(|_| command.reads_text) {
        let digest = Digest::of(text.as_bytes());
        did.push_str(&format!(
            " (a text of {} bytes, sha256 {digest})",
            text.len()
        ));
    }
    let asked = Asked::ran(&plane, &who, &cluster, &did);
    let (events, seen) = mpsc::channel(AHEAD);
    let run = Run {
        plane: Arc::clone(&plane),
        cluster,
        command,
        text: wanted.text.unwrap_or_default(),
        program,
        login: who.digest.clone(),
        _seat: seat,
    };
    plane.tasks.spawn(run.whole(asked, events));
    let lines = stream::unfold(seen, async |mut seen: mpsc::Receiver<Bytes>| {
        let line = seen.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line), seen))
    });
    let mut response = Body::from_stream(lines).into_response();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_anothers_place() {
        let terminal = Terminal::new(TerminalConfig::default()).expect("this program");
        let terminal = Arc::new(terminal);
        let seat = |user: &str, project: &str| {
            let user = UserId::of(user).expect("user");
            terminal.seat(&user, &ProjectId::of(project).expect("project"))
        };
        let mine: Vec<Seat> = (0..EACH_MAX)
            .map(|_| seat("a", "p").expect("place"))
            .collect();
        let refused = seat("a", "q").err().expect("full");
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        drop(seat("b", "p").expect("another's"));
        let ours: Vec<Seat> = (EACH_MAX..PROJECT_MAX)
            .map(|n| seat(&format!("u{n}"), "p").expect("place"))
            .collect();
        let refused = seat("b", "p").err().expect("full");
        assert!(refused.fault.to_string().contains("of your project"));
        drop(seat("b", "q").expect("another project's"));
        drop((mine, ours));
        let all: Vec<Seat> = (0..ALL_MAX)
            .map(|n| seat(&format!("u{n}"), &format!("p{n}")).expect("place"))
            .collect();
        assert!(seat("z", "z").is_err(), "all are taken");
        drop(all);
        assert!(terminal.taken.lock().expect("lock").is_empty());
        seat("a", "p").expect("free again");
    }

    #[test]
    fn a_text_goes_with_apply_and_with_nothing_else() {
        let of = |line: &str, text: Option<&str>| {
            judged(&Wanted {
                line: line.into(),
                text: text.map(str::to_owned),
            })
        };
        assert!(of("apply -n x", Some("kind: Pod")).is_ok());
        for (line, text, word) in [
            ("apply", None, "wants a text"),
            ("apply", Some(" \n"), "wants a text"),
            ("get pods", Some("kind: Pod"), "only apply"),
            ("apply", Some(&*"a".repeat(TEXT_MAX + 1)), "at most"),
            ("get pods; id", None, "is for a shell"),
            (
                &*format!("get {}", "a".repeat(KEPT_MAX)),
                None,
                "the audit keeps",
            ),
            // Each quote is four signs there.
            (
                &*format!("get \"{}\"", "'".repeat(KEPT_MAX / 4)),
                None,
                "the audit keeps",
            ),
        ] {
            let why = of(line, text).expect_err(line);
            assert!(why.contains(word), "{why}");
        }
    }
}
