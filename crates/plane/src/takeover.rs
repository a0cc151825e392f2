//! Rotation of the plane's own keys: `pf9-plane keys announce | take-over | retire`.
//!
//! A step is refused while it would leave a host behind. `--force` names those that are given up; none is left behind
//! by accident.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::agents;
use super::bootstrap;
use super::http::Doc;
use super::keys::{Announce, IDENTITY, IDENTITY_ROW, Identity, Kind, NoTurn, Ring};
use super::records::{HOSTS, STACKS};
use super::refusal::{Answer, Refusal, chain};
use super::state::{Change, Plane};
use super::store::Read;
use super::trust::{self, Before};
use pf9_hostagent::model::{Digest, DocumentKind, Fault, FaultCode, HostId, TrustStore};

/// Hosts that a message names; the list has all of them.
const NAMED_MAX: usize = 5;

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Step {
    /// Adds a second key, trusted beside the first.
    Announce,
    /// The second one signs.
    TakeOver,
    /// The one that does not sign is no longer trusted.
    Retire,
}

/// `POST /keys`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    pub(super) step: Step,
    pub(super) kind: Kind,
    /// Hosts that may be left behind.
    #[serde(default)]
    pub(super) force: BTreeSet<HostId>,
}

/// `GET /keys`: each kind, and the hosts that have not followed.
pub(super) async fn list(State(plane): State<Arc<Plane>>) -> Answer<Json<Value>> {
    let (rows, ring) = (plane.read()?, plane.keys.ring());
    let hosts = rows.all(&HOSTS)?.len();
    let mut out = Vec::new();
    for kind in [Kind::Signing, Kind::Authority] {
        let [current, next, old] = trust::names(&ring, kind);
        let wanted = match (&next, &old) {
            (Some(_), _) => before(&ring, kind, Step::TakeOver),
            (None, Some(_)) => before(&ring, kind, Step::Retire),
            (None, None) => None,
        };
        let waiting = match &wanted {
            Some(before) => trust::who_waits(&rows, before)?,
            None => Vec::new(),
        };
        out.push(json!({
            "kind": kind, "current": current, "next": next, "old": old,
            "hosts": hosts, "ready": hosts - waiting.len(),
            "waiting": trust::waiting_json(&waiting),
        }));
    }
    Ok(Json(out.into()))
}

/// `POST /keys`.
pub(super) async fn step(
    State(plane): State<Arc<Plane>>,
    Doc(wanted): Doc<Wanted>,
) -> Answer<Json<Value>> {
    let shared = Arc::clone(&plane);
    let (step, kind) = (wanted.step, wanted.kind);
    plane
        .change(move |change| take(change, &shared, &wanted))
        .await?;
    let ring = plane.keys.ring();
    if let Err(e) = bootstrap::write_bundle(&plane.files, &ring) {
        tracing::warn!(
            why = chain(&e),
            "ca.pem is not the newest; the next start writes it"
        );
    }
    tracing::info!(
        ?step,
        ?kind,
        serial = ring.serial(),
        "the plane's keys changed"
    );
    list(State(plane)).await
}

fn take(change: &mut Change<'_>, plane: &Plane, wanted: &Wanted) -> Answer<()> {
    let now = plane.keys.ring();
    let stored: Identity = now.stored().clone();
    // Whether the step exists is checked before which hosts it would leave behind.
    let next = match wanted.step {
        Step::Announce => stored
            .announce(wanted.kind, change.now)
            .map_err(|e| match e {
                Announce::NoTurn(no) => no_turn(no),
                Announce::Make(e) => Refusal::internal("the key is not created", &e),
            })?,
        Step::TakeOver => stored.take_over(wanted.kind).map_err(no_turn)?,
        Step::Retire => stored.retire(wanted.kind).map_err(no_turn)?,
    };
    if let Some(before) = before(&now, wanted.kind, wanted.step) {
        let waiting = trust::who_waits(&**change, &before)?;
        let left: Vec<_> = waiting
            .into_iter()
            .filter(|(host, _)| !wanted.force.contains(host))
            .collect();
        if !left.is_empty() {
            return Err(left_behind(&left));
        }
    }
    let ring =
        Arc::new(Ring::load(next).map_err(|e| Refusal::internal("the keys cannot be used", &e))?);
    change.put(&IDENTITY, IDENTITY_ROW, ring.stored())?;
    sign_stacks(change, &now, &ring)?;
    let trust = TrustStore::new(now.trusted())?;
    agents::repository::sign_anew(change, &trust, &ring.signing.current)?;
    let hosts: Vec<HostId> = change.all(&HOSTS)?.into_iter().map(|(_, h)| h.id).collect();
    change.keys(ring, hosts);
    Ok(())
}

/// What every host must have done before a step; nothing before an announcement, nor before its cancellation.
fn before(ring: &Ring, kind: Kind, step: Step) -> Option<Before<'_>> {
    let (signing, authorities) = (&ring.signing, &ring.authorities);
    match (step, kind) {
        (Step::Announce, Kind::Signing | Kind::Authority) => None,
        (Step::TakeOver, Kind::Signing) => {
            signing.next.as_ref().map(|key| Before::TrustsKey(key.id()))
        }
        (Step::TakeOver, Kind::Authority) => authorities
            .next
            .as_ref()
            .map(|ca| Before::TrustsAuthority(Digest::of(ca.der()))),
        (Step::Retire, Kind::Signing) => signing
            .old
            .as_ref()
            .map(|_| Before::NeedsKey(signing.current.id())),
        (Step::Retire, Kind::Authority) => authorities
            .old
            .as_ref()
            .map(|_| Before::NeedsAuthority(Digest::of(authorities.current.der()))),
    }
}

/// The same manifests, signed with the current key.
fn sign_stacks(change: &mut Change<'_>, before: &Ring, now: &Ring) -> Answer<()> {
    let key = &now.signing.current;
    let trust = TrustStore::new(before.trusted())?;
    for (digest, mut stack) in change.all(&STACKS)? {
        if stack.envelope.key_id == key.id() {
            continue;
        }
        let bytes = stack.envelope.verify(DocumentKind::StackManifest, &trust);
        let bytes = bytes.map_err(|e| Refusal::from(e.fault("stack manifest")))?;
        stack.envelope = key.sign(DocumentKind::StackManifest, &bytes);
        change.put(&STACKS, &digest, &stack)?;
    }
    Ok(())
}

fn no_turn(no: NoTurn) -> Refusal {
    Refusal::new(StatusCode::CONFLICT, no.fault())
}

fn left_behind(left: &[(HostId, &'static str)]) -> Refusal {
    let mut named: Vec<String> = left
        .iter()
        .take(NAMED_MAX)
        .map(|(host, why)| format!("{host}: {why}"))
        .collect();
    if left.len() > NAMED_MAX {
        named.push(format!("and {} more", left.len() - NAMED_MAX));
    }
    let why = format!(
        "{} would no longer trust this plane: {}",
        hosts(left.len()),
        named.join("; ")
    );
    Refusal::new(
        StatusCode::CONFLICT,
        Fault::new(FaultCode::KeysHostsWait, "the keys are unchanged", why).fix(
            "wait until they have confirmed (pf9-plane keys list), remove them, or give up each by name: --force \
             HOST; such a host must enrol again",
        ),
    )
}

fn hosts(n: usize) -> String {
    match n {
        1 => "1 host".to_owned(),
        n => format!("{n} hosts"),
    }
}
