//! Deltas between stacks, made before they are requested: operators get small downloads without doing anything.
//!
//! *Which:* from each stack that nodes run to where their cluster may go next: the stack of a running roll, the newest
//! of its minor, the newest of the next one. These are two or three deltas for each stack in use, however many were
//! imported.
//!
//! *When:* after an import, when a roll starts, and when the plane starts; once an hour for those that could not be
//! made. A host that asks for one on this list is told to retry instead of getting the archive, because otherwise a
//! roll that starts with the import of its stack would be over first.
//!
//! *Cost:* half a minute of one processor for each, one at a time; disk space for both stacks unpacked, and memory for
//! two programs and twice the larger one, both checked first. A delta that cannot be made only costs the archive's
//! bytes, as if there were no deltas: it is logged and skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use semver::Version;
use tokio::sync::Notify;

use super::deltas;
use crate::records::{CLUSTERS, Cluster, Stack};
use crate::refusal::{Answer, Refusal};
use crate::rolls;
use crate::state::Plane;
use crate::store::Read;
use pf9_hostagent::host::facts;
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::model::{Digest, Fault, FaultCode, StackManifest};

/// One that could not be made (no disk space, no memory) is retried after this.
const AGAIN: Duration = Duration::from_secs(3600);
/// Memory reserved for the plane and for other programs of its machine.
const RESERVE: u64 = 256 * 1024 * 1024;
/// Memory for one delta, in sizes of the largest file: the old one, the new one, and the index of the old one.
const SIZES: u64 = 4;

/// From one manifest to another.
type Pair = (Digest, Digest);

/// Deltas to make.
#[derive(Default)]
pub(crate) struct Ahead {
    wake: Notify,
    /// Those that will be made, including the one in progress.
    coming: Mutex<BTreeSet<Pair>>,
}

impl Ahead {
    /// Something changed for which one may be wanted.
    pub(crate) fn poke(&self) {
        self.wake.notify_one();
    }

    /// It will be available in minutes.
    pub(crate) fn is_coming(&self, from: &Digest, to: &Digest) -> bool {
        self.coming().contains(&(*from, *to))
    }

    fn coming(&self) -> std::sync::MutexGuard<'_, BTreeSet<Pair>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Task: makes them, until the plane stops.
pub(crate) async fn keep(plane: Arc<Plane>) {
    let mut failed: BTreeMap<Pair, Instant> = BTreeMap::new();
    loop {
        failed.retain(|_, at| at.elapsed() < AGAIN);
        let Some(next) = look(&plane, &failed) else {
            tokio::select! {
                // cancel-safe: all are
                () = plane.shutdown.cancelled() => return,
                () = plane.ahead.wake.notified() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
            continue;
        };
        let mut making = std::pin::pin!(make(&plane, next));
        let made = loop {
            tokio::select! {
                // The leftovers of an interrupted one are removed when the plane starts.
                () = plane.shutdown.cancelled() => return,
                made = &mut making => break made,
                // A host that asks for a queued one is told to retry.
                () = plane.ahead.wake.notified() => drop(look(&plane, &failed)),
            }
        };
        if let Err(refusal) = made {
            tracing::warn!(
                "a delta was not built ahead, hosts download the whole archive: {}",
                refusal.fault
            );
            failed.insert(next, Instant::now());
        }
    }
}

/// Records what will be made; returns the next one.
fn look(plane: &Plane, failed: &BTreeMap<Pair, Instant>) -> Option<Pair> {
    let mut pairs = pairs(plane).unwrap_or_else(|refusal| {
        tracing::warn!("no delta is built ahead: {}", refusal.fault);
        Vec::new()
    });
    pairs.retain(|pair| !failed.contains_key(pair));
    *plane.ahead.coming() = pairs.iter().copied().collect();
    pairs.first().copied()
}

fn pairs(plane: &Plane) -> Answer<Vec<Pair>> {
    let rows = plane.read()?;
    let stacks = super::list(&rows)?;
    let clusters: Vec<Cluster> = rows.all(&CLUSTERS)?.into_iter().map(|(_, c)| c).collect();
    Ok(wanted(&clusters, &stacks))
}

async fn make(plane: &Arc<Plane>, (from, to): Pair) -> Answer<()> {
    let (old, new) = {
        let rows = plane.read()?;
        let row = |digest: Digest| super::find(&rows, &digest.to_string());
        (row(from)?, row(to)?)
    };
    let largest = [&old, &new].map(|stack| stack.content().map_or(0, |content| largest(&content)));
    require_memory(
        facts::memory_available(&HostFs::new("/")),
        largest.into_iter().max().unwrap_or_default(),
    )?;
    deltas::make_of(plane, old, new).await.map(drop)
}

fn largest(content: &StackManifest) -> u64 {
    content
        .files
        .iter()
        .map(|f| f.size)
        .max()
        .unwrap_or_default()
}

/// If the kernel does not report available memory, no check is made.
fn require_memory(available: Option<u64>, largest: u64) -> Answer<()> {
    let needed = largest.saturating_mul(SIZES).saturating_add(RESERVE);
    let Some(available) = available.filter(|available| *available < needed) else {
        return Ok(());
    };
    let mega = |bytes: u64| bytes / 1_000_000;
    let why = format!(
        "it takes {} MB of memory, {} MB are available",
        mega(needed),
        mega(available)
    );
    let fault = Fault::new(FaultCode::PlaneBusy, "the delta is not built", why);
    let fix =
        "it is retried in an hour; pf9-plane stack delta builds it now, whatever is available";
    Err(Refusal::new(
        http::StatusCode::SERVICE_UNAVAILABLE,
        fault.fix(fix),
    ))
}

/// Deltas to make, the most urgent first: what nodes have orders to fetch, then patches, then the next minor.
fn wanted(clusters: &[Cluster], stacks: &[Stack]) -> Vec<Pair> {
    let known: BTreeMap<Digest, &Stack> =
        stacks.iter().map(|s| (s.reference.manifest, s)).collect();
    let mut found = [Vec::new(), Vec::new(), Vec::new()];
    for cluster in clusters {
        let rolls = cluster.roll.as_ref().filter(|roll| roll.is_under_way());
        let rolls = rolls.and_then(|roll| known.get(&roll.to.manifest).copied());
        let runs: BTreeSet<Digest> = cluster
            .members
            .iter()
            .map(|member| rolls::stack_of(cluster, member).manifest)
            .collect();
        for from in runs.iter().filter_map(|digest| known.get(digest).copied()) {
            let [patch, minor] = next_of(from, stacks);
            for (to, into) in [rolls, patch, minor].into_iter().zip(&mut found) {
                into.extend(to.filter(|to| is_missing(from, to)).map(|to| (from, to)));
            }
        }
    }
    let mut seen = BTreeSet::new();
    let pairs = found.into_iter().flatten();
    let pairs = pairs.map(|(from, to)| (from.reference.manifest, to.reference.manifest));
    pairs.filter(|pair| seen.insert(*pair)).collect()
}

fn is_missing(from: &Stack, to: &Stack) -> bool {
    let (from, deltas) = (from.reference.manifest, &to.deltas);
    from != to.reference.manifest && deltas.iter().all(|delta| delta.from != from)
}

/// The newest successor of its minor, a rebuild or a later patch, and the newest of the next minor.
fn next_of<'a>(own: &Stack, all: &'a [Stack]) -> [Option<&'a Stack>; 2] {
    let version = |stack: &Stack| stack.kubernetes.parse::<Version>().ok();
    let Some(has) = version(own) else {
        return [None, None];
    };
    [0, 1].map(|further| {
        let follows = all.iter().filter_map(|stack| {
            let of = version(stack)?;
            let minor = of.major == has.major && of.minor.checked_sub(has.minor) == Some(further);
            let later = of > has || (of == has && stack.imported_at > own.imported_at);
            (minor && later).then_some((of, stack.imported_at, stack))
        });
        let newest = follows.max_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        newest.map(|(_, _, stack)| stack)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::tests::{add, cluster as bare};
    use crate::records::Delta;
    use crate::rolls::testing::{roll_to, stack};
    use pf9_hostagent::model::DeltaOffer;

    /// One with two nodes.
    fn cluster() -> Cluster {
        let mut cluster = bare();
        add(&mut cluster, &[(1, true), (2, false)]).expect("attached");
        cluster
    }

    fn versions(pairs: &[Pair], stacks: &[Stack]) -> Vec<(String, String)> {
        let version = |digest: &Digest| {
            let of = stacks.iter().find(|s| s.reference.manifest == *digest);
            of.expect("known").reference.version.clone()
        };
        let both = pairs.iter().map(|(from, to)| (version(from), version(to)));
        both.collect()
    }

    fn pairs(words: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = words.iter().map(|(a, b)| (a.to_string(), b.to_string()));
        owned.collect()
    }

    #[test]
    fn from_what_runs_to_the_newest_patch_and_the_newest_of_the_next_minor() {
        let stacks = [
            stack("1.36.1-1", 0, false),
            stack("1.36.3-1", 1, false),
            stack("1.36.2-1", 2, false),
            stack("1.37.0-1", 3, false),
            stack("1.37.2-1", 4, false),
            stack("1.35.9-1", 5, false),
            stack("1.38.0-1", 6, false),
        ];
        let mut one = cluster();
        one.stack = stacks[0].reference.clone();
        let of =
            |clusters: &[Cluster], stacks: &[Stack]| versions(&wanted(clusters, stacks), stacks);
        let both = pairs(&[("1.36.1-1", "1.36.3-1"), ("1.36.1-1", "1.37.2-1")]);
        assert_eq!(of(&[one.clone()], &stacks), both);
        assert_eq!(
            of(&[one.clone(), one.clone()], &stacks),
            both,
            "once for all"
        );

        // A roll's stack comes first, whatever is newest; each stack that a node runs counts.
        one.roll = Some(roll_to(&one, &stacks[2].reference));
        one.members[0].stack = Some(stacks[1].reference.clone());
        let of_roll = of(&[one.clone()], &stacks);
        assert_eq!(
            of_roll[..2]
                .iter()
                .filter(|(_, to)| to == "1.36.2-1")
                .count(),
            2,
            "{of_roll:?}"
        );
        assert!(of_roll.contains(&("1.36.3-1".into(), "1.37.2-1".into())));

        // An existing one is not made again, and a stack that no node runs needs none.
        let mut stacks = stacks;
        let (from, offer) = (
            stacks[0].reference.manifest,
            DeltaOffer {
                sha256: Digest::of(b"d"),
                bytes: 1,
            },
        );
        stacks[1].deltas.push(Delta { from, offer });
        one.roll = None;
        one.members.iter_mut().for_each(|m| m.stack = None);
        assert_eq!(
            of(&[one.clone()], &stacks),
            pairs(&[("1.36.1-1", "1.37.2-1")])
        );
        one.members.clear();
        assert_eq!(of(&[one], &stacks), []);
    }

    #[test]
    fn a_stack_that_was_built_again_follows_the_one_before() {
        let stacks = [stack("1.36.1-1", 0, false), stack("1.36.1-2", 1, false)];
        let mut one = cluster();
        for (runs, expected) in [(0, pairs(&[("1.36.1-1", "1.36.1-2")])), (1, Vec::new())] {
            one.stack = stacks[runs].reference.clone();
            assert_eq!(
                versions(&wanted(&[one.clone()], &stacks), &stacks),
                expected
            );
        }
    }

    #[test]
    fn memory_is_asked_for_first() {
        let needed = RESERVE + 400;
        assert!(require_memory(Some(needed), 100).is_ok());
        assert!(require_memory(None, u64::MAX).is_ok());
        let refused = require_memory(Some(needed - 1), 100).expect_err("too little");
        assert!(
            refused.fault.why.contains("MB of memory"),
            "{}",
            refused.fault
        );
    }
}
