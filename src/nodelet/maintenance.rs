//! The desk of maintenance: who may begin and end it, and whether the host is in it now.
//!
//! ```text
//! root (socket) ─► begin, end ┐
//! spec (plane)  ─► heed       ├─► record (on disk) ─► now() ─► the loop, etcd's keeper, the pulse
//! ```
//!
//! | in maintenance | |
//! |---|---|
//! | not done | steps of phases, rolls, restores of etcd, the plane's removals, changes of the agent's version, the upkeep of etcd, killing what hangs |
//! | continues | the look at the host, and what it shows; the tunnel and its certificate; certificates of the node that are due; backups of etcd; the lease of the address that masters share |
//! | ends it | its time, its issuer (root or plane), root in any case; root's order that the role goes |
//!
//! *Certificates continue*: a new one is a file beside an old one, and no program is restarted for it (what would have
//! to be waits); an expired one would take the node out of its cluster, which no maintenance wants, and a host that
//! repairs itself in the middle of an operator's work for the sake of a certificate would be worse. *The address
//! continues*, because giving it up is a change that clients notice.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::host::Host;
use crate::host::documents::Store;
use crate::host::maintenance::{MaintenanceRecord, Moment, store};
use crate::model::{
    Fault, FaultCode, MaintenanceOrder, MaintenanceRequest, MaintenanceStatus, maintenance_fault,
};
use crate::telemetry::chain;

/// Shown again when the end moved by more: clocks of one machine differ by less.
const SAME_END: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct MaintenanceHandle(Arc<Inner>);

struct Inner {
    host: Host,
    /// Time since the kernel's start, sleep included.
    since_boot: fn() -> Duration,
    store: Store,
    state: Mutex<State>,
    /// Root began or ended one.
    news: watch::Sender<u64>,
}

struct State {
    record: MaintenanceRecord,
    shown: Option<MaintenanceStatus>,
    /// Why the record on the disk is not the newest.
    fault: Option<Fault>,
}

impl MaintenanceHandle {
    /// Takes up what was noted.
    pub fn open(host: Host) -> Self {
        Self::open_by(host, since_boot)
    }

    fn open_by(host: Host, since_boot: fn() -> Duration) -> Self {
        let store = store(&host.fs);
        let loaded = store.load(crate::seam::clock::now(), Ok::<MaintenanceRecord, _>);
        if let Some(fault) = &loaded.fault {
            // No maintenance is assumed: a host that goes unattended for an unreadable reason is the worse of the two.
            tracing::error!(code = fault.code.word(), "{fault}");
        }
        let state = State {
            record: loaded.value.unwrap_or_else(MaintenanceRecord::none),
            shown: None,
            fault: loaded.fault,
        };
        Self(Arc::new(Inner {
            host,
            since_boot,
            store,
            state: Mutex::new(state),
            news: watch::Sender::new(0),
        }))
    }

    /// Wakes the loop: root began or ended one. (The plane's comes with a spec.)
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.news.subscribe()
    }

    /// The present maintenance; notes what is due.
    pub fn now(&self) -> Option<MaintenanceStatus> {
        let now = self.moment();
        let mut state = self.lock();
        if let Some(noted) = state.record.to_note(&now) {
            // What cannot be noted is counted anyway, and said.
            state.fault = self.save(&noted).err();
            state.record = noted;
        }
        state.shows(&now)
    }

    /// Why it is not on the disk as it is, for people.
    pub fn warning(&self) -> Option<Fault> {
        self.lock().fault.clone()
    }

    /// What the newest spec says.
    pub fn heed(&self, order: Option<&MaintenanceOrder>) {
        let now = self.moment();
        let mut state = self.lock();
        let heeded = state.record.heeds(order, &now);
        if heeded != state.record {
            state.fault = self.save(&heeded).err();
            state.record = heeded;
        }
    }

    /// Root begins one.
    pub fn begin(&self, wanted: &MaintenanceRequest) -> Result<MaintenanceStatus, Fault> {
        let what = "maintenance is not started";
        if let Some(why) = maintenance_fault(wanted.for_s, &wanted.reason) {
            return Err(Fault::new(FaultCode::MaintenanceInvalid, what, why)
                .fix("say for how long and why: pf9ctl maintenance start --for 2h --reason TEXT"));
        }
        let now = self.moment();
        let mut state = self.lock();
        let begun = state
            .record
            .begun_by_root(&wanted.reason, wanted.for_s, &now);
        // One that a boot would end is not what was asked for.
        self.save(&begun)?;
        (state.record, state.fault) = (begun, None);
        self.0.news.send_modify(|n| *n = n.wrapping_add(1));
        state.shows(&now).ok_or_else(|| {
            Fault::new(
                FaultCode::MaintenanceInvalid,
                what,
                "it would end immediately",
            )
        })
    }

    /// Root ends it, also one that the plane began. Answers what there was.
    pub fn end(&self) -> Result<Option<MaintenanceStatus>, Fault> {
        let now = self.moment();
        let mut state = self.lock();
        let was = state.shows(&now);
        let ended = state.record.ended();
        if ended != state.record {
            self.save(&ended)?;
            (state.record, state.fault) = (ended, None);
            self.0.news.send_modify(|n| *n = n.wrapping_add(1));
        }
        state.shown = None;
        Ok(was)
    }

    fn save(&self, record: &MaintenanceRecord) -> Result<(), Fault> {
        let store = &self.0.store;
        let saved = match record.is_empty() {
            true => store.forget(),
            false => store.save(record),
        };
        saved.map_err(|e| {
            let what = "the maintenance of this host cannot be recorded";
            Fault::new(FaultCode::StateIo, what, chain(&e))
                .fix("check the disk that holds /var/opt/pf9; it is retried automatically")
        })
    }

    fn moment(&self) -> Moment {
        let up = (self.0.since_boot)();
        Moment {
            wall: crate::seam::clock::now(),
            // Without one a boot is known by the time since it alone.
            boot_id: self.0.host.kernel.boot_id().unwrap_or_default(),
            up,
            lasted: self.0.host.proc.boot_lasted(up),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn since_boot() -> Duration {
    let up = clock_gettime(ClockId::CLOCK_BOOTTIME);
    up.map_or(Duration::ZERO, Duration::from)
}

impl State {
    /// What is reported is stable: an end that moves by a second is no news.
    fn shows(&mut self, now: &Moment) -> Option<MaintenanceStatus> {
        let is = self.record.status(now);
        let same = |a: &MaintenanceStatus, b: &MaintenanceStatus| {
            (a.by, &a.reason, a.since) == (b.by, &b.reason, b.since)
                && a.until.duration_since(b.until).abs() <= SAME_END
        };
        match (&self.shown, &is) {
            (Some(shown), Some(is)) if same(shown, is) => {}
            _ => self.shown = is,
        }
        self.shown.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::{Attrs, HostFs};
    use crate::model::paths;

    fn host() -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        boot(&fs, "one");
        (dir, Host::new(fs))
    }

    fn boot(fs: &HostFs, id: &str) {
        let attrs = Attrs::mode(0o644);
        fs.write("/proc/sys/kernel/random/boot_id", id.as_bytes(), &attrs)
            .expect("boot id");
    }

    #[test]
    fn a_containers_boot_costs_what_it_lasted_and_not_what_its_host_did() {
        const TEN_DAYS: Duration = Duration::from_secs(864_000);
        let (_dir, host) = host();
        let open = || MaintenanceHandle::open_by(host.clone(), || TEN_DAYS);
        open().begin(&two_hours()).expect("it begins");
        boot(&host.fs, "two");
        // An hour before the end of those days.
        let fields = "1 1 0 -1 4194560 9 9 9 9 3 4 5 6 20 0 1 0 86040000 22142976 3000";
        let line = format!("1 (systemd) S 0 {fields}\n");
        let attrs = Attrs::mode(0o444);
        host.fs
            .write("/proc/1/stat", line.as_bytes(), &attrs)
            .expect("process 1");
        let left = open().now().expect("it lasts").until;
        let left = left.duration_since(crate::seam::clock::now()).as_secs();
        assert!((3590..=3600).contains(&left), "{left} s are left");
        // Without a process 1 that can be read it is what the kernel says.
        boot(&host.fs, "three");
        std::fs::remove_file(host.fs.at("/proc/1/stat")).expect("remove");
        assert_eq!(open().now(), None);
    }

    /// On a machine that has been up for a minute.
    fn open(host: &Host) -> MaintenanceHandle {
        MaintenanceHandle::open_by(host.clone(), || Duration::from_secs(60))
    }

    fn two_hours() -> MaintenanceRequest {
        MaintenanceRequest {
            for_s: 7200,
            reason: "a disk is replaced".into(),
        }
    }

    #[test]
    fn it_survives_the_process_and_the_boot_and_ends_by_roots_word() {
        let (_dir, host) = host();
        let desk = open(&host);
        assert_eq!(desk.now(), None);
        let begun = desk.begin(&two_hours()).expect("it begins");
        assert_eq!(desk.now(), Some(begun.clone()));
        assert_eq!(open(&host).now().expect("on").reason, begun.reason);
        boot(&host.fs, "two");
        let desk = open(&host);
        let after = desk.now().expect("still on");
        assert!(after.until < begun.until, "the boot has its cost");
        assert_eq!(
            desk.end().expect("it ends").map(|s| s.reason),
            Some(after.reason)
        );
        assert_eq!(open(&host).now(), None);
        assert!(
            !host.fs.at(paths::MAINTENANCE).exists(),
            "nothing is left of it"
        );
        assert_eq!(desk.end().expect("again"), None);
    }

    #[test]
    fn one_without_end_or_reason_is_refused_and_one_that_cannot_be_kept_as_well() {
        let (_dir, host) = host();
        let desk = MaintenanceHandle::open(host.clone());
        for wrong in [
            MaintenanceRequest {
                for_s: u32::MAX,
                ..two_hours()
            },
            MaintenanceRequest {
                reason: String::new(),
                ..two_hours()
            },
        ] {
            let fault = desk.begin(&wrong).expect_err("refused");
            assert_eq!(fault.code, FaultCode::MaintenanceInvalid);
        }
        // A directory in its place: it cannot be written.
        std::fs::create_dir_all(host.fs.at(paths::MAINTENANCE).join("x")).expect("directory");
        let fault = desk.begin(&two_hours()).expect_err("not noted");
        assert_eq!(fault.code, FaultCode::StateIo);
        assert_eq!(desk.now(), None);
    }

    #[test]
    fn a_broken_record_is_told_and_the_one_before_it_is_in_force() {
        let (_dir, host) = host();
        let desk = MaintenanceHandle::open(host.clone());
        desk.begin(&two_hours()).expect("begins");
        desk.begin(&two_hours()).expect("again");
        let attrs = Attrs::mode(0o644);
        host.fs
            .write(paths::MAINTENANCE, b"{", &attrs)
            .expect("broken");
        let desk = MaintenanceHandle::open(host);
        assert!(desk.now().is_some());
        assert!(desk.warning().is_some());
    }

    /// One that root begins or ends, broken at every point: see [`crate::seam::walk`].
    #[cfg(feature = "fault")]
    mod walk {
        use std::collections::BTreeMap;

        use super::*;
        use crate::host::ours::paths::WRITTEN_BY_ROOT;
        use crate::host::temps;
        use crate::seam::walk::{Scenario, files, walk};

        /// Another one begins in place of one that there is, or (`ENDS`) that one ends.
        struct Roots<const ENDS: bool>;

        const ANOTHER: &str = "another disk is replaced";

        impl<const ENDS: bool> Scenario for Roots<ENDS> {
            const NAME: &'static str = if ENDS {
                "maintenance that ends"
            } else {
                "maintenance"
            };
            type World = (tempfile::TempDir, Host);

            async fn begin(&self) -> Self::World {
                let (dir, host) = host();
                // Twice: the record has one before it.
                for _ in 0..2 {
                    open(&host).begin(&two_hours()).expect("begins");
                }
                (dir, host)
            }

            async fn life(&self, (_, host): &mut Self::World, starts: bool) -> bool {
                if starts {
                    temps::collect(&host.fs, WRITTEN_BY_ROOT);
                }
                let desk = open(host);
                if ENDS {
                    return desk.end().is_ok();
                }
                let now = desk.now().expect("there is one at every instant");
                let wanted = MaintenanceRequest {
                    reason: ANOTHER.into(),
                    ..two_hours()
                };
                now.reason == ANOTHER || desk.begin(&wanted).is_ok()
            }

            async fn end(&self, (_, host): &mut Self::World) -> BTreeMap<String, String> {
                let now = open(host).now().map(|now| now.reason);
                assert_eq!(now.as_deref(), (!ENDS).then_some(ANOTHER));
                temps::collect(&host.fs, WRITTEN_BY_ROOT);
                // It has times in it.
                let mut end = files(&host.fs, |path| path.contains("maintenance"));
                // A spare copy: a disk that refuses it refuses nothing else.
                end.retain(|path, _| !path.ends_with(".prev"));
                end
            }
        }

        #[tokio::test]
        async fn a_maintenance_broken_anywhere_is_the_one_before_or_the_next() {
            walk(&Roots::<false>, 60).await;
        }

        #[tokio::test]
        async fn the_end_of_a_maintenance_broken_anywhere_leaves_nothing_of_it() {
            walk(&Roots::<true>, 60).await;
        }
    }
}
