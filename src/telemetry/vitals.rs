//! Metrics of every daemon: the process, as Prometheus client libraries name it, its tasks and its build.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

use super::exposition::{MetricKind, Text};

/// What the kernel says of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Vitals {
    cpu: Duration,
    resident: u64,
    size: u64,
    /// Since 1970.
    started: Option<Duration>,
    open: Option<u64>,
}

/// Adds the families: a few lines of `/proc/self`, nothing is kept.
pub fn vitals(text: &mut Text, program: &str, version: &str) {
    let m = "pf9_build_info";
    text.head(m, MetricKind::Gauge, "1, labelled with the build.");
    text.row(m, &[("program", program), ("version", version)], 1.0);
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let number = |what| {
        sysconf(what)
            .ok()
            .flatten()
            .and_then(|n| u64::try_from(n).ok())
    };
    let units = Units {
        ticks: number(SysconfVar::CLK_TCK).unwrap_or(100),
        page: number(SysconfVar::PAGE_SIZE).unwrap_or(4096),
    };
    let mut now = read_vitals(
        &read("/proc/self/stat"),
        &read("/proc/self/statm"),
        &read("/proc/stat"),
        &units,
    );
    // Without the one that looks.
    now.open = std::fs::read_dir("/proc/self/fd")
        .ok()
        .map(|all| (all.count() as u64).saturating_sub(1));
    let max = getrlimit(Resource::RLIMIT_NOFILE)
        .ok()
        .map(|(soft, _)| soft);
    now.tell(text, max);
    tasks(text);
}

/// Nothing outside of a runtime, which has none.
fn tasks(text: &mut Text) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let m = "pf9_tasks";
        text.head(m, MetricKind::Gauge, "Tasks that have not ended.");
        text.row(m, &[], runtime.metrics().num_alive_tasks() as f64);
    }
}

/// What the kernel counts in.
struct Units {
    ticks: u64,
    page: u64,
}

fn read_vitals(stat: &str, statm: &str, machine: &str, units: &Units) -> Vitals {
    // The name of the program is in brackets and may have anything in it.
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let field = |n: usize| -> Option<u64> { rest.split(' ').nth(n)?.parse().ok() };
    let ticks = |n: u64| Duration::from_millis(n.saturating_mul(1000) / units.ticks.max(1));
    let pages = |n: usize| -> u64 {
        let n: Option<u64> = statm.split(' ').nth(n).and_then(|t| t.trim().parse().ok());
        n.unwrap_or(0).saturating_mul(units.page)
    };
    let boot = machine.lines().find_map(|l| l.strip_prefix("btime "));
    let boot: Option<u64> = boot.and_then(|t| t.trim().parse().ok());
    Vitals {
        cpu: ticks(field(11).unwrap_or(0) + field(12).unwrap_or(0)),
        resident: pages(1),
        size: pages(0),
        started: boot
            .zip(field(19))
            .map(|(boot, since)| Duration::from_secs(boot) + ticks(since)),
        open: None,
    }
}

impl Vitals {
    fn tell(&self, text: &mut Text, max: Option<u64>) {
        let rows: [(&str, MetricKind, &str, Option<f64>); 6] = [
            (
                "process_cpu_seconds_total",
                MetricKind::Counter,
                "CPU time, in the kernel and in user space.",
                Some(self.cpu.as_secs_f64()),
            ),
            (
                "process_resident_memory_bytes",
                MetricKind::Gauge,
                "Resident memory.",
                Some(self.resident as f64),
            ),
            (
                "process_virtual_memory_bytes",
                MetricKind::Gauge,
                "Virtual memory.",
                Some(self.size as f64),
            ),
            (
                "process_start_time_seconds",
                MetricKind::Gauge,
                "When it was started, in seconds since 1970.",
                self.started.map(|d| d.as_secs_f64()),
            ),
            (
                "process_open_fds",
                MetricKind::Gauge,
                "Open file descriptors.",
                self.open.map(|n| n as f64),
            ),
            (
                "process_max_fds",
                MetricKind::Gauge,
                "Limit of open file descriptors.",
                max.map(|n| n as f64),
            ),
        ];
        for (name, kind, help, value) in rows {
            if let Some(value) = value {
                text.head(name, kind, help);
                text.row(name, &[], value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read_whatever_the_program_is_called() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 2 3 4 250 50 0 0 20 0 3 0 4200 1000 2000 18446744073709551615";
        let units = Units {
            ticks: 100,
            page: 4096,
        };
        let read = read_vitals(stat, "500 20 3 1 0 2 0\n", "cpu 1\nbtime 1000000\n", &units);
        let expected = Vitals {
            cpu: Duration::from_secs(3),
            resident: 20 * 4096,
            size: 500 * 4096,
            started: Some(Duration::from_secs(1_000_042)),
            open: None,
        };
        assert_eq!(read, expected);
        assert_eq!(read_vitals("", "", "", &units), Vitals::default());
    }

    #[tokio::test]
    async fn a_task_counts_until_it_has_ended() {
        let count = || {
            let mut text = Text::default();
            vitals(&mut text, "x", "1");
            let text = String::from(text);
            crate::telemetry::testing::promtool(&text);
            let row = text.lines().find_map(|l| l.strip_prefix("pf9_tasks "));
            row.expect("tasks").parse::<u32>().expect("a number")
        };
        let before = count();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(ended);
        assert_eq!(count(), before + 1);
        drop(end);
        assert!(task.await.expect("task").is_err(), "nobody sent anything");
        assert_eq!(count(), before);
    }

    #[test]
    fn this_very_process_has_all_of_it() {
        let mut text = Text::default();
        vitals(&mut text, "x", "1");
        let text = String::from(text);
        crate::telemetry::testing::promtool(&text);
        for name in [
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_start_time_seconds",
        ] {
            let value = text
                .lines()
                .find_map(|l| l.strip_prefix(&format!("{name} ")));
            let value: f64 = value.expect(name).parse().expect("number");
            assert!(value > 0.0, "{text}");
        }
        let start = text
            .lines()
            .find_map(|l| l.strip_prefix("process_start_time_seconds "));
        let start: f64 = start.expect("start").parse().expect("number");
        let age = crate::seam::clock::now().as_second() as f64 - start;
        assert!((-2.0..86_400.0).contains(&age), "{age}");
    }
}
