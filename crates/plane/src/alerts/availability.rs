//! For how much of a month each cluster's API answered the plane. The arithmetic is pure; `probe` does the asking.
//!
//! Three times are counted and never mixed: it answered, it did not answer, and unmeasured (the plane was down, or no
//! master was connected: then it may well have worked for clients near it). The target is judged by the first two; the
//! third is shown beside them.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::refusal::Answer;
use crate::state::Change;
use crate::store::{Read, Rows};
use pf9_hostagent::model::ClusterId;

/// Months by `<cluster>/<YYYY-MM>`.
pub(super) const MONTHS: Rows<Month> = Rows::new("availability");
/// Months kept per cluster: two years and the current one.
const MONTHS_KEPT: usize = 25;
/// The target, in thousandths of a percent: 99.9 %.
const TARGET_MILLI: u64 = 99_900;
/// Longest gap between two answers that the first one covers: three probe intervals.
const SPEAKS_FOR: SignedDuration = SignedDuration::from_secs(90);
/// Outages of a month kept with their times; the rest only as a sum.
const OUTAGES_MAX: usize = 50;

/// Result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Up,
    Down,
    /// It could not be measured.
    Blind,
}

/// One month of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Month {
    pub(super) up_s: u64,
    pub(super) down_s: u64,
    #[serde(default)]
    pub(super) blind_s: u64,
    /// Intervals without an answer, oldest first.
    #[serde(default)]
    pub(super) outages: Vec<Outage>,
}

/// An interval without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outage {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
}

impl Month {
    /// Counts the time between these two moments.
    pub(super) fn count(&mut self, from: Timestamp, to: Timestamp, heard: Heard) {
        let whole = to.duration_since(from);
        if !whole.is_positive() {
            return;
        }
        let spoken = whole.min(SPEAKS_FOR);
        let seconds = |time: SignedDuration| u64::try_from(time.as_secs()).unwrap_or(0);
        self.blind_s += seconds(whole) - seconds(spoken);
        let from = to - spoken;
        match heard {
            Heard::Up => self.up_s += seconds(spoken),
            Heard::Blind => self.blind_s += seconds(spoken),
            Heard::Down => {
                self.down_s += seconds(spoken);
                self.outage(Outage { from, to });
            }
        }
    }

    fn add(&mut self, other: &Self) {
        self.up_s += other.up_s;
        self.down_s += other.down_s;
        self.blind_s += other.blind_s;
        for outage in &other.outages {
            self.outage(*outage);
        }
    }

    /// An outage that starts where the last one ended continues it.
    fn outage(&mut self, next: Outage) {
        if let Some(last) = self.outages.last_mut()
            && last.to == next.from
        {
            last.to = next.to;
        } else if self.outages.len() < OUTAGES_MAX {
            self.outages.push(next);
        }
    }

    /// In thousandths of a percent, rounded down so that no outage is rounded away. `None`: nothing was measured.
    fn milli(&self) -> Option<u64> {
        self.up_s
            .saturating_mul(100_000)
            .checked_div(self.up_s + self.down_s)
    }
}

/// `2026-11`.
pub(super) fn month_of(at: Timestamp) -> String {
    at.strftime("%Y-%m").to_string()
}

/// Adds the counts to a cluster's month.
pub(super) fn add(
    change: &mut Change<'_>,
    cluster: ClusterId,
    month: &str,
    counted: &Month,
) -> Answer<()> {
    let key = format!("{cluster}/{month}");
    let mut row = change.get(&MONTHS, &key)?.unwrap_or_default();
    row.add(counted);
    change.put(&MONTHS, &key, &row)?;
    let all = change.with_prefix(&MONTHS, &format!("{cluster}/"))?;
    for (key, _) in all.iter().take(all.len().saturating_sub(MONTHS_KEPT)) {
        change.remove(&MONTHS, key)?;
    }
    Ok(())
}

/// All months of a cluster, oldest first.
pub(super) fn shown(rows: &impl Read, cluster: ClusterId) -> Answer<Value> {
    let prefix = format!("{cluster}/");
    let months = rows.with_prefix(&MONTHS, &prefix)?;
    let months: Value = months
        .iter()
        .map(|(key, month)| {
            let milli = month.milli();
            json!({
                "month": key.strip_prefix(&prefix),
                "percent": milli.map(percent),
                "met": milli.map(|milli| milli >= TARGET_MILLI),
                "answeredSeconds": month.up_s,
                "silentSeconds": month.down_s,
                "unmeasuredSeconds": month.blind_s,
                "outages": month.outages,
            })
        })
        .collect();
    Ok(json!({"targetPercent": percent(TARGET_MILLI), "months": months}))
}

/// Exact as text; a binary floating-point number is not.
fn percent(milli: u64) -> String {
    format!("{}.{:03}", milli / 1000, milli % 1000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::alerts::facts::tests::at;
    use crate::alerts::verbs::tests::world;

    #[test]
    fn a_months_share_is_of_measured_time_and_is_not_rounded_up() {
        let mut month = Month::default();
        assert_eq!(month.milli(), None, "nothing was measured");
        for n in 0..1000 {
            let heard = if n == 500 { Heard::Down } else { Heard::Up };
            month.count(at(n * 30), at(n * 30 + 30), heard);
        }
        assert_eq!(month.milli(), Some(99_900));
        month.count(at(30_000), at(30_001), Heard::Down);
        assert_eq!(month.milli(), Some(99_896));
        assert_eq!(month.outages.len(), 2);
        // The plane was down for a day: that is no outage.
        month.count(at(30_001), at(130_000), Heard::Down);
        assert_eq!((month.down_s, month.blind_s), (30 + 1 + 90, 99_909));
        assert_eq!(percent(99_896), "99.896");
    }

    #[test]
    fn months_are_kept_for_two_years() {
        let (world, cluster) = (world(), ClusterId::random());
        let up = Month {
            up_s: 30,
            ..Month::default()
        };
        world.at(0, |change| {
            for n in 0..40 {
                let month = format!("20{:02}-{:02}", 20 + n / 12, n % 12 + 1);
                add(change, cluster, &month, &up)?;
                add(change, cluster, &month, &up)?;
            }
            Ok(())
        });
        let read = world.store.read().expect("read");
        let all = shown(&read, cluster).expect("shown");
        let months = all["months"].as_array().expect("list");
        assert_eq!(months.len(), MONTHS_KEPT);
        assert_eq!(months[0]["month"], "2021-04");
        assert_eq!(months[0]["answeredSeconds"], 60);
        assert_eq!(months[0]["percent"], "100.000");
        assert_eq!(all["targetPercent"], "99.900");
    }

    proptest! {
        /// Every second is counted once, whatever was reported and however long no probe ran.
        #[test]
        fn every_second_is_counted_once(steps in prop::collection::vec((1i64..1000, 0u8..3), 1..200)) {
            let (mut month, mut now) = (Month::default(), 0);
            for (pause, heard) in steps {
                let heard = [Heard::Up, Heard::Down, Heard::Blind][usize::from(heard)];
                month.count(at(now), at(now + pause), heard);
                now += pause;
            }
            prop_assert_eq!(month.up_s + month.down_s + month.blind_s, now as u64);
            let outages: i64 = month.outages.iter().map(|o| o.to.duration_since(o.from).as_secs()).sum();
            prop_assert!(month.outages.len() == OUTAGES_MAX || outages as u64 == month.down_s);
        }
    }
}
