//! The subscriber of a daemon.

use std::path::Path;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use super::rotate::KUBE_LOG_MOST;
use super::{RotatingFile, level};

/// comms, hostagent, nodelet, and what changes the agent and the distribution.
const PROGRAMS: u64 = 5;

/// `[log]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Filter in the syntax of `tracing` (`info`, `info,pf9_hostagent::comms=debug`).
    pub level: String,
    /// How the file is written.
    pub format: LogFormat,
    /// Largest log file of a daemon, MiB.
    pub max_mib: u32,
    /// How many older files are kept beside it.
    pub keep: u32,
}

/// How a log file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::Text,
            max_mib: 10,
            keep: 4,
        }
    }
}

impl LogConfig {
    fn filter(&self) -> Result<EnvFilter, String> {
        EnvFilter::builder()
            .parse(&self.level)
            .map_err(|e| format!("log.level {:?}: {e}", self.level))
    }

    /// What all files of logs together never exceed: those of the programs that write some, and the node's own story.
    pub fn most_bytes(&self) -> u64 {
        let files = PROGRAMS.saturating_mul(u64::from(self.keep).saturating_add(1));
        let each = u64::from(self.max_mib).saturating_mul(1 << 20);
        files.saturating_mul(each).saturating_add(KUBE_LOG_MOST)
    }

    /// What is wrong with it beside its numbers, as text.
    pub fn check(&self) -> Result<(), String> {
        self.filter()?;
        // The filter would take any word as a program, log all of it, and nothing of the rest.
        let mut words = self.level.split(',').map(str::trim);
        let is_part = |word: &str| word.contains(['=', '[', ':']);
        let odd = words.find(|word| !is_part(word) && word.parse::<LevelFilter>().is_err());
        odd.map_or(Ok(()), |word| {
            Err(format!(
                "log.level {:?}: {word:?} is not a level; choose off, error, warn, info, debug and trace",
                self.level
            ))
        })
    }
}

/// Starts logging for `program`: to `<dir>/<program>/<program>.log`, and to stderr (the journal
/// puts its own time in front). Call once, first thing.
pub fn init(program: &str, dir: &Path, config: &LogConfig) -> Result<(), String> {
    let (of_file, file_level) = reload::Layer::new(config.filter()?);
    let (of_stderr, stderr_level) = reload::Layer::new(config.filter()?);
    // The daemon's directory has the name of its part: nodelet, not nodeletd.
    let short = match program {
        "pf9-nodeletd" => "nodelet",
        other => other.trim_start_matches("pf9-"),
    };
    let path = dir.join(short).join(format!("{short}.log"));
    let file = RotatingFile::new(path, u64::from(config.max_mib) * 1024 * 1024, config.keep);
    let to_file = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_target(false)
        .with_writer(Mutex::new(file));
    let to_file = match config.format {
        LogFormat::Text => to_file.with_filter(of_file).boxed(),
        LogFormat::Json => to_file.json().with_filter(of_file).boxed(),
    };
    let to_stderr = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .with_writer(std::io::stderr)
        .with_filter(of_stderr);
    tracing_subscriber::registry()
        .with(to_file)
        .with(to_stderr)
        .try_init()
        .map_err(|e| e.to_string())?;
    let layers = vec![level::exchange(file_level), level::exchange(stderr_level)];
    level::begin(layers, config.level.clone());
    Ok(())
}

/// For a program that a person runs: what its parts say, on standard error.
pub fn to_stderr() {
    let layer = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_filter(EnvFilter::new("warn,pf9_hostagent=debug"));
    // A second one would be no more of it.
    drop(tracing_subscriber::registry().with(layer).try_init());
}
