//! One share over time: twelve days in 96 bytes, and the levels from which it dropped on its own.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{AHEAD, Foreseen, Of, WHOLE, fit};

/// Slots kept: twelve days.
pub(super) const SLOTS: usize = 48;
/// Value of a slot without a report.
pub(super) const NONE: u16 = u16::MAX;
/// Windows that are fitted, in newest slots: four days for growth that has just started, all for slow growth. Fewer
/// values than the first number give no forecast.
pub(super) const WINDOWS: [usize; 2] = [16, SLOTS];
/// It counts as emptied when it lost this percentage of its peak, and this share of the total.
const EMPTIED: (u32, u16) = (15, WHOLE / 50);
/// How many drops are remembered, and for how many slots: two months, so that a cleanup at the end of a month counts.
const FALLS: usize = 2;
const REMEMBERED: u32 = 240;
/// A level it dropped from before is expected again, with this margin.
const MARGIN: u16 = WHOLE / 25;

/// One share over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Series {
    pub(super) of: Of,
    /// The slot of the newest value.
    last: u32,
    /// One per slot, the newest last.
    #[serde(serialize_with = "packed", deserialize_with = "unpacked")]
    values: Vec<u16>,
    /// The peak since it was last emptied.
    peak: u16,
    /// When it was emptied, and from which level.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    falls: Vec<(u32, u16)>,
    /// Fitted when a value arrives; a pass has no time for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    foreseen: Option<Foreseen>,
}

impl Series {
    pub(super) fn new(of: Of) -> Self {
        Self {
            of,
            last: 0,
            values: Vec::new(),
            peak: 0,
            falls: Vec::new(),
            foreseen: None,
        }
    }

    pub(super) fn last(&self) -> u32 {
        self.last
    }

    pub(super) fn foreseen(&self) -> Option<Foreseen> {
        self.foreseen
    }

    /// None of its values counts any more; or it lies in the future because a clock was wrong.
    pub(super) fn is_old(&self, now: u32) -> bool {
        now.abs_diff(self.last) >= SLOTS as u32
    }

    /// Takes in a value.
    pub(super) fn push(&mut self, slot: u32, share: u16) {
        if self.values.is_empty() || self.is_old(slot) {
            (self.values, self.peak) = (Vec::new(), share);
        } else if slot <= self.last {
            // The plane's clock went back: the earlier value stands.
            return;
        } else {
            let silent = (slot - self.last - 1) as usize;
            self.values.extend(std::iter::repeat_n(NONE, silent));
        }
        self.values.push(share);
        let surplus = self.values.len().saturating_sub(SLOTS);
        self.values.drain(..surplus);
        self.last = slot;
        let lost = self.peak.saturating_sub(share);
        if u32::from(lost) * 100 >= u32::from(self.peak) * EMPTIED.0 && lost >= EMPTIED.1 {
            self.falls.push((slot, self.peak));
            let surplus = self.falls.len().saturating_sub(FALLS);
            self.falls.drain(..surplus);
            self.peak = share;
        }
        self.peak = self.peak.max(share);
        self.foreseen = self.foresee();
    }

    /// When it is used up, by the earliest of the windows.
    fn foresee(&self) -> Option<Foreseen> {
        let lines = WINDOWS.iter().filter_map(|window| {
            let line = fit::line(&self.newest(*window), WINDOWS[0])?;
            let ahead = (f64::from(WHOLE) - line.level).max(0.0) / line.slope;
            (ahead <= AHEAD).then_some((ahead, line))
        });
        let (ahead, line) = lines.min_by(|a, b| a.0.total_cmp(&b.0))?;
        let share = |share: f64| share.clamp(0.0, f64::from(NONE - 1)) as u16;
        let level = share(line.level);
        if self.comes_back_from().is_some_and(|from| level <= from) {
            return None;
        }
        Some(Foreseen {
            slot: self.last + ahead.ceil() as u32,
            level,
            a_day: share(line.slope * 4.0),
        })
    }

    /// Values of the newest slots, by their distance from the newest.
    fn newest(&self, window: usize) -> Vec<(f64, f64)> {
        let newest = self.values.iter().rev().take(window);
        let told = newest.enumerate().filter(|(_, share)| **share != NONE);
        let mut all: Vec<_> = told
            .map(|(ago, share)| (-(ago as f64), f64::from(*share)))
            .collect();
        all.reverse();
        all
    }

    /// If it was emptied twice recently: the lower of the two levels.
    fn comes_back_from(&self) -> Option<u16> {
        let lately = |(slot, _): &&(u32, u16)| self.last - slot.min(&self.last) < REMEMBERED;
        let falls = self.falls.iter().filter(lately);
        let is_one = self.of.kind.row().is_emptied && falls.clone().count() == FALLS;
        let lowest = falls.map(|(_, peak)| *peak).min()?;
        is_one.then(|| lowest.saturating_add(MARGIN))
    }
}

fn packed<S: Serializer>(values: &[u16], s: S) -> Result<S::Ok, S::Error> {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_be_bytes()).collect();
    s.serialize_str(&BASE64.encode(bytes))
}

fn unpacked<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u16>, D::Error> {
    let text = String::deserialize(d)?;
    let bytes = BASE64.decode(text).map_err(serde::de::Error::custom)?;
    let (pairs, _) = bytes.as_chunks::<2>();
    Ok(pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect())
}
