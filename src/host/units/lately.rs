//! What systemd said of units that run, kept while all that it goes by is the same.
//!
//! A question is a program, in every sweep. But of each unit that runs systemd keeps a link to the number of this run,
//! which goes when the unit stops; and what it says beside that it has from files, and from the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{UnitState, Units};
use crate::host::exec::ExecError;
use crate::host::proc::Proc;
use crate::host::unchanged::FileMark;

/// Where the links are: `invocation:UNIT`, to the number.
const RUNS: &str = "/run/systemd/units";
/// Where files of units are, and directories with more of them, `UNIT.d`.
const PLACES: [&str; 6] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
];
/// What starts at boot has a link here.
const AT_BOOT: &str = "/etc/systemd/system/multi-user.target.wants";
/// Asked anyway after this long: what is changed within a file of `UNIT.d` is in none of the marks.
const ASK_EVERY: Duration = Duration::from_secs(300);

/// What was said last. Cheap to clone: all clones have the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Lately(Arc<Mutex<Option<Said>>>);

#[derive(Clone, Debug)]
struct Said {
    at: Instant,
    states: BTreeMap<String, UnitState>,
    marks: Vec<Mark>,
}

/// All that the state of a unit that runs as it should is by.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    /// When its process started; one that has none but a start and a stop has none.
    started: Option<u64>,
    files: Vec<Option<FileMark>>,
}

impl Units {
    /// As [`Units::show`]; of units that all run as they should, and of which nothing changed, what was said before.
    pub async fn show_lately(
        &self,
        units: &[String],
    ) -> Result<BTreeMap<String, UnitState>, ExecError> {
        if let Some(states) = self.still(units) {
            return Ok(states);
        }
        let files: Vec<_> = units.iter().map(|unit| self.files(unit)).collect();
        let states = self.show(units).await?;
        let marks: Option<Vec<Mark>> = units.iter().map(|u| self.mark(u, &states)).collect();
        // Of files that changed meanwhile nobody knows which ones it spoke of.
        let same = |marks: &Vec<Mark>| marks.iter().map(|m| &m.files).eq(&files);
        let said = marks.filter(same).map(|marks| Said {
            at: Instant::now(),
            states: states.clone(),
            marks,
        });
        *self.lately.0.lock().unwrap_or_else(PoisonError::into_inner) = said;
        Ok(states)
    }

    fn still(&self, units: &[String]) -> Option<BTreeMap<String, UnitState>> {
        let said = {
            let said = self.lately.0.lock().unwrap_or_else(PoisonError::into_inner);
            said.clone()?
        };
        let now: Option<Vec<Mark>> = units.iter().map(|u| self.mark(u, &said.states)).collect();
        let same = said.states.len() == units.len() && now? == said.marks;
        (same && said.at.elapsed() < ASK_EVERY).then_some(said.states)
    }

    /// None of a unit that is not as it should be, or not as it was said to be.
    fn mark(&self, unit: &str, states: &BTreeMap<String, UnitState>) -> Option<Mark> {
        let said = states.get(unit)?;
        let good = said.loaded && said.active.is_up() && said.enabled && !said.need_reload;
        let run = std::fs::read_link(self.fs.at(format!("{RUNS}/invocation:{unit}"))).ok()?;
        if !good || run.as_os_str() != said.invocation.as_str() {
            return None;
        }
        let started = match said.main_pid {
            Some(pid) => Some(Proc::new(self.fs.clone()).start(pid)?),
            None => None,
        };
        let files = self.files(unit);
        Some(Mark { started, files })
    }

    fn files(&self, unit: &str) -> Vec<Option<FileMark>> {
        let own = PLACES.map(|place| format!("{place}/{unit}"));
        let more = PLACES.map(|place| format!("{place}/{unit}.d"));
        let boot = [format!("{AT_BOOT}/{unit}")];
        let all = own.iter().chain(&more).chain(&boot);
        all.map(|path| FileMark::of(&self.fs.at(path))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::{Attrs, HostFs};

    const UNIT: &str = "pf9-a.service";

    struct Machine {
        fs: HostFs,
        units: Units,
        _dir: tempfile::TempDir,
    }

    impl Machine {
        /// A unit that runs, and a systemd that counts what it is asked.
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("tempdir");
            let fs = HostFs::new(dir.path());
            let machine = Self {
                units: Units::new(fs.clone()),
                fs,
                _dir: dir,
            };
            let at = machine.fs.at("/said").display().to_string();
            let tool = format!("#!/bin/sh\necho >>{at}.count\ncat {at}\n");
            machine.put("/usr/bin/systemctl", &tool);
            machine.put(&format!("/etc/systemd/system/{UNIT}"), "[Unit]\n");
            machine.put("/proc/17/stat", &stat(5));
            machine.says("active", "abc");
            machine.runs("abc");
            machine
        }

        fn put(&self, path: &str, text: &str) {
            let attrs = Attrs::mode(0o755);
            self.fs.write(path, text.as_bytes(), &attrs).expect("write");
        }

        fn says(&self, active: &str, invocation: &str) {
            let text = format!(
                "Id={UNIT}\nLoadState=loaded\nActiveState={active}\nUnitFileState=enabled\n\
                 NeedDaemonReload=no\nMainPID=17\nInvocationID={invocation}\n"
            );
            self.put("/said", &text);
        }

        fn runs(&self, invocation: &str) {
            let link = format!("{RUNS}/invocation:{UNIT}");
            self.fs.link(link, invocation).expect("link");
        }

        /// How often it was asked in all, after another look.
        async fn asked(&self) -> usize {
            let units = [UNIT.to_owned()];
            let said = self.units.show_lately(&units).await.expect("said");
            let fresh = std::fs::read_to_string(self.fs.at("/said")).expect("said");
            assert_eq!(said, super::super::parse(&fresh), "never an old word");
            let count = std::fs::read_to_string(self.fs.at("/said.count"));
            count.expect("count").lines().count()
        }
    }

    fn stat(started: u32) -> String {
        let before = "0 ".repeat(18);
        format!("17 (a) S {before}{started} 0\n")
    }

    #[tokio::test]
    async fn it_is_asked_when_anything_changed_and_not_else() {
        let machine = Machine::new();
        assert_eq!(machine.asked().await, 1);
        assert_eq!(machine.asked().await, 1, "as it was");
        // Another run of it.
        machine.says("active", "def");
        machine.runs("def");
        assert_eq!(machine.asked().await, 2);
        assert_eq!(machine.asked().await, 2);
        let changes: [&dyn Fn(); 4] = [
            &|| machine.put("/proc/17/stat", &stat(6)),
            &|| machine.put(&format!("/etc/systemd/system/{UNIT}"), "[Unit]\n#\n"),
            &|| machine.put(&format!("/run/systemd/system/{UNIT}.d/x.conf"), "[Unit]\n"),
            &|| machine.put(&format!("{AT_BOOT}/{UNIT}"), "[Unit]\n"),
        ];
        for (n, change) in changes.iter().enumerate() {
            change();
            assert_eq!(machine.asked().await, 3 + n, "change {n}");
            assert_eq!(machine.asked().await, 3 + n, "change {n}");
        }
    }

    #[tokio::test]
    async fn of_what_does_not_run_it_is_always_asked() {
        let machine = Machine::new();
        assert_eq!(machine.asked().await, 1);
        // It stopped: the link goes.
        machine.says("inactive", "abc");
        let link = format!("{RUNS}/invocation:{UNIT}");
        machine.fs.remove_file(&link).expect("remove");
        assert_eq!(machine.asked().await, 2);
        assert_eq!(machine.asked().await, 3);
        // A process that is gone before systemd has noticed.
        machine.says("active", "abc");
        machine.runs("abc");
        assert_eq!(machine.asked().await, 4);
        machine.fs.remove_file("/proc/17/stat").expect("remove");
        assert_eq!(machine.asked().await, 5);
        assert_eq!(machine.asked().await, 6);
    }
}
