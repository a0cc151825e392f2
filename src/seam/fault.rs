//! What breaks, and where.
//!
//! ```text
//! Scope ──enter──► this thread, and those it gives work to (host::blocking)
//!   │                 each point: noted, and at the chosen one ─► end | power | error | stop
//!   └─ points()      what was passed, in order: the walk's list
//! ```
//!
//! A scope is one life of a process. Once it ended nothing more of it reaches the disk, whatever its destructors try.
//! In a test a life ends by unwinding ([`LifeEnded`] is the payload, which no hook prints); in a program of its own, which
//! gets it from its environment ([`super::program`]), by `abort`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::panic::{Location, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::program::{self, At, PassedPoint};
use super::unsynced::Unsynced;
pub use super::unsynced::{PowerLoss, Stash};

/// How long a thread stands that is not the event loop's. A loop that waits for it waits until the watchdog ends
/// the process.
const WATCHDOG: Duration = Duration::from_secs(3);

/// What kind of call a point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CallKind {
    /// A file is opened to be written.
    Open,
    /// Bytes are written.
    Write,
    /// A file is cut or made longer.
    Length,
    /// Permissions or owner.
    Attributes,
    /// A file is made durable.
    Sync,
    /// A directory's names are.
    SyncDir,
    /// A name is given to something else.
    Rename,
    /// A name is added.
    Link,
    /// A name is removed.
    Remove,
    /// A directory is made.
    MakeDir,
    /// A program is started.
    Spawn,
    /// It ended.
    Exit,
    /// An answer is given, or was got.
    Reply,
    /// The clock is read.
    Clock,
}

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectedFault {
    /// The process ends, a write half done; the machine continues.
    Kill,
    /// The machine does.
    Power(PowerLoss),
    /// The call fails, a write half done.
    Fail(Errno),
    /// It never comes back.
    Stop,
}

/// A point that was passed.
#[derive(Clone, Debug)]
pub struct Point {
    /// Its kind.
    pub kind: CallKind,
    /// Its place in the seam.
    pub place: &'static str,
    /// Whose call it was.
    pub caller: &'static Location<'static>,
    /// About what: the last part of its path.
    pub about: String,
}

/// How a life ended in a test: what it unwound with.
#[derive(Debug)]
pub struct LifeEnded;

/// One life of a process.
#[derive(Debug)]
pub struct Scope {
    number: u64,
    state: Mutex<State>,
    over: AtomicBool,
    freed: Condvar,
    /// The thread of the event loop: where that stops, the watchdog ends the process.
    home: Option<ThreadId>,
    /// It notes neither points nor what was not synced: it may go on for years.
    only_a_clock: bool,
}

#[derive(Debug, Default)]
struct State {
    points: Vec<Point>,
    breaks: Option<(At, InjectedFault)>,
    broke: Option<Point>,
    /// How often a program passed the points of a place and a caller.
    times: BTreeMap<String, usize>,
    /// Where a program tells what it passes.
    told: Option<File>,
    stopped: bool,
    unsynced: Unsynced,
    clock: Clock,
    /// Every change below it is refused.
    refused: Option<(PathBuf, Errno)>,
    /// No program can be started.
    no_starts: Option<Errno>,
}

/// A clock that is not the machine's.
#[derive(Clone, Copy, Debug, Default)]
pub enum Clock {
    /// It is.
    #[default]
    Right,
    /// It is wrong by so much.
    Off(SignedDuration),
    /// It stands.
    Stands(Timestamp),
}

/// What a point is to do.
pub(crate) struct Verdict(Option<(Arc<Scope>, InjectedFault)>);

/// The scope of a thread, to be given to another one.
pub(crate) struct Current(Option<Arc<Scope>>);

/// As long as this is there the thread's points belong to a scope.
pub struct Entered(Option<Arc<Scope>>);

thread_local! {
    static HERE: RefCell<Option<Arc<Scope>>> = const { RefCell::new(None) };
}

// === impl Fault ===

impl CallKind {
    /// Everything that may happen at such a point.
    pub fn faults(self) -> Vec<InjectedFault> {
        let mut all = vec![InjectedFault::Kill, InjectedFault::Stop];
        let refused: &[Errno] = match self {
            Self::Open => &[Errno::ENOSPC, Errno::EIO, Errno::EMFILE],
            Self::Write
            | Self::Length
            | Self::Sync
            | Self::SyncDir
            | Self::Rename
            | Self::Link
            | Self::MakeDir => &[Errno::ENOSPC, Errno::EIO],
            Self::Attributes | Self::Remove | Self::Exit | Self::Reply => &[Errno::EIO],
            Self::Spawn => &[Errno::EMFILE, Errno::EAGAIN],
            // A reading cannot be refused, and changes nothing that could be lost.
            Self::Clock => return all,
        };
        all.extend(refused.iter().copied().map(InjectedFault::Fail));
        all.extend([PowerLoss::Everything, PowerLoss::Bytes].map(InjectedFault::Power));
        all
    }
}

impl CallKind {
    /// Whether it changes a file system.
    fn is_of_a_disk(self) -> bool {
        match self {
            Self::Open
            | Self::Write
            | Self::Length
            | Self::Attributes
            | Self::Sync
            | Self::SyncDir
            | Self::Rename
            | Self::Link
            | Self::Remove
            | Self::MakeDir => true,
            Self::Spawn | Self::Exit | Self::Reply | Self::Clock => false,
        }
    }
}

// === impl Scope ===

impl Scope {
    /// A life in which nothing breaks.
    pub fn whole() -> Arc<Self> {
        Self::new(None, true, false)
    }

    /// One in which nothing is noted, so that it may go on for years: it has a clock of its own, and what a test refuses.
    pub fn with_a_clock() -> Arc<Self> {
        Self::new(None, true, true)
    }

    /// One in which this happens at the point of this number, the first one being 0.
    pub fn breaking(point: usize, fault: InjectedFault) -> Arc<Self> {
        Self::new(Some((At::Number(point), fault)), true, false)
    }

    /// The life of a program, which tells what it passes to this file.
    pub(super) fn of_program(breaks: Option<(At, InjectedFault)>, told: Option<File>) -> Arc<Self> {
        let scope = Self::new(breaks, false, false);
        scope.state().told = told;
        scope
    }

    fn new(breaks: Option<(At, InjectedFault)>, here: bool, only_a_clock: bool) -> Arc<Self> {
        static LIVES: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            number: LIVES.fetch_add(1, Ordering::Relaxed),
            state: Mutex::new(State {
                breaks,
                ..State::default()
            }),
            over: AtomicBool::new(false),
            freed: Condvar::new(),
            home: here.then(|| std::thread::current().id()),
            only_a_clock,
        })
    }

    /// This thread's points belong to it.
    pub fn enter(self: &Arc<Self>) -> Entered {
        Current(Some(Arc::clone(self))).enter()
    }

    /// What was passed so far.
    pub fn points(&self) -> Vec<Point> {
        self.state().points.clone()
    }

    /// The point at which it broke, if it did.
    pub fn broke(&self) -> Option<Point> {
        self.state().broke.clone()
    }

    /// Something waits for ever.
    pub fn stopped(&self) -> bool {
        self.state().stopped
    }

    /// It ended before its time.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Ends it now, if it has not ended: threads stopped at a point go on, without effect.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.freed.notify_all();
    }

    /// Its clock.
    pub fn set_clock(&self, clock: Clock) {
        self.state().clock = clock;
    }

    /// From now on every change below this directory fails like that; `None`: no longer.
    pub fn refuse(&self, what: Option<(&Path, Errno)>) {
        self.state().refused = what.map(|(dir, errno)| (dir.to_path_buf(), errno));
    }

    /// From now on no program can be started, as where there are no more processes; `None`: they can.
    pub fn refuse_starts(&self, errno: Option<Errno>) {
        self.state().no_starts = errno;
    }

    fn refuses(&self, kind: CallKind, about: &Path) -> Option<InjectedFault> {
        let state = self.state();
        if kind == CallKind::Spawn {
            return state.no_starts.map(InjectedFault::Fail);
        }
        let (dir, errno) = state.refused.as_ref()?;
        (kind.is_of_a_disk() && about.starts_with(dir)).then_some(InjectedFault::Fail(*errno))
    }

    /// It is over, and the machine lost power: what was not synced is lost.
    pub fn lose(&self, loss: PowerLoss) {
        assert!(self.is_over(), "a machine that lost power goes on");
        self.state().unsynced.lose(loss);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(
        &self,
        kind: CallKind,
        place: &'static str,
        caller: &'static Location<'static>,
        about: &Path,
    ) -> Option<InjectedFault> {
        if self.is_over() {
            return Some(InjectedFault::Fail(Errno::EIO));
        }
        let mut state = self.state();
        let number = state.points.len();
        let about = about.file_name().unwrap_or_default().to_string_lossy();
        let point = Point {
            kind,
            place,
            caller,
            about: about.into_owned(),
        };
        let name = self.is_program().then(|| state.name_of(&point));
        let here = |(at, _): &&(At, InjectedFault)| at.is(number, name.as_deref());
        let fault = state.breaks.as_ref().filter(here).map(|(_, fault)| *fault);
        if let Some(fault) = fault {
            // Not a moment later: others of its threads would go on meanwhile.
            if matches!(fault, InjectedFault::Kill | InjectedFault::Power(_)) {
                self.over.store(true, Ordering::SeqCst);
            }
            state.broke = Some(point.clone());
        }
        if let Some(name) = name {
            state.tell(&point, name, fault.is_some());
        }
        state.points.push(point);
        fault
    }

    fn is_program(&self) -> bool {
        self.home.is_none()
    }

    /// The end of a life.
    fn ends(&self, fault: InjectedFault) -> ! {
        self.end();
        if self.is_program() {
            if let InjectedFault::Power(loss) = fault {
                self.lose(loss);
            }
            std::process::abort();
        }
        resume_unwind(Box::new(LifeEnded))
    }

    fn refused(&self) -> io::Error {
        Errno::EIO.into()
    }
}

impl State {
    /// What a test calls this point of a program: work beside it changes its number and not its name.
    fn name_of(&mut self, point: &Point) -> String {
        let name = format!("{}@{}", point.place, point.caller);
        let times = self.times.entry(name.clone()).or_default();
        *times += 1;
        format!("{name}#{times}")
    }

    fn tell(&mut self, point: &Point, name: String, broke: bool) {
        let Some(told) = &mut self.told else {
            return;
        };
        let passed = PassedPoint {
            kind: point.kind,
            name,
            about: point.about.clone(),
            broke,
        };
        // A test that lacks a line says so.
        drop(told.write_all(passed.line().as_bytes()));
    }
}

impl Current {
    pub(crate) fn enter(&self) -> Entered {
        Entered(HERE.replace(self.0.clone()))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        HERE.set(self.0.take());
    }
}

impl Verdict {
    /// A write gets half of its way.
    pub(crate) fn tears(&self) -> bool {
        match &self.0 {
            Some((_, InjectedFault::Kill | InjectedFault::Power(_))) => true,
            Some((scope, InjectedFault::Fail(_))) => !scope.is_over(),
            Some((_, InjectedFault::Stop)) | None => false,
        }
    }

    pub(crate) fn carried_out(self) -> io::Result<()> {
        let Some((scope, fault)) = self.0 else {
            return Ok(());
        };
        match fault {
            InjectedFault::Fail(errno) => Err(errno.into()),
            InjectedFault::Kill | InjectedFault::Power(_) => scope.ends(fault),
            InjectedFault::Stop => {
                let mut state = scope.state();
                state.stopped = true;
                let loop_stands = scope.home == Some(std::thread::current().id());
                if loop_stands {
                    // What the watchdog does about it, without the wait.
                    drop(state);
                    scope.ends(fault);
                }
                while !scope.is_over() {
                    let waited = scope.freed.wait_timeout(state, WATCHDOG);
                    let (held, late) = waited.unwrap_or_else(PoisonError::into_inner);
                    state = held;
                    if late.timed_out() && !scope.is_program() {
                        scope.end();
                    }
                }
                drop(state);
                Err(scope.refused())
            }
        }
    }

    pub(crate) async fn carried_out_soon(self) -> io::Result<()> {
        match self.0 {
            Some((scope, InjectedFault::Stop)) => {
                scope.state().stopped = true;
                std::future::pending().await
            }
            other => Self(other).carried_out(),
        }
    }
}

// === points ===

#[track_caller]
pub(crate) fn verdict(kind: CallKind, place: &'static str, about: &Path) -> Verdict {
    let caller = Location::caller();
    Verdict(current().0.and_then(|scope| {
        if let Some(fault) = scope.refuses(kind, about) {
            return Some((scope, fault));
        }
        if scope.only_a_clock {
            return None;
        }
        let fault = scope.pass(kind, place, caller, about)?;
        Some((scope, fault))
    }))
}

pub(crate) fn current() -> Current {
    let here = HERE.with_borrow(Clone::clone);
    Current(here.or_else(|| program::scope().clone()))
}

/// What a clock shows.
pub(crate) fn shown(now: Timestamp) -> Timestamp {
    let Some(scope) = current().0 else { return now };
    let clock = scope.state().clock;
    match clock {
        Clock::Right => now,
        Clock::Off(by) => now.saturating_add(by).unwrap_or(now),
        Clock::Stands(at) => at,
    }
}

/// Which life this is; none outside of all.
pub(crate) fn life() -> Option<u64> {
    current().0.map(|scope| scope.number)
}

fn note<T>(what: impl FnOnce(&mut Unsynced) -> T) -> Option<T> {
    let noting = current().0.filter(|scope| !scope.only_a_clock);
    noting.map(|scope| what(&mut scope.state().unsynced))
}

pub(crate) fn made(at: &Path) {
    note(|u| u.made(at));
}

pub(crate) fn begun(file: &File) {
    note(|u| u.begun(file));
}

pub(crate) fn changes(file: &File) {
    note(|u| u.changes(file));
}

pub(crate) fn overwrites(at: &Path) {
    if let Ok(file) = File::open(at) {
        changes(&file);
    }
}

pub(crate) fn synced(file: &File) {
    note(|u| u.synced(file));
}

pub(crate) fn synced_dir(dir: &Path) {
    note(|u| u.synced_dir(dir));
}

pub(crate) fn kept(at: &Path) -> Stash {
    note(|u| u.kept(at)).unwrap_or_default()
}

pub(crate) fn renamed(from: &Path, to: &Path, stash: Stash) {
    note(|u| u.renamed(from, to, stash));
}

pub(crate) fn exchanged(one: &Path, other: &Path) {
    note(|u| u.exchanged(one, other));
}

pub(crate) fn removed(at: &Path, stash: Stash) {
    note(|u| u.removed(at, stash));
}

/// Whether a tree was put aside instead of deleted.
pub(crate) fn tree_put_aside(at: &Path) -> bool {
    note(|u| u.tree_put_aside(at)).unwrap_or(false)
}
