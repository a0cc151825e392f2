//! Acknowledge and silence: one alert is being worked on, or some alerts send no notices for a time.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::shelf::{self, OPEN, SILENCES};
use super::{Acknowledged, Alert, Rule, Silence};
use crate::people::ProjectId;
use crate::records::{CLUSTERS, HOSTS};
use crate::refusal::{Answer, Refusal};
use crate::state::{Change, Plane};
use crate::store::Read;
use pf9_hostagent::model::{ClusterId, FaultCode, HostId};

/// Longest that either may last: longer ones are forgotten.
const LASTS_MAX: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Longest name and longest reason, in bytes: each fits on a line.
const WHO_MAX: usize = 128;
const WHY_MAX: usize = 512;
/// Silences at a time of one project, and of the whole plane: a project with many leaves room for the others.
const SILENCES_MAX: usize = 200;

/// Body of `POST …/alerts/{id}/acknowledge`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct WantedAck {
    pub(crate) who: String,
    pub(crate) why: String,
    pub(crate) for_seconds: u32,
}

/// Body of `POST …/silences`; an absent field matches all.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct WantedSilence {
    #[serde(default)]
    pub(crate) rule: Option<Rule>,
    #[serde(default)]
    pub(crate) cluster: Option<ClusterId>,
    #[serde(default)]
    pub(crate) host: Option<HostId>,
    pub(crate) who: String,
    pub(crate) why: String,
    pub(crate) for_seconds: u32,
}

/// The end, if the duration is allowed and name and reason are given.
fn until(now: Timestamp, for_s: u32, who: &str, why: &str, what: &str) -> Answer<Timestamp> {
    let bad = |reason: String| Err(Refusal::bad(FaultCode::AlertInvalid, what, reason));
    let lasts = SignedDuration::from_secs(for_s.into());
    if lasts.is_zero() || lasts > LASTS_MAX {
        let days = LASTS_MAX.as_hours() / 24;
        return bad(format!(
            "it would last {for_s} s; 1 s to {days} days are allowed"
        ));
    }
    for (field, text, max) in [("who", who, WHO_MAX), ("why", why, WHY_MAX)] {
        let has = text.trim().len();
        if has == 0 || text.len() > max || text.chars().any(char::is_control) {
            return bad(format!("{field}: 1 to {max} printable bytes are needed"));
        }
    }
    Ok(now.checked_add(lasts).unwrap_or(Timestamp::MAX))
}

/// Somebody is working on it.
fn acknowledge(change: &mut Change<'_>, id: Uuid, wanted: &WantedAck) -> Answer<Alert> {
    let what = "not acknowledged";
    let Some(mut alert) = change.get(&OPEN, &id.to_string())? else {
        let why = format!("there is no open alert {id}");
        return Err(Refusal::missing(FaultCode::NotFound, what, why)
            .fix("pf9-plane alert list; only open alerts can be acknowledged"));
    };
    let WantedAck {
        who,
        why,
        for_seconds,
    } = wanted;
    alert.acknowledged = Some(Acknowledged {
        until: until(change.now, *for_seconds, who, why, what)?,
        who: who.clone(),
        why: why.clone(),
        at: change.now,
    });
    shelf::put(change, &alert)?;
    Ok(alert)
}

/// These send no notices for a time.
fn silence(change: &mut Change<'_>, wanted: &WantedSilence) -> Answer<Silence> {
    let what = "not silenced";
    let now = change.now;
    let until = until(now, wanted.for_seconds, &wanted.who, &wanted.why, what)?;
    forget_old(change)?;
    let mine = project_of(&**change, wanted.cluster, wanted.host)?;
    let mut as_many = 0;
    for (_, other) in change.all(&SILENCES)? {
        as_many += usize::from(project_of(&**change, other.cluster, other.host)? == mine);
    }
    if as_many >= SILENCES_MAX {
        let why = format!("there are {SILENCES_MAX} silences already");
        return Err(Refusal::conflict(FaultCode::TooMany, what, why)
            .fix("end some first: pf9-plane alert silence end ID"));
    }
    let silence = Silence {
        id: Uuid::new_v4(),
        rule: wanted.rule,
        cluster: wanted.cluster,
        host: wanted.host,
        who: wanted.who.clone(),
        why: wanted.why.clone(),
        at: now,
        until,
    };
    change.put(&SILENCES, &silence.id.to_string(), &silence)?;
    Ok(silence)
}

/// The project of something about a cluster or a host; none where it is about all of them, or the subject is gone.
pub(super) fn project_of(
    rows: &impl Read,
    cluster: Option<ClusterId>,
    host: Option<HostId>,
) -> Answer<Option<ProjectId>> {
    Ok(match (cluster, host) {
        (Some(cluster), _) => rows
            .get(&CLUSTERS, &cluster.to_string())?
            .map(|c| c.project),
        (None, Some(host)) => rows.get(&HOSTS, &host.to_string())?.map(|h| h.project),
        (None, None) => None,
    })
}

/// Deletes expired silences.
pub(super) fn forget_old(change: &mut Change<'_>) -> Answer<()> {
    for (key, silence) in change.all(&SILENCES)? {
        if silence.until <= change.now {
            change.remove(&SILENCES, &key)?;
        }
    }
    Ok(())
}

/// On the running plane.
pub(super) async fn acknowledge_on(
    plane: &Arc<Plane>,
    id: Uuid,
    wanted: WantedAck,
) -> Answer<Alert> {
    let _turn = plane.alerts.turn.lock().await;
    let alert = plane
        .change(move |change| acknowledge(change, id, &wanted))
        .await?;
    if let Some(open) = plane.alerts.inner().book.get_mut(&alert.key) {
        open.acknowledged.clone_from(&alert.acknowledged);
    }
    let by = alert.acknowledged.as_ref().map(|a| a.who.as_str());
    tracing::info!(alert = %id, rule = %alert.key.rule, by, "acknowledged");
    Ok(alert)
}

/// On the running plane.
pub(super) async fn silence_on(plane: &Arc<Plane>, wanted: WantedSilence) -> Answer<Silence> {
    let done = plane.change(move |change| silence(change, &wanted)).await?;
    tracing::info!(silence = %done.id, by = done.who, until = %done.until, "silenced");
    plane.alerts.news.notify_one();
    Ok(done)
}

/// Ends one before its time. Returns whether there was one.
pub(super) async fn unsilence_on(plane: &Arc<Plane>, id: Uuid) -> Answer<bool> {
    let was = plane
        .change(move |change| {
            let key = id.to_string();
            let was = change.get(&SILENCES, &key)?.is_some();
            change.remove(&SILENCES, &key)?;
            Ok(was)
        })
        .await?;
    plane.alerts.news.notify_one();
    Ok(was)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::alerts::facts::tests::at;
    use crate::alerts::{Key, Names, Subject};
    use crate::compute::tests::{host, host_row};
    use crate::records::tables;
    use crate::store::Store;

    pub(in crate::alerts) struct World {
        pub(in crate::alerts) store: Store,
        _dir: tempfile::TempDir,
    }

    pub(in crate::alerts) fn world() -> World {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&dir.path().join("s"), &tables()).expect("store");
        World { store, _dir: dir }
    }

    impl World {
        pub(in crate::alerts) fn try_at<T>(
            &self,
            s: i64,
            work: impl FnOnce(&mut Change<'_>) -> Answer<T>,
        ) -> Answer<T> {
            self.store.write(|w| work(&mut Change::new(w, at(s))))
        }

        pub(in crate::alerts) fn at<T>(
            &self,
            s: i64,
            work: impl FnOnce(&mut Change<'_>) -> Answer<T>,
        ) -> T {
            self.try_at(s, work).expect("done")
        }
    }

    /// An alert of a host that began at `s`.
    pub(in crate::alerts) fn firing(n: u8, s: i64) -> Alert {
        Alert {
            id: Uuid::new_v4(),
            key: Key {
                rule: Rule::DiskLow,
                subject: Subject::Host(host(n)),
                part: "/var/lib".into(),
            },
            cluster: None,
            project: None,
            names: Names {
                host: Some(format!("node-{n}")),
                cluster: None,
            },
            urgency: super::super::Urgency::High,
            says: String::new(),
            why: "9 % of its bytes are free".into(),
            tried: String::new(),
            since: at(s),
            fired_at: Some(at(s)),
            resolved_at: None,
            clear_since: None,
            held: None,
            held_at: None,
            symptoms: Vec::new(),
            sent: None,
            acknowledged: None,
        }
    }

    #[test]
    fn an_acknowledgement_names_who_why_and_for_how_long() {
        let world = world();
        let alert = firing(1, 0);
        world.at(0, |c| shelf::put(c, &alert));
        let wanted = WantedAck {
            who: "ann".into(),
            why: "a bigger disk comes".into(),
            for_seconds: 3600,
        };
        let done = world.at(10, |c| acknowledge(c, alert.id, &wanted));
        let said = done.acknowledged.expect("said");
        assert_eq!((said.until, said.who.as_str()), (at(3610), "ann"));
        let kept = world.at(10, |c| Ok(c.get(&OPEN, &alert.id.to_string())?));
        assert_eq!(kept.expect("kept").acknowledged, Some(said));
        let refused = |wanted: WantedAck| {
            let done = world.try_at(10, |c| acknowledge(c, alert.id, &wanted));
            assert!(done.is_err(), "{wanted:?}");
        };
        for for_seconds in [0, 31 * 86_400] {
            refused(WantedAck {
                for_seconds,
                ..wanted.clone()
            });
        }
        for text in ["", "  ", "a\nb", &"x".repeat(600)] {
            refused(WantedAck {
                who: text.into(),
                ..wanted.clone()
            });
            refused(WantedAck {
                why: text.into(),
                ..wanted.clone()
            });
        }
        let other = world.try_at(10, |c| acknowledge(c, Uuid::new_v4(), &wanted));
        assert_eq!(other.expect_err("none").fault.code, FaultCode::NotFound);
    }

    #[test]
    fn silences_are_bounded_and_expired_ones_make_room() {
        let world = world();
        let wanted = WantedSilence {
            rule: Some(Rule::DiskLow),
            cluster: None,
            host: Some(host(1)),
            who: "ann".into(),
            why: "known".into(),
            for_seconds: 60,
        };
        for _ in 0..SILENCES_MAX {
            world.at(0, |c| silence(c, &wanted));
        }
        let full = world.try_at(59, |c| silence(c, &wanted));
        assert_eq!(full.expect_err("full").fault.code, FaultCode::TooMany);
        let row = host_row(2, None);
        world.at(59, |c| Ok(c.put(&HOSTS, &host(2).to_string(), &row)?));
        let of_another = WantedSilence {
            host: Some(host(2)),
            ..wanted.clone()
        };
        world.at(0, |c| silence(c, &of_another));
        let one = world.at(60, |c| silence(c, &wanted));
        assert_eq!(world.at(60, |c| Ok(c.count(&SILENCES)?)), 1);
        let (mine, other) = (firing(1, 0), firing(2, 0));
        assert!(one.is_of(&mine, at(119)));
        assert!(!one.is_of(&mine, at(120)), "it is over");
        assert!(!one.is_of(&other, at(119)), "another host's");
    }
}
