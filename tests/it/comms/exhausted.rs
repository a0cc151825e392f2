//! A disk that takes nothing, and a clock that is wrong: the tunnel goes on, is made again when it ends, carries streams,
//! and heals by itself.

use std::path::Path;
use std::time::Duration;

use jiff::SignedDuration;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use pf9_hostagent::app::Config;
use pf9_hostagent::host::fs::{Attrs, Found, HostFs};
use pf9_hostagent::model::{TunnelStatus, paths};
use pf9_hostagent::seam::fault::{Clock, Scope};
use tokio::task::JoinSet;

use super::peer::{Peer, World, due, valid_for};
use super::renewal::{host_of, shows};
use super::services::{ask, echo};
use super::{Comms, get};
use crate::support::namespaces::{fill_up, in_namespaces};
use crate::support::within;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

struct Tunnel {
    world: World,
    peer: Peer,
    comms: Comms,
    _tasks: JoinSet<()>,
}

/// With a certificate of a year, as the plane gives.
async fn tunnel() -> Tunnel {
    tunnel_in(World::new()).await
}

async fn tunnel_in(world: World) -> Tunnel {
    let peer = Peer::start(&world).await;
    world.enrol_with(&[&peer], |params| valid_for(params, YEAR));
    peer.renew_by(&world.ca);
    peer.renew_for(YEAR);
    let mut tasks = JoinSet::new();
    let list = echo(&mut tasks, "echo", "").await;
    let file = "/etc/pf9/services.d/test.toml";
    let written = world.fs.write(file, list.as_bytes(), &Attrs::mode(0o644));
    written.expect("services");
    let mut config = Config::default();
    // Sessions end sooner here than good ones do.
    config.comms.reconnect_cap_s = 1;
    let comms = Comms::start_with(&world.fs, config).await;
    peer.until(|s| s.sessions.len() == 1).await;
    Tunnel {
        world,
        peer,
        comms,
        _tasks: tasks,
    }
}

impl Tunnel {
    /// In both directions, on this session and on the next one.
    async fn works(&self) {
        let before = self.peer.state().sessions.len();
        self.carries().await;
        self.peer.leave(Duration::ZERO);
        self.peer.until(|s| s.sessions.len() > before).await;
        self.carries().await;
    }

    async fn carries(&self) {
        let newest = self.peer.state().sessions.pop().expect("a session");
        let echoed = ask(&newest.handle, "echo", "somebody").await;
        echoed.expect("an echo");
        let answer = get(&self.world.fs, "/hello").await;
        assert_eq!(answer.as_deref(), Ok(b"hello".as_slice()));
    }

    fn audited(&self) -> usize {
        let log = self.world.fs.at(paths::LOG_DIR).join("comms/audit.log");
        let text = std::fs::read_to_string(log).unwrap_or_default();
        text.lines().filter(|l| l.contains("\"open\"")).count()
    }
}

#[tokio::test]
async fn a_disk_that_refuses_everything_stops_no_tunnel_and_the_audit_goes_on_after_it() {
    let scope = Scope::with_a_clock();
    let _here = scope.enter();
    let tunnel = tunnel().await;
    let disk = tunnel.world.fs.at("/var");
    for errno in [Errno::ENOSPC, Errno::EROFS, Errno::EIO, Errno::EMFILE] {
        scope.refuse(Some((disk.as_path(), errno)));
        let before = tunnel.audited();
        tunnel.works().await;
        assert_eq!(tunnel.audited(), before, "{errno}: nothing can be written");
        scope.refuse(None);
        tunnel.works().await;
        assert!(tunnel.audited() > before, "{errno}");
    }
    tunnel.comms.stop().await;
    let log = tunnel.world.fs.at(paths::LOG_DIR).join("comms/audit.log");
    let log = std::fs::read_to_string(log).expect("audit");
    assert!(log.contains("lines lost"), "{log}");
}

/// What is mounted for settings, sockets and logs: without room, without inodes, read-only.
#[tokio::test]
async fn small_mounts_that_take_nothing_stop_no_tunnel() {
    let test = "comms::exhausted::small_mounts_that_take_nothing_stop_no_tunnel";
    let before = "mount --make-rprivate / && mount -t tmpfs none \"$1\" && \
                  mkdir -p \"$1/etc/pf9\" \"$1/run/pf9\" \"$1/var/log/pf9\" && \
                  for at in etc/pf9 run/pf9 var/log/pf9; do \
                  mount -t tmpfs -o size=2m,nr_inodes=100 none \"$1/$at\" || exit 1; done";
    let Some(dir) = in_namespaces(test, &["--mount"], before) else {
        return;
    };
    let fs = HostFs::new(dir);
    let tunnel = tunnel_in(World::on(fs.clone())).await;
    tunnel.works().await;
    for at in ["/etc/pf9", "/run/pf9", paths::LOG_DIR] {
        let disk = fs.at(at);
        let full = fill_up(&disk);
        tunnel.works().await;
        drop(full);
        let many = disk.join("many");
        std::fs::create_dir(&many).expect("directory");
        (0..)
            .map(|n| std::fs::File::create(many.join(format!("{n}"))))
            .take_while(Result::is_ok)
            .for_each(drop);
        tunnel.works().await;
        std::fs::remove_dir_all(&many).expect("deleted");
        // A file that is open for writing, as the audit is, keeps its file system from that.
        if at != paths::LOG_DIR {
            remount(&disk, MsFlags::MS_RDONLY);
            tunnel.works().await;
            remount(&disk, MsFlags::empty());
        }
        let before = tunnel.audited();
        tunnel.works().await;
        assert!(tunnel.audited() > before, "{at}");
    }
    tunnel.comms.stop().await;
}

fn remount(at: &Path, flags: MsFlags) {
    let none = None::<&str>;
    mount(none, at, none, MsFlags::MS_REMOUNT | flags, none).expect("remount");
}

/// The tunnel needs no program, on this session or on the next one.
#[tokio::test]
async fn without_another_process_the_tunnel_goes_on_and_is_made_again() {
    let scope = Scope::with_a_clock();
    let _here = scope.enter();
    let tunnel = tunnel().await;
    for errno in [Errno::EAGAIN, Errno::ENOMEM] {
        scope.refuse_starts(Some(errno));
        let before = tunnel.audited();
        tunnel.works().await;
        assert!(tunnel.audited() > before, "{errno}");
    }
    tunnel.comms.stop().await;
}

/// The key is in its place, and the certificate cannot follow.
#[tokio::test]
async fn a_renewal_that_the_disk_cuts_is_completed_when_it_can_be() {
    let scope = Scope::with_a_clock();
    let _here = scope.enter();
    let world = World::new();
    let peer = Peer::start(&world).await;
    world.enrol_with(&[&peer], due);
    peer.renew_by(&world.ca);
    peer.renew_for(YEAR);
    let (old, at) = (shows(&world), world.fs.at(paths::HOST_CERT));
    scope.refuse(Some((at.as_path(), Errno::EIO)));
    let comms = Comms::start(&world.fs).await;
    let fails = |s: &TunnelStatus| host_of(s).is_some_and(|h| h.fault.is_some());
    comms.until(fails).await;
    scope.refuse(None);
    comms.until(|s| !fails(s)).await;
    assert_ne!(shows(&world), old);
    let next = world.fs.found(paths::HOST_NEXT).expect("found");
    assert_eq!(next, Found::Nothing);
    assert_eq!(peer.state().renewals, 1, "the plane was asked once");
    comms.stop().await;
}

#[tokio::test]
async fn a_clock_that_is_years_off_or_stands_stops_no_tunnel_and_asks_for_no_certificate_over_and_over()
 {
    let scope = Scope::with_a_clock();
    let _here = scope.enter();
    let tunnel = tunnel().await;
    let years = SignedDuration::from_hours(10 * 365 * 24);
    let stands = Clock::Stands(jiff::Timestamp::now());
    for clock in [Clock::Off(years), Clock::Off(-years), stands, Clock::Right] {
        scope.set_clock(clock);
        tunnel.works().await;
    }
    // By a clock that is ten years ahead every certificate is due as soon as it is there.
    scope.set_clock(Clock::Off(years));
    let renewals = tunnel.peer.until(|s| s.renewals > 0).await.renewals;
    tunnel.works().await;
    let after = tunnel.peer.state().renewals;
    assert!(after <= renewals + 1, "{renewals} renewals, then {after}");
    // The machine's clock is set.
    scope.set_clock(Clock::Right);
    within(tunnel.works()).await;
    tunnel.comms.stop().await;
}
