//! Stacks and rolls for tests.

use std::sync::OnceLock;

use jiff::SignedDuration;
use serde_json::json;

use super::{By, Goal, Part, Policy, Roll, State, Way};
use crate::compute::tests::now;
use crate::records::{Cluster, Stack};
use pf9_hostagent::model::{
    Digest, DocumentKind, HostId, RollId, SigningKey, StackRef, UpgradeStage,
};

/// The plane's key.
pub(crate) fn key() -> &'static SigningKey {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    KEY.get_or_init(|| SigningKey::generate().expect("key").0)
}

/// One whose Kubernetes version is the beginning of its own, imported in that hour.
pub(crate) fn stack(version: &str, hour: i64, security: bool) -> Stack {
    let kubernetes = version.split('-').next().expect("a version");
    let manifest = json!({
        "schema": 1, "name": "pf9-kube", "version": version, "kubernetes": kubernetes, "arch": "amd64",
        "archive": {"sha256": Digest::of(b"a"), "size": 1}, "components": [], "files": [], "images": [],
        "security": security,
    });
    let bytes = manifest.to_string().into_bytes();
    Stack {
        reference: StackRef {
            name: "pf9-kube".into(),
            version: version.into(),
            manifest: Digest::of(&bytes),
        },
        kubernetes: kubernetes.into(),
        imported_at: now() + SignedDuration::from_hours(hour),
        archive: Digest::of(b"a"),
        archive_size: 1,
        deltas: Vec::new(),
        envelope: key().sign(DocumentKind::StackManifest, &bytes),
    }
}

/// A running one, to which nobody has reacted yet.
pub(crate) fn roll_to(cluster: &Cluster, to: &StackRef) -> Roll {
    Roll {
        id: RollId(uuid::Uuid::nil()),
        goal: Goal::Stack,
        other: None,
        from: cluster.stack.clone(),
        to: to.clone(),
        way: Way::Forward,
        state: State::Running,
        why: None,
        unready: None,
        policy: Policy::default(),
        by: By::Operator,
        despite: Vec::new(),
        began_at: now(),
        ended_at: None,
        etcd_moves: false,
        begun: true,
        probed: false,
        parts: Default::default(),
    }
}

/// A roll with this order for these hosts; some have reported that they are done, or not yet that it was withdrawn.
pub(crate) fn told(
    cluster: &mut Cluster,
    parts: impl IntoIterator<Item = (HostId, (Option<UpgradeStage>, bool, bool))>,
) {
    let stack = cluster.stack.clone();
    let mut roll = roll_to(cluster, &stack);
    for (host, (told, done, recalled)) in parts {
        let part = Part {
            told,
            etcd: done,
            node: done,
            os_due: !done,
            recalled,
            ..Part::new(stack.clone(), stack.clone(), roll.id)
        };
        roll.parts.insert(host, part);
    }
    cluster.roll = Some(roll);
}
