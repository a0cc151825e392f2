//! Prometheus' text format: pure.
//!
//! Written by hand: three kinds of lines do not need a library, and tests read them strictly.

use jiff::Timestamp;

use crate::model::{Expiry, Health, NodeState};

/// What the text is.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a number does.
#[derive(Clone, Copy, Debug)]
pub enum MetricKind {
    /// It goes up and down.
    Gauge,
    /// It rises.
    Counter,
}

/// The text.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Begins a family of samples.
    pub fn head(&mut self, name: &str, kind: MetricKind, help: &str) {
        let kind = match kind {
            MetricKind::Gauge => "gauge",
            MetricKind::Counter => "counter",
        };
        let head = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        self.0.push_str(&head);
    }

    /// A sample of it.
    pub fn row(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
            .collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        self.0.push_str(&format!("{name}{labels} {value}\n"));
    }

    /// One sample for each state there is: 1 for the one that it is in, as the ecosystem tells states.
    pub fn states(&mut self, name: &str, help: &str, now: NodeState) {
        self.head(name, MetricKind::Gauge, help);
        for state in NodeState::ALL {
            let is = f64::from(u8::from(state == now));
            self.row(name, &[("state", state.as_str())], is);
        }
    }

    /// When certificates end, and whether their renewal is late or fails: the same two families
    /// wherever a certificate is known.
    pub fn certificates(&mut self, all: &[Expiry], now: Timestamp) {
        let m = "pf9_certificate_not_after_seconds";
        let help = "When a certificate expires, in seconds since 1970.";
        self.head(m, MetricKind::Gauge, help);
        for c in all {
            let end = c.not_after.as_second().max(0) as f64;
            self.row(m, &[("name", &c.name)], end);
        }
        let m = "pf9_certificate_not_renewed";
        let help = "1 while a certificate is due for renewal, or expired, and not renewed.";
        self.head(m, MetricKind::Gauge, help);
        for c in all {
            let late = c.warning(now).is_some();
            self.row(m, &[("name", &c.name)], f64::from(u8::from(late)));
        }
    }

    /// What a machine waits for, and who keeps its clock: the same families of this prefix wherever its health is
    /// known. Rows are there where the kernel, or the time service, says something.
    pub fn machine(&mut self, of: &str, health: &Health) {
        let m = &format!("{of}_pressure_percent");
        let help = "Part of the last minute in which some programs (some) or all of them (full) waited for a resource.";
        self.head(m, MetricKind::Gauge, help);
        let pressure = health.pressure.unwrap_or_default();
        let all = [
            ("cpu", pressure.cpu),
            ("memory", pressure.memory),
            ("io", pressure.io),
        ];
        for (resource, stall) in all {
            let Some(stall) = stall else { continue };
            for (who, percent) in [("some", stall.some60), ("full", stall.full60)] {
                self.row(m, &[("resource", resource), ("who", who)], percent);
            }
        }
        let m = &format!("{of}_time_kept");
        let help = "1 while a time service keeps the clock.";
        self.head(m, MetricKind::Gauge, help);
        if let Some(time) = &health.time {
            self.row(m, &[], f64::from(u8::from(time.keeper.is_some())));
        }
        let m = &format!("{of}_time_synchronised");
        let help = "1 once the time service has synchronised the clock since boot.";
        self.head(m, MetricKind::Gauge, help);
        if let Some(yes) = health.time.as_ref().and_then(|time| time.synchronised) {
            self.row(m, &[], f64::from(u8::from(yes)));
        }
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
