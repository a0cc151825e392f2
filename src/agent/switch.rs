//! What `pf9-agent-switch.service` and `pf9-agent-boot.service` do: the effects of [`next()`], one after the other.
//!
//! Going back needs no room: the link that it renames is made before anything changes, and a record that cannot be
//! written keeps nothing from going back.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::links::{self, Name};
use super::next::{Move, Proof, SwitchSeen, is_due, next};
use super::package::UNITS;
use super::prepare::prepare;
use super::record::{Database, Order, Record, Stage, order_store, store};
use super::{pause, prove, settle};
use crate::host::Host;
use crate::host::exec::ExecError;
use crate::host::fs::{Attrs, FsError, HostFs};
use crate::host::ours::units::{COMMS, HOSTAGENT, NODELET};
use crate::model::{Fault, FaultCode, Timestamp, paths};
use crate::telemetry::{KubeLog, chain};

/// Where units of a trial are: in memory, so that a power cut takes them along.
const TRIAL_UNITS: &str = "/run/systemd/system";
/// Where the package has its own.
const PACKAGE_UNITS: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];
/// The way back, made beforehand.
const BACK: &str = "/opt/pf9/agent/.back";
/// A unit.
const UNIT_MAX: u64 = 256 * 1024;
/// Between two looks whether the new version is well.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two tries to note that it is back, on a disk that takes nothing.
const NOTE_EVERY: Duration = Duration::from_secs(10);
/// A change that waits for the node is looked at again.
const GATE: Duration = Duration::from_secs(20);
/// Moves of one run: a dozen are one change. More would be a mistake of ours, and it must not run for ever.
const MOVES_MAX: u32 = 64;

/// A run of one of the two units.
struct Run<'a> {
    host: &'a Host,
    /// Nothing of ours runs yet, so nothing is restarted.
    boot: bool,
    log: KubeLog,
    own: bool,
    back: bool,
    units: bool,
    proof: Proof,
    proving: Option<Instant>,
    restarts: Vec<u32>,
}

/// Goes on with what is ordered as far as it goes now.
pub async fn switch(host: &Host) -> Result<(), Fault> {
    let mut run = Run::new(host, false);
    let now = crate::seam::clock::now();
    let order = order_store(&host.fs).look(|o: Order| Ok(o.spec)).value;
    let mut record = store(&host.fs).load(now, Ok::<Record, _>).value;
    // An interrupted switch is rolled back before anything else starts.
    if let Some(begun) = record.take() {
        record = Some(Box::pin(run.drive_begun(begun)).await?);
    }
    let newer = |r: &Record| {
        order
            .as_ref()
            .is_some_and(|o| o.generation > r.order.generation)
    };
    let record = match (record, order.clone()) {
        (Some(record), _) if !newer(&record) => record,
        (_, Some(order)) => Record::new(order, links::read(&host.fs, paths::AGENT_LAST_GOOD)),
        (Some(record), None) => record,
        (None, None) => return Ok(()),
    };
    let fresh = record.stage == Stage::Ready && record.next_try.is_none();
    if !fresh && !is_due(&record, now) {
        return Ok(());
    }
    let record = match record.stage {
        Stage::Ready | Stage::Refused | Stage::PutBack => {
            // On the heap, as every change is: a question to a daemon carries its whole answer.
            Box::pin(run.begin(record)).await?
        }
        Stage::Switching | Stage::Proving | Stage::Proven | Stage::PuttingBack => record,
    };
    run.tidy(&record).await;
    run.settle(record).await
}

/// At boot, before anything of ours starts: what was not proven goes back, and what was proven keeps its units.
pub async fn at_boot(host: &Host) -> Result<(), Fault> {
    let mut run = Run::new(host, true);
    if let Some(record) = store(&host.fs)
        .load(crate::seam::clock::now(), Ok::<Record, _>)
        .value
    {
        Box::pin(run.drive_begun(record)).await?;
    }
    // Whatever the record says, or where it is lost: only what was proven runs after a boot.
    let [current, last_good] = links_of(&host.fs);
    match last_good {
        Some(good) if current.as_ref() != Some(&good) => {
            point_back(&host.fs, &good).map_err(|e| broken(&e))
        }
        Some(_) | None => Ok(()),
    }
}

fn links_of(fs: &HostFs) -> [Option<Name>; 2] {
    [paths::AGENT_CURRENT, paths::AGENT_LAST_GOOD].map(|link| links::read(fs, link))
}

fn broken(error: &FsError) -> Fault {
    Fault::new(
        FaultCode::StateIo,
        "the agent's version is not changed",
        chain(error),
    )
    .fix("check the disk; it is retried automatically")
}

impl<'a> Run<'a> {
    fn new(host: &'a Host, boot: bool) -> Self {
        Self {
            host,
            boot,
            log: KubeLog::at(host.fs.at(paths::KUBE_LOG)),
            own: false,
            back: false,
            units: false,
            proof: Proof::Missing("it was just started".into()),
            proving: None,
            restarts: Vec::new(),
        }
    }

    /// Has it ready, and where the machine is so that a proof would mean something, changes to it.
    async fn begin(&mut self, record: Record) -> Result<Record, Fault> {
        let now = crate::seam::clock::now();
        // What an earlier order came to is no word about this one.
        *self = Self::new(self.host, self.boot);
        if let Err(why) = prepare(self.host, &record.order).await {
            // A package that is wrong stays wrong; all else may be cured by a person, or by time.
            let after = (why.code != FaultCode::AgentPackage).then(|| pause(4));
            let refused = record.at(Stage::Refused, Some(why));
            return self.write(later(refused, now, after));
        }
        let [current, last_good] = links_of(&self.host.fs);
        let to = record.to();
        let begun = match record.stage {
            Stage::PutBack | Stage::Refused => record.at(Stage::Ready, None),
            _ => record,
        };
        let from = last_good.clone();
        let begun = Record { from, ..begun };
        if current.as_ref() == Some(&to) && last_good.as_ref() == Some(&to) {
            // It runs: a person installed it, or the order came twice.
            let database = settle::settle(self.host, &begun, now).await;
            return self.write(Record {
                database,
                ..begun.at(Stage::Proven, None)
            });
        }
        let looked = prove::look(self.host).await;
        match prove::may_begin(&looked) {
            Err(what) => {
                let why = Fault::new(
                    FaultCode::Waiting,
                    "the agent's version is not changed yet",
                    format!("waits for {what}"),
                );
                self.write(later(begun.at(Stage::Ready, Some(why)), now, Some(GATE)))
            }
            Ok(was_well) => {
                self.restarts = prove::restarts(&looked);
                Box::pin(self.drive(Record { was_well, ..begun })).await
            }
        }
    }

    async fn drive_begun(&mut self, record: Record) -> Result<Record, Fault> {
        match record.stage {
            // Started by the run that made it ready.
            Stage::Ready | Stage::Refused | Stage::PutBack => Ok(record),
            Stage::Switching | Stage::Proving | Stage::Proven | Stage::PuttingBack => {
                Box::pin(self.drive(record)).await
            }
        }
    }

    async fn drive(&mut self, mut record: Record) -> Result<Record, Fault> {
        let mut moves = 0;
        while moves < MOVES_MAX {
            let [current, last_good] = links_of(&self.host.fs);
            let seen = SwitchSeen {
                current,
                last_good,
                own: self.own,
                back: self.back,
                units: self.units,
                proof: self.proof.clone(),
                now: crate::seam::clock::now(),
            };
            match next(&record, &seen) {
                Move::Rest => return Ok(record),
                Move::Write(to) => record = self.wrote(*to).await?,
                Move::Switch => self.change(&record.to(), seen.last_good.as_ref()).await,
                Move::Prove => {
                    // Bounded by the time that it has.
                    self.prove(&record).await;
                    continue;
                }
                Move::Promote => links::point(&self.host.fs, paths::AGENT_LAST_GOOD, &record.to())
                    .map_err(|e| broken(&e))?,
                Move::Back => self.go_back(seen.last_good.as_ref()).await,
                Move::Units => {
                    // Programs that are well run on by what systemd has read.
                    self.say_if(self.place_units(&record.to()).await);
                    self.units = true;
                }
            }
            moves += 1;
        }
        let why = format!(
            "{MOVES_MAX} transitions from {:?} made no progress",
            record.stage
        );
        Err(
            Fault::new(FaultCode::State, "the agent's version is not changed", why)
                .fix("report this as a bug (pf9ctl bundle)"),
        )
    }

    /// Notes the next step before it starts. A disk that accepts no writes prevents a change from starting or being
    /// proven, never a rollback.
    async fn wrote(&mut self, record: Record) -> Result<Record, Fault> {
        self.own |= record.stage == Stage::Switching;
        let noted = store(&self.host.fs).save(&record);
        self.tell(&record);
        match (record.stage, noted) {
            (_, Ok(())) => Ok(record),
            (Stage::PuttingBack, Err(error)) => {
                self.say_if(Err::<(), _>(broken(&error)));
                Ok(record)
            }
            (Stage::Proving | Stage::Proven, Err(error)) => {
                let why = broken(&error);
                self.proof = Proof::Failed(format!("it could not be recorded: {}", why.why));
                Ok(Record {
                    stage: Stage::Proving,
                    ..record
                })
            }
            (Stage::PutBack, Err(_)) => {
                // Without retries the next run would find a trial and roll back again.
                while store(&self.host.fs).save(&record).is_err() {
                    sleep(NOTE_EVERY).await;
                }
                Ok(record)
            }
            (Stage::Ready | Stage::Switching | Stage::Refused, Err(error)) => Err(broken(&error)),
        }
    }

    fn write(&self, record: Record) -> Result<Record, Fault> {
        store(&self.host.fs).save(&record).map_err(|e| broken(&e))?;
        self.tell(&record);
        Ok(record)
    }

    fn tell(&self, record: &Record) {
        let version = record.to();
        let words = match record.stage {
            Stage::Ready => "is ready",
            Stage::Switching => "is switched to",
            Stage::Proving => "has to prove itself healthy",
            Stage::Proven => "is proven",
            Stage::PuttingBack => "is rolled back",
            Stage::PutBack => "was rolled back; the previous version runs",
            Stage::Refused => "is refused",
        };
        let why = record
            .why
            .as_ref()
            .map(|w| format!(" - {w}"))
            .unwrap_or_default();
        tracing::info!(%version, stage = ?record.stage, attempts = record.attempts, "version {words}{why}");
        self.log.say(
            crate::seam::clock::now(),
            &format!("agent: version {version} {words}{why}"),
        );
    }

    /// An effect that failed is seen by what follows; here it is only said.
    fn say_if<T>(&self, result: Result<T, Fault>) {
        if let Err(fault) = result {
            tracing::warn!(code = fault.code.word(), "{fault}");
        }
    }

    async fn change(&mut self, to: &Name, last_good: Option<&Name>) {
        let changed = async {
            if let Some(good) = last_good {
                links::point(&self.host.fs, BACK, good).map_err(|e| broken(&e))?;
            }
            self.place_units(to).await?;
            links::point(&self.host.fs, paths::AGENT_CURRENT, to).map_err(|e| broken(&e))
        };
        if let Err(fault) = changed.await {
            self.proof = Proof::Failed(format!("it could not be switched to: {}", fault.why));
            self.say_if(Err::<(), _>(fault));
            return;
        }
        self.restart().await;
        self.proving = Some(Instant::now());
    }

    async fn prove(&mut self, record: &Record) {
        let since = *self.proving.get_or_insert_with(Instant::now);
        let within = Duration::from_secs(u64::from(record.order.prove_within_seconds));
        let look = prove::look(self.host).await;
        self.proof = prove::proof(&look, &record.to(), record.was_well, &self.restarts);
        if let Proof::Missing(what) = &self.proof {
            if since.elapsed() >= within {
                self.proof = Proof::Failed(format!(
                    "{what}, {} s after it was switched to",
                    within.as_secs()
                ));
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn go_back(&mut self, last_good: Option<&Name>) {
        self.say_if(self.remove_units().await);
        if let Some(good) = last_good {
            self.say_if(point_back(&self.host.fs, good).map_err(|e| broken(&e)));
        }
        self.restart().await;
        self.back = true;
    }

    /// Starts the three again and waits for none: what hangs is seen by the proof.
    async fn restart(&self) {
        if self.boot {
            return;
        }
        for unit in [NODELET, HOSTAGENT, COMMS] {
            self.host.units.forget_failure(unit).await;
        }
        // nodelet only where it runs: its socket starts it.
        let of_nodelet = self.host.units.restart_soon(&[NODELET], true).await;
        let of_others = self
            .host
            .units
            .restart_soon(&[COMMS, HOSTAGENT], false)
            .await;
        for done in [of_nodelet, of_others] {
            self.say_if(done.map_err(|e| systemd(&e)));
        }
    }

    /// Those of a version that differ from what the package manager has installed.
    async fn place_units(&self, of: &Name) -> Result<(), Fault> {
        let fs = &self.host.fs;
        let mut changed = false;
        for unit in UNITS {
            let wanted = fs
                .read(format!("{}/{unit}", of.units()), UNIT_MAX)
                .map_err(|e| broken(&e))?;
            let installed = PACKAGE_UNITS
                .iter()
                .find_map(|dir| fs.read(format!("{dir}/{unit}"), UNIT_MAX).ok().flatten());
            let trial = format!("{TRIAL_UNITS}/{unit}");
            match wanted {
                Some(text) if installed.as_ref() != Some(&text) => {
                    fs.write(&trial, &text, &Attrs::mode(0o644))
                        .map_err(|e| broken(&e))?;
                    changed = true;
                }
                Some(_) | None => changed |= remove(fs, &trial)?,
            }
        }
        self.reload_if(changed).await
    }

    /// Removes each of them, whatever happened to the one before, and retries a failed one: a unit that stays would
    /// belong to a version whose programs no longer run.
    async fn remove_units(&self) -> Result<(), Fault> {
        let (mut changed, mut done) = (false, Ok(()));
        for _ in 0..2 {
            done = Ok(());
            for unit in UNITS {
                let trial = format!("{TRIAL_UNITS}/{unit}");
                changed |= self.host.fs.at(&trial).symlink_metadata().is_ok();
                done = done.and(remove(&self.host.fs, &trial).map(drop));
            }
            if done.is_ok() {
                break;
            }
        }
        self.reload_if(changed).await.and(done)
    }

    async fn reload_if(&self, changed: bool) -> Result<(), Fault> {
        match changed {
            true => self.host.units.reload().await.map_err(|e| systemd(&e)),
            false => Ok(()),
        }
    }

    /// The programs of a version that is given up go, unless they are the package manager's: tries leave nothing behind.
    async fn tidy(&self, record: &Record) {
        let over = match record.stage {
            Stage::PutBack | Stage::Refused => record.next_try.is_none(),
            Stage::Ready
            | Stage::Switching
            | Stage::Proving
            | Stage::Proven
            | Stage::PuttingBack => false,
        };
        let to = record.to();
        if !over || links_of(&self.host.fs).contains(&Some(to.clone())) {
            return;
        }
        if let Ok(false) = settle::installed(self.host, record).await {
            self.say_if(self.host.fs.remove_tree(to.dir()).map_err(|e| broken(&e)));
        }
    }

    /// Tells the package manager which version is proven.
    async fn settle(&self, record: Record) -> Result<(), Fault> {
        let now = crate::seam::clock::now();
        if record.stage != Stage::Proven
            || record.database == Database::Agrees
            || !is_due(&record, now)
        {
            return Ok(());
        }
        let database = settle::settle(self.host, &record, now).await;
        let settled = self.write(Record { database, ..record })?;
        if settled.database == Database::Agrees {
            // postinst has taken them away already where it ran.
            self.remove_units().await?;
        }
        Ok(())
    }
}

fn later(record: Record, now: Timestamp, after: Option<Duration>) -> Record {
    let at = after.map(|after| now.checked_add(after).unwrap_or(Timestamp::MAX));
    let why = record.why.clone().map(|why| match at {
        Some(at) => why.next_try(at),
        None => why,
    });
    Record {
        next_try: at,
        why,
        ..record
    }
}

fn remove(fs: &HostFs, path: &str) -> Result<bool, Fault> {
    let there = fs.at(path).symlink_metadata().is_ok();
    fs.remove_file(path).map_err(|e| broken(&e))?;
    Ok(there)
}

/// `current` as `last-good`; by the link that was made beforehand where the disk takes no other.
fn point_back(fs: &HostFs, good: &Name) -> Result<(), FsError> {
    links::point(fs, paths::AGENT_CURRENT, good).or_else(|e| {
        match links::read(fs, BACK).as_ref() == Some(good) {
            true => fs.rename(BACK, paths::AGENT_CURRENT),
            false => Err(e),
        }
    })
}

fn systemd(error: &ExecError) -> Fault {
    Fault::new(
        FaultCode::Units,
        "systemd did not do what it was asked to",
        chain(error),
    )
    .fix("see systemctl status 'pf9-*'")
}

#[cfg(test)]
mod tests;
