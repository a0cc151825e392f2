//! A machine that has no more of something, or a clock that is wrong: the status goes on and says which file system it is
//! and what helps, events reach the plane, the spec in force stays, and all is well again by itself.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use jiff::SignedDuration;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::model::{
    DocumentKind, Fault, Generation, HostStatus, NodeState, Timestamp, paths,
};
use tokio::process::{Child, Command};

use super::fixture::{Agent, Bed};
use super::life::Life;
use crate::soak::{Simulated, alone, simulated};
use crate::support::namespaces::{fill_more, fill_up, in_namespaces};
use crate::support::{program, within};

/// The machine is looked at, and a status follows.
const A_LOOK: Duration = Duration::from_secs(61);
const DISK: &str = "/var/opt/pf9";
/// How often a disk is filled again.
const REFILLS: u32 = 10;

/// What the newest status says of its file systems, or of what it could not keep there.
fn warned(bed: &Bed, words: &str) -> Option<Fault> {
    let last: HostStatus = bed.plane.read(|p| p.statuses.last().cloned())?;
    let mut warnings = last.health.warnings.into_iter();
    warnings.find(|w| w.what.contains(words))
}

async fn begin(bed: Bed) -> (Life, Agent) {
    let stack = bed.publish("1.37.2-1", 1000);
    bed.install(&stack);
    let agent = bed.start().await;
    let clock = Simulated::begin();
    let mut life = Life { bed, stack, clock };
    life.spec(1).await;
    life.says(NodeState::Ok).await;
    (life, agent)
}

/// Something happens, and the plane hears of it, whether or not the disk takes it.
async fn tells_of_it(life: &mut Life) {
    for state in [NodeState::Retrying, NodeState::Ok] {
        life.bed.plane.forget();
        life.says(state).await;
        life.until("the event", |bed| {
            bed.plane.read(|p| p.event("state").is_some())
        })
        .await;
    }
}

/// Offers a spec that cannot be stored: the one in force stays, and why is said.
async fn keeps_its_spec(life: &mut Life, generation: u64, why: &str) {
    let spec = life.bed.sign(generation, life.bed.worker(&life.stack));
    life.bed.plane.offer(spec);
    life.until("the refusal", |bed| {
        let last = bed.plane.read(|p| p.statuses.last().cloned());
        last.is_some_and(|status| {
            let refused = status.refused.is_some_and(|f| {
                f.what == "cannot store the spec" && f.why.contains(why) && !f.fix.is_empty()
            });
            refused && status.accepted_generation.0 < generation
        })
    })
    .await;
}

/// By itself.
async fn has_it_now(life: &mut Life, generation: u64) {
    life.until("the spec that could not be stored", |bed| {
        let last = bed.plane.read(|p| p.statuses.last().cloned());
        last.is_some_and(|s| s.accepted_generation.0 == generation && s.refused.is_none())
    })
    .await;
    life.bed.node.say(|s| s.generation = Generation(generation));
    tells_of_it(life).await;
    life.until("events on the disk", |bed| {
        warned(bed, "events are kept in memory").is_none()
    })
    .await;
}

#[test]
fn a_file_system_that_takes_nothing_is_named_and_heals_by_itself() {
    let test =
        "hostagent::exhausted::a_file_system_that_takes_nothing_is_named_and_heals_by_itself";
    let before = "mount --make-rprivate / && mount -t tmpfs none \"$1\" && mkdir -p \"$1/var/opt/pf9\" && \
                  mount -t tmpfs -o size=132m,nr_inodes=400 none \"$1/var/opt/pf9\"";
    let Some(dir) = in_namespaces(test, &["--mount"], before) else {
        return;
    };
    simulated(async {
        let fs = HostFs::new(dir);
        let (mut life, agent) = begin(Bed::on(fs.clone())).await;
        let disk = fs.at(DISK);
        let named = |words: &str| format!("file system of {DISK}/hostagent {words}");

        // Full: what must never be lost has a reserve.
        life.goes(A_LOOK).await;
        life.until("the reserve", |_| {
            fs.at("/var/opt/pf9/hostagent/reserve").exists()
        })
        .await;
        let mut full = fill_up(&disk);
        let kept = "events are kept in memory".to_owned();
        // An event that was delivered makes room for the next one.
        for _ in 0..REFILLS {
            tells_of_it(&mut life).await;
            life.goes(A_LOOK).await;
            if warned(&life.bed, &kept).is_some() {
                break;
            }
            fill_more(&mut full);
        }
        for words in [named("is full"), kept] {
            life.until(&words, |bed| {
                warned(bed, &words).is_some_and(|w| !w.fix.is_empty())
            })
            .await;
        }
        life.spec(2).await;
        drop(full);
        life.goes(A_LOOK).await;
        life.until("that there is room", |bed| {
            warned(bed, &named("is full")).is_none()
        })
        .await;
        has_it_now(&mut life, 2).await;

        // No inodes.
        let many = disk.join("many");
        std::fs::create_dir(&many).expect("directory");
        let names = (0..).map(|n| many.join(format!("{n}")));
        names
            .map(std::fs::File::create)
            .take_while(Result::is_ok)
            .for_each(drop);
        tells_of_it(&mut life).await;
        life.goes(A_LOOK).await;
        let words = named("has no room for more files");
        life.until(&words, |bed| {
            warned(bed, &words).is_some_and(|w| w.fix.contains("df -i"))
        })
        .await;
        std::fs::remove_dir_all(&many).expect("deleted");
        life.spec(3).await;
        has_it_now(&mut life, 3).await;

        // Read-only, as after an error of the disk.
        remount(&disk, MsFlags::MS_RDONLY);
        tells_of_it(&mut life).await;
        life.goes(A_LOOK).await;
        let words = named("is read-only");
        life.until(&words, |bed| {
            warned(bed, &words).is_some_and(|w| w.fix.contains("remount,rw"))
        })
        .await;
        keeps_its_spec(&mut life, 4, "ead-only").await;
        remount(&disk, MsFlags::empty());
        has_it_now(&mut life, 4).await;
        agent.stop().await;
    });
}

/// What is mounted for settings, sockets and logs: each is named, and the report goes on.
#[test]
fn small_mounts_that_take_nothing_are_named_with_what_stops_and_stop_no_report() {
    let test = "hostagent::exhausted::small_mounts_that_take_nothing_are_named_with_what_stops_and_stop_no_report";
    let before = "mount --make-rprivate / && mount -t tmpfs none \"$1\" && \
                  mkdir -p \"$1/etc/pf9\" \"$1/run/pf9\" \"$1/var/log/pf9\" && \
                  mount -t tmpfs -o size=8m,nr_inodes=200 none \"$1/etc/pf9\" && \
                  mount -t tmpfs -o size=8m,nr_inodes=200 none \"$1/run/pf9\" && \
                  mount -t tmpfs -o size=160m,nr_inodes=400 none \"$1/var/log/pf9\"";
    let Some(dir) = in_namespaces(test, &["--mount"], before) else {
        return;
    };
    simulated(async {
        let fs = HostFs::new(dir);
        let (mut life, agent) = begin(Bed::on(fs.clone())).await;
        for at in ["/etc/pf9", "/run/pf9", "/var/log/pf9"] {
            let disk = fs.at(at);
            let full = fill_up(&disk);
            is_told(&mut life, at, "is full", "free").await;
            drop(full);
            is_well(&mut life, at).await;

            let many = disk.join("many");
            std::fs::create_dir(&many).expect("directory");
            let names = (0..).map(|n| many.join(format!("{n}")));
            names
                .map(std::fs::File::create)
                .take_while(Result::is_ok)
                .for_each(drop);
            is_told(&mut life, at, "has no room for more files", "df -i").await;
            std::fs::remove_dir_all(&many).expect("deleted");
            is_well(&mut life, at).await;

            remount(&disk, MsFlags::MS_RDONLY);
            is_told(&mut life, at, "is read-only", "remount,rw").await;
            remount(&disk, MsFlags::empty());
            is_well(&mut life, at).await;
        }
        agent.stop().await;
    });
}

/// While it is so: what happens is told, and the status says of this file system what helps.
async fn is_told(life: &mut Life, at: &str, is: &str, helps: &str) {
    tells_of_it(life).await;
    life.goes(A_LOOK).await;
    let words = format!("file system of {at} {is}");
    life.until(&words, |bed| {
        warned(bed, &words).is_some_and(|w| w.fix.contains(helps) && !w.why.is_empty())
    })
    .await;
}

async fn is_well(life: &mut Life, at: &str) {
    life.goes(A_LOOK).await;
    let words = format!("file system of {at} ");
    life.until("that it is well", |bed| warned(bed, &words).is_none())
        .await;
}

fn remount(at: &Path, flags: MsFlags) {
    let none = None::<&str>;
    mount(none, at, none, MsFlags::MS_REMOUNT | flags, none).expect("remount");
}

#[test]
fn a_disk_that_fails_and_a_process_without_descriptors_stop_no_report() {
    simulated(async {
        let dir = tempfile::tempdir().expect("tempdir");
        let (mut life, agent) = begin(Bed::at(dir)).await;
        let disk = life.bed.fs.at(DISK);
        let causes = [
            (Errno::EIO, "nput/output", "repair or replace the disk"),
            (Errno::EMFILE, "open files", "LimitNOFILE"),
        ];
        for (generation, (errno, words, helps)) in (2..).zip(causes) {
            life.clock.scope().refuse(Some((disk.as_path(), errno)));
            tells_of_it(&mut life).await;
            life.until("what cannot be kept", |bed| {
                let kept = warned(bed, "events are kept in memory");
                kept.is_some_and(|w| w.why.contains(words) && w.fix.contains(helps))
            })
            .await;
            keeps_its_spec(&mut life, generation, words).await;
            life.clock.scope().refuse(None);
            has_it_now(&mut life, generation).await;
        }
        agent.stop().await;
    });
}

/// Not one is left, for a minute: nobody can call, nothing can be opened.
#[test]
fn without_descriptors_it_waits_and_goes_on() {
    // The bound is the process's.
    if !alone("hostagent::exhausted::without_descriptors_it_waits_and_goes_on") {
        return;
    }
    simulated(async {
        let dir = tempfile::tempdir().expect("tempdir");
        let (mut life, agent) = begin(Bed::at(dir)).await;
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
        setrlimit(Resource::RLIMIT_NOFILE, 0, hard).expect("none");
        life.bed.plane.forget();
        for state in [NodeState::Retrying, NodeState::Converging] {
            life.bed.node.say(|s| s.state = state);
            for _ in 0..60 {
                life.goes(Duration::from_secs(1)).await;
                tokio::task::yield_now().await;
            }
        }
        std::fs::File::open("/dev/null").expect_err("none is left");
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("as before");
        tells_of_it(&mut life).await;
        life.spec(2).await;
        has_it_now(&mut life, 2).await;
        agent.stop().await;
    });
}

/// hostagent has no need of a program: what it says goes on, and so does what it is told.
#[test]
fn without_another_process_no_report_and_no_spec_stops() {
    simulated(async {
        let dir = tempfile::tempdir().expect("tempdir");
        let (mut life, agent) = begin(Bed::at(dir)).await;
        for (generation, errno) in (2..).zip([Errno::EAGAIN, Errno::ENOMEM]) {
            life.clock.scope().refuse_starts(Some(errno));
            life.goes(A_LOOK).await;
            tells_of_it(&mut life).await;
            life.spec(generation).await;
            has_it_now(&mut life, generation).await;
            life.clock.scope().refuse_starts(None);
        }
        agent.stop().await;
    });
}

#[test]
fn a_clock_that_is_years_off_or_stands_stops_no_report_and_no_spec() {
    simulated(async {
        let dir = tempfile::tempdir().expect("tempdir");
        let (mut life, agent) = begin(Bed::at(dir)).await;
        let years = SignedDuration::from_hours(10 * 365 * 24);
        // Ahead, then behind, then standing there, and right.
        for (generation, (by, stands)) in (2..).zip([
            (years, false),
            (years * -2, false),
            (SignedDuration::ZERO, true),
            (years, false),
        ]) {
            life.clock.is_set(by, stands);
            tells_of_it(&mut life).await;
            life.spec(generation).await;
            has_it_now(&mut life, generation).await;
            let off = life.bed.plane.read(|p| {
                let last = p.statuses.last().expect("a status");
                last.sent_at.duration_since(Timestamp::now())
            });
            assert_eq!(off.as_hours() > 80_000, generation == 2, "{off}");
            let behind = generation == 3 || generation == 4;
            assert_eq!(off.as_hours() < -80_000, behind, "{off}");
        }
        agent.stop().await;
    });
}

/// The program, after these words.
fn start(bed: &Bed, words: &[&str], own: &Path) -> Child {
    for made in ["/var/log/pf9/hostagent", paths::HOSTAGENT_STATE] {
        std::fs::create_dir_all(bed.fs.at(made)).expect("directory");
    }
    let root = bed.fs.at("/");
    let (first, rest) = words.split_first().expect("a program");
    let mut command = Command::new(first);
    command.args(rest).arg(own).arg("--root").arg(root);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null()).env_remove("NOTIFY_SOCKET");
    command.kill_on_drop(true).spawn().expect("start")
}

fn id(child: &Child) -> u32 {
    child.id().expect("it runs")
}

/// What a process may have, from now on.
async fn bound(child: &Child, what: &str) {
    let mut command = Command::new("prlimit");
    command.arg("--pid").arg(id(child).to_string()).arg(what);
    let done = within(command.status()).await.expect("prlimit");
    assert!(done.success(), "{what}");
}

/// A number of bytes or threads from what the kernel says of it.
fn kernel_says(child: &Child, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", id(child)));
    let status = status.expect("it runs");
    let line = status.lines().find_map(|l| l.strip_prefix(name));
    let word = line.and_then(|l| l.split_whitespace().next());
    word.expect("a number").parse().expect("a number")
}

/// A document that is too large for the memory there is ends the program. What it had is there for the next one, which the
/// unit starts, and the document is accepted as soon as it fits.
#[tokio::test]
async fn a_program_that_gets_no_memory_ends_and_the_next_one_goes_on() {
    const MIB: u64 = 1024 * 1024;
    let bed = Bed::new();
    let own = program("pf9-hostagent");
    let first = bed.sign(1, bed.worker(&bed.no_stack()));
    bed.plane.offer(first.clone());
    let mut child = start(&bed, &["env"], &own);
    bed.node
        .until(|n| (n.specs.last() == Some(&first)).then_some(()))
        .await;
    let size = kernel_says(&child, "VmSize:") * 1024;
    bound(&child, &format!("--as={}", size + MIB)).await;
    // Spaces behind it: the same spec, and near the bound of a document.
    let mut bytes = bed.spec_bytes(2, bed.worker(&bed.no_stack()));
    bytes.resize(bytes.len() + 3 * 1024 * 1024, b' ');
    let second = bed.key.sign(DocumentKind::Spec, &bytes);
    bed.plane.offer(second.clone());
    let ended = within(child.wait()).await.expect("its end");
    assert_eq!(ended.signal(), Some(nix::libc::SIGABRT), "{ended}");
    let stored = std::fs::read(bed.fs.at("/var/opt/pf9/hostagent/spec.json"));
    let stored: pf9_hostagent::model::Envelope =
        serde_json::from_slice(&stored.expect("stored")).expect("whole");
    assert_eq!(stored, first);

    let _child = start(&bed, &["env"], &own);
    bed.node
        .until(|n| (n.specs.last() == Some(&second)).then_some(()))
        .await;
    let names = bed.fs.list(paths::HOSTAGENT_STATE).expect("list");
    assert!(names.iter().all(|n| !n.contains("broken")), "{names:?}");
}
