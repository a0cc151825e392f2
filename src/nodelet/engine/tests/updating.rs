//! The distribution's updates, with the whole loop: how a run is started and found again, and that the machine is told
//! to restart once.

use super::rolling::{order, put, upgrade};
use super::*;
use crate::model::Timestamp;
use crate::model::{OsReport, UpgradeStage, UpgradeState};
use crate::nodelet::roll::{self, At, RollRecord};
use crate::os::{OsGoal, OsRun};

const ORDERED: &str = "/var/opt/pf9/nodelet/os-update.json";
const OUTCOME: &str = "/var/opt/pf9/nodelet/os-update-outcome.json";
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// Commands that systemd got, in order.
const TOLD: &str = "/told";
/// There while the unit of the updates is at work.
const AT_WORK: &str = "/at-work";

/// A node that was drained for its distribution's updates.
struct World {
    machine: Machine,
    life: Life,
}

impl World {
    fn updating() -> Self {
        let (machine, own) = Machine::running();
        let root = machine.fs.at("/");
        let root = root.display().to_string();
        let root = root.trim_end_matches('/');
        let systemctl = format!(
            "#!/bin/sh\necho \"$@\" >> {root}{TOLD}\ncase \"$*\" in *'show '*pf9-os-update*)\n\
             echo Id=pf9-os-update.service; echo LoadState=loaded\n\
             if [ -e {root}{AT_WORK} ]; then echo ActiveState=active; else echo ActiveState=inactive; fi;;\n\
             *'start -- pf9-os-update.service') [ -e {root}{ORDERED} ] && : > {root}{AT_WORK};; esac\nexit 0\n"
        );
        let attrs = Attrs::mode(0o755);
        let write = |path: &str, text: &str| machine.fs.write(path, text.as_bytes(), &attrs);
        write("/usr/bin/systemctl", &systemctl).expect("systemctl");
        write(BOOT, "boot-1\n").expect("boot");
        let (ledger, _) = LedgerFile::load(&machine.fs, Timestamp::UNIX_EPOCH);
        let from = ledger.ledger.installed.clone().expect("a node");
        let ordered = order(UpgradeStage::Os, &own);
        let mut record = RollRecord::new(
            &ordered,
            At::Updating,
            &from,
            None,
            crate::seam::clock::now(),
        );
        record.attempts = 1;
        roll::save(&machine.fs, &record).expect("record");
        let life = machine.begin();
        put(&life, machine.ordered(6, UpgradeStage::Os, &own, &own));
        Self { machine, life }
    }

    fn told(&self, what: &str) -> usize {
        let told = self.machine.fs.read_text(TOLD, 1 << 20).expect("read");
        told.unwrap_or_default()
            .lines()
            .filter(|l| l.contains(what))
            .count()
    }

    fn record(&self) -> RollRecord {
        roll::look(&self.machine.fs).expect("a record")
    }

    /// The unit came to its end.
    fn ends(&self, report: OsReport, fault: Option<Fault>) {
        let run = serde_json::json!({"roll": uuid::Uuid::from_u128(7), "goal": "install", "attempt": 1, "within_s": 3600});
        let outcome = serde_json::json!({"report": report, "unfinished": false, "fault": fault});
        let ended = serde_json::json!({"schema": 1, "run": run, "outcome": outcome});
        let bytes = ended.to_string();
        self.machine
            .fs
            .write(OUTCOME, bytes.as_bytes(), &Attrs::mode(0o600))
            .expect("write");
        self.machine.fs.remove_file(AT_WORK).expect("remove");
    }

    async fn again(self) -> Self {
        let machine = self.machine;
        drop(self.life);
        let mut life = machine.begin();
        life.engine.round().await;
        Self { machine, life }
    }
}

#[tokio::test]
async fn a_run_is_on_the_disk_before_it_begins_and_is_found_again_and_not_begun_twice() {
    let mut world = World::updating();
    world.life.engine.round().await;
    assert_eq!(upgrade(&world.life).state, UpgradeState::Updating);
    assert_eq!(world.told("start -- pf9-os-update.service"), 1);
    let wants = OsRun {
        roll: crate::model::RollId(uuid::Uuid::from_u128(7)),
        goal: OsGoal::Install,
        attempt: 1,
        within_s: 3600,
    };
    assert_eq!(crate::os::begun(&world.machine.fs), Some(wants));
    assert!(
        world.machine.fs.at(AT_WORK).exists(),
        "the order was there first"
    );
    let journal = "/var/opt/pf9/nodelet/journal.jsonl";
    let journal = world
        .machine
        .fs
        .read_text(journal, 1 << 20)
        .expect("read")
        .expect("a journal");
    let of = journal.lines().filter(|l| l.contains("\"os-update\""));
    let of: Vec<&str> = of.collect();
    assert!(
        of.len() == 2 && of[0].contains("intent") && of[1].contains("done"),
        "{journal}"
    );
    // nodelet is restarted while it is at work, and while it is so.
    let mut world = Box::pin(world.again()).await;
    world.life.engine.round().await;
    assert_eq!(world.told("start -- pf9-os-update.service"), 1);
    assert_eq!(
        (world.record().at, world.record().attempts),
        (At::Updating, 1)
    );
}

#[tokio::test]
async fn one_that_was_cut_off_is_a_try_and_says_so() {
    let mut world = World::updating();
    world.life.engine.round().await;
    // The machine loses power: no process is at work, and there is no result.
    world.machine.fs.remove_file(AT_WORK).expect("remove");
    let world = Box::pin(world.again()).await;
    let record = world.record();
    assert_eq!((record.at, record.attempts), (At::Updating, 2));
    let fault = record.fault.expect("why");
    assert!(fault.why.contains("interrupted"), "{fault}");
    assert_eq!(upgrade(&world.life).fault, Some(fault), "and it is shown");
    assert_eq!(
        world.told("start -- pf9-os-update.service"),
        1,
        "not at once"
    );
}

#[tokio::test]
async fn the_machine_is_told_to_start_anew_once_and_what_comes_after_is_proven() {
    let mut world = World::updating();
    world.life.engine.round().await;
    let report = OsReport {
        available: 2,
        updated: 2,
        reboot_needed: true,
        ..OsReport::default()
    };
    world.ends(report, None);
    world.life.engine.round().await;
    assert_eq!(upgrade(&world.life).state, UpgradeState::Rebooting);
    for _ in 0..2 {
        world.life.engine.round().await;
    }
    assert_eq!(world.told("reboot --no-wall"), 1);
    assert_eq!(world.record().boot.as_deref(), Some("boot-1"));
    let attrs = Attrs::mode(0o644);
    world
        .machine
        .fs
        .write(BOOT, b"boot-2\n", &attrs)
        .expect("boot");
    let world = Box::pin(world.again()).await;
    let record = world.record();
    assert_eq!(record.at, At::Proving);
    let os = record.os.expect("counts");
    assert!(
        os.rebooted && !os.reboot_needed && os.updated == 2,
        "{os:?}"
    );
    assert_eq!(world.told("reboot --no-wall"), 1);
}

#[tokio::test]
async fn a_failure_is_shown_while_it_is_tried_again() {
    let mut world = World::updating();
    world.life.engine.round().await;
    let fault = Fault::new(FaultCode::DiskFull, "the updates", "no room");
    world.ends(OsReport::default(), Some(fault.clone()));
    world.life.engine.round().await;
    let said = upgrade(&world.life);
    assert_eq!(
        (said.state, said.attempts, said.fault),
        (UpgradeState::Updating, 2, Some(fault))
    );
}
