//! Delivery to the plane's targets and to receivers of projects: to each independently, so that one that is down or slow
//! delays no other; its outbox in order of time, retried with backoff until it arrives or is refused for good. Whose turn
//! it is is in `turns`, and when something that was refused is tried again in `waiting`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, StatusCode, Url, header};
use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::notify::{self, OUTBOX, TARGETS, Target};
use super::payload;
use super::receivers::{self, RECEIVERS, Receiver};
use super::turns::{Ended, Turns, Waits};
use super::waiting::{self, Refused, Rest, Told};
use crate::people::DomainId;
use crate::refusal::{Answer, Refusal};
use crate::state::Plane;
use crate::store::{Page, Read, Standing};
use pf9_hostagent::host::blocking;
use pf9_hostagent::host::tls;
use pf9_hostagent::host::work::brief;
use pf9_hostagent::telemetry::chain;

/// Timeout of one delivery.
const DEADLINE: Duration = Duration::from_secs(10);
/// A turn begins no delivery after this long: others have theirs, and the name is looked up again.
const TURN: Duration = Duration::from_secs(30);
/// Pause after the queue could not be read.
const UNREAD: Duration = Duration::from_secs(5);
/// Entries of an outbox that are read at a time to find one that is due: mostly the first is.
const LOOK: usize = 16;
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

/// An outbox that is not empty, and whose it is.
struct Outbox {
    to: To,
    waits: Waits,
}

/// Delivers until the plane stops. What is in flight then is sent again by the next plane.
pub(crate) async fn deliver(plane: Arc<Plane>) {
    let mut turns = Turns::default();
    let mut under_way: JoinSet<Ended> = JoinSet::new();
    let mut names: HashMap<task::Id, String> = HashMap::new();
    let mut store = plane.store.standing();
    // Whether something may wait in an outbox that had nothing to try.
    let mut news = true;
    loop {
        let resting = match news {
            true => BTreeMap::new(),
            false => turns.resting(Instant::now()),
        };
        // With the store away, deliveries could not be recorded, and another plane may already send them.
        let waiting = match plane.store.answers() {
            true => waiting(&plane, resting).await,
            false => Some(BTreeMap::new()),
        };
        let now = Instant::now();
        let next = match waiting {
            Some(mut waiting) => {
                news = false;
                let waits = waiting.iter();
                let waits = waits.map(|(name, outbox)| (name.clone(), outbox.waits.clone()));
                let (begun, next) = turns.begin(waits.collect(), now);
                for name in begun {
                    let Some(outbox) = waiting.remove(&name) else {
                        continue;
                    };
                    let plane = Arc::clone(&plane);
                    let of = name.clone();
                    let task = under_way.spawn(async move { turn(&plane, &of, &outbox.to).await });
                    names.insert(task.id(), name);
                }
                next
            }
            None => Some(now + UNREAD),
        };
        tokio::select! {
            // cancel-safe: all are; an interrupted delivery is made again
            () = plane.shutdown.cancelled() => return,
            () = plane.alerts.outbox.notified() => news = true,
            () = changes(store.as_mut()) => news = true,
            () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
            Some(done) = under_way.join_next_with_id() => {
                let mut done = Some(done);
                // Hundreds may be over at once: one look serves all of them.
                while let Some(one) = done {
                    over(&plane, &mut turns, &mut names, one);
                    done = under_way.try_join_next_with_id();
                }
            }
        }
    }
}

fn over(
    plane: &Plane,
    turns: &mut Turns,
    names: &mut HashMap<task::Id, String>,
    done: Result<(task::Id, Ended), JoinError>,
) {
    let (id, ended) = match done {
        Ok(done) => done,
        Err(e) => {
            tracing::error!(why = %e, "a delivery task failed");
            let why = Some("the delivery failed in the plane; see its log".to_owned());
            let lost = Ended {
                why,
                ..Ended::default()
            };
            (e.id(), lost)
        }
    };
    if let Some(name) = names.remove(&id) {
        turns.end(&name, &ended, Instant::now());
        say(plane, &name, ended);
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

fn say(plane: &Plane, name: &str, ended: Ended) {
    let Ended {
        arrived,
        refused,
        why,
    } = ended;
    match &why {
        // Its project sees it in the list: the plane's log is not for them to fill.
        Some(why) if receivers::project_in(name).is_some() => {
            tracing::debug!(to = name, why, "alerts cannot be delivered and wait");
        }
        Some(why) => tracing::warn!(to = name, why, "alerts cannot be delivered and wait"),
        // It was changed before anything was sent.
        None if arrived + refused == 0 => return,
        None => {}
    }
    let arrived_at = (arrived > 0).then(pf9_hostagent::seam::clock::now);
    plane.alerts.way(name, arrived_at, why);
}

/// Those with a non-empty outbox; none where the store did not say. Of those that rest it is known when something is
/// due.
async fn waiting(
    plane: &Arc<Plane>,
    resting: BTreeMap<String, Option<Instant>>,
) -> Option<BTreeMap<String, Outbox>> {
    let shared = Arc::clone(plane);
    // A thousand receivers: not on a thread that moves bytes.
    let read = brief(move || waiting_in(&shared, &resting)).await;
    let read = read.map_err(|e| chain(&e));
    match read.and_then(|read| read.map_err(|refusal| refusal.fault.to_string())) {
        Ok(waiting) => Some(waiting),
        Err(why) => {
            tracing::error!(why, "the delivery queue cannot be read");
            None
        }
    }
}

fn waiting_in(
    plane: &Plane,
    resting: &BTreeMap<String, Option<Instant>>,
) -> Answer<BTreeMap<String, Outbox>> {
    let rows = plane.read()?;
    let targets = rows.all(&TARGETS)?.into_iter();
    let targets = targets.map(|(name, target)| (name, To::Target(target), None));
    // Rows of tenants must not keep the plane's own targets waiting.
    let of_projects = receivers::standing(&rows).unwrap_or_else(|refusal| {
        tracing::error!(why = %refusal.fault, "receivers of projects cannot be read");
        Vec::new()
    });
    let of_projects = of_projects.into_iter();
    let of_projects =
        of_projects.map(|(name, receiver, domain)| (name, To::Receiver(receiver), Some(domain)));
    let all: Vec<(String, To, Option<DomainId>)> = targets.chain(of_projects).collect();
    // Of one that is gone nobody asks how its deliveries were.
    let names: BTreeSet<&str> = all.iter().map(|(name, ..)| name.as_str()).collect();
    plane
        .alerts
        .inner()
        .ways
        .retain(|name, _| names.contains(name.as_str()));
    let mut out = BTreeMap::new();
    for (name, to, domain) in all {
        let first = match resting.get(&name) {
            Some(first) => *first,
            None => match first_due(&rows, &name)? {
                Some(First::Now) => None,
                Some(First::In(rest)) => Some(Instant::now() + rest),
                None => continue,
            },
        };
        let waits = Waits { first, domain };
        out.insert(name, Outbox { to, waits });
    }
    Ok(out)
}

/// When the first entry of an outbox is due.
enum First {
    Now,
    In(Duration),
}

/// The same; none: the outbox is empty.
fn first_due(rows: &impl Read, name: &str) -> Answer<Option<First>> {
    let now = pf9_hostagent::seam::clock::now();
    let prefix = format!("{name}/");
    let mut beyond: Option<String> = None;
    let mut rest: Option<Duration> = None;
    loop {
        let part = Page {
            prefix: &prefix,
            beyond: beyond.as_deref(),
            backwards: false,
            most: LOOK,
        };
        let part = rows.page(&OUTBOX.as_type::<Rest>(), part)?;
        for (_, entry) in &part {
            let Some(left) = entry.left(now) else {
                return Ok(Some(First::Now));
            };
            rest = Some(rest.map_or(left, |rest| rest.min(left)));
        }
        if part.len() < LOOK {
            return Ok(rest.map(First::In));
        }
        beyond = part.into_iter().next_back().map(|(key, _)| key);
    }
}

/// Sends from an outbox, one alert after the other, until nothing of it is due or the turn is over.
async fn turn(plane: &Arc<Plane>, name: &str, to: &To) -> Ended {
    let mut ended = Ended::default();
    if let Err(why) = send(plane, name, to, &mut ended).await {
        ended.why = Some(why);
    }
    ended
}

async fn send(plane: &Arc<Plane>, name: &str, to: &To, ended: &mut Ended) -> Result<(), String> {
    let client = match to {
        To::Target(target) => client(target).await?,
        To::Receiver(receiver) => plane.alerts.reach.client(&receiver.url()?).await?,
    };
    // Not before the name was looked up: each turn sends something.
    let began = Instant::now();
    let waits = |refusal: Refusal| refusal.fault.to_string();
    let rows = {
        let read = plane.read().map_err(waits)?;
        let all = notify::waiting_for(&read, name).map_err(waits)?;
        waiting::due(all, pf9_hostagent::seam::clock::now())
    };
    for (_, entry) in rows {
        for told in [entry.begin, entry.end].into_iter().flatten() {
            if began.elapsed() >= TURN {
                return Ok(());
            }
            // It may be removed, or have another URL, since.
            if !is_as_it_was(plane, name, to).map_err(waits)? {
                return Ok(());
            }
            match one(plane, &client, to, &told).await {
                Ok(()) => {
                    let name = name.to_owned();
                    let done = plane.change(move |change| notify::arrived(change, &name, &told));
                    done.await.map_err(waits)?;
                    ended.arrived += 1;
                }
                // Only this one failed: the others must not wait for it. Its end does.
                Err(Failed::This(why)) => {
                    refused(plane, name, told, why).await.map_err(waits)?;
                    ended.refused += 1;
                    break;
                }
                Err(Failed::All(why)) => return Err(why),
            }
        }
    }
    Ok(())
}

async fn refused(plane: &Arc<Plane>, name: &str, told: Told, why: String) -> Answer<()> {
    let (to, said, alert) = (name.to_owned(), why.clone(), told.alert.id);
    let done = plane.change(move |change| notify::refuse(change, &to, &told, &said));
    match done.await? {
        // Its project sees it in the list, as above.
        Refused::First | Refused::Dropped if receivers::project_in(name).is_some() => {
            tracing::debug!(to = name, %alert, why, "a notice is refused");
        }
        Refused::First => {
            tracing::warn!(to = name, %alert, why, "a notice is refused and tried again");
        }
        Refused::Dropped => {
            tracing::error!(to = name, %alert, why, "a notice is refused for good and dropped");
        }
        Refused::Again | Refused::Gone => {}
    }
    Ok(())
}

fn is_as_it_was(plane: &Plane, name: &str, to: &To) -> Answer<bool> {
    let rows = plane.read()?;
    Ok(match to {
        // (What was dropped is counted meanwhile.)
        To::Target(target) => rows.get(&TARGETS, name)?.is_some_and(|now| {
            (now.wanted, now.added_at) == (target.wanted.clone(), target.added_at)
        }),
        To::Receiver(receiver) => rows
            .get(&RECEIVERS, name)?
            .is_some_and(|now| now.is_called_as(receiver)),
    })
}

/// Why a delivery failed.
#[derive(Debug, PartialEq, Eq)]
enum Failed {
    /// The target refuses this notice.
    This(String),
    /// The target accepts nothing at the moment.
    All(String),
}

/// The URL and the bearer token, as they are now.
async fn place(to: &To) -> Result<(Url, Option<String>), String> {
    let target = match to {
        To::Target(target) => &target.wanted,
        To::Receiver(receiver) => {
            let token = receiver.secret.as_ref().map(|token| token.expose().clone());
            return Ok((receiver.url()?, token));
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
    let (url, token) = place(to).await.map_err(Failed::All)?;
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
    verdict(answer.status())
}

/// What an answer says. What is refused with 4xx is refused by itself, except where the time is the reason: too late
/// (408), too early (425), too many (429).
fn verdict(status: StatusCode) -> Result<(), Failed> {
    let why = || format!("it answers {status}");
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Err(Failed::All(why()))
        }
        status if status.is_success() => Ok(()),
        status if status.is_client_error() => Err(Failed::This(why())),
        _ => Err(Failed::All(why())),
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
    fn what_is_refused_by_itself_is_told_from_a_target_that_takes_nothing() {
        let of = |code: u16| verdict(StatusCode::from_u16(code).expect("status"));
        for code in [200, 201, 204] {
            assert_eq!(of(code), Ok(()), "{code}");
        }
        for code in [400, 401, 404, 409, 410, 422] {
            assert!(matches!(of(code), Err(Failed::This(_))), "{code}");
        }
        for code in [301, 408, 425, 429, 500, 503] {
            assert!(matches!(of(code), Err(Failed::All(_))), "{code}");
        }
        let why = Failed::This("it answers 400 Bad Request".into());
        assert_eq!(of(400), Err(why));
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
