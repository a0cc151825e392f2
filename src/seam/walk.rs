//! The walk: a scenario broken at every point that it passes, in every way, and continued.
//!
//! ```text
//! reference:  begin ─► lives until it is done                    = points, end, calls
//! each case:  begin ─► a life that breaks at point n ─► lose what was not synced, boot
//!                   ─► whole lives until it is done              = the same end, the same calls
//! ```

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use super::fault::{InjectedFault, LifeEnded, Point, PowerLoss, Scope};
use crate::host::fs::HostFs;
use crate::sample;

/// Lives after the one that broke: what was interrupted is repaired, and what that shows.
const LIVES_MAX: usize = 4;
/// Nothing of ours waits longer for what stands still.
const LONGEST: Duration = Duration::from_secs(3600);
/// Cases that are shown in full when a walk fails.
const TOLD_MAX: usize = 25;

/// What a walk goes through.
#[expect(async_fn_in_trait, reason = "a walk is a test's, on its own thread")]
pub trait Scenario {
    /// Its name.
    const NAME: &'static str;
    /// A machine, and what a process of ours has in memory.
    type World;

    /// The machine before it.
    async fn begin(&self) -> Self::World;

    /// What a process does from its start on, or (`starts` is false) what it does on the next round. True when it is
    /// done.
    async fn life(&self, world: &mut Self::World, starts: bool) -> bool;

    /// The machine lost its power and restarts.
    fn boot(&self, _world: &mut Self::World) {}

    /// Everything that has to be as after the undisturbed run.
    async fn end(&self, world: &mut Self::World) -> BTreeMap<String, String>;

    /// Commands to others since the last question; the same as undisturbed, unless the power was lost.
    fn calls(&self, _world: &Self::World) -> Vec<String> {
        Vec::new()
    }
}

/// What the undisturbed run passed and left.
pub struct Reference {
    /// Every point, in their order.
    pub points: Vec<Point>,
    end: BTreeMap<String, String>,
    calls: Vec<String>,
}

/// Runs it undisturbed.
pub async fn reference<S: Scenario>(scenario: &S) -> Reference {
    let mut world = Box::pin(scenario.begin()).await;
    drop(scenario.calls(&world));
    let scope = Scope::whole();
    let done = lived(scenario, &mut world, &scope, true).await;
    assert!(matches!(done, Life::Done), "{}: {done:?}", S::NAME);
    let points = scope.points();
    assert!(!points.is_empty(), "{} passes no point", S::NAME);
    Reference {
        points,
        calls: scenario.calls(&world),
        end: Box::pin(scenario.end(&mut world)).await,
    }
}

/// Walks it: all of its cases, or `few` by the seed.
pub async fn walk<S: Scenario>(scenario: &S, few: usize) {
    let reference = reference(scenario).await;
    let numbered = reference.points.iter().enumerate();
    let cases = numbered.flat_map(|(n, p)| p.kind.faults().into_iter().map(move |f| (n, f)));
    let cases: Vec<_> = cases.collect();
    let what = format!("breaks at {} points of {}", reference.points.len(), S::NAME);
    let mut wrong = Vec::new();
    let mut missed = 0;
    let cases = sample::of(&what, cases, few);
    for (n, fault) in &cases {
        match broken(scenario, &reference, *n, *fault).await {
            Broken::Well => {}
            Broken::Missed => missed += 1,
            Broken::Wrong(why) => wrong.push(why),
        }
    }
    println!(
        "{}: {} points, {} cases, {missed} not reached",
        S::NAME,
        reference.points.len(),
        cases.len()
    );
    // Work that continues beside each other passes a point more or less.
    assert!(missed <= 2 + cases.len() / 20, "{missed} were not reached");
    let told = wrong.iter().take(TOLD_MAX).cloned().collect::<Vec<_>>();
    assert!(
        wrong.is_empty(),
        "{} of {} breaks of {} end wrong:\n{}",
        wrong.len(),
        cases.len(),
        S::NAME,
        told.join("\n")
    );
}

enum Broken {
    Well,
    /// It did not come to the point.
    Missed,
    Wrong(String),
}

async fn broken<S: Scenario>(
    scenario: &S,
    reference: &Reference,
    n: usize,
    fault: InjectedFault,
) -> Broken {
    let mut world = Box::pin(scenario.begin()).await;
    drop(scenario.calls(&world));
    let scope = Scope::breaking(n, fault);
    let mut life = lived(scenario, &mut world, &scope, true).await;
    let Some(point) = scope.broke() else {
        return Broken::Missed;
    };
    let about = || {
        let Point {
            kind,
            place,
            caller,
            about,
        } = &point;
        format!("{fault:?} at {n} ({kind:?} of {about}, {place}, called at {caller})")
    };
    if let InjectedFault::Power(loss) = fault {
        scope.end();
        scope.lose(loss);
        scenario.boot(&mut world);
        life = Life::Cut;
    }
    for _ in 0..LIVES_MAX {
        let starts = match life {
            Life::Done => break,
            Life::NotDone => false,
            Life::Cut => true,
            Life::Waits => {
                return Broken::Wrong(format!("{}: it is waited for without end", about()));
            }
        };
        life = lived(scenario, &mut world, &Scope::whole(), starts).await;
    }
    if !matches!(life, Life::Done) {
        return Broken::Wrong(format!("{}: it is never done ({life:?})", about()));
    }
    let calls = scenario.calls(&world);
    let end = Box::pin(scenario.end(&mut world)).await;
    let mut wrong = differences(&reference.end, &end);
    if !matches!(
        fault,
        InjectedFault::Power(PowerLoss::Everything | PowerLoss::Bytes)
    ) && calls != reference.calls
    {
        wrong.push(format!(
            "  called {calls:?}, undisturbed {:?}",
            reference.calls
        ));
    }
    match wrong.is_empty() {
        true => Broken::Well,
        false => Broken::Wrong(format!("{}:\n{}", about(), wrong.join("\n"))),
    }
}

/// How a life went.
#[derive(Debug)]
enum Life {
    Done,
    /// It failed in words, and would go on.
    NotDone,
    /// The process ended.
    Cut,
    /// Somebody waits, and has no deadline.
    Waits,
}

async fn lived<S: Scenario>(
    scenario: &S,
    world: &mut S::World,
    scope: &Arc<Scope>,
    starts: bool,
) -> Life {
    let here = scope.enter();
    // On the heap: a life is larger than what a thread likes to carry.
    let life = Box::pin(AssertUnwindSafe(scenario.life(world, starts)).catch_unwind());
    let frozen = Cell::new(false);
    let watch = async {
        while !scope.stopped() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // From here on time passes a thousand times as fast: what waits has a deadline, and what works is not late.
        tokio::time::pause();
        frozen.set(true);
        for _ in 0..LONGEST.as_secs() {
            tokio::time::advance(Duration::from_secs(1)).await;
            std::thread::sleep(Duration::from_millis(1));
            tokio::task::yield_now().await;
        }
    };
    let ended = tokio::select! {
        ended = life => Some(ended),
        () = watch => None,
    };
    drop(here);
    if frozen.get() {
        tokio::time::resume();
    }
    let over = scope.is_over();
    // Threads that are still stopped at a point go on, without effect.
    scope.end();
    let Some(ended) = ended else {
        return Life::Waits;
    };
    match ended {
        Ok(_) if over => Life::Cut,
        Ok(true) => Life::Done,
        Ok(false) => Life::NotDone,
        Err(panic) if panic.is::<LifeEnded>() => Life::Cut,
        Err(panic) => resume_unwind(panic),
    }
}

/// What is another than it should be, a line each.
pub fn differences(want: &BTreeMap<String, String>, is: &BTreeMap<String, String>) -> Vec<String> {
    let short = |text: Option<&String>| match text {
        Some(text) => format!("{:.200}", text),
        None => "nothing".to_owned(),
    };
    let mut keys: Vec<_> = want.keys().chain(is.keys()).collect();
    keys.sort();
    keys.dedup();
    let differs = |key: &&String| want.get(*key) != is.get(*key);
    keys.into_iter()
        .filter(differs)
        .map(|key| {
            let (is, want) = (short(is.get(key)), short(want.get(key)));
            format!("  {key}: {is}, undisturbed {want}")
        })
        .collect()
}

/// Everything below a root: mode and content of each path; of those that `vague` names, which hold what is another
/// each time, the mode alone.
pub fn files(fs: &HostFs, vague: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    let root = fs.at("/");
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("directory") {
            let path = entry.expect("entry").path();
            let meta = std::fs::symlink_metadata(&path).expect("metadata");
            let name = format!("/{}", path.strip_prefix(&root).expect("below").display());
            let says = match (meta.is_file(), std::fs::read_link(&path)) {
                _ if vague(&name) => String::new(),
                (true, _) => format!(
                    "{:?}",
                    String::from_utf8_lossy(&std::fs::read(&path).expect("read"))
                ),
                (false, Ok(target)) => format!("to {}", target.display()),
                (false, Err(_)) => "directory".to_owned(),
            };
            found.insert(name, format!("{:o} {says}", meta.permissions().mode()));
            if meta.is_dir() {
                dirs.push(path);
            }
        }
    }
    found
}
