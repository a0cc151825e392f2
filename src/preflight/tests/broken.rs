//! Machines that are broken in one way, in namespaces of their own: the check of that way speaks and no other one,
//! and who does what it says passes.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::super::*;
use crate::host::fs::HostFs;
use crate::host::testing::in_namespaces;
use crate::model::Timestamp;

const HERE: &str = "preflight::tests::broken";

/// A directory with a file system of its own, which the inner test takes for the machine's root.
fn machine(test: &str) -> Option<HostFs> {
    let before = "mount --make-rprivate / && mount -t tmpfs none \"$1\" && mkdir -p \"$1/var/lib\" \"$1/etc\"";
    let dir = in_namespaces(&format!("{HERE}::{test}"), &["--mount"], before)?;
    let host = HostFs::new(&dir);
    fs::write(host.at("/etc/resolv.conf"), "nameserver 10.0.0.1\n").expect("write");
    Some(host)
}

/// What is not as it should be.
fn bad(host: &HostFs) -> Vec<String> {
    let facts = MachineFacts::read(host, 0, Timestamp::UNIX_EPOCH).expect("facts");
    let report = Report::of_machine(&facts, &Skips::default());
    let bad = report.checks.into_iter();
    let bad = bad.filter(|c| c.outcome != CheckOutcome::Ok);
    bad.map(|c| c.id.into_owned()).collect()
}

fn check(host: &HostFs, id: &str) -> Check {
    let facts = MachineFacts::read(host, 0, Timestamp::UNIX_EPOCH).expect("facts");
    let checks = Report::of_machine(&facts, &Skips::default()).checks;
    checks.into_iter().find(|c| c.id == id).expect("check")
}

fn sh(host: &HostFs, line: &str) {
    let out = Command::new("sh")
        .args(["-ec", line])
        .current_dir(host.at("/"))
        .output()
        .expect("sh");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{line}: {said}");
}

/// Breaks it, looks, mends it, looks.
fn breaks(host: &HostFs, id: &str, broken: &str, words: &str, mended: &str) {
    let good = bad(host);
    assert!(!good.iter().any(|g| g == id), "{good:?}");
    sh(host, broken);
    let mut expected = good.clone();
    expected.push(id.to_owned());
    let mut found = bad(host);
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected, "{broken}");
    let said = check(host, id);
    assert!(
        said.found.contains(words) || said.why.contains(words),
        "{said:?}"
    );
    assert!(!said.fix.is_empty());
    sh(host, mended);
    assert_eq!(bad(host), good, "{mended}");
    assert_no_traces(host.at("/var/lib").as_path());
}

fn assert_no_traces(dir: &Path) {
    for entry in fs::read_dir(dir).expect("list") {
        let entry = entry.expect("entry");
        assert_ne!(entry.file_name(), SCRATCH, "{}", dir.display());
        if entry.file_type().expect("type").is_dir() {
            assert_no_traces(&entry.path());
        }
    }
}

#[test]
fn where_no_program_can_be_run_is_found_by_the_path() {
    let Some(host) = machine("where_no_program_can_be_run_is_found_by_the_path") else {
        return;
    };
    breaks(
        &host,
        "programs",
        "mkdir -p opt/pf9/stacks; mount -t tmpfs -o noexec none opt/pf9/stacks",
        "mounted noexec: /opt/pf9/stacks",
        "mount -o remount,exec opt/pf9/stacks",
    );
    // The same file system again, and only there.
    breaks(
        &host,
        "programs",
        "mkdir -p opt/pf9/agent; mount --bind opt/pf9/agent opt/pf9/agent; mount -o remount,bind,noexec opt/pf9/agent",
        "/opt/pf9/agent",
        "mount -o remount,bind,exec opt/pf9/agent",
    );
    // Of what is not there yet the directory above counts.
    breaks(
        &host,
        "programs",
        "rm -rf opt/x; mount -t tmpfs -o noexec none opt",
        "/opt/pf9/stacks, /opt/pf9/cni",
        "umount opt",
    );
}

#[test]
fn links_in_the_place_of_directories_are_named() {
    let Some(host) = machine("links_in_the_place_of_directories_are_named") else {
        return;
    };
    let mended = |path: &str| format!("rm {path}; mkdir {path}; mount --bind data {path}");
    for path in ["var/lib/pf9", "var/lib/kubelet", "var/log/pods"] {
        breaks(
            &host,
            "links",
            &format!("mkdir -p data var/log; ln -s ../../data {path}"),
            &format!("/{path} is a link to ../../data"),
            &mended(path),
        );
        sh(&host, &format!("umount {path}; rmdir {path}"));
    }
}

#[test]
fn what_cannot_carry_an_overlay_is_found_by_a_try() {
    let Some(host) = machine("what_cannot_carry_an_overlay_is_found_by_a_try") else {
        return;
    };
    sh(&host, "mkdir -p var/lib/pf9 o/l o/u o/w");
    // Another overlay, as in a container: it cannot be the upper layer of one.
    breaks(
        &host,
        "runtime-storage",
        "mount -t overlay -o lowerdir=o/l,upperdir=o/u,workdir=o/w none var/lib/pf9",
        "/var/lib/pf9: ",
        "mount -t tmpfs none var/lib/pf9",
    );
    sh(&host, "umount var/lib/pf9; umount var/lib/pf9");
    // Deleted directories need attributes that this one does not keep.
    breaks(
        &host,
        "runtime-storage",
        "mkdir -p var/lib/pf9/containerd; mount -t ramfs none var/lib/pf9/containerd",
        "/var/lib/pf9/containerd: ",
        "umount var/lib/pf9/containerd",
    );
    // What a killed try left is no obstacle, and goes.
    sh(
        &host,
        "mkdir -p var/lib/pf9/containerd/.pf9-check/lower/dir",
    );
    assert_eq!(check(&host, "runtime-storage").outcome, CheckOutcome::Ok);
    assert_no_traces(&host.at("/var"));
    // Read-only is another check's, and no file is one that is not tried.
    sh(&host, "mount -t tmpfs -o ro none var/lib/pf9");
    assert_eq!(check(&host, "runtime-storage").outcome, CheckOutcome::Skip);
    let disk = check(&host, "disk");
    assert_eq!(disk.outcome, CheckOutcome::Fail);
    assert!(
        disk.why.contains("/var/lib/pf9 is mounted read-only"),
        "{disk:?}"
    );
}

/// File systems that are made like that, and mounted where the runtime's data will be.
#[test]
fn a_file_system_without_types_of_entries_or_inodes_is_found() {
    let Some(host) = machine("a_file_system_without_types_of_entries_or_inodes_is_found") else {
        return;
    };
    // Sparse: what is not written takes nothing.
    sh(
        &host,
        "mount -o remount,size=100g \"$PWD\"; mkdir -p var/lib/pf9; truncate -s 4G img",
    );
    breaks(
        &host,
        "runtime-storage",
        "mkfs.ext4 -q -F -O ^filetype img; mount -o loop img var/lib/pf9",
        "do not report the type of their entries",
        "umount var/lib/pf9; mkfs.ext4 -q -F img; mount -o loop img var/lib/pf9",
    );
    sh(&host, "umount var/lib/pf9; rm img");
    breaks(
        &host,
        "disk",
        "mount -t tmpfs -o nr_inodes=100,size=4g none var/lib/pf9",
        "too few inodes",
        "mount -o remount,nr_inodes=100000 var/lib/pf9",
    );
    sh(&host, "umount var/lib/pf9");
    // None left at all: nothing can be tried, and one check says why.
    sh(
        &host,
        "mount -t tmpfs -o nr_inodes=3,size=4g none var/lib/pf9",
    );
    assert_eq!(check(&host, "disk").outcome, CheckOutcome::Fail);
    let tried = check(&host, "runtime-storage");
    assert_eq!(
        (tried.outcome, tried.why.as_str()),
        (CheckOutcome::Skip, "see disk")
    );
}

/// A file system with a quota, which the superuser has as well: `mkfs.btrfs --mixed` of 2 GiB, one subvolume as the
/// default one, `btrfs qgroup limit 1M`. Packed twice, because it is all zeros. (The test machines' kernel has no quota
/// of XFS, and does not read the formats of ext4's: what those say is the same error. XFS with `ftype=0` it does not
/// mount; what is wrong with that, ext4 without `filetype` has too.)
const WITH_QUOTA: &[u8] = include_bytes!("quota.btrfs.zst.zst");

/// With room below it the same quota is as good: so the file system is before it is filled. Room is not made again by removing:
/// btrfs gives bytes back to a quota with one of its later commits, and refuses the removal of the rest until then.
#[test]
fn a_quota_that_is_reached_is_found_whatever_is_free() {
    let Some(host) = machine("a_quota_that_is_reached_is_found_whatever_is_free") else {
        return;
    };
    sh(
        &host,
        "mount -o remount,size=100g \"$PWD\"; mkdir -p var/lib/pf9",
    );
    sparse(&host.at("/img"));
    sh(&host, "mount -o loop img var/lib/pf9");
    breaks(
        &host,
        "runtime-storage",
        "cd var/lib/pf9; ! head -c 2M /dev/zero >fill 2>/dev/null; sync -f .
         n=0; while [ $n -lt 4096 ] && echo x 2>/dev/null >fill$n; do n=$((n+1)); done; sync -f .",
        "a quota is reached",
        "mount -t tmpfs -o size=4g none var/lib/pf9",
    );
}

/// Unpacks [`WITH_QUOTA`]; zeros take no room.
fn sparse(path: &Path) {
    use std::io::{Read, Seek, SeekFrom, Write};
    let once = zstd::decode_all(WITH_QUOTA).expect("packed twice");
    let mut image = zstd::Decoder::new(once.as_slice()).expect("packed");
    let mut file = fs::File::create(path).expect("create");
    let mut block = vec![0; 1 << 20];
    loop {
        match image.read(&mut block).expect("unpack") {
            0 => break,
            n if block[..n].iter().all(|b| *b == 0) => {
                file.seek(SeekFrom::Current(i64::try_from(n).expect("a block")))
                    .expect("seek");
            }
            n => file.write_all(&block[..n]).expect("write"),
        }
    }
    let whole = file.stream_position().expect("position");
    file.set_len(whole).expect("length");
}

/// Each of these is a file of the kernel, or one that others left.
#[test]
fn what_a_kubelet_ends_without_is_looked_for() {
    let Some(host) = machine("what_a_kubelet_ends_without_is_looked_for") else {
        return;
    };
    sh(
        &host,
        "mkdir -p proc/sys/fs/inotify proc/sys/kernel proc/sys/net/ipv4 dev etc/cni/net.d var/lib/cni/results
         echo 128 >proc/sys/fs/inotify/max_user_instances; echo 8192 >proc/sys/fs/inotify/max_user_watches
         echo 32768 >proc/sys/kernel/pid_max; echo 60000 >proc/sys/kernel/threads-max
         echo '32768\t60999' >proc/sys/net/ipv4/ip_local_port_range; echo >proc/sys/net/ipv4/ip_local_reserved_ports
         touch dev/kmsg var/lib/cni/results/ours",
    );
    let cases = [
        (
            "limits",
            "echo 16 >proc/sys/fs/inotify/max_user_instances",
            "fs.inotify.max_user_instances is 16",
            "echo 128 >proc/sys/fs/inotify/max_user_instances",
        ),
        (
            "limits",
            "echo 1000 >proc/sys/kernel/pid_max",
            "kernel.pid_max is 1000",
            "echo 32768 >proc/sys/kernel/pid_max",
        ),
        ("kernel-log", "rm dev/kmsg", "absent", "touch dev/kmsg"),
        (
            "ports-given-away",
            "echo '10000\t60999' >proc/sys/net/ipv4/ip_local_port_range",
            "10250",
            "echo 10240-10260 >proc/sys/net/ipv4/ip_local_reserved_ports",
        ),
        (
            "leftovers",
            "touch etc/cni/net.d/10-flannel.conflist",
            "/etc/cni/net.d",
            "rm etc/cni/net.d/10-flannel.conflist",
        ),
        (
            "leftovers",
            "mkdir -p var/lib/cni/networks",
            "/var/lib/cni",
            "rmdir var/lib/cni/networks",
        ),
        (
            "leftovers",
            "mkdir -p sys/class/net/flannel.1",
            "link flannel.1",
            "rmdir sys/class/net/flannel.1",
        ),
        // Our own has its configuration in our own place.
        (
            "leftovers",
            "mkdir -p sys/class/net/vxlan.calico",
            "link vxlan.calico",
            "mkdir -p etc/pf9/cni/net.d; touch etc/pf9/cni/net.d/10-calico.conflist",
        ),
        (
            "swap",
            "printf 'Filename Type Size Used Priority\n/dev/zram0 partition 1 0 5\n' >proc/swaps",
            "/dev/zram0",
            "printf 'Filename Type Size Used Priority\n' >proc/swaps",
        ),
    ];
    for (id, broken, words, mended) in cases {
        breaks(&host, id, broken, words, mended);
    }
    sh(
        &host,
        "printf 'x\n/dev/zram0 partition 1 0 5\n' >proc/swaps",
    );
    let swap = check(&host, "swap");
    assert!(
        swap.fix.contains("zram-tools") && !swap.fix.contains("fstab"),
        "{swap:?}"
    );
}

#[test]
fn who_answers_dns_is_looked_at_through_links() {
    let Some(host) = machine("who_answers_dns_is_looked_at_through_links") else {
        return;
    };
    breaks(
        &host,
        "dns",
        "ln -sf ../run/systemd/resolve/stub-resolv.conf etc/resolv.conf",
        "does not exist",
        "mkdir -p run/systemd/resolve; echo nameserver 10.0.0.2 > run/systemd/resolve/stub-resolv.conf",
    );
    breaks(
        &host,
        "dns",
        "echo nameserver 127.0.0.53 > run/systemd/resolve/stub-resolv.conf",
        "only this machine itself",
        "echo nameserver 10.0.0.2 > run/systemd/resolve/resolv.conf",
    );
    breaks(
        &host,
        "dns",
        "rm etc/resolv.conf",
        "there is no such file",
        "echo nameserver 10.0.0.2 > etc/resolv.conf",
    );
    // A resolver of the machine's own that forwards, and the server it forwards to.
    breaks(
        &host,
        "dns",
        "rm run/systemd/resolve/resolv.conf; printf 'nameserver 127.0.0.1\nnameserver 10.0.0.2\n' > etc/resolv.conf",
        "itself among others",
        "sed -i /127.0.0.1/d etc/resolv.conf",
    );
    breaks(
        &host,
        "dns",
        "echo nameserver fe80::1%eth0 > etc/resolv.conf",
        "only link-local addresses",
        "echo nameserver 10.0.0.2 >> etc/resolv.conf",
    );
}
