//! Delivery to the plane's targets and to receivers of projects: to each independently, so that one that is down or slow
//! delays no other; its outbox in order of time, retried with backoff until it arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, StatusCode, Url, header};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::notify::{self, OUTBOX, TARGETS, Target, Told};
use super::payload;
use super::receivers::{self, RECEIVERS, Receiver};
use crate::state::Plane;
use crate::store::{Page, Read, Standing};
use pf9_hostagent::host::blocking;
use pf9_hostagent::host::tls;
use pf9_hostagent::telemetry::chain;

/// Timeout of one delivery.
const DEADLINE: Duration = Duration::from_secs(10);
/// First backoff after a failure; doubles with each further one.
const AGAIN: Duration = Duration::from_secs(2);
/// Longest backoff: a receiver that comes back gets its outbox within minutes.
const AGAIN_MAX: Duration = Duration::from_secs(300);
/// Alerts delivered before the target's configuration is read again.
const AT_ONCE: usize = 100;
/// Longest secret or URL in a file, and longest CA file.
const SECRET_MAX: u64 = 4096;
const AUTHORITIES_MAX: u64 = 1024 * 1024;

/// Who is told.
enum To {
    /// A target of the plane.
    Target(Target),
    /// A receiver of a project.
    Receiver(Receiver),
}

/// When a target is tried next.
struct Turn {
    due: Instant,
    fails: u32,
}

/// How a turn ended: whether more is waiting, or why not everything arrived.
type Ended = Result<(), String>;

/// Delivers until the plane stops. What is in flight then is sent again by the next plane.
pub(crate) async fn deliver(plane: Arc<Plane>) {
    let mut turns: BTreeMap<String, Turn> = BTreeMap::new();
    let mut busy: BTreeSet<String> = BTreeSet::new();
    let mut under_way: JoinSet<(String, Ended)> = JoinSet::new();
    let mut store = plane.store.standing();
    loop {
        // With the store away, deliveries could not be recorded, and another plane may already send them.
        let waiting = match plane.store.answers() {
            true => waiting(&plane),
            false => BTreeMap::new(),
        };
        turns.retain(|name, _| waiting.contains_key(name) || busy.contains(name));
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for (name, to) in waiting {
            if busy.contains(&name) {
                continue;
            }
            let turn = turns
                .entry(name.clone())
                .or_insert(Turn { due: now, fails: 0 });
            if turn.due > now {
                next = Some(next.map_or(turn.due, |next| next.min(turn.due)));
                continue;
            }
            busy.insert(name.clone());
            let plane = Arc::clone(&plane);
            under_way.spawn(async move {
                let ended = all(&plane, &name, &to).await;
                (name, ended)
            });
        }
        tokio::select! {
            // cancel-safe: all are; an interrupted delivery is made again
            () = plane.shutdown.cancelled() => return,
            () = plane.alerts.outbox.notified() => {}
            () = changes(store.as_mut()) => {}
            () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
            Some(done) = under_way.join_next() => match done {
                Ok((name, ended)) => {
                    busy.remove(&name);
                    after(&plane, &mut turns, name, ended);
                }
                Err(e) => {
                    tracing::error!(why = %e, "a delivery task failed");
                    busy.clear();
                    under_way.abort_all();
                }
            },
        }
    }
}

/// The store went away or came back. An embedded one never does.
async fn changes(store: Option<&mut watch::Receiver<Standing>>) {
    let changed = match store {
        Some(store) => store.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending::<()>().await;
    }
}

fn after(plane: &Plane, turns: &mut BTreeMap<String, Turn>, name: String, ended: Ended) {
    match &ended {
        // Its project sees it in the list: the plane's log is not for them to fill.
        Err(why) if receivers::has(&name) => {
            tracing::debug!(to = name, why, "alerts cannot be delivered and wait");
        }
        Err(why) => tracing::warn!(to = name, why, "alerts cannot be delivered and wait"),
        Ok(()) => {}
    }
    let failed = ended.is_err();
    plane
        .alerts
        .way(&name, pf9_hostagent::seam::clock::now(), ended);
    let turn = turns.entry(name).or_insert(Turn {
        due: Instant::now(),
        fails: 0,
    });
    turn.fails = match failed {
        true => turn.fails.saturating_add(1),
        false => 0,
    };
    turn.due = Instant::now() + pause(turn.fails);
}

/// Backoff of a target after this many failures in a row.
fn pause(fails: u32) -> Duration {
    match fails.checked_sub(1) {
        None => Duration::ZERO,
        Some(before) => AGAIN
            .saturating_mul(2u32.saturating_pow(before.min(16)))
            .min(AGAIN_MAX),
    }
}

/// Those with a non-empty outbox.
fn waiting(plane: &Plane) -> BTreeMap<String, To> {
    let read = || -> crate::refusal::Answer<BTreeMap<String, To>> {
        let rows = plane.read()?;
        let targets = rows.all(&TARGETS)?.into_iter();
        let targets = targets.map(|(name, target)| (name, To::Target(target)));
        let of_projects = rows.all(&RECEIVERS)?.into_iter();
        let of_projects = of_projects.map(|(name, receiver)| (name, To::Receiver(receiver)));
        let mut out: BTreeMap<String, To> = targets.chain(of_projects).collect();
        // Of one that is gone nobody asks how its deliveries were.
        plane
            .alerts
            .inner()
            .ways
            .retain(|name, _| out.contains_key(name));
        let mut empty = Vec::new();
        for name in out.keys() {
            let prefix = format!("{name}/");
            let first = Page {
                prefix: &prefix,
                beyond: None,
                backwards: false,
                most: 1,
            };
            if rows.page(&OUTBOX, first)?.is_empty() {
                empty.push(name.clone());
            }
        }
        for name in empty {
            out.remove(&name);
        }
        Ok(out)
    };
    read().unwrap_or_else(|refusal| {
        tracing::error!(why = %refusal.fault, "the delivery queue cannot be read");
        BTreeMap::new()
    })
}

/// Sends a target's whole outbox, one alert after the other.
async fn all(plane: &Arc<Plane>, name: &str, to: &To) -> Ended {
    let client = match to {
        To::Target(target) => client(target).await?,
        To::Receiver(receiver) => plane.alerts.reach.client(&receiver.url()?).await?,
    };
    let waits = |refusal: crate::refusal::Refusal| refusal.fault.to_string();
    let mut rows = {
        let read = plane.read().map_err(waits)?;
        notify::waiting_for(&read, name).map_err(waits)?
    };
    rows.sort_by_key(|(_, w)| w.since());
    let mut refused: Option<String> = None;
    for (_, waiting) in rows.into_iter().take(AT_ONCE) {
        for told in [waiting.begin, waiting.end].into_iter().flatten() {
            match one(plane, &client, to, &told).await {
                Ok(()) => {
                    let name = name.to_owned();
                    let done = plane.change(move |change| notify::arrived(change, &name, &told));
                    done.await.map_err(waits)?;
                }
                // Only this one failed: the others must not wait for it. Its end is of no use without its beginning.
                Err(Failed::This(why)) => {
                    refused.get_or_insert(why);
                    break;
                }
                Err(Failed::All(why)) => return Err(why),
            }
        }
    }
    refused.map_or(Ok(()), Err)
}

/// Why a delivery failed.
enum Failed {
    /// The target refuses this alert.
    This(String),
    /// The target accepts nothing at the moment.
    All(String),
}

/// The URL and the bearer token, as they are now.
async fn place(plane: &Plane, to: &To) -> Result<(Url, Option<String>), String> {
    let target = match to {
        To::Target(target) => &target.wanted,
        To::Receiver(receiver) => {
            let url = receiver.url()?;
            plane.alerts.reach.check(&url).await?;
            let token = receiver.secret.as_ref().map(|token| token.expose().clone());
            return Ok((url, token));
        }
    };
    let text = match (&target.url, &target.url_file) {
        (Some(url), _) => url.clone(),
        (None, Some(file)) => secret(file).await?,
        (None, None) => return Err("it has no url".into()),
    };
    let url = notify::url_of(&text, target.token_file.is_some())?;
    let token = match &target.token_file {
        Some(file) => Some(secret(file).await?),
        None => None,
    };
    Ok((url, token))
}

async fn one(plane: &Plane, client: &Client, to: &To, told: &Told) -> Result<(), Failed> {
    let (url, token) = place(plane, to).await.map_err(Failed::All)?;
    let (kind, name) = match to {
        To::Target(target) => (target.wanted.kind, &target.wanted.name),
        To::Receiver(receiver) => (receiver.kind, &receiver.name),
    };
    let document = payload::of(kind, name, told, &plane.public_url);
    let mut request = client
        .post(url)
        .timeout(DEADLINE)
        .header("Idempotency-Key", payload::key(told))
        .header(header::USER_AGENT, "pf9-plane")
        .json(&document);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    // The client's errors name the URL, which may be the secret.
    let answer = request.send().await;
    let answer = answer.map_err(|e| Failed::All(chain(&e.without_url())))?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status @ (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) => {
            Err(Failed::All(format!("it answers {status}")))
        }
        status if status.is_client_error() => Err(Failed::This(format!("it answers {status}"))),
        status => Err(Failed::All(format!("it answers {status}"))),
    }
}

async fn client(target: &Target) -> Result<Client, String> {
    let authorities = match &target.wanted.ca_file {
        Some(file) => Some(read(file, AUTHORITIES_MAX).await?),
        None => None,
    };
    tls::outside(authorities.as_deref(), |client| client).map_err(|e| e.to_string())
}

/// A secret from a file, without the trailing newline.
async fn secret(file: &Path) -> Result<String, String> {
    let bytes = read(file, SECRET_MAX).await?;
    let text = String::from_utf8(bytes)
        .map_err(|_| format!("{}: it is not UTF-8 text", file.display()))?;
    let text = text.trim().to_owned();
    match text.is_empty() || text.chars().any(char::is_control) {
        true => Err(format!("{}: one line is needed", file.display())),
        false => Ok(text),
    }
}

async fn read(file: &Path, max: u64) -> Result<Vec<u8>, String> {
    let bad = |why: String| format!("{}: {why}", file.display());
    let path = file.to_path_buf();
    let read = blocking(move || {
        let mut bytes = Vec::new();
        File::open(path)?.take(max + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    });
    let bytes = read.await.map_err(|e| bad(e.to_string()))?;
    match bytes.len() as u64 > max {
        true => Err(bad(format!("more than {max} bytes"))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_is_down_is_retried_with_backoff() {
        let pauses: Vec<u64> = (0..10).map(|n| pause(n).as_secs()).collect();
        assert_eq!(pauses, [0, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(pause(u32::MAX), AGAIN_MAX);
    }

    #[tokio::test]
    async fn a_secret_is_one_line_of_a_file() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("t");
        for (text, good) in [
            ("abc\n", true),
            ("", false),
            ("\n", false),
            ("a\nb\n", false),
            (&"x".repeat(5000), false),
        ] {
            std::fs::write(&file, text).expect("write");
            assert_eq!(secret(&file).await.is_ok(), good, "{text:?}");
        }
        let gone = secret(&dir.path().join("none")).await.expect_err("none");
        assert!(gone.contains("none: No such file"), "{gone}");
    }
}
