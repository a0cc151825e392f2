//! When steps may begin, and which upgrades start automatically: a cluster's upgrade settings. Pure.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY_MIN: u32 = 24 * 60;
/// Shortest and longest: a node takes minutes, and longer than a day is "any time".
const LENGTH_MIN: std::ops::RangeInclusive<u32> = 10..=DAY_MIN;

/// What an operator chose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct UpgradeSettings {
    /// Absent: always.
    #[serde(default)]
    pub(crate) window: Option<Window>,
    #[serde(default)]
    pub(crate) patches: Patches,
}

/// Which newer patch releases of its minor a cluster takes automatically.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Patches {
    #[default]
    Off,
    /// Each that is imported; its steps begin in the maintenance window.
    Window,
    /// The same, and those that fix a security fault immediately.
    AtOnce,
}

/// `sat,sun 22:00 4h`: days (or `daily`), start (UTC), length. It may extend into the next day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Window {
    /// From Monday on.
    days: [bool; 7],
    /// Minutes of the day.
    start: u32,
    /// Minutes.
    length: u32,
}

impl Window {
    /// Whether it is open at that time.
    pub(crate) fn is_open(&self, at: Timestamp) -> bool {
        let at = at.to_zoned(TimeZone::UTC);
        let number = |n: i8| u32::try_from(n).unwrap_or_default();
        let today = number(at.weekday().to_monday_zero_offset());
        let minute = number(at.hour()) * 60 + number(at.minute());
        (0..).zip(self.days).any(|(day, on): (u32, bool)| {
            // How long ago it last opened on that day of the week.
            let week = 7 * DAY_MIN;
            let since = (today * DAY_MIN + minute + week - day * DAY_MIN - self.start) % week;
            on && since < self.length
        })
    }
}

impl std::str::FromStr for Window {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "a window is days, start (UTC) and length, e.g. \"sat,sun 22:00 4h\" or \"daily 01:30 90m\"; \
             10m to 24h long"
                .to_owned()
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let [days, start, length] = words.as_slice() else {
            return Err(wrong());
        };
        Ok(Self {
            days: days_of(days).ok_or_else(wrong)?,
            start: start_of(start).ok_or_else(wrong)?,
            length: length_of(length).ok_or_else(wrong)?,
        })
    }
}

fn days_of(text: &str) -> Option<[bool; 7]> {
    let mut days = [text == "daily"; 7];
    if text == "daily" {
        return Some(days);
    }
    for word in text.split(',') {
        let at = DAYS.iter().position(|d| *d == word)?;
        *days.get_mut(at)? = true;
    }
    Some(days)
}

fn start_of(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str, most| {
        let is_two = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse::<u32>().ok()?;
        (is_two && number < most).then_some(number)
    };
    Some(number(hour, 24)? * 60 + number(minute, 60)?)
}

fn length_of(text: &str) -> Option<u32> {
    let (number, unit) = match text.strip_suffix('h') {
        Some(hours) => (hours, 60),
        None => (text.strip_suffix('m')?, 1),
    };
    let minutes = number.parse::<u32>().ok()?.checked_mul(unit)?;
    LENGTH_MIN.contains(&minutes).then_some(minutes)
}

impl TryFrom<String> for Window {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let on = DAYS.iter().zip(self.days).filter(|(_, on)| *on);
        let days: Vec<&str> = on.map(|(day, _)| *day).collect();
        let days = match days.len() {
            7 => "daily".to_owned(),
            _ => days.join(","),
        };
        let length = match self.length % 60 {
            0 => format!("{}h", self.length / 60),
            _ => format!("{}m", self.length),
        };
        let (hour, minute) = (self.start / 60, self.start % 60);
        write!(f, "{days} {hour:02}:{minute:02} {length}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(window: &str, at: &str) -> bool {
        let window: Window = window.parse().expect("window");
        window.is_open(at.parse().expect("time"))
    }

    #[test]
    fn it_is_open_on_its_days_and_into_the_next() {
        // The first of June 2026 is a Monday.
        for (at, want) in [
            ("2026-06-06T21:59:59Z", false),
            ("2026-06-06T22:00:00Z", true),
            ("2026-06-07T01:59:59Z", true),
            ("2026-06-07T02:00:00Z", false),
            ("2026-06-07T22:30:00Z", true),
            // Sunday's extends into Monday.
            ("2026-06-08T01:00:00Z", true),
            ("2026-06-08T22:30:00Z", false),
        ] {
            assert_eq!(open("sat,sun 22:00 4h", at), want, "{at}");
        }
        assert!(open("daily 00:00 24h", "2026-06-03T13:00:00Z"));
    }

    #[test]
    fn what_is_read_is_written_the_same_and_nonsense_is_not_read() {
        for text in ["sat,sun 22:00 4h", "daily 01:30 90m", "mon 00:00 24h"] {
            let window: Window = text.parse().expect("window");
            assert_eq!(window.to_string(), text);
        }
        for wrong in [
            "",
            "sat 22:00",
            "someday 22:00 4h",
            "sat 24:00 4h",
            "sat 2:00 4h",
            "sat 22:60 4h",
            "sat 22:00 25h",
            "sat 22:00 9m",
            "sat 22:00 4d",
            "sat 22:00 99999999999h",
            "sat 22:00 4h more",
        ] {
            assert!(wrong.parse::<Window>().is_err(), "{wrong}");
        }
    }
}
