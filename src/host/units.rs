//! systemd units, through `systemctl`. One `show` answers for all units of ours.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::deadlines::{UNIT_CALL, UNIT_STOP_CALL};
use super::exec::{self, Cmd, ExecError};
use super::fs::HostFs;
use super::ours::units::CONTAINERD;

/// Questions are answered by systemd from memory.
const ASK: Duration = Duration::from_secs(15);
/// What a program wrote since it was started a few times in vain: dozens of lines each.
const LAST_LINES: &str = "--lines=400";

const PROPERTIES: &str = "Id,LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,\
                          MainPID,InvocationID,NRestarts,Result,FragmentPath,ActiveEnterTimestampMonotonic";

/// The systemd of one host.
#[derive(Clone, Debug)]
pub struct Units {
    fs: HostFs,
}

/// `ActiveState` of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Active {
    /// Runs (or ran and stays, for one-shot units).
    Active,
    /// Runs and is reading its configuration again.
    Reloading,
    /// On its way up, also between automatic restarts.
    Activating,
    /// On its way down.
    Deactivating,
    /// Not running.
    Inactive,
    /// Ended badly.
    Failed,
    /// A word this program does not know.
    Other,
}

/// What systemd says about a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitState {
    /// False: systemd knows no such unit.
    pub loaded: bool,
    /// Whether it runs.
    pub active: Active,
    /// The finer word, for people.
    pub sub: String,
    /// Starts at boot.
    pub enabled: bool,
    /// Its file changed since systemd read it.
    pub need_reload: bool,
    /// Its main process.
    pub main_pid: Option<u32>,
    /// Changes with every start.
    pub invocation: String,
    /// Automatic restarts so far.
    pub restarts: u32,
    /// Why it ended, e.g. `exit-code`.
    pub result: String,
    /// When it came up last, since boot; none of a unit that never did.
    pub active_at: Option<Duration>,
}

impl UnitState {
    /// How long it has been up.
    pub fn active_for(&self) -> Option<Duration> {
        // systemd's clock.
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?);
        self.active_at.map(|at| now.saturating_sub(at))
    }
}

impl Units {
    /// The systemd whose `systemctl` is below this root.
    pub fn new(fs: HostFs) -> Self {
        Self { fs }
    }

    /// The state of each of these units, in one question.
    pub async fn show(&self, units: &[String]) -> Result<BTreeMap<String, UnitState>, ExecError> {
        if units.is_empty() {
            return Ok(BTreeMap::new());
        }
        let cmd = self
            .systemctl(ASK)
            .args(["show", "-p", PROPERTIES, "--"])
            .args(units);
        let text = exec::run(cmd).await?.text();
        Ok(parse(&text))
    }

    /// Makes systemd read changed unit files.
    pub async fn reload(&self) -> Result<(), ExecError> {
        self.act(&["daemon-reload"], &[]).await
    }

    /// Makes a unit start at boot.
    pub async fn enable(&self, unit: &str) -> Result<(), ExecError> {
        self.act(&["enable", "--quiet"], &[unit]).await
    }

    /// Makes a unit not start at boot.
    pub async fn disable(&self, unit: &str) -> Result<(), ExecError> {
        self.act(&["disable", "--quiet"], &[unit]).await
    }

    /// Starts a unit; forgets an earlier start limit first.
    pub async fn start(&self, unit: &str) -> Result<(), ExecError> {
        self.forget_failure(unit).await;
        self.act(&["start"], &[unit]).await
    }

    /// Stops and starts a unit; forgets an earlier start limit first.
    ///
    /// A runtime that is on its way comes up before it is stopped. One that is stopped while it takes its pods over ends some
    /// of them: containerd takes a shim for dead whose answer it is not given the time to hear (seen with 2.4.2).
    pub async fn restart(&self, unit: &str) -> Result<(), ExecError> {
        self.forget_failure(unit).await;
        if unit == CONTAINERD {
            let seen = self.show(&[unit.to_owned()]).await?.remove(unit);
            if seen.is_some_and(|u| u.active == Active::Activating)
                && let Err(e) = self.act(&["start"], &[unit]).await
            {
                tracing::info!(unit, error = %e, "does not start as configured");
            }
        }
        self.act(&["restart"], &[unit]).await
    }

    /// Asks for units to be stopped and started, and waits for neither; with `running`, only those that run.
    pub async fn restart_soon(&self, units: &[&str], running: bool) -> Result<(), ExecError> {
        let verb = if running { "try-restart" } else { "restart" };
        self.act(&[verb, "--no-block"], units).await
    }

    /// Stops a unit.
    pub async fn stop(&self, unit: &str) -> Result<(), ExecError> {
        self.act(&["stop"], &[unit]).await
    }

    /// Stops a unit of the node; waits no longer than such a unit may take, so that what does not stop
    /// can be killed.
    pub async fn stop_of_the_node(&self, unit: &str) -> Result<(), ExecError> {
        self.act_within(UNIT_STOP_CALL, &["stop"], &[unit]).await
    }

    /// Kills what is left of a unit that did not stop.
    pub async fn kill(&self, unit: &str) -> Result<(), ExecError> {
        self.act(&["kill", "--signal=SIGKILL"], &[unit]).await
    }

    /// Tells the machine to restart, in order: each unit is stopped first. Does not wait for it.
    pub async fn reboot(&self) -> Result<(), ExecError> {
        self.act(&["reboot", "--no-wall"], &[]).await
    }

    /// The newest lines of a unit's log in this boot, as its program wrote them.
    pub async fn last_lines(&self, unit: &str) -> Result<String, ExecError> {
        let program = exec::program(&self.fs, "journalctl");
        let cmd = Cmd::new(program, ASK)
            .args([
                "--boot",
                "--quiet",
                "--no-pager",
                "--output=cat",
                LAST_LINES,
            ])
            .args(["--unit", unit]);
        Ok(exec::run(cmd).await?.text())
    }

    /// Removes the memory of a failure, so that `list-units` shows nothing of a removed unit.
    pub async fn forget_failure(&self, unit: &str) {
        if let Err(e) = self.act(&["reset-failed"], &[unit]).await {
            // A unit that never failed or is not loaded has nothing to forget.
            tracing::trace!(unit, error = %e, "nothing to reset");
        }
    }

    /// Starting waits for `Type=notify` readiness, stopping for `TimeoutStopSec`; both are bounded by
    /// the units themselves below this.
    async fn act(&self, verb: &[&str], units: &[&str]) -> Result<(), ExecError> {
        self.act_within(UNIT_CALL, verb, units).await
    }

    async fn act_within(
        &self,
        deadline: Duration,
        verb: &[&str],
        units: &[&str],
    ) -> Result<(), ExecError> {
        let cmd = self.systemctl(deadline).args(verb.iter().copied());
        let cmd = if units.is_empty() {
            cmd
        } else {
            cmd.arg("--").args(units.iter().copied())
        };
        exec::run(cmd).await.map(drop)
    }

    fn systemctl(&self, deadline: Duration) -> Cmd {
        let program = exec::program(&self.fs, "systemctl");
        Cmd::new(program, deadline).arg("--no-ask-password")
    }
}

/// `systemctl show` of several units: blocks of `Key=value`, separated by empty lines.
fn parse(text: &str) -> BTreeMap<String, UnitState> {
    let mut all = BTreeMap::new();
    for block in text.split("\n\n") {
        let fields: BTreeMap<&str, &str> = block
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        let get = |key: &str| fields.get(key).copied().unwrap_or_default();
        let id = get("Id");
        if id.is_empty() {
            continue;
        }
        let state = UnitState {
            loaded: get("LoadState") == "loaded",
            active: Active::from_word(get("ActiveState")),
            sub: get("SubState").to_owned(),
            enabled: get("UnitFileState") == "enabled",
            need_reload: get("NeedDaemonReload") == "yes",
            main_pid: get("MainPID").parse().ok().filter(|pid| *pid != 0),
            invocation: get("InvocationID").to_owned(),
            restarts: get("NRestarts").parse().unwrap_or(0),
            result: get("Result").to_owned(),
            active_at: get("ActiveEnterTimestampMonotonic")
                .parse()
                .ok()
                .filter(|us| *us != 0)
                .map(Duration::from_micros),
        };
        all.insert(id.to_owned(), state);
    }
    all
}

impl Active {
    fn from_word(word: &str) -> Self {
        match word {
            "active" => Self::Active,
            "reloading" => Self::Reloading,
            "activating" => Self::Activating,
            "deactivating" => Self::Deactivating,
            "inactive" => Self::Inactive,
            "failed" => Self::Failed,
            _ => Self::Other,
        }
    }

    /// Runs now.
    pub fn is_up(self) -> bool {
        match self {
            Self::Active | Self::Reloading => true,
            Self::Activating | Self::Deactivating | Self::Inactive | Self::Failed | Self::Other => {
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_systemctl_shows() {
        let text = "Id=pf9-etcd.service\nLoadState=loaded\nActiveState=active\nSubState=running\n\
                    UnitFileState=enabled\nNeedDaemonReload=no\nMainPID=17\nInvocationID=abc\n\
                    NRestarts=2\nResult=success\nActiveEnterTimestampMonotonic=1\n\nId=x.service\nLoadState=not-found\n\
                    ActiveState=inactive\nMainPID=0\n";
        let all = parse(text);
        let etcd = &all["pf9-etcd.service"];
        assert!(etcd.loaded && etcd.enabled && etcd.active.is_up() && !etcd.need_reload);
        assert_eq!((etcd.main_pid, etcd.restarts), (Some(17), 2));
        assert!(!all["x.service"].loaded);
        assert_eq!(all["x.service"].main_pid, None);
        assert!(etcd.active_for() > Some(Duration::from_secs(1)));
        assert_eq!(all["x.service"].active_for(), None);
    }
}
