//! A daemon as a program of its own, broken at every point that it passes (`src/seam.rs`), and started again.
//!
//! ```text
//! reference:  begin ─► a life until all is done, and its stop ─► another one     = the points of both, the end
//! each case:  begin ─► the same, and in one of the two it breaks at a point: it ends there, or goes on, or stands
//!                      there until it is killed from outside
//!                   ─► a whole life until all is done, and its stop              = the same end
//! ```
//!
//! What works beside each other takes other turns each time, so a point has the name of its caller. Of calls that a life
//! makes over and over the first few are walked. A program that stands says so, and is killed then, as systemd's watchdog
//! does. What goes on beside a call that never comes back, to the end of its deadlines, is walked inside one process
//! alone (`src/seam/walk.rs`), where time can be made to pass: here it would be minutes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pf9_hostagent::seam::fault::InjectedFault;
use pf9_hostagent::seam::program::{ENV, ENV_POINTS, PassedPoint};
use pf9_hostagent::seam::walk::differences;
use tokio::process::{Child, Command};

use crate::sample;
use crate::support::program;

/// Whole lives of the undisturbed run: the second one takes up what the first one left.
const LIVES: usize = 2;
/// Calls of one caller that are walked, in each life.
const TIMES: usize = 2;
/// Cases at once: most of each is waiting.
const BESIDE: usize = 4;
/// An unoptimised program, on a machine that compiles beside it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(20);
/// Cases that are shown in full when a walk fails.
const TOLD_MAX: usize = 25;

/// Where one host is: its root, and beside it what the seam keeps.
pub(crate) struct Place(tempfile::TempDir);

/// A daemon, its peers, and what it is to do.
pub(crate) trait Whole {
    /// For people.
    const NAME: &'static str;
    /// The program.
    const PROGRAM: &'static str;
    /// The machine and its peers.
    type World;

    /// The machine before the first life.
    async fn begin(&self) -> Self::World;

    fn place(world: &Self::World) -> &Place;

    /// Before the program starts; the first life is 0.
    fn starts(&self, world: &mut Self::World, life: usize);

    /// What the peers do now; true when this life has done all that it has to. Asked again and again, whether or not the
    /// program runs.
    async fn turn(&self, world: &mut Self::World) -> bool;

    /// Everything that has to be as after the undisturbed run.
    async fn end(&self, world: &mut Self::World) -> BTreeMap<String, String>;
}

/// How a life went.
#[derive(Debug, PartialEq)]
enum Life {
    /// All was done, and it stopped as it was told.
    Done,
    /// It ended by itself, or failed as it stopped.
    Cut,
    /// It stood where it was to, and was killed.
    Stood,
    /// It neither ended nor did all, or did not stop.
    Never,
}

/// The undisturbed run.
struct Reference {
    /// What each life passed.
    lives: Vec<Vec<PassedPoint>>,
    end: BTreeMap<String, String>,
}

/// This happens at this point of that life.
struct Case {
    life: usize,
    point: PassedPoint,
    fault: InjectedFault,
}

enum Broken {
    Well,
    /// It did not come to the point.
    Missed,
    Wrong(String),
}

struct Program(Child);

// === impl Place ===

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("tempdir"));
        std::fs::create_dir(place.root()).expect("directory");
        place
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.0.path().join("host")
    }

    fn points(&self, life: usize) -> PathBuf {
        self.0.path().join(format!("points-{life}"))
    }
}

// === impl Program ===

impl Program {
    fn start(name: &str, place: &Place, breaks: Option<&str>, points: &Path) -> Self {
        let mut command = Command::new(program(name));
        command.arg("--root").arg(place.root());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.env_remove("NOTIFY_SOCKET").kill_on_drop(true);
        // What the seam keeps is on the same file system, and goes with the place.
        command.env("TMPDIR", place.0.path());
        command.env(ENV_POINTS, points);
        if let Some(breaks) = breaks {
            command.env(ENV, breaks);
        }
        Self(command.spawn().expect("start"))
    }

    /// How it ended, if it has; `asked`: it was told to stop.
    fn ended(&mut self, asked: bool) -> Option<Life> {
        let status = self.0.try_wait().expect("its state")?;
        Some(match asked && status.success() {
            true => Life::Done,
            false => Life::Cut,
        })
    }

    fn ask_to_stop(&self) {
        if let Some(id) = self.0.id() {
            let pid = Pid::from_raw(i32::try_from(id).expect("an id"));
            // It may have ended by itself at this moment.
            _ = kill(pid, Signal::SIGTERM);
        }
    }
}

async fn lived<W: Whole>(
    whole: &W,
    world: &mut W::World,
    life: usize,
    breaks: Option<(&PassedPoint, InjectedFault)>,
) -> (Life, Vec<PassedPoint>) {
    whole.starts(world, life);
    let points = W::place(world).points(life);
    let told = || std::fs::read_to_string(&points).unwrap_or_default();
    let stands = breaks.is_some_and(|(_, fault)| fault == InjectedFault::Stop);
    let breaks = breaks.map(|(point, fault)| point.with(fault));
    let mut program = Program::start(W::PROGRAM, W::place(world), breaks.as_deref(), &points);
    let mut began = Instant::now();
    let mut asked = false;
    let went = loop {
        if let Some(ended) = program.ended(asked) {
            break ended;
        }
        if stands && PassedPoint::any_broke(&told()) {
            program.0.kill().await.expect("it is killed");
            break Life::Stood;
        }
        if !asked && Box::pin(whole.turn(world)).await {
            program.ask_to_stop();
            (asked, began) = (true, Instant::now());
        }
        if began.elapsed() > PATIENCE {
            break Life::Never;
        }
        tokio::time::sleep(PAUSE).await;
    };
    (went, PassedPoint::all(&told()))
}

async fn reference<W: Whole>(whole: &W) -> Reference {
    let mut world = Box::pin(whole.begin()).await;
    let mut lives = Vec::new();
    for life in 0..LIVES {
        let (went, passed) = lived(whole, &mut world, life, None).await;
        assert_eq!(went, Life::Done, "{}: life {life}", W::NAME);
        assert!(
            !passed.is_empty(),
            "{}: life {life} passes no point",
            W::NAME
        );
        lives.push(passed);
    }
    let end = Box::pin(end_of(whole, &mut world)).await;
    Reference { lives, end }
}

impl Reference {
    /// Each way to break each of its points, of calls that are made again and again the first few.
    fn cases(&self) -> Vec<Case> {
        let mut all = Vec::new();
        for (life, passed) in self.lives.iter().enumerate() {
            for point in passed.iter().filter(|p| is_early(p)) {
                let faults = point.kind.faults().into_iter();
                all.extend(faults.map(|fault| Case {
                    life,
                    point: point.clone(),
                    fault,
                }));
            }
        }
        all
    }
}

fn is_early(point: &PassedPoint) -> bool {
    let (_, number) = point.name.rsplit_once('#').expect("a number");
    number.parse::<usize>().expect("a number") <= TIMES
}

/// Walks it: all of its cases, or `few` by the seed.
pub(crate) async fn walk<W: Whole>(whole: &W, few: usize) {
    let reference = Box::pin(reference(whole)).await;
    let points: usize = reference.lives.iter().map(Vec::len).sum();
    let what = format!("breaks of {}", W::NAME);
    let cases = sample::of(&what, reference.cases(), few);
    let each = cases.iter().map(|case| broken(whole, &reference, case));
    let went: Vec<_> = stream::iter(each).buffer_unordered(BESIDE).collect().await;
    let mut missed = 0;
    let mut wrong = Vec::new();
    for broken in went {
        match broken {
            Broken::Well => {}
            Broken::Missed => missed += 1,
            Broken::Wrong(why) => wrong.push(why),
        }
    }
    println!(
        "{}: {points} points passed, {} cases, {missed} not reached",
        W::NAME,
        cases.len()
    );
    // Work that goes on beside each other passes a point more or less, and on a busy machine retries have some of their own.
    assert!(missed <= 2 + cases.len() / 3, "{missed} were not reached");
    let told = wrong.iter().take(TOLD_MAX).cloned().collect::<Vec<_>>();
    assert!(
        wrong.is_empty(),
        "{} of {} breaks of {} end wrong:\n{}",
        wrong.len(),
        cases.len(),
        W::NAME,
        told.join("\n")
    );
}

/// Each world has keys of its own, whose names its files have.
async fn end_of<W: Whole>(whole: &W, world: &mut W::World) -> BTreeMap<String, String> {
    let end = whole.end(world).await.into_iter();
    let named = end.map(|(path, what)| match path.rsplit_once('/') {
        Some(("/etc/pf9/trust", _)) => ("/etc/pf9/trust/KEY.json".to_owned(), what),
        Some(_) | None => (path, what),
    });
    named.collect()
}

async fn broken<W: Whole>(whole: &W, reference: &Reference, case: &Case) -> Broken {
    let Case { life, point, fault } = case;
    let about = format!(
        "{fault:?} in life {life} at {} ({:?} of {})",
        point.name, point.kind, point.about
    );
    let mut world = Box::pin(whole.begin()).await;
    for before in 0..*life {
        let (went, _) = lived(whole, &mut world, before, None).await;
        if went != Life::Done {
            return Broken::Wrong(format!("{about}: the life before it: {went:?}"));
        }
    }
    let (went, passed) = lived(whole, &mut world, *life, Some((point, *fault))).await;
    let broke = passed.iter().any(|p| p.broke);
    match went {
        Life::Never => return Broken::Wrong(format!("{about}: it neither ends nor is done")),
        Life::Cut if !broke => return Broken::Wrong(format!("{about}: it ends before it")),
        Life::Done if !broke => return Broken::Missed,
        Life::Cut | Life::Done | Life::Stood => {}
    }
    let (went, _) = lived(whole, &mut world, life + 1, None).await;
    if went != Life::Done {
        return Broken::Wrong(format!("{about}: the life after it: {went:?}"));
    }
    let end = Box::pin(end_of(whole, &mut world)).await;
    let wrong = differences(&reference.end, &end);
    match wrong.is_empty() {
        true => Broken::Well,
        false => Broken::Wrong(format!("{about}:\n{}", wrong.join("\n"))),
    }
}
