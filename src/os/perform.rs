//! What `pf9-os-update.service` does: the run that is ordered, one call after the other.

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::words::{self, Kind};
use super::{
    Call, Ended, Found, LOG, Manager, OsGoal, OsOutcome, OsRun, apt, at, begun, dnf, ended, outcome,
};
use crate::host::Host;
use crate::host::documents::Document as _;
use crate::host::exec::{self, Cmd, ProgramEnd, ProgramOutput};
use crate::host::facts::os_release;
use crate::host::fs::Attrs;
use crate::model::{Fault, FaultCode, OsReport};
use crate::telemetry::{RotatingFile, chain};

/// Largest log of the package managers; one older one is kept beside it.
const LOG_MAX: u64 = 4 * 1024 * 1024;
/// Most of one call's words that are kept of either kind: what failed is said at the end.
const SAID_MAX: usize = 512 * 1024;
/// How long another process may hold the package manager, out of the time that a run has: unattended upgrades of a
/// dozen packages take minutes.
const LOCKED_MAX: Duration = Duration::from_secs(600);
/// Between two looks at a lock.
const LOCKED_AGAIN: Duration = Duration::from_secs(5);
/// Shortest that a call has, however late it is: it is to say something.
const CALL_MIN: Duration = Duration::from_secs(1);
/// A person's pins are a few lines.
const PINS_MAX: u64 = 1024 * 1024;
/// Where Debian's packages say that the machine has to be restarted.
const REBOOT_REQUIRED: [&str; 2] = ["/run/reboot-required", "/var/run/reboot-required"];
/// The kernel that runs.
const OSRELEASE: &str = "/proc/sys/kernel/osrelease";

/// Does the run that is ordered, and notes what came of it. One that was noted already is not done again.
pub async fn perform(host: &Host) -> Result<(), Fault> {
    let Some(run) = begun(&host.fs) else {
        tracing::info!("no update of the distribution is ordered");
        return Ok(());
    };
    if outcome(&host.fs, &run).is_some() {
        tracing::info!("the ordered run is over");
        return Ok(());
    }
    let mut at_work = AtWork::new(host, &run);
    let mut outcome = OsOutcome {
        report: OsReport::default(),
        unfinished: false,
        fault: None,
    };
    if let Err(fault) = at_work.all(&mut outcome).await {
        tracing::warn!(code = fault.code.word(), "{fault}");
        outcome.fault = Some(fault);
    }
    let (goal, attempt) = (run.goal, run.attempt);
    tracing::info!(
        ?goal,
        attempt,
        "updates of the distribution: {}",
        outcome.report.words()
    );
    let noted = Ended {
        schema: Ended::SCHEMA,
        run,
        outcome,
    };
    ended(&host.fs).save(&noted).map_err(|e| {
        words::fault(FaultCode::StateIo, chain(&e))
            .fix("check the disk that holds /var/opt/pf9/nodelet")
    })
}

/// A run.
struct AtWork<'a> {
    host: &'a Host,
    goal: OsGoal,
    within: Duration,
    began: Instant,
    log: RotatingFile,
    /// The file of our pins, as an argument of the package manager.
    pins: String,
}

impl<'a> AtWork<'a> {
    fn new(host: &'a Host, run: &OsRun) -> Self {
        let log = host.fs.at(LOG);
        Self {
            host,
            goal: run.goal,
            within: Duration::from_secs(run.within_s.into()),
            began: Instant::now(),
            log: RotatingFile::new(log, LOG_MAX, 1),
            pins: String::new(),
        }
    }

    async fn all(&mut self, outcome: &mut OsOutcome) -> Result<(), Fault> {
        let release =
            os_release(&self.host.fs).map_err(|e| words::fault(FaultCode::OsUnknown, chain(&e)))?;
        let manager = Manager::of(&release.id);
        let there = |m: &Manager| exec::program(&self.host.fs, m.program()).is_file();
        let Some(manager) = manager.filter(there) else {
            let why = format!(
                "this machine is `{}`, whose package manager is not supported",
                release.id
            );
            return Err(words::fault(FaultCode::OsUnknown, why).fix("install its updates by hand"));
        };
        match manager {
            Manager::Apt => self.by_apt(outcome).await,
            Manager::Dnf => self.by_dnf(outcome).await,
        }
    }

    async fn by_apt(&mut self, outcome: &mut OsOutcome) -> Result<(), Fault> {
        self.write_pins()?;
        let pins = self.pins.clone();
        outcome.unfinished = !self.call(&apt::audit()).await?.stdout.trim().is_empty();
        match self.goal {
            OsGoal::Fetch => {
                let refresh = apt::refresh(&pins);
                let said = self.call(&refresh).await?;
                if apt::is_stale(&said.stderr) {
                    return Err(words::why(&refresh, &said, self.within.as_secs()));
                }
            }
            OsGoal::Install if outcome.unfinished => {
                self.call(&apt::configure()).await?;
                self.call(&apt::fix(&pins)).await?;
                outcome.unfinished = false;
            }
            OsGoal::Install => {}
        }
        outcome.report.reboot_needed = self.says_reboot();
        // Lists cannot be worked with while dpkg is in the middle: what is to come is seen when that is finished.
        if outcome.unfinished {
            return Ok(());
        }
        let found = apt::read(&self.call(&apt::simulate(&pins)).await?.stdout);
        takes(&mut outcome.report, found);
        match self.goal {
            OsGoal::Fetch => self.call(&apt::download(&pins)).await.map(drop),
            OsGoal::Install => {
                let done = self.call(&apt::install(&pins)).await;
                outcome.report.reboot_needed = self.says_reboot();
                done?;
                let left = apt::read(&self.call(&apt::simulate(&pins)).await?.stdout);
                outcome.report.updated = found.available.saturating_sub(left.available);
                Ok(())
            }
        }
    }

    async fn by_dnf(&mut self, outcome: &mut OsOutcome) -> Result<(), Fault> {
        if self.goal == OsGoal::Fetch {
            self.call(&dnf::refresh()).await?;
        }
        let all = self.call(&dnf::check()).await?.stdout;
        let security = self.call(&dnf::check_security()).await?.stdout;
        let names = dnf::names(&all);
        takes(&mut outcome.report, dnf::read(&all, &security));
        let done = match self.goal {
            _ if names.is_empty() => Ok(()),
            OsGoal::Fetch => self.call(&dnf::download(&names)).await.map(drop),
            OsGoal::Install => self.call(&dnf::install(&names)).await.map(drop),
        };
        outcome.report.reboot_needed = self.rpm_says_reboot().await?;
        done?;
        if self.goal == OsGoal::Install {
            let left = dnf::names(&self.call(&dnf::check()).await?.stdout).len();
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            outcome.report.updated = outcome.report.available.saturating_sub(left);
        }
        Ok(())
    }

    fn says_reboot(&self) -> bool {
        REBOOT_REQUIRED
            .iter()
            .any(|path| self.host.fs.at(path).exists())
    }

    /// dnf's own word; without its plug-in, whether the newest kernel is the one that runs.
    async fn rpm_says_reboot(&mut self) -> Result<bool, Fault> {
        for call in dnf::needs_restarting() {
            if !exec::program(&self.host.fs, call.program).is_file() {
                continue;
            }
            let said = self.ask(&call).await?;
            if let ProgramEnd::Code(code) = said.ended
                && let Some(needed) = dnf::restart(code, &said.stdout)
            {
                return Ok(needed);
            }
        }
        let kernels = self.call(&dnf::kernels()).await?.stdout;
        let runs = self.host.fs.read_text(OSRELEASE, PINS_MAX).ok().flatten();
        Ok(runs.is_some_and(|runs| dnf::has_newer(&kernels, &runs)))
    }

    /// Our pins, before the person's own.
    fn write_pins(&mut self) -> Result<(), Fault> {
        let fs = &self.host.fs;
        let fault = |e: &dyn std::error::Error| words::fault(FaultCode::StateIo, e.to_string());
        let own = fs
            .read_text("/etc/apt/preferences", PINS_MAX)
            .map_err(|e| fault(&e))?;
        let path = at("os-update.preferences");
        let text = apt::pins(&own.unwrap_or_default());
        fs.write(&path, text.as_bytes(), &Attrs::mode(0o644))
            .map_err(|e| fault(&e))?;
        self.pins = fs.at(path).display().to_string();
        Ok(())
    }

    /// A call that has to succeed. Repeated while another process holds the package manager.
    async fn call(&mut self, call: &Call) -> Result<ProgramOutput, Fault> {
        let began = Instant::now();
        loop {
            let said = self.ask(call).await?;
            if matches!(said.ended, ProgramEnd::Code(code) if call.good.contains(&code)) {
                return Ok(said);
            }
            let locked = words::kind(&said) == Kind::Locked;
            let may_wait = began.elapsed() < LOCKED_MAX && self.left() > LOCKED_AGAIN;
            if !(locked && may_wait) {
                return Err(words::why(call, &said, self.within.as_secs()));
            }
            tokio::time::sleep(LOCKED_AGAIN).await;
        }
    }

    fn left(&self) -> Duration {
        self.within.saturating_sub(self.began.elapsed())
    }

    async fn ask(&mut self, call: &Call) -> Result<ProgramOutput, Fault> {
        let program = exec::program(&self.host.fs, call.program);
        let mut cmd = Cmd::new(program, self.left().max(CALL_MIN)).args(&call.args);
        for (key, value) in apt::ENV {
            cmd = cmd.env(key, value);
        }
        let said = exec::ask(cmd).await;
        let said = said.map_err(|e| words::fault(FaultCode::OsUpdateFailed, chain(&e)))?;
        self.log(call, &said);
        Ok(said)
    }

    /// A log that cannot be written holds nothing up.
    fn log(&mut self, call: &Call, said: &ProgramOutput) {
        let head = format!(
            "=== {} {} {} ({:?})\n",
            crate::seam::clock::now(),
            call.program,
            call.args.join(" "),
            said.ended
        );
        let text = [
            head.as_str(),
            end_of(&said.stdout),
            end_of(&said.stderr),
            "\n",
        ]
        .concat();
        if let Err(e) = self.log.write_all(text.as_bytes()) {
            tracing::warn!("{LOG} is not written: {e}");
        }
    }
}

fn takes(report: &mut OsReport, found: Found) {
    (report.available, report.security, report.held) =
        (found.available, found.security, found.held);
}

fn end_of(text: &str) -> &str {
    let from = text.len().saturating_sub(SAID_MAX);
    text.get(text.ceil_char_boundary(from)..)
        .unwrap_or_default()
}
