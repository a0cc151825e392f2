//! The line through a few values, if there is one: Theil-Sen (the median of all slopes), which one outlier does not
//! bend. Pure.

/// By how many percent of all pairs, without the worst value, rising ones must outnumber falling ones (Kendall's tau):
/// noise does so once in a million times with the fewest values that are accepted.
const RISES: f64 = 0.8;
/// The growth must be this many times the deviation from the line.
const CLEAR: f64 = 3.0;
/// Newest values that must keep rising, at half the pace: one deposit, or growth that has stopped, does not.
const LATELY: usize = 5;

/// Level and slope, by the distance from the newest slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) slope: f64,
    /// At the newest slot.
    pub(super) level: f64,
}

/// The line of a rising series; none for fewer values than `least`, noise, oscillation, or growth that has stopped.
/// `points`: by time, the newest at 0.
pub(super) fn line(points: &[(f64, f64)], least: usize) -> Option<Line> {
    if points.len() < least {
        return None;
    }
    let line = through(points)?;
    let mut good = points.to_vec();
    let stray = |p: &(f64, f64)| (p.1 - line.level - line.slope * p.0).abs();
    let worst = (0..good.len()).max_by(|a, b| stray(&good[*a]).total_cmp(&stray(&good[*b])))?;
    good.remove(worst);
    let line = through(&good)?;
    let stray = good
        .iter()
        .map(|p| (p.1 - line.level - line.slope * p.0).abs());
    let grows = line.slope * (good.last()?.0 - good.first()?.0);
    let lately = through(&good[good.len().saturating_sub(LATELY)..])?;
    // The newest may be the outlier: then it was emptied just now.
    let newest = points.last()?;
    let lost = line.level + line.slope * newest.0 - newest.1;
    let is_one = line.slope > 0.0
        && lost < line.slope * (LATELY - 1) as f64
        && rises(&good) >= RISES
        && grows >= CLEAR * median(stray.collect())?
        && lately.slope >= line.slope / 2.0;
    is_one.then_some(line)
}

fn through(points: &[(f64, f64)]) -> Option<Line> {
    let slopes = pairs(points).map(|(a, b)| (b.1 - a.1) / (b.0 - a.0));
    let slope = median(slopes.collect())?;
    let level = median(points.iter().map(|p| p.1 - slope * p.0).collect())?;
    Some(Line { slope, level })
}

/// From -1, all pairs fall, to 1, all rise.
fn rises(points: &[(f64, f64)]) -> f64 {
    let (mut sum, mut all) = (0.0, 0.0);
    for (a, b) in pairs(points) {
        all += 1.0;
        sum += match b.1.total_cmp(&a.1) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.0,
            std::cmp::Ordering::Less => -1.0,
        };
    }
    sum / f64::max(all, 1.0)
}

type Point = (f64, f64);

fn pairs(points: &[Point]) -> impl Iterator<Item = (&Point, &Point)> {
    let rest = |n: usize| points.get(n + 1..).unwrap_or_default();
    let each = points.iter().enumerate();
    each.flat_map(move |(n, a)| rest(n).iter().map(move |b| (a, b)))
}

fn median(mut all: Vec<f64>) -> Option<f64> {
    let middle = all.len() / 2;
    (!all.is_empty()).then(|| *all.select_nth_unstable_by(middle, f64::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: usize = 16;

    /// By time, the newest at 0.
    fn at(values: &[f64]) -> Vec<Point> {
        let newest = values.len() as f64 - 1.0;
        let each = values.iter().enumerate();
        each.map(|(n, v)| (n as f64 - newest, *v)).collect()
    }

    fn rising(n: usize, at: impl Fn(usize) -> bool, other: f64) -> Vec<Point> {
        let value = |i: usize| if at(i) { other } else { 0.3 + 0.02 * i as f64 };
        super::tests::at(&(0..n).map(value).collect::<Vec<_>>())
    }

    /// Most of it lies on a line, from which it keeps dropping: the line is found and must be rejected.
    #[test]
    fn a_series_that_drops_every_third_time_is_no_line() {
        let emptied = |every: usize| rising(24, move |i| i % every == 0 && i < 20, 0.0);
        assert_eq!(line(&emptied(3), LEAST), None);
        assert!(line(&emptied(5), LEAST).is_some(), "so seldom it is one");
    }

    /// One value of sixteen makes a quarter of all pairs fall.
    #[test]
    fn one_outlier_does_not_hide_a_line() {
        for wrong in 0..11 {
            for nonsense in [0.0, 1.2] {
                let points = rising(16, |i| i == wrong, nonsense);
                let line = line(&points, LEAST);
                let line = line.unwrap_or_else(|| panic!("{nonsense} at {wrong}"));
                assert!((line.slope - 0.02).abs() < 0.001, "{line:?}");
            }
        }
    }

    /// It rises all the time, but in three steps: the line between them is close to none of its values.
    #[test]
    fn a_staircase_is_no_line() {
        for steps in [
            [
                0.10, 0.53, 0.54, 0.55, 0.54, 0.53, 0.54, 0.56, 0.55, 0.56, 0.56, 0.95, 0.95, 1.00,
                1.01, 1.03,
            ],
            [
                0.10, 0.58, 0.60, 0.59, 0.58, 0.60, 0.60, 0.61, 0.59, 0.62, 0.62, 1.09, 1.09, 1.13,
                1.15, 1.17,
            ],
        ] {
            assert_eq!(line(&at(&steps), LEAST), None, "{steps:?}");
        }
    }
}
