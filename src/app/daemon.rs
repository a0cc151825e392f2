//! The life of a daemon: parse, configuration, logs, run until a signal, drain, exit code.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Config, Exit, Progress, TaskGroup};
use crate::host::deadlines::GRACE;
use crate::host::fs::HostFs;
use crate::model::{Fault, FaultCode, paths};
use crate::telemetry::LogConfig;

/// Longest line for `systemctl status`: what fits on a wide screen.
const LINE_MAX: usize = 200;

/// Which runtime a daemon wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// One thread: least memory.
    Single,
    /// One thread per core, for bytes.
    Many,
}

/// What makes a daemon this one.
pub struct Daemon {
    /// e.g. `pf9-comms`.
    pub name: &'static str,
    /// One sentence for `--help`.
    pub about: &'static str,
    /// Its runtime.
    pub runtime: Threads,
}

impl Daemon {
    /// The tunnel.
    pub const COMMS: Self = Self {
        name: "pf9-comms",
        about: "Holds the tunnel between this host and its management plane",
        // One thread: the cryptography of one connection is one core's work, and memory counts.
        runtime: Threads::Single,
    };
    /// Documents.
    pub const HOSTAGENT: Self = Self {
        name: "pf9-hostagent",
        about: "Host agent: the desired spec in, the observed status out",
        runtime: Threads::Single,
    };
    /// Effects.
    pub const NODELETD: Self = Self {
        name: "pf9-nodeletd",
        about: "Makes this machine a Kubernetes node, keeps it one, and undoes it",
        runtime: Threads::Single,
    };
    /// All of them.
    pub const ALL: [Self; 3] = [Self::COMMS, Self::HOSTAGENT, Self::NODELETD];

    /// Its command line.
    pub fn command(&self) -> clap::Command {
        <Args as clap::CommandFactory>::command()
            .name(self.name)
            .about(self.about)
            .version(crate::model::document::AGENT_VERSION)
    }
}

#[derive(Parser)]
struct Args {
    /// Check the configuration, print what is wrong with it, and end.
    #[arg(long)]
    check_config: bool,
    /// Put this directory in front of every path (for tests).
    #[arg(long, default_value = "/", hide = true)]
    root: PathBuf,
}

/// Runs a daemon. `start` puts its tasks into the group; an error ends the process with the
/// fault's exit code. So does a wrong configuration, before anything is started.
pub fn daemon<F>(daemon: &Daemon, start: F) -> Exit
where
    F: AsyncFnOnce(HostFs, Config, &mut TaskGroup) -> Result<(), Fault>,
{
    match begin(daemon) {
        Ok((host, Ok(config))) => {
            let log = config.log.clone();
            live(daemon, &host.clone(), &log, async |group| {
                start(host, config, group).await
            })
        }
        Ok((_, Err(fault))) => complain(daemon, &fault),
        Err(exit) => exit,
    }
}

/// Runs a daemon that answers even when its configuration is wrong: `start` gets the fault then,
/// and logs are as they are without a configuration.
pub fn answering_daemon<F>(daemon: &Daemon, start: F) -> Exit
where
    F: AsyncFnOnce(HostFs, Result<Config, Fault>, &mut TaskGroup) -> Result<(), Fault>,
{
    match begin(daemon) {
        Ok((host, config)) => {
            let log = config.as_ref().map(|c| c.log.clone()).unwrap_or_default();
            live(daemon, &host.clone(), &log, async |group| {
                start(host, config, group).await
            })
        }
        Err(exit) => exit,
    }
}

/// Command line and configuration; `Err`: there is nothing to run.
fn begin(daemon: &Daemon) -> Result<(HostFs, Result<Config, Fault>), Exit> {
    let args = daemon
        .command()
        .try_get_matches()
        .and_then(|m| <Args as clap::FromArgMatches>::from_arg_matches(&m))
        .map_err(|e| {
            // Help and version are "errors" of clap that are no failure.
            let failed = e.use_stderr();
            drop(e.print());
            if failed { Exit::Usage } else { Exit::Ok }
        })?;
    super::usual_modes();
    let host = HostFs::new(args.root);
    let config = Config::load(&host);
    match (args.check_config, config) {
        (true, Ok(_)) => Err(Exit::Ok),
        (true, Err(fault)) => Err(complain(daemon, &fault)),
        (false, config) => Ok((host, config)),
    }
}

fn live<F>(daemon: &Daemon, host: &HostFs, log: &LogConfig, start: F) -> Exit
where
    F: AsyncFnOnce(&mut TaskGroup) -> Result<(), Fault>,
{
    let log_dir = host.at(paths::LOG_DIR);
    if let Err(why) = crate::telemetry::init(daemon.name, &log_dir, log) {
        return complain(
            daemon,
            &Fault::new(FaultCode::Log, "cannot start logging", why),
        );
    }
    crate::tls::install();
    let runtime = match daemon.runtime {
        Threads::Single => tokio::runtime::Builder::new_current_thread(),
        Threads::Many => tokio::runtime::Builder::new_multi_thread(),
    }
    .enable_all()
    .event_interval(crate::mux::EVENT_INTERVAL)
    .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(daemon, start)),
        Err(e) => complain(
            daemon,
            &Fault::new(FaultCode::Runtime, "cannot start", e.to_string()),
        ),
    }
}

async fn run<F>(daemon: &Daemon, start: F) -> Exit
where
    F: AsyncFnOnce(&mut TaskGroup) -> Result<(), Fault>,
{
    let mut group = TaskGroup::new(CancellationToken::new());
    let stop = group.shutdown();
    group.finite("signals", signals(stop));
    group.finite("watchdog", watchdog(group.progress(), group.shutdown()));
    let ends = group.shutdown();
    group.restart("log level", move || levels(ends.clone()));
    tracing::info!(
        version = crate::model::document::AGENT_VERSION,
        "{} starts",
        daemon.name
    );
    if let Err(fault) = start(&mut group).await {
        tracing::error!(code = fault.code.word(), "{fault}");
        return Exit::of(&fault);
    }
    notify(&[sd_notify::NotifyState::Ready]);
    let failed = group.run(GRACE).await;
    notify(&[sd_notify::NotifyState::Stopping]);
    match failed {
        None => {
            tracing::info!("{} ends", daemon.name);
            Exit::Ok
        }
        Some(task) => {
            tracing::error!(task, "{} ends: a required task ended", daemon.name);
            Exit::Failed
        }
    }
}

async fn signals(stop: CancellationToken) {
    let both = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    let (Ok(mut term), Ok(mut int)) = both else {
        tracing::error!("cannot listen to signals; SIGTERM will end the process at once");
        return;
    };
    tokio::select! {
        // cancel-safe: all are
        _ = term.recv() => {}
        _ = int.recv() => {}
        () = stop.cancelled() => {}
    }
    stop.cancel();
}

/// A log that was made louder or quieter for a time is as configured again afterwards.
async fn levels(stop: CancellationToken) {
    tokio::select! {
        // cancel-safe: both are
        () = stop.cancelled() => {}
        () = crate::telemetry::keep_level() => {}
    }
}

/// Tells systemd that the work goes on.
async fn watchdog(progress: Progress, stop: CancellationToken) {
    if let Some(period) = sd_notify::watchdog_enabled() {
        let feed = || notify(&[sd_notify::NotifyState::Watchdog]);
        progress.feed(period, stop, feed).await;
    }
}

/// What `systemctl status` shows of this daemon: one line, sent when it changes.
pub fn tell(line: &str) {
    static LAST: Mutex<String> = Mutex::new(String::new());
    let line: String = line.chars().take(LINE_MAX).collect();
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if *last != line {
        notify(&[sd_notify::NotifyState::Status(&line)]);
        *last = line;
    }
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not notified");
    }
}

fn complain(daemon: &Daemon, fault: &Fault) -> Exit {
    // Logging is not up yet: stderr reaches the journal.
    stderr_line(&format!("{}: {fault}", daemon.name));
    Exit::of(fault)
}

fn stderr_line(text: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "{text}"));
}
