use std::ffi::OsStr;

use super::*;

#[test]
fn writes_replace_and_keep_nothing_beside() {
    let dir = tempfile::tempdir().expect("tempdir");
    let host = HostFs::new(dir.path());
    host.write("/etc/a/b.conf", b"one", &Attrs::mode(0o640))
        .expect("write");
    host.write("/etc/a/b.conf", b"two", &Attrs::mode(0o600))
        .expect("write");
    assert_eq!(
        host.read("/etc/a/b.conf", 10).expect("read"),
        Some(b"two".to_vec())
    );
    assert!(matches!(
        host.found("/etc/a/b.conf").expect("found"),
        Found::File { mode: 0o600, .. }
    ));
    assert_eq!(host.list("/etc/a").expect("list"), ["b.conf"]);
}

#[test]
fn reads_are_bounded_and_absence_is_no_error() {
    let dir = tempfile::tempdir().expect("tempdir");
    let host = HostFs::new(dir.path());
    assert_eq!(host.read("/x", 10).expect("read"), None);
    host.write("/x", &[0; 11], &Attrs::mode(0o600))
        .expect("write");
    assert!(host.read("/x", 10).is_err());
}

#[test]
fn a_failed_write_leaves_the_old_text() {
    let dir = tempfile::tempdir().expect("tempdir");
    let host = HostFs::new(dir.path());
    host.write("/x", b"old", &Attrs::mode(0o600))
        .expect("write");
    let bad = Attrs::owned(0o600, "no-such-user:no-such-group");
    assert!(host.write("/x", b"new", &bad).is_err());
    assert_eq!(host.read("/x", 10).expect("read"), Some(b"old".to_vec()));
    assert_eq!(host.list("/").expect("list"), ["x"]);
}

#[test]
fn a_tree_with_a_mount_below_stays() {
    let dir = tempfile::tempdir().expect("tempdir");
    let host = HostFs::new(dir.path());
    let attrs = Attrs::mode(0o600);
    for path in ["/var/a/x", "/var/b/vol/theirs", "/var/c/x"] {
        host.write(path, b"x", &attrs).expect("write");
    }
    let info = "1 2 0:1 / /var/b/vol rw - ext4 x rw\n2 2 0:1 / /var/c rw - ext4 x rw\n";
    host.write("/proc/self/mountinfo", info.as_bytes(), &attrs)
        .expect("write");
    host.remove_tree("/var/a").expect("remove");
    assert_eq!(host.found("/var/a").expect("found"), Found::Nothing);
    host.remove_tree("/var/b").expect_err("must be refused");
    assert!(host.read("/var/b/vol/theirs", 9).expect("read").is_some());
    host.remove_tree("/var/c").expect("empty the mount");
    assert_eq!(host.list("/var/c").expect("list").len(), 0);
    assert!(!host.remove_empty_dir("/var").expect("not empty"));
    assert!(host.remove_empty_dir("/var/c").expect("empty"));
}

#[test]
fn a_tree_goes_around_what_is_mounted_below() {
    let dir = tempfile::tempdir().expect("tempdir");
    let host = HostFs::new(dir.path());
    let put = |path: &str, text: &str| {
        let attrs = Attrs::mode(0o600);
        host.write(path, text.as_bytes(), &attrs).expect("write");
    };
    for path in [
        "/var/b/x",
        "/var/b/deep/y",
        "/var/b/deep/vol/theirs",
        "/var/b/disk/z/ours",
        "/var/b/file",
        "/var/b/line\nbreak/theirs",
    ] {
        put(path, "x");
    }
    host.link("/var/b/link", "deep/vol").expect("link");
    let at = |point: &str| format!("1 2 0:1 / {point} rw - ext4 x rw\n");
    let info = [
        "/var/b/deep/vol",
        "/var/b/disk",
        "/var/b/file",
        "/var/b/line\\012break",
    ]
    .map(at);
    put("/proc/self/mountinfo", &info.concat());
    let around = || host.remove_tree_around("/var/b", |path| path == Path::new("/var/b/disk"));
    assert_eq!(
        around().expect("remove"),
        ["/var/b/deep/vol", "/var/b/file", "/var/b/line\nbreak"]
    );
    let list = |path: &str| host.list(path).expect("list");
    assert_eq!(list("/var/b"), ["deep", "disk", "file", "line\nbreak"]);
    assert_eq!(list("/var/b/deep"), ["vol"]);
    assert_eq!(
        (list("/var/b/deep/vol").len(), list("/var/b/disk").len()),
        (1, 0)
    );
    put("/proc/self/mountinfo", "");
    assert_eq!(around().expect("remove"), [""; 0]);
    assert_eq!(host.found("/var/b").expect("found"), Found::Nothing);
}

/// As a pod's program may call its files; another one of that kind is mounted over.
#[test]
fn names_that_are_no_text_go_with_their_tree_and_stay_where_they_are_mounted() {
    use std::os::unix::ffi::OsStrExt;
    let odd = |dir: &str, byte: u8| {
        let name = [dir.as_bytes(), &[b'/', b'n', byte]].concat();
        PathBuf::from(OsStr::from_bytes(&name))
    };
    let dir = tempfile::tempdir().expect("tempdir");
    let host = HostFs::new(dir.path());
    let attrs = Attrs::mode(0o600);
    let deep = odd("/var/b", 0xfe);
    let theirs = odd("/var/b", 0xfd);
    for path in [
        odd("/var/b", 0xff),
        deep.join("x"),
        theirs.join("precious"),
        // What a list for people calls both of them.
        PathBuf::from("/var/b/n\u{fffd}/y"),
    ] {
        host.write(path, b"x", &attrs).expect("write");
    }
    let info = [&b"1 2 0:1 / /var/b/n"[..], &[0xfd], b" rw - ext4 x rw\n"].concat();
    host.write("/proc/self/mountinfo", &info, &attrs)
        .expect("write");
    let around = || {
        host.remove_tree_around("/var/b", |_| false)
            .expect("remove")
    };
    assert_eq!(around(), [theirs.display().to_string()]);
    assert_eq!(host.list("/var/b").expect("list").len(), 1);
    assert!(host.at(theirs.join("precious")).exists());
    host.remove_tree("/var/b").expect_err("it is in the way");
    host.write("/proc/self/mountinfo", b"", &attrs)
        .expect("write");
    assert_eq!(around(), [""; 0]);
    assert_eq!(host.found("/var/b").expect("found"), Found::Nothing);
}

/// A tree may be a single file.
#[test]
fn a_file_that_is_mounted_over_stays_and_is_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    let host = HostFs::new(dir.path());
    let attrs = Attrs::mode(0o600);
    host.write("/etc/own", b"x", &attrs).expect("write");
    let info = b"1 2 0:1 / /etc/own rw - ext4 x rw\n";
    host.write("/proc/self/mountinfo", info, &attrs)
        .expect("write");
    let around = || host.remove_tree_around("/etc/own", |_| true);
    assert_eq!(around().expect("left"), ["/etc/own"]);
    assert!(host.at("/etc/own").exists());
    host.remove_file("/proc/self/mountinfo").expect("unmount");
    assert_eq!(around().expect("remove"), [""; 0]);
    assert!(!host.at("/etc/own").exists());
}

#[test]
fn links_flip_and_parents_cannot_be_left() {
    let dir = tempfile::tempdir().expect("tempdir");
    let host = HostFs::new(dir.path().join("root"));
    host.link("/cur", "a").expect("link");
    host.link("/cur", "b").expect("link");
    assert_eq!(host.found("/cur").expect("found"), Found::Link("b".into()));
    assert!(
        host.write("/../../evil", b"x", &Attrs::mode(0o600))
            .is_err()
    );
}
