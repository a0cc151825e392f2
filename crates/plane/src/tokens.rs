//! Enrolment tokens: single use, one day, stored only as digests.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::fair::of_those_with_most;
use super::guard::{Person, Who};
use super::http::{Doc, Path};
use super::people::{ProjectId, find};
use super::records::{TOKENS, Token};
use super::refusal::{Answer, Refusal};
use super::secrets;
use super::state::{Change, Plane};
use super::store::Read;
use pf9_hostagent::model::{Digest, EnrolToken, FaultCode, HostId, Secret};

/// Longest lifetime.
pub(super) const TTL_MAX: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How long an expired token is remembered, so that its user gets `expired` and not `unknown`.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Most tokens remembered.
const TOKENS_MAX: usize = 10_000;
/// How many remain when the table was full: trimming reads all of them, so it must be rare.
const TOKENS_LEFT: usize = TOKENS_MAX / 10 * 9;

/// Makes a token.
pub(super) fn create(
    change: &mut Change<'_>,
    ca: Digest,
    project: ProjectId,
    ttl: SignedDuration,
) -> Answer<Secret<String>> {
    check_ttl("the token is not created", ttl)?;
    forget_old(change)?;
    let now = change.now;
    let secret = secrets::fresh()?;
    let row = Token {
        project,
        created_at: now,
        expires_at: now + ttl,
        used: None,
    };
    change.put(&TOKENS, &secrets::kept(secret.expose()), &row)?;
    Ok(EnrolToken { ca, secret }.to_text())
}

/// Refuses a lifetime that nobody may give.
pub(super) fn check_ttl(what: &str, ttl: SignedDuration) -> Answer<()> {
    if ttl > SignedDuration::ZERO && ttl <= TTL_MAX {
        return Ok(());
    }
    let why = "ttl must be 1 s to 30 days";
    Err(Refusal::bad(FaultCode::TtlInvalid, what, why))
}

/// A valid token, and its key. It refuses a stranger before the store is locked.
pub(super) fn good(
    rows: &impl Read,
    secret: &Secret<String>,
    now: Timestamp,
) -> Answer<(String, Token)> {
    let key = secrets::kept(secret.expose());
    let refuse = |code: FaultCode, why: String| {
        Refusal::forbidden(code, "enrolment refused", why)
            .fix("make a new token with pf9-plane token create")
    };
    let known = rows.get(&TOKENS, &key)?;
    // Rows are trimmed only when room is needed.
    let remembered = known.filter(|token| now <= token.expires_at + REMEMBERED);
    let token = remembered.ok_or_else(|| {
        refuse(
            FaultCode::TokenUnknown,
            "this plane never issued that token".into(),
        )
    })?;
    if let Some((by, at)) = token.used {
        let why = format!("the token was used by host {by} at {}", second(at));
        return Err(refuse(FaultCode::TokenUsed, why));
    }
    if now >= token.expires_at {
        let why = format!("the token expired at {}", second(token.expires_at));
        return Err(refuse(FaultCode::TokenExpired, why));
    }
    Ok((key, token))
}

/// Uses up a token; returns the host's project. In the same transaction as the enrolment.
pub(super) fn consume(
    change: &mut Change<'_>,
    secret: &Secret<String>,
    host: HostId,
) -> Answer<ProjectId> {
    let (key, mut token) = good(&**change, secret, change.now)?;
    token.used = Some((host, change.now));
    change.put(&TOKENS, &key, &token)?;
    Ok(token.project)
}

fn forget_old(change: &mut Change<'_>) -> Answer<()> {
    if change.count(&TOKENS)? < TOKENS_MAX as u64 {
        return Ok(());
    }
    let (now, mut tokens) = (change.now, change.all(&TOKENS)?);
    for (key, _) in tokens.extract_if(.., |(_, t)| t.expires_at + REMEMBERED < now) {
        change.remove(&TOKENS, &key)?;
    }
    tokens.sort_by_key(|(_, t)| t.created_at);
    let surplus = tokens.len().saturating_sub(TOKENS_LEFT);
    let owned = tokens.iter().map(|(key, t)| (&t.project, key.as_str()));
    for key in of_those_with_most(owned, surplus) {
        change.remove(&TOKENS, key)?;
    }
    Ok(())
}

/// A request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    #[serde(default = "day")]
    ttl_s: i64,
}

fn day() -> i64 {
    24 * 3600
}

/// The project of a person's token: hosts are enrolled into it.
fn own_project(who: &Who) -> Answer<ProjectId> {
    let project = who.project.as_ref().map(|(p, _)| p.id.clone());
    project.ok_or_else(|| {
        let why = "the token has no project scope";
        Refusal::bad(FaultCode::TokenScope, "request refused", why)
            .fix("log in to the project the hosts will join")
    })
}

/// Id of a token: the beginning of its digest.
fn id_of(key: &str) -> &str {
    let digits = key.rsplit(':').next().unwrap_or_default();
    digits.get(..32).unwrap_or(digits)
}

/// `GET /resmgr/v1/tokens`.
pub(super) async fn list(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
) -> Answer<Json<Value>> {
    let project = own_project(&who)?;
    let all = plane.read()?.all(&TOKENS)?;
    let mine = all.iter().filter(|(_, t)| t.project == project);
    let shown = mine.map(|(key, t)| {
        json!({
            "id": id_of(key), "created_at": t.created_at, "expires_at": t.expires_at,
            "used_by": t.used.map(|(host, _)| host), "used_at": t.used.map(|(_, at)| at),
        })
    });
    Ok(Json(shown.collect()))
}

/// `POST /resmgr/v1/tokens`: one that admits a machine to the project. It is shown once.
pub(super) async fn post(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
    Doc(wanted): Doc<Wanted>,
) -> Answer<Json<Value>> {
    let (ca, project) = (plane.ca.digest(), own_project(&who)?);
    let ttl = SignedDuration::from_secs(wanted.ttl_s);
    let token = plane
        .change(move |change| create(change, ca, project, ttl))
        .await?;
    Ok(Json(json!({"token": token.expose()})))
}

/// `DELETE /resmgr/v1/tokens/{token_id}`.
pub(super) async fn delete(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    let project = own_project(&who)?;
    plane
        .change(move |change| {
            let all = change.all(&TOKENS)?;
            let mut mine = all.into_iter().filter(|(_, t)| t.project == project);
            let found = mine.find(|(key, _)| id_of(key) == id);
            let (key, _) = found.ok_or_else(|| find::none("join token", &id))?;
            Ok(change.remove(&TOKENS, &key)?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn second(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second())
        .unwrap_or(at)
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::tests::project;
    use crate::records::tables;
    use crate::store::Store;

    struct World {
        store: Store,
        _dir: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("tempdir");
            let store = Store::open(&dir.path().join("s"), &tables()).expect("store");
            Self { store, _dir: dir }
        }

        fn at<T>(
            &self,
            second: i64,
            work: impl FnOnce(&mut Change<'_>) -> Answer<T>,
        ) -> Result<T, String> {
            let now = Timestamp::from_second(1_800_000_000 + second).expect("time");
            let done: Answer<T> = self.store.write(|w| work(&mut Change::new(w, now)));
            done.map_err(|r| format!("{} {}", r.status.as_u16(), r.fault.code))
        }

        fn make(&self, second: i64, ttl: i64) -> Result<Secret<String>, String> {
            let ttl = SignedDuration::from_secs(ttl);
            let text = self.at(second, |c| create(c, Digest::of(b"ca"), project(), ttl))?;
            let token: EnrolToken = text.expose().parse().expect("its own text");
            Ok(token.secret)
        }
    }

    #[test]
    fn a_token_is_good_once_and_in_its_time() {
        let world = World::new();
        let host = HostId::random();
        let (a, b) = (world.make(0, 60).expect("a"), world.make(0, 60).expect("b"));
        let take = |s, token: &Secret<String>| world.at(s, |c| consume(c, token, host).map(drop));
        assert_eq!(take(59, &a), Ok(()));
        assert_eq!(take(59, &a), Err("403 token-used".into()));
        assert_eq!(take(60, &b), Err("403 token-expired".into()));
        // "Used" takes precedence, even if it has expired since.
        assert_eq!(take(61, &a), Err("403 token-used".into()));
        let guess = Secret::new("guess".to_owned());
        assert_eq!(take(1, &guess), Err("403 token-unknown".into()));
    }

    #[test]
    fn a_token_is_not_used_up_by_what_fails_after_it() {
        let world = World::new();
        let token = world.make(0, 60).expect("token");
        let failed: Result<(), String> = world.at(1, |c| {
            consume(c, &token, HostId::random())?;
            Err(Refusal::bad(FaultCode::BodyBroken, "no", "no"))
        });
        assert_eq!(failed, Err("400 body-broken".into()));
        let taken = world.at(2, |c| consume(c, &token, HostId::random()));
        assert_eq!(taken, Ok(project()));
    }

    #[test]
    fn a_full_table_is_read_once_in_a_while_and_the_newest_stay() {
        let world = World::new();
        let old = world.make(0, 1000).expect("old");
        let made = Timestamp::from_second(1_800_000_001).expect("time");
        let row = Token {
            project: project(),
            created_at: made,
            expires_at: made + SignedDuration::from_secs(1000),
            used: None,
        };
        let fill = |c: &mut Change<'_>| -> Answer<()> {
            for n in 1..TOKENS_MAX {
                c.put(&TOKENS, &format!("{n:05}"), &row)?;
            }
            Ok(())
        };
        world.at(1, fill).expect("filled");
        let count = || world.at(2, |c| Ok(c.count(&TOKENS)?)).expect("count");
        assert_eq!(count(), TOKENS_MAX as u64);
        let new = world.make(2, 1000).expect("new");
        assert_eq!(count(), TOKENS_LEFT as u64 + 1);
        let take =
            |token: &Secret<String>| world.at(3, |c| consume(c, token, HostId::random()).map(drop));
        assert_eq!(take(&old), Err("403 token-unknown".into()));
        assert_eq!(take(&new), Ok(()));
    }

    #[test]
    fn old_tokens_are_forgotten_and_odd_lives_refused() {
        let world = World::new();
        let old = world.make(0, 60).expect("token");
        let month = REMEMBERED.as_secs();
        world.make(month + 61, 60).expect("token");
        let said = world.at(month + 61, |c| consume(c, &old, HostId::random()));
        assert_eq!(said, Err("403 token-unknown".into()));
        for ttl in [0, -1, TTL_MAX.as_secs() + 1, i64::MAX] {
            assert_eq!(
                world.make(0, ttl).map(drop),
                Err("400 ttl-invalid".into()),
                "{ttl}"
            );
        }
    }
}
