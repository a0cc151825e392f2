//! The effects on a machine below a temporary root, with a systemctl that notes what it is asked.

use nix::mount::{MsFlags, mount};

use super::*;
use crate::agent::package::PROGRAM;
use crate::agent::testing::{order, record_at};
use crate::host::testing::in_namespaces;
use crate::model::Digest;

const SYSTEMCTL: &str = "#!/bin/sh\necho \"$*\" >> @ROOT@/calls\n";
const UNIT: &str = "/run/systemd/system/pf9-comms.service";

pub(crate) struct Machine {
    _dir: tempfile::TempDir,
    host: Host,
}

fn name(version: &str) -> Name {
    Name::of(&version.parse().expect("version"))
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = Host::new(HostFs::new(dir.path()));
        let this = Self { _dir: dir, host };
        let root = this.host.fs.at("/").display().to_string();
        this.put(
            "/usr/bin/systemctl",
            &SYSTEMCTL.replace("@ROOT@", root.trim_end_matches('/')),
        );
        this.put("/var/lib/dpkg/info/pf9-hostagent.list", "");
        for version in ["0.1.0", "0.2.0"] {
            this.put(&name(version).program(PROGRAM), version);
            for unit in UNITS {
                this.put(&format!("{}/{unit}", name(version).units()), version);
            }
        }
        for unit in UNITS {
            this.put(&format!("/usr/lib/systemd/system/{unit}"), "0.1.0");
        }
        this.links("0.1.0", "0.1.0");
        this
    }

    fn put(&self, path: &str, text: &str) {
        self.host
            .fs
            .write(path, text.as_bytes(), &Attrs::mode(0o755))
            .expect("write");
    }

    fn links(&self, current: &str, last_good: &str) {
        links::point(&self.host.fs, paths::AGENT_CURRENT, &name(current)).expect("link");
        links::point(&self.host.fs, paths::AGENT_LAST_GOOD, &name(last_good)).expect("link");
    }

    /// As a trial leaves it that is under way.
    fn trial(&self, stage: Stage) {
        self.links("0.2.0", "0.1.0");
        self.put(UNIT, "0.2.0");
        let mut record = record_at(stage, 1, "0.2.0");
        record.attempts = 1;
        store(&self.host.fs).save(&record).expect("save");
    }

    fn record(&self) -> Record {
        crate::agent::record::look(&self.host.fs).expect("a record")
    }

    fn both(&self) -> [String; 2] {
        links_of(&self.host.fs).map(|n| n.expect("a link").to_string())
    }

    fn calls(&self) -> String {
        self.host
            .fs
            .read_text("/calls", 99_999)
            .expect("read")
            .unwrap_or_default()
    }
}

#[tokio::test]
async fn a_trial_whose_switcher_was_killed_goes_back_and_starts_the_version_before() {
    for stage in [Stage::Switching, Stage::Proving, Stage::PuttingBack] {
        let machine = Machine::new();
        machine.trial(stage);
        switch(&machine.host).await.expect("it goes back");
        assert_eq!(machine.both(), ["0.1.0", "0.1.0"], "{stage:?}");
        assert_eq!(machine.record().stage, Stage::PutBack);
        assert!(
            !machine.host.fs.at(UNIT).exists(),
            "units of the trial are gone"
        );
        let calls = machine.calls();
        assert!(calls.contains("daemon-reload"), "{calls}");
        assert!(
            calls.contains("restart --no-block -- pf9-comms.service pf9-hostagent.service"),
            "{calls}"
        );
        assert!(
            calls.contains("try-restart --no-block -- pf9-nodeletd.service"),
            "{calls}"
        );
    }
}

#[tokio::test]
async fn at_boot_only_what_was_proven_runs_and_nothing_is_started_by_us() {
    for stage in [
        Stage::Switching,
        Stage::Proving,
        Stage::PuttingBack,
        Stage::PutBack,
        Stage::Ready,
        Stage::Refused,
    ] {
        let machine = Machine::new();
        machine.trial(stage);
        machine
            .host
            .fs
            .remove_file(UNIT)
            .expect("they were in memory");
        at_boot(&machine.host).await.expect("boot");
        assert_eq!(machine.both(), ["0.1.0", "0.1.0"], "{stage:?}");
        assert!(!machine.calls().contains("restart"), "{stage:?}");
    }
    let machine = Machine::new();
    machine.links("0.2.0", "0.1.0");
    at_boot(&machine.host).await.expect("without a record");
    assert_eq!(machine.both(), ["0.1.0", "0.1.0"]);
}

#[tokio::test]
async fn at_boot_a_proven_version_has_its_own_units_until_it_is_installed() {
    let machine = Machine::new();
    machine.trial(Stage::Proven);
    machine
        .host
        .fs
        .remove_file(UNIT)
        .expect("they were in memory");
    let mut record = machine.record();
    record.database = Database::Pending {
        why: None,
        attempts: 0,
        next_try: None,
    };
    store(&machine.host.fs).save(&record).expect("save");
    at_boot(&machine.host).await.expect("boot");
    assert_eq!(machine.both(), ["0.2.0", "0.2.0"]);
    let unit = machine.host.fs.read_text(UNIT, 99).expect("read");
    assert_eq!(unit.as_deref(), Some("0.2.0"));
}

/// What goes back asks the disk for nothing.
#[tokio::test]
async fn a_record_that_cannot_be_written_keeps_nothing_from_going_back() {
    let machine = Machine::new();
    machine.trial(Stage::Proving);
    let mut run = Run::new(&machine.host, false);
    let record = machine.record();
    // In the place of what would be written next to it.
    machine
        .host
        .fs
        .remove_file("/var/opt/pf9/agent/switch.json")
        .expect("remove");
    machine
        .host
        .fs
        .remove_file("/var/opt/pf9/agent/switch.json.prev")
        .expect("remove");
    machine.put("/var/opt/pf9/agent/switch.json/x", "");
    let gone = async {
        while machine.both() != ["0.1.0", "0.1.0"]
            || !machine.calls().contains("restart --no-block")
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        // The note that it is back is tried again and again.
        done = run.drive(record) => panic!("{done:?}"),
        () = gone => {}
    }
}

#[tokio::test]
async fn an_order_whose_package_is_wrong_changes_nothing_and_is_not_tried_for_ever() {
    let machine = Machine::new();
    let mut order = order(3, "0.2.0");
    order.target.packages[0].sha256 = Digest::of(b"no package");
    order.target.packages[0].bytes = 10;
    order_store(&machine.host.fs)
        .save(&Order {
            schema: 1,
            spec: order.clone(),
        })
        .expect("save");
    machine.put(
        &crate::agent::staged(&order.target.packages[0]),
        "no package",
    );
    switch(&machine.host).await.expect("it is said");
    let record = machine.record();
    let code = record.why.as_ref().map(|w| w.code);
    assert_eq!(
        (record.stage, code),
        (Stage::Refused, Some(FaultCode::AgentPackage)),
        "{record:?}"
    );
    assert_eq!((record.next_try, record.attempts), (None, 0));
    assert_eq!(machine.both(), ["0.1.0", "0.1.0"]);
    assert_eq!(machine.calls(), "");
}

/// What starts or is proven is on disk first; where it cannot be written, nothing starts and nothing is proven.
#[tokio::test]
async fn what_cannot_be_noted_is_neither_begun_nor_proven() {
    let machine = Machine::new();
    machine.put("/var/opt/pf9/agent/switch.json/x", "");
    let mut run = Run::new(&machine.host, false);
    for stage in [Stage::Ready, Stage::Switching, Stage::Refused] {
        let done = run.wrote(record_at(stage, 1, "0.2.0")).await;
        assert!(done.is_err(), "{stage:?}: {done:?}");
    }
    for stage in [Stage::Proving, Stage::Proven] {
        run.proof = Proof::Well;
        let record = run.wrote(record_at(stage, 1, "0.2.0")).await;
        assert_eq!(record.expect("it goes on").stage, Stage::Proving);
        assert!(matches!(run.proof, Proof::Failed(_)), "{:?}", run.proof);
    }
    assert_eq!(machine.both(), ["0.1.0", "0.1.0"]);
}

/// A new version that answers nothing has the time that its order gives it, and not more.
#[tokio::test]
async fn what_is_late_is_not_waited_for() {
    let machine = Machine::new();
    machine.trial(Stage::Proving);
    let record = machine.record();
    let within = Duration::from_secs(u64::from(record.order.prove_within_seconds));
    for (ago, late) in [(within, true), (Duration::ZERO, false)] {
        let mut run = Run::new(&machine.host, false);
        run.proving = Instant::now().checked_sub(ago);
        run.prove(&record).await;
        assert_eq!(
            matches!(run.proof, Proof::Failed(_)),
            late,
            "{:?}",
            run.proof
        );
    }
}

/// Only another order cures it.
#[tokio::test]
async fn an_order_that_is_over_is_not_begun_again() {
    for stage in [Stage::PutBack, Stage::Refused] {
        let machine = Machine::new();
        let over = record_at(stage, 3, "0.2.0");
        store(&machine.host.fs).save(&over).expect("save");
        for generation in [2, 3] {
            let spec = order(generation, "0.2.0");
            let again = Order { schema: 1, spec };
            order_store(&machine.host.fs).save(&again).expect("save");
            switch(&machine.host).await.expect("nothing to do");
            assert_eq!(machine.record(), over, "{stage:?} {generation}");
        }
        assert_eq!(machine.calls(), "");
    }
}

/// The link back is made before anything is changed, and a rename needs no room.
#[test]
fn back_is_possible_where_the_disk_takes_no_new_link() {
    const NAME: &str = "agent::switch::tests::back_is_possible_where_the_disk_takes_no_new_link";
    if in_namespaces(NAME, &["--mount"], ":").is_none() {
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    let disk = fs.at(paths::AGENT_PROGRAMS);
    std::fs::create_dir_all(&disk).expect("directory");
    let (tmpfs, files) = (Some("tmpfs"), Some("nr_inodes=32"));
    mount(tmpfs, &disk, tmpfs, MsFlags::empty(), files).expect("mount");
    let good = name("0.1.0");
    links::point(&fs, paths::AGENT_CURRENT, &name("0.2.0")).expect("link");
    links::point(&fs, BACK, &good).expect("made beforehand");
    let filled = (0..64).find(|n| std::fs::write(disk.join(n.to_string()), b"").is_err());
    assert!(filled.is_some(), "it is full");
    links::point(&fs, paths::AGENT_CURRENT, &good).expect_err("it takes no other");
    point_back(&fs, &good).expect("back");
    assert_eq!(links::read(&fs, paths::AGENT_CURRENT), Some(good));
}

/// However many versions are tried, what was given up is not kept.
#[tokio::test]
async fn the_programs_of_a_version_that_is_given_up_go() {
    for (installed, stays) in [("installed 0.1.0-1", false), ("installed 0.2.0-1", true)] {
        let machine = Machine::new();
        machine.put(
            "/usr/bin/dpkg-query",
            &format!("#!/bin/sh\necho '{installed}'\n"),
        );
        let over = record_at(Stage::PutBack, 1, "0.2.0");
        Run::new(&machine.host, false).tidy(&over).await;
        assert_eq!(
            machine.host.fs.at(name("0.2.0").dir()).exists(),
            stays,
            "{installed}"
        );
        assert!(machine.host.fs.at(name("0.1.0").dir()).exists());
    }
    let machine = Machine::new();
    let mut again = record_at(Stage::PutBack, 1, "0.2.0");
    again.next_try = Some(Timestamp::MAX);
    Run::new(&machine.host, false).tidy(&again).await;
    assert!(
        machine.host.fs.at(name("0.2.0").dir()).exists(),
        "it is retried automatically"
    );
}

/// The way back of a version that was not proven, broken at every point: see [`crate::seam::walk`].
#[cfg(feature = "fault")]
pub(crate) mod walk {
    use std::collections::BTreeMap;

    use super::*;
    use crate::host::ours::paths::WRITTEN_BY_ROOT;
    use crate::host::temps;
    use crate::seam::walk::{Scenario, files, walk};

    pub(crate) struct Back;

    impl Scenario for Back {
        const NAME: &'static str = "upgrade of the agent that goes back";
        type World = Machine;

        async fn begin(&self) -> Machine {
            let machine = Machine::new();
            machine.trial(Stage::Proving);
            // Made before anything was changed.
            links::point(&machine.host.fs, BACK, &name("0.1.0")).expect("link");
            machine
        }

        async fn life(&self, machine: &mut Machine, starts: bool) -> bool {
            if starts {
                temps::collect(&machine.host.fs, WRITTEN_BY_ROOT);
            }
            let run = switch(&machine.host);
            let switched = tokio::time::timeout(Duration::from_secs(60), run).await;
            switched.is_ok_and(|s| s.is_ok()) && machine.both() == ["0.1.0", "0.1.0"]
        }

        fn boot(&self, machine: &mut Machine) {
            std::fs::remove_dir_all(machine.host.fs.at("/run/systemd")).ok();
        }

        async fn end(&self, machine: &mut Machine) -> BTreeMap<String, String> {
            let mut end = files(&machine.host.fs, |path| {
                path.contains("switch.json") || path.ends_with("/systemctl")
            });
            // How often it was said is not what matters; the file of the one before the newest either.
            end.retain(|path, _| {
                path != "/calls"
                    && path != BACK
                    && !path.starts_with("/run")
                    && !path.ends_with(".prev")
            });
            end.insert("stage".to_owned(), format!("{:?}", machine.record().stage));
            let unit = machine.host.fs.at(UNIT).exists();
            end.insert("unit".to_owned(), unit.to_string());
            end
        }
    }

    /// The whole way of a version that shows nothing: forth, late at once, and back.
    pub(crate) struct Forth;

    impl Forth {
        /// nodelet has laid the order down, and the package was unpacked.
        fn ready() -> Record {
            let mut record = record_at(Stage::Ready, 1, "0.2.0");
            record.order.prove_within_seconds = 0;
            record
        }
    }

    impl Scenario for Forth {
        const NAME: &'static str = "upgrade of the agent that shows nothing";
        type World = Machine;

        async fn begin(&self) -> Machine {
            let machine = Machine::new();
            store(&machine.host.fs).save(&Self::ready()).expect("save");
            machine
        }

        async fn life(&self, machine: &mut Machine, starts: bool) -> bool {
            if starts {
                temps::collect(&machine.host.fs, WRITTEN_BY_ROOT);
            }
            let host = &machine.host;
            let goes = Box::pin(async {
                let mut run = Run::new(host, false);
                let record = crate::agent::record::look(&host.fs).unwrap_or_else(Self::ready);
                match record.stage {
                    Stage::Ready => Box::pin(run.drive(record)).await,
                    _ => Box::pin(run.drive_begun(record)).await,
                }
            });
            let gone = tokio::time::timeout(Duration::from_secs(60), goes).await;
            let over = |r: Record| r.stage == Stage::PutBack;
            gone.is_ok_and(|record| record.is_ok_and(over)) && machine.both() == ["0.1.0", "0.1.0"]
        }

        fn boot(&self, machine: &mut Machine) {
            std::fs::remove_dir_all(machine.host.fs.at("/run/systemd")).ok();
        }

        async fn end(&self, machine: &mut Machine) -> BTreeMap<String, String> {
            Back.end(machine).await
        }
    }

    #[tokio::test]
    async fn the_way_back_broken_anywhere_leads_back() {
        walk(&Back, 60).await;
    }

    #[tokio::test]
    async fn a_version_that_shows_nothing_broken_anywhere_is_not_kept() {
        walk(&Forth, 60).await;
    }
}
