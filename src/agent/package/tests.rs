//! Packages made by the distributions' own tools, as ours are, and what is wrong with others.

use std::process::Command;

use super::*;
use crate::host::fs::Found;
use crate::host::package::read;
use crate::host::package::tests::{Made, deb_of, rpm_of};

const VERSION: Version = Version::new(0, 2, 0);

fn ran(command: &mut Command) {
    let out = command.output().expect("the tool is installed");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

fn put(root: &Path, path: &str, text: &str) {
    let at = root.join(path.trim_start_matches('/'));
    std::fs::create_dir_all(at.parent().expect("parent")).expect("directory");
    std::fs::write(at, text).expect("write");
}

/// A tree as a package of ours has it; `but` one of its files.
fn tree(root: &Path, version: &str, but: &str) {
    let dir = format!("/opt/pf9/agent/{version}");
    let program = format!("bin/{PROGRAM}");
    let units = UNITS.map(|u| format!("units/{u}"));
    for name in std::iter::once(&program)
        .chain(&units)
        .filter(|n| *n != but)
    {
        put(
            root,
            &format!("{dir}/{name}"),
            &format!("{name} of {version}"),
        );
    }
    put(root, &format!("{dir}/bin/other"), "not ours");
    put(root, &format!("{dir}/bin/deep/pf9-agent"), "not ours");
    // Links are made, not taken: whatever a package says of where they lead.
    for name in NAMES {
        let link = root.join(format!(".{dir}/bin/{name}"));
        std::os::unix::fs::symlink("/tmp/theirs", link).expect("link");
    }
    put(root, "/etc/cron.d/theirs", "not ours");
    std::fs::create_dir_all(root.join("usr/bin")).expect("directory");
    std::os::unix::fs::symlink(
        "/opt/pf9/agent/current/bin/pf9ctl",
        root.join("usr/bin/pf9ctl"),
    )
    .expect("link");
}

fn deb(dir: &Path, name: &str, version: &str, but: &str) -> std::path::PathBuf {
    let root = dir.join("tree");
    tree(&root, version, but);
    let control = format!(
        "Package: {name}\nVersion: {version}-1\nArchitecture: amd64\nMaintainer: x <x@y>\nDescription: x\n"
    );
    put(&root, "DEBIAN/control", &control);
    let to = dir.join("x.deb");
    ran(Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Zzstd", "--build"])
        .args([&root, &to]));
    to
}

fn rpm(dir: &Path, version: &str) -> std::path::PathBuf {
    let root = dir.join("tree");
    tree(&root, version, "");
    let spec = format!(
        "Name: {PACKAGE}\nVersion: {version}\nRelease: 1\nSummary: x\nLicense: x\nAutoReqProv: no\n%description\nx\n%install\n\
         cp -a \"{}/.\" %{{buildroot}}/\n%files\n/opt/pf9\n/etc/cron.d/theirs\n/usr/bin/pf9ctl\n",
        root.display()
    );
    put(dir, "x.spec", &spec);
    let top = format!("_topdir {}", dir.join("top").display());
    let out = format!("_rpmdir {}", dir.display());
    ran(Command::new("rpmbuild")
        .args(["-bb", "--target", "x86_64"])
        .args([
            "--define",
            &top,
            "--define",
            &out,
            "--define",
            "_rpmfilename x.rpm",
            "--define",
            "_binary_payload w9.zstdio",
            "--define",
            "debug_package %{nil}",
            "--define",
            "__os_install_post %{nil}",
        ])
        .arg(dir.join("x.spec")));
    dir.join("x.rpm")
}

fn unpacked(fs: &HostFs, file: &Path, format: PackageFormat) -> Result<(), PackageError> {
    unpack(fs, file, format, &VERSION, "amd64")
}

#[test]
fn both_formats_give_programs_and_units_and_nothing_else() {
    for format in [PackageFormat::Deb, PackageFormat::Rpm] {
        let made = tempfile::tempdir().expect("tempdir");
        let file = match format {
            PackageFormat::Deb => deb(made.path(), PACKAGE, "0.2.0", ""),
            PackageFormat::Rpm => rpm(made.path(), "0.2.0"),
        };
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        // What an earlier try left is no part of it.
        put(dir.path(), "/opt/pf9/agent/0.2.0/bin/left", "x");
        put(dir.path(), "/opt/pf9/agent/.0.2.0.begun/bin/left", "x");
        unpacked(&fs, &file, format)
            .unwrap_or_else(|e| panic!("{format:?}: {}", crate::telemetry::chain(&e)));
        assert_eq!(fs.list("/").expect("list"), ["opt"]);
        assert_eq!(fs.list("/opt/pf9/agent").expect("list"), ["0.2.0"]);
        let mut there = Vec::from(NAMES);
        there.insert(0, PROGRAM);
        assert_eq!(fs.list("/opt/pf9/agent/0.2.0/bin").expect("list"), there);
        for name in NAMES {
            let link = fs.found(format!("/opt/pf9/agent/0.2.0/bin/{name}"));
            assert_eq!(link.expect("there"), Found::Link(PROGRAM.into()));
        }
        assert_eq!(fs.list("/opt/pf9/agent/0.2.0/units").expect("list"), UNITS);
        let text = fs
            .read_text("/opt/pf9/agent/0.2.0/bin/pf9-comms", 99)
            .expect("read");
        assert_eq!(text.as_deref(), Some("bin/pf9-agent of 0.2.0"));
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(fs.at("/opt/pf9/agent/0.2.0/bin/pf9ctl"))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o755);
    }
}

#[test]
fn other_packages_are_refused_and_leave_what_is_there() {
    for (name, version, but, words) in [
        ("theirs", "0.2.0", "", "package \"theirs\""),
        (PACKAGE, "0.2.1", "", "0.2.1 for amd64"),
        (
            PACKAGE,
            "0.2.0",
            "bin/pf9-agent",
            "no /opt/pf9/agent/0.2.0/bin/pf9-agent",
        ),
        (
            PACKAGE,
            "0.2.0",
            "units/pf9-comms.service",
            "units/pf9-comms.service",
        ),
    ] {
        let made = tempfile::tempdir().expect("tempdir");
        let file = deb(made.path(), name, version, but);
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        put(
            dir.path(),
            "/opt/pf9/agent/0.2.0/bin/pf9-comms",
            "as it was",
        );
        let error = unpacked(&fs, &file, PackageFormat::Deb).expect_err("refused");
        assert!(error.to_string().contains(words), "{error}");
        let kept = fs
            .read_text("/opt/pf9/agent/0.2.0/bin/pf9-comms", 99)
            .expect("read");
        assert_eq!(kept.as_deref(), Some("as it was"), "{words}");
    }
}

#[test]
fn what_is_cut_off_or_no_package_is_an_error_at_every_length() {
    let made = tempfile::tempdir().expect("tempdir");
    let files = [
        (deb(made.path(), PACKAGE, "0.2.0", ""), PackageFormat::Deb),
        (
            rpm(
                tempfile::tempdir().expect("tempdir").keep().as_path(),
                "0.2.0",
            ),
            PackageFormat::Rpm,
        ),
    ];
    for (file, format) in files {
        let whole = std::fs::read(&file).expect("read");
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let cut = dir.path().join("cut");
        for length in (0..whole.len() - 8).step_by(97) {
            std::fs::write(&cut, &whole[..length]).expect("write");
            unpacked(&fs, &cut, format).expect_err("it is truncated");
        }
        assert!(fs.list("/opt/pf9/agent/0.2.0").expect("list").is_empty());
    }
}

/// Packages with all that is asked of one.
fn whole(version: &str) -> [(Vec<u8>, PackageFormat); 2] {
    let dir = format!("./opt/pf9/agent/{version}");
    let program = format!("{dir}/bin/{PROGRAM}");
    let units = UNITS.map(|u| format!("{dir}/units/{u}"));
    let names = std::iter::once(&program).chain(&units);
    let files: Vec<(&str, &[u8])> = names.map(|n| (n.as_str(), n.as_bytes())).collect();
    let version = format!("{version}-1");
    let made = Made {
        name: PACKAGE,
        version: &version,
        arch: "amd64",
        files: &files,
    };
    [
        (deb_of(&made), PackageFormat::Deb),
        (rpm_of(&made), PackageFormat::Rpm),
    ]
}

/// What the plane would import, and what a node would unpack.
fn both(bytes: &[u8], format: PackageFormat) -> (bool, Result<(), PackageError>) {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("package");
    std::fs::write(&file, bytes).expect("write");
    let plane = read(&mut File::open(&file).expect("open"));
    let fs = HostFs::new(dir.path());
    let node = unpack(&fs, &file, format, &VERSION, "amd64");
    (plane.is_ok_and(|label| label.format == format), node)
}

#[test]
fn what_the_plane_imports_a_node_unpacks() {
    for (bytes, format) in whole("0.2.0") {
        let (plane, node) = both(&bytes, format);
        assert!(plane);
        node.unwrap_or_else(|e| panic!("{format:?}: {}", crate::telemetry::chain(&e)));
    }
    // What comes before a release is written in the package managers' own way.
    let dir = tempfile::tempdir().expect("tempdir");
    let made = Made {
        name: PACKAGE,
        version: "0.3.0~rc1-1",
        arch: "amd64",
        files: &[],
    };
    std::fs::write(dir.path().join("x"), deb_of(&made)).expect("write");
    let version = "0.3.0-rc1".parse().expect("version");
    let fs = HostFs::new(dir.path());
    let node = unpack(
        &fs,
        &dir.path().join("x"),
        PackageFormat::Deb,
        &version,
        "amd64",
    );
    assert!(matches!(node, Err(PackageError::Lacks(_))), "{node:?}");
}

proptest::proptest! {
    #![proptest_config(crate::sample::cases(200, 5_000))]
    /// Whatever was done to a package: what the plane refuses no node takes, and what it takes no node calls damaged.
    #[test]
    fn plane_and_node_refuse_the_same(
        rpm in proptest::prelude::any::<bool>(),
        at in 0usize..4096,
        with in proptest::prelude::any::<u8>(),
        how in 0u8..4,
    ) {
        let [deb, rpm_package] = whole("0.2.0");
        let (mut bytes, format) = if rpm { rpm_package } else { deb };
        let at = at % bytes.len();
        match how {
            0 => bytes[at] = with,
            1 => bytes.truncate(at),
            2 => bytes.insert(at, with),
            _ => drop(bytes.drain(at..(at + usize::from(with)).min(bytes.len()))),
        }
        let (plane, node) = both(&bytes, format);
        match node {
            Ok(()) | Err(PackageError::Lacks(_)) => proptest::prop_assert!(plane, "a node takes it"),
            Err(PackageError::NotOurs(NotOurs::Damaged(e))) => proptest::prop_assert!(!plane, "{}", e),
            // Another version, or machine, is one anyway.
            Err(PackageError::NotOurs(NotOurs::Other(_)) | PackageError::Write(_)) => {}
        }
    }
}

#[test]
fn a_program_that_is_too_large_is_none() {
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    let mut taken = Taken {
        fs: &fs,
        prefix: "/opt/pf9/agent/0.2.0".into(),
        into: "/into".into(),
        names: Vec::new(),
    };
    let mut nothing = std::io::empty();
    let unit = "./opt/pf9/agent/0.2.0/units/pf9-comms.service";
    taken
        .take(unit, UNIT_MAX + 1, &mut nothing)
        .expect_err("too large");
    taken.take(unit, 5, &mut nothing).expect_err("cut off");
    for passed in [
        "./opt/pf9/agent/0.2.0/units/../bin/pf9-agent",
        "./opt/pf9/agent/0.2.0/bin/../../../../etc/x",
        "./opt/pf9/agent/0.2.1/bin/pf9-agent",
        "./opt/pf9/agent/0.2.0/bin/pf9-comms",
        "/etc/passwd",
    ] {
        taken.take(passed, 0, &mut nothing).expect("passed over");
    }
    assert!(taken.names.is_empty() && fs.list("/").expect("list").is_empty());
}
