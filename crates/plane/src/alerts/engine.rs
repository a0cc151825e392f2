//! When a finding becomes an alert, its cause, and when a notice is sent. Pure: time is an argument.
//!
//! ```text
//!            holds long enough,            gone for long enough
//!  finding ─ no cause explains it ───────► firing ──────────────► resolved (sent to the receivers of the start)
//!     │      (pending till then)             │ ▲
//!     └ gone: there was no alert           └─┘ sent again every 24 h, and when it gets worse
//! ```
//!
//! Three kinds are held back: symptoms of another alert (they stand in that alert's `symptoms` and raise its urgency to
//! their own), alerts of a host in maintenance, and silenced ones. A held alert is listed with the reason, and is sent
//! when the reason is gone and the finding is not.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::found::Finding;
use super::rules::{Reach, Rule, Urgency};
use super::{Alert, Held, Key, Sent, Silence, Subject};
use pf9_hostagent::model::{ClusterId, HostId};

/// A notice is repeated after this long, until the alert is resolved.
pub(super) const REPEAT: SignedDuration = SignedDuration::from_hours(24);
/// A symptom has this long to resolve after its cause did: a sweep of a node takes a minute.
pub(super) const SETTLE: SignedDuration = SignedDuration::from_mins(3);
/// A symptom waits this long for a cause that is only suspected: a suspicion that comes and goes must not hide anything
/// for ever.
pub(super) const SUSPECTED_MAX: SignedDuration = SignedDuration::from_mins(10);
/// Symptoms named in one alert.
const SYMPTOMS_MAX: usize = 20;
/// Longest chain of causes; the table is acyclic and shorter.
const CHAIN_MAX: usize = 16;

/// Inputs of a pass.
pub(super) struct Look<'a> {
    pub(super) now: Timestamp,
    pub(super) findings: &'a BTreeMap<Key, Finding>,
    /// Whether the absence of an alert's finding means that it is over; otherwise it was not measured.
    pub(super) is_known: &'a dyn Fn(&Alert) -> bool,
    /// Whether the subject still exists.
    pub(super) is_there: &'a dyn Fn(Subject) -> bool,
    /// Masters of every cluster.
    pub(super) masters: &'a BTreeMap<ClusterId, Vec<HostId>>,
    /// Hosts in maintenance: why and until when.
    pub(super) resting: &'a BTreeMap<HostId, (String, Timestamp)>,
    pub(super) silences: &'a [Silence],
}

/// The kind of notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Notice {
    /// It began.
    Fired,
    /// It got worse.
    Raised,
    /// It persists.
    Repeated,
    /// It is over.
    Resolved,
}

/// Open alerts, by key.
pub(super) type Book = BTreeMap<Key, Alert>;

/// Result of a pass.
#[derive(Debug, Default)]
pub(super) struct Led {
    /// Notices, with the alert as it is then.
    pub(super) notices: Vec<(Notice, Alert)>,
    /// Resolved alerts that had fired.
    pub(super) past: Vec<Alert>,
}

/// One pass.
pub(super) fn advance(book: &mut Book, look: &Look<'_>) -> Led {
    let mut led = Led::default();
    for finding in look.findings.values() {
        take_in(book, finding, look.now);
    }
    end(book, look, &mut led);
    hold(book, look);
    fire_all(book, look);
    symptoms(book);
    for alert in book.values_mut() {
        if let Some(notice) = due(alert, look.now) {
            tell(alert, look.now);
            led.notices.push((notice, alert.clone()));
        }
    }
    led
}

/// The hold time.
fn hold_of(look: &Look<'_>, alert: &Alert) -> SignedDuration {
    let finding = look.findings.get(&alert.key);
    finding.map_or_else(|| alert.key.rule.hold(), |f| f.hold)
}

fn take_in(book: &mut Book, finding: &Finding, now: Timestamp) {
    let since = finding.since.map_or(now, |since| since.min(now));
    let alert = book.entry(finding.key.clone()).or_insert_with(|| Alert {
        id: Uuid::new_v4(),
        key: finding.key.clone(),
        cluster: finding.cluster,
        project: None,
        names: finding.names.clone(),
        urgency: finding.urgency,
        says: String::new(),
        why: String::new(),
        tried: String::new(),
        since,
        fired_at: None,
        resolved_at: None,
        clear_since: None,
        held: None,
        held_at: None,
        symptoms: Vec::new(),
        sent: None,
        acknowledged: None,
    });
    alert.clear_since = None;
    if alert.fired_at.is_none() && finding.since.is_some() {
        alert.since = since;
    }
    alert.cluster = finding.cluster;
    alert.names.clone_from(&finding.names);
    alert.urgency = finding.urgency;
    alert.says.clone_from(&finding.says);
    alert.why.clone_from(&finding.why);
    alert.tried.clone_from(&finding.tried);
}

/// Ends alerts that are over or whose subject is gone.
fn end(book: &mut Book, look: &Look<'_>, led: &mut Led) {
    let now = look.now;
    book.retain(|key, alert| {
        let there = (look.is_there)(key.subject);
        if there && (look.findings.contains_key(key) || !(look.is_known)(alert)) {
            return true;
        }
        if alert.fired_at.is_none() {
            // It never passed its hold time: there was no alert.
            return false;
        }
        let since = *alert.clear_since.get_or_insert(now);
        if there && now.duration_since(since) < key.rule.clear() {
            return true;
        }
        alert.resolved_at = Some(now);
        alert.held = None;
        if !there {
            alert.why = "it is gone".into();
        }
        if alert.sent.is_some() {
            tell(alert, now);
            led.notices.push((Notice::Resolved, alert.clone()));
        }
        led.past.push(alert.clone());
        false
    });
}

/// Sets for each alert why no notice is sent, if there is a reason.
fn hold(book: &mut Book, look: &Look<'_>) {
    let held: Vec<(Key, Option<(Held, bool)>)> = book
        .values()
        .map(|alert| (alert.key.clone(), reason(book, look, alert)))
        .collect();
    for (key, held) in held {
        let Some(alert) = book.get_mut(&key) else {
            continue;
        };
        match held {
            Some((held, lasts)) => {
                if lasts {
                    alert.held_at = Some(look.now);
                }
                alert.held = Some(held);
            }
            None => alert.held = None,
        }
    }
}

/// Why no notice is sent, and whether that cause has itself passed its hold time.
fn reason(book: &Book, look: &Look<'_>, alert: &Alert) -> Option<(Held, bool)> {
    if let Subject::Host(host) = alert.key.subject
        && let Some((reason, until)) = look.resting.get(&host)
    {
        let (reason, until) = (reason.clone(), *until);
        return Some((Held::Maintenance { reason, until }, true));
    }
    if let Some(cause) = first_cause(book, look, alert) {
        let held = Held::Cause {
            cause: cause.key.clone(),
            words: cause.what(),
        };
        return Some((held, cause.fired_at.is_some()));
    }
    let silence = look.silences.iter().find(|s| s.is_of(alert, look.now))?;
    let held = Held::Silence {
        id: silence.id,
        who: silence.who.clone(),
        why: silence.why.clone(),
        until: silence.until,
    };
    Some((held, false))
}

/// The root cause: not the nearest alert above it, the one at the top.
fn first_cause<'a>(book: &'a Book, look: &Look<'_>, alert: &Alert) -> Option<&'a Alert> {
    // A symptom that has waited this long no longer waits for a mere suspicion.
    let lasted = look.now.duration_since(alert.since);
    let patient = lasted < hold_of(look, alert) + SUSPECTED_MAX;
    top(book, look, alert, patient, CHAIN_MAX)
}

/// The top of the first chain of causes that ends in one past its hold time; for a patient symptom, of any chain.
fn top<'a>(
    book: &'a Book,
    look: &Look<'_>,
    of: &Alert,
    patient: bool,
    left: usize,
) -> Option<&'a Alert> {
    let left = left.checked_sub(1)?;
    causes(book, look, of).find_map(|cause| {
        let top = top(book, look, cause, patient, left).unwrap_or(cause);
        (top.fired_at.is_some() || patient).then_some(top)
    })
}

/// Its possible causes that are open, the likeliest first.
fn causes<'a>(
    book: &'a Book,
    look: &Look<'_>,
    of: &Alert,
) -> impl Iterator<Item = &'a Alert> + use<'a> {
    let cluster = of.cluster;
    let mut all: Vec<&'a Alert> = Vec::new();
    for (rule, reach) in of.key.rule.row().causes {
        let mut subjects: Vec<Subject> = Vec::new();
        match reach {
            Reach::Same => subjects.push(of.key.subject),
            Reach::Cluster => subjects.extend(cluster.map(Subject::Cluster)),
            Reach::Fleet => subjects.push(Subject::Fleet),
            Reach::Master => {
                let masters = cluster.and_then(|id| look.masters.get(&id));
                subjects.extend(masters.into_iter().flatten().map(|h| Subject::Host(*h)));
            }
            Reach::Member => {
                all.extend(
                    of_rule(book, *rule).filter(|a| cluster.is_some() && a.cluster == cluster),
                );
            }
        }
        for subject in subjects {
            all.extend(of_subject(book, *rule, subject));
        }
    }
    all.into_iter()
}

fn of_rule(book: &Book, rule: Rule) -> impl Iterator<Item = &Alert> {
    let from = Key {
        rule,
        subject: Subject::Fleet,
        part: String::new(),
    };
    book.range(from..)
        .map(|(_, alert)| alert)
        .take_while(move |alert| alert.key.rule == rule)
}

fn of_subject(book: &Book, rule: Rule, subject: Subject) -> impl Iterator<Item = &Alert> {
    let from = Key {
        rule,
        subject,
        part: String::new(),
    };
    book.range(from..)
        .map(|(_, alert)| alert)
        .take_while(move |alert| alert.key.rule == rule && alert.key.subject == subject)
}

/// Fires what is due, but no symptom in the same pass as its cause: until then the cause was a suspicion, and the symptom
/// may have lost patience with it.
fn fire_all(book: &mut Book, look: &Look<'_>) {
    let mut fired: Vec<Key> = Vec::new();
    for alert in book.values_mut() {
        if is_ripe(alert, look) {
            alert.fired_at = Some(look.now);
            fired.push(alert.key.clone());
        }
    }
    if fired.is_empty() {
        return;
    }
    hold(book, look);
    for key in fired {
        if let Some(alert) = book.get_mut(&key)
            && is_explained(alert)
        {
            alert.fired_at = None;
        }
    }
}

fn is_explained(alert: &Alert) -> bool {
    match alert.held {
        Some(Held::Cause { .. } | Held::Maintenance { .. }) => true,
        Some(Held::Silence { .. }) | None => false,
    }
}

/// It fires when its hold time is over, no cause explains it, and its former cause has been gone for long enough. (A
/// silence is no cause: the alert fires, and no notice is sent.)
fn is_ripe(alert: &Alert, look: &Look<'_>) -> bool {
    if alert.fired_at.is_some() {
        return false;
    }
    let settled = alert
        .held_at
        .is_none_or(|at| look.now.duration_since(at) >= SETTLE);
    let lasted = look.now.duration_since(alert.since) >= hold_of(look, alert);
    lasted && settled && !is_explained(alert)
}

/// Lists each cause's symptoms and raises it to their urgency.
fn symptoms(book: &mut Book) {
    let mut of: BTreeMap<Key, (Vec<String>, Urgency)> = BTreeMap::new();
    for alert in book.values() {
        if let Some(Held::Cause { cause, .. }) = &alert.held {
            let entry = of
                .entry(cause.clone())
                .or_insert((Vec::new(), Urgency::Low));
            entry
                .0
                .push(format!("{}: {}", alert.key.rule, alert.what()));
            entry.1 = entry.1.max(alert.urgency);
        }
    }
    for alert in book.values_mut() {
        alert.symptoms.clear();
        if let Some((mut named, urgency)) = of.remove(&alert.key) {
            let more = named.len().saturating_sub(SYMPTOMS_MAX);
            named.truncate(SYMPTOMS_MAX);
            if more > 0 {
                named.push(format!("and {more} more"));
            }
            alert.symptoms = named;
            alert.urgency = alert.urgency.max(urgency);
        }
    }
}

/// Whether a notice is due now, and of which kind.
fn due(alert: &Alert, now: Timestamp) -> Option<Notice> {
    if !alert.is_firing() || alert.held.is_some() || alert.clear_since.is_some() {
        return None;
    }
    let seen_to = alert.acknowledged.as_ref().is_some_and(|a| now < a.until);
    match alert.sent {
        Some(sent) if alert.urgency > sent.urgency => Some(Notice::Raised),
        _ if seen_to => None,
        None => Some(Notice::Fired),
        Some(sent) if now.duration_since(sent.at) >= REPEAT => Some(Notice::Repeated),
        Some(_) => None,
    }
}

fn tell(alert: &mut Alert, now: Timestamp) {
    let before = alert.sent;
    alert.sent = Some(Sent {
        at: now,
        // An urgency that comes and goes is not sent again as a rise.
        urgency: before.map_or(alert.urgency, |sent| sent.urgency.max(alert.urgency)),
        times: before.map_or(0, |sent| sent.times).saturating_add(1),
    });
}

#[cfg(test)]
mod tests;
