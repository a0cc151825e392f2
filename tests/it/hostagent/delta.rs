//! A stack built from a delta to the active one: over real sockets, with a plane that has the delta, lacks it, breaks
//! off, and lies. The delta format is implemented here a second time, from its specification.

use pf9_hostagent::model::{DeltaOffer, Digest, FaultCode, Generation, NodeState, StackRef};
use pf9_hostagent::stack::{self, Depth, PreparedStack, StackError};

use super::fixture::Bed;
use super::plane::PlaneSide;

/// The programs of the first stack; those of the second are the same, except that one is longer.
const CONTAINERD: usize = 10_000;
const KUBELET: usize = 50_000;
const MORE: usize = 40_000;

/// A host with a stack, and the next one on its plane.
struct Between {
    bed: Bed,
    own: StackRef,
    next: StackRef,
}

impl Between {
    fn new() -> Self {
        let bed = Bed::new();
        let of = |kubelet| [("bin/containerd", CONTAINERD), ("bin/kubelet", kubelet)];
        let own = bed.publish_programs("1", &of(KUBELET));
        let next = bed.publish_programs("2", &of(KUBELET + MORE));
        bed.install(&own);
        Self { bed, own, next }
    }

    /// A correct delta.
    fn delta(&self) -> Vec<u8> {
        self.delta_of(&tail())
    }

    /// The first program is the same file as before; the second is the previous one with these bytes appended.
    fn delta_of(&self, more: &[u8]) -> Vec<u8> {
        let mut out = b"pf9-delta-1\n".to_vec();
        out.extend(self.own.manifest.0);
        out.extend(self.next.manifest.0);
        out.extend([0, 0]);
        out.extend([2, 1, 1]);
        for number in [KUBELET, more.len(), 0] {
            leb128(number, &mut out);
        }
        out.extend(vec![0; KUBELET]);
        out.extend(more);
        zstd::encode_all(out.as_slice(), 1).expect("zstd")
    }

    /// The plane has these bytes, and offers them.
    fn has(&self, delta: Vec<u8>) {
        self.says(offer_of(&delta), Some(delta));
    }

    fn says(&self, offer: DeltaOffer, delta: Option<Vec<u8>>) {
        let key = (self.next.manifest, self.own.manifest);
        self.bed.plane.change(|p| {
            p.deltas.insert(key, (offer, delta));
        });
    }

    /// The plane orders the next stack here, and nodelet reports that it lacks it.
    async fn order(&self) {
        let bed = &self.bed;
        bed.plane.offer(bed.sign(1, bed.worker(&self.next)));
        bed.node.until(|n| n.specs.first().map(drop)).await;
        self.wants();
    }

    fn wants(&self) {
        self.bed.node.say(|s| {
            s.generation = Generation(1);
            s.state = NodeState::Converging;
            s.stack = Some(self.own.clone());
            s.wants_stack = Some(self.next.clone());
        });
    }

    async fn staged(&self, n: usize) {
        let all = |p: &PlaneSide| {
            let of = p.events.iter().filter(|e| e.kind == "stack-staged");
            (of.count() == n).then_some(())
        };
        self.bed.plane.until(all).await;
    }

    fn has_delta(&self) -> bool {
        let staged = stack::staged_delta(&self.next.manifest, &self.own.manifest);
        self.bed.fs.at(staged).exists()
    }

    fn has_archive(&self) -> bool {
        self.bed
            .fs
            .at(stack::staged_archive(&self.next.manifest))
            .exists()
    }

    /// How often this was requested.
    fn asked(&self, what: &str) -> usize {
        let asked = |p: &PlaneSide| p.asked.iter().filter(|a| a.ends_with(what)).count();
        self.bed.plane.read(asked)
    }

    /// nodelet's result.
    fn prepare(&self) -> Result<PreparedStack, StackError> {
        let fs = &self.bed.fs;
        let trust = pf9_hostagent::identity::trust(fs).expect("trust");
        stack::prepare(fs, &self.next, &trust, Default::default(), &mut |_| {})
    }

    fn is_had(&self) {
        let fs = &self.bed.fs;
        let made = self.prepare().and_then(|made| made.put_in_place(fs));
        made.expect("installed");
        let trust = pf9_hostagent::identity::trust(fs).expect("trust");
        stack::verify_installed(fs, &self.next, &trust, Depth::Full).expect("every byte");
    }

    /// Only the archive was staged, after this reason.
    async fn the_archive_came_after(&self, words: &str) {
        self.staged(1).await;
        assert!(self.has_archive() && !self.has_delta());
        let said = |p: &PlaneSide| p.event("stack-failed").cloned();
        let said = self.bed.plane.until(said).await;
        assert!(said.message.contains(words), "{}", said.message);
        assert_eq!(self.asked("/delta"), 1, "one try of it");
        self.is_had();
    }
}

/// What is appended to the program in the next stack.
fn tail() -> Vec<u8> {
    // As the test support makes its programs.
    let mut random = fastrand::Rng::with_seed(7);
    let all: Vec<u8> = (0..CONTAINERD + KUBELET + MORE)
        .map(|_| random.u8(..))
        .collect();
    all[CONTAINERD + KUBELET..].to_vec()
}

fn offer_of(delta: &[u8]) -> DeltaOffer {
    DeltaOffer {
        sha256: Digest::of(delta),
        bytes: delta.len() as u64,
    }
}

fn leb128(mut n: usize, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

#[tokio::test]
async fn a_stack_is_built_from_a_delta_to_the_active_one() {
    let it = Between::new();
    let delta = it.delta();
    it.has(delta.clone());
    let _agent = it.bed.start().await;
    it.order().await;
    it.staged(1).await;
    assert!(it.has_delta() && !it.has_archive());
    assert_eq!(it.asked("/archive"), 0);
    let status = it.bed.plane.read(|p| p.statuses.clone());
    let download = status.iter().filter_map(|s| s.download.as_ref());
    for said in download.filter(|d| d.total > 0) {
        assert_eq!(said.total, delta.len() as u64, "what comes is counted");
    }
    it.is_had();
}

#[tokio::test]
async fn without_a_smaller_delta_the_archive_is_fetched() {
    for large in [false, true] {
        let it = Between::new();
        if large {
            let archive = it.bed.plane.read(|p| p.archives[&it.next.manifest].len());
            let mut offer = offer_of(&it.delta());
            offer.bytes = archive as u64;
            it.says(offer, Some(it.delta()));
        }
        let _agent = it.bed.start().await;
        it.order().await;
        it.staged(1).await;
        assert!(it.has_archive() && !it.has_delta());
        assert_eq!(it.asked("/delta"), 0);
        it.is_had();
    }
}

/// A delta needs its base on this machine.
#[tokio::test]
async fn only_a_delta_from_the_active_stack_is_requested() {
    let it = Between::new();
    let _agent = it.bed.start().await;
    it.order().await;
    it.staged(1).await;
    let from = format!("/from/{}", it.own.manifest);
    assert_eq!(it.asked(&from), 1);

    let bare = Bed::new();
    let _agent = bare.start().await;
    let stack = bare.publish("1", 1_000);
    bare.plane.offer(bare.sign(1, bare.worker(&stack)));
    bare.plane
        .until(|p| p.event("stack-staged").map(drop))
        .await;
    let asked = bare.plane.read(|p| p.asked.clone());
    assert!(
        asked.iter().all(|what| !what.contains("/from/")),
        "{asked:?}"
    );
}

/// The tunnel breaks just when the plane is asked for the delta: that is no reason to fetch the whole archive.
#[tokio::test]
async fn a_short_outage_does_not_cause_a_full_download() {
    let it = Between::new();
    it.has(it.delta());
    it.bed.plane.change(|p| p.offers_break = 1);
    let _agent = it.bed.start().await;
    it.order().await;
    it.staged(1).await;
    assert!(it.has_delta());
    assert_eq!(it.asked("/archive"), 0);
}

/// The archive is not fetched for the half minute that it takes, and no failure is reported.
#[tokio::test]
async fn a_delta_that_is_being_made_is_waited_for() {
    let it = Between::new();
    it.has(it.delta());
    it.bed.plane.change(|p| p.offers_coming = 2);
    let _agent = it.bed.start().await;
    it.order().await;
    it.staged(1).await;
    assert!(it.has_delta());
    assert_eq!(it.asked("/archive"), 0);
    let failed = it.bed.plane.read(|p| p.event("stack-failed").cloned());
    assert_eq!(failed, None);
}

/// The plane had none, and made it before a byte of the archive arrived.
#[tokio::test]
async fn an_archive_without_bytes_yet_gives_way_to_a_delta() {
    let it = Between::new();
    it.bed.plane.change(|p| p.cuts = vec![0; 100]);
    let _agent = it.bed.start().await;
    it.order().await;
    it.bed.plane.until(|p| p.ranges.first().map(drop)).await;
    assert!(it.asked("/archive") > 0);
    let delta = it.delta();
    let key = (it.next.manifest, it.own.manifest);
    it.bed.plane.change(|p| {
        p.cuts.clear();
        p.deltas.insert(key, (offer_of(&delta), Some(delta)));
    });
    it.staged(1).await;
    assert!(it.has_delta() && !it.has_archive());
}

/// But one that has started to arrive continues: its bytes are as good.
#[tokio::test]
async fn an_archive_that_has_started_continues() {
    let it = Between::new();
    it.bed.plane.change(|p| {
        p.cuts = vec![0; 100];
        p.cuts[0] = 60_000;
    });
    let _agent = it.bed.start().await;
    it.order().await;
    it.bed.plane.until(|p| p.ranges.get(1).map(drop)).await;
    it.has(it.delta());
    it.bed.plane.change(|p| p.cuts.clear());
    it.staged(1).await;
    assert!(it.has_archive() && !it.has_delta());
    let ranges = it.bed.plane.read(|p| p.ranges.clone());
    let came = ranges[1];
    assert!(
        came.is_some() && ranges[1..].iter().all(|r| *r == came),
        "{ranges:?}"
    );
}

#[tokio::test]
async fn an_interrupted_delta_resumes_also_after_a_restart() {
    let it = Between::new();
    it.has(it.delta());
    it.bed.plane.change(|p| p.cuts = vec![20_000, 0, 0, 0]);
    let agent = it.bed.start().await;
    it.order().await;
    it.bed.plane.until(|p| p.ranges.get(1).map(drop)).await;
    agent.stop().await;
    it.bed.plane.change(|p| p.cuts = vec![10_000]);
    let before = it.bed.plane.read(|p| p.ranges.len());
    let _agent = it.bed.start().await;
    it.staged(1).await;
    assert!(it.has_delta());
    assert_eq!(it.asked("/archive"), 0);
    let ranges = it.bed.plane.read(|p| p.ranges.clone());
    assert_eq!(ranges[0], None);
    assert!(
        ranges[1..before].iter().all(|r| *r == Some(20_000)),
        "{ranges:?}"
    );
    assert_eq!(ranges[before..], [Some(20_000), Some(30_000)]);
    it.is_had();
}

#[tokio::test]
async fn a_delta_with_another_digest_is_not_staged_and_the_archive_is_fetched() {
    let it = Between::new();
    let mut delta = it.delta();
    let offer = offer_of(&delta);
    delta[9_000] ^= 1;
    it.says(offer, Some(delta));
    let _agent = it.bed.start().await;
    it.order().await;
    let words = format!("the delta from stack {} is damaged", it.own);
    it.the_archive_came_after(&words).await;
}

#[tokio::test]
async fn an_oversized_delta_is_not_staged_and_the_archive_is_fetched() {
    let it = Between::new();
    let mut delta = it.delta();
    let offer = offer_of(&delta);
    delta.extend([0; 10]);
    it.says(offer, Some(delta));
    let _agent = it.bed.start().await;
    it.order().await;
    it.the_archive_came_after("the plane sends more than").await;
}

/// Its row exists and its file does not.
#[tokio::test]
async fn a_delta_that_the_plane_cannot_serve_is_given_up() {
    let it = Between::new();
    it.says(offer_of(&it.delta()), None);
    let _agent = it.bed.start().await;
    it.order().await;
    it.the_archive_came_after("there is no such thing").await;
}

/// It has the announced digest, and makes another program: nodelet discards it, and the archive is fetched immediately.
#[tokio::test]
async fn a_delta_that_makes_another_program_is_discarded_and_the_archive_is_fetched() {
    let it = Between::new();
    let mut more = tail();
    more[7] ^= 1;
    it.has(it.delta_of(&more));
    let _agent = it.bed.start().await;
    it.order().await;
    it.staged(1).await;
    let refused = it.prepare().expect_err("another program");
    assert!(matches!(refused, StackError::Entry { .. }), "{refused}");
    assert!(!it.has_delta());
    it.wants();
    it.staged(2).await;
    assert!(it.has_archive() && !it.has_delta());
    assert_eq!(it.asked("/delta"), 1, "it is not fetched again");
    it.is_had();
    let failed = it.bed.plane.read(|p| p.event("stack-failed").cloned());
    assert_eq!(
        failed, None,
        "nodelet says it, and hostagent fetched what was said"
    );
}

/// A plane that answers nonsense must not block it.
#[tokio::test]
async fn an_unreadable_offer_does_not_block() {
    let it = Between::new();
    it.bed.plane.change(|p| p.offers_garbled = true);
    let _agent = it.bed.start().await;
    it.order().await;
    it.staged(1).await;
    assert!(it.has_archive());
    let reason = it.bed.plane.read(|p| p.reason(FaultCode::StackDamaged));
    assert_eq!(reason, None);
}
