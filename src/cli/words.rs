//! Times and sizes as people say them.

use jiff::{SignedDuration, Timestamp};

/// `12 s`, `3 min 5 s`, `3 h 12 min`, `41 days`.
pub(super) fn span(duration: SignedDuration) -> String {
    let s = duration.as_secs().max(0);
    match s {
        0..=59 => format!("{s} s"),
        60..=599 => format!("{} min {} s", s / 60, s % 60),
        600..=3599 => format!("{} min", s / 60),
        3600..=86_399 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        86_400..=172_799 => format!("1 day {} h", s % 86_400 / 3600),
        _ => format!("{} days", s / 86_400),
    }
}

/// `2 s ago`; a clock that jumped back says `just now`.
pub(super) fn ago(now: Timestamp, then: Timestamp) -> String {
    match now.duration_since(then) {
        d if d.as_secs() < 1 => "just now".to_owned(),
        d => format!("{} ago", span(d)),
    }
}

/// `in 12 s`, or `now` when it is due.
pub(super) fn until(now: Timestamp, then: Timestamp) -> String {
    match then.duration_since(now) {
        d if d.as_secs() < 1 => "now".to_owned(),
        d => format!("in {}", span(d)),
    }
}

/// `0.4 s`, `12.4 s`, `3 min 5 s`.
pub(super) fn took(ms: u64) -> String {
    match ms {
        0..=59_999 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => span(SignedDuration::from_millis(
            i64::try_from(ms).unwrap_or(i64::MAX),
        )),
    }
}

/// `61.2 GiB`, `512 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    if bytes >= GIB {
        format!("{}.{} GiB", bytes / GIB, bytes % GIB * 10 / GIB)
    } else {
        format!("{} MiB", bytes / MIB)
    }
}

/// `61.2 GiB`, `1.5 KiB`, `17 B`.
pub(super) fn bytes(n: u64) -> String {
    match scaled(n) {
        (n, _, "") => format!("{n} B"),
        (n, tenth, unit) => format!("{n}.{tenth} {unit}iB"),
    }
}

/// The same in at most five characters: `61G`, `1.5K`, `17`.
pub(super) fn short(n: u64) -> String {
    match scaled(n) {
        (n, _, "") => n.to_string(),
        (n, tenth, unit) if n < 10 => format!("{n}.{tenth}{unit}"),
        (n, _, unit) => format!("{n}{unit}"),
    }
}

/// Whole units, tenths, and which.
fn scaled(n: u64) -> (u64, u64, &'static str) {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let unit = units.into_iter().find(|(shift, _)| n >> shift > 0);
    unit.map_or((n, 0, ""), |(shift, name)| {
        let rest = n & ((1 << shift) - 1);
        (n >> shift, (rest * 10) >> shift, name)
    })
}

/// `4.1 ms`, `380 µs`.
pub(super) fn rtt(us: u64) -> String {
    if us >= 1000 {
        format!("{}.{} ms", us / 1000, us % 1000 / 100)
    } else {
        format!("{us} µs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_people_say_it() {
        let spans = [5, 65, 725, 11_520, 90_000, 3_600_000];
        let said: Vec<_> = spans
            .iter()
            .map(|s| span(SignedDuration::from_secs(*s)))
            .collect();
        let want = [
            "5 s",
            "1 min 5 s",
            "12 min",
            "3 h 12 min",
            "1 day 1 h",
            "41 days",
        ];
        assert_eq!(said, want);
        let (t0, t9) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z");
        let (t0, t9): (Timestamp, Timestamp) = (t0.parse().expect("t"), t9.parse().expect("t"));
        assert_eq!(
            (ago(t9, t0).as_str(), ago(t0, t9).as_str()),
            ("9 s ago", "just now")
        );
        assert_eq!(
            (until(t0, t9).as_str(), until(t9, t0).as_str()),
            ("in 9 s", "now")
        );
        assert_eq!(
            (took(1_240).as_str(), took(185_000).as_str()),
            ("1.2 s", "3 min 5 s")
        );
        assert_eq!(
            (size(65_712_000_000).as_str(), size(1 << 29).as_str()),
            ("61.1 GiB", "512 MiB")
        );
        let sizes = [17, 1023, 1024, 1536, 10 << 20, 65_712_000_000];
        let said: Vec<_> = sizes.iter().map(|n| bytes(*n)).collect();
        let want = [
            "17 B", "1023 B", "1.0 KiB", "1.5 KiB", "10.0 MiB", "61.1 GiB",
        ];
        assert_eq!(said, want);
        let said: Vec<_> = sizes.iter().map(|n| short(*n)).collect();
        assert_eq!(said, ["17", "1023", "1.0K", "1.5K", "10M", "61G"]);
        assert!(short(u64::MAX).len() <= 9 && short((1 << 50) - 1).len() <= 5);
        assert_eq!(
            (rtt(4100).as_str(), rtt(380).as_str()),
            ("4.1 ms", "380 µs")
        );
    }
}
