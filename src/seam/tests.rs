//! What the seam promises of itself: what is durable outlives the power, and what is not does not.

use std::collections::BTreeSet;
use std::sync::Arc;

use nix::errno::Errno;

use super::fault::{CallKind, Clock, InjectedFault, PowerLoss, Scope};
use super::program::{self, At, PassedPoint};
use super::walk::reference;
use crate::host::fs::{Attrs, Found, HostFs};

fn machine() -> (tempfile::TempDir, HostFs) {
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    (dir, fs)
}

/// A life with this work, after which the power is gone.
fn then_dark(loss: PowerLoss, work: impl FnOnce()) {
    let scope = Scope::whole();
    let here = scope.enter();
    work();
    scope.end();
    drop(here);
    scope.lose(loss);
}

fn text(fs: &HostFs, path: &str) -> Option<String> {
    fs.read_text(path, 1000).expect("read")
}

#[test]
fn what_is_not_synced_is_lost() {
    let (_dir, fs) = machine();
    std::fs::write(fs.at("/old"), "old").expect("old");
    let plain = |path: &str, bytes: &str| {
        use std::io::Write;
        let file = super::disk::Options::append().create(0o600);
        let mut file = file.open(fs.at(path)).expect("open");
        file.write_all(bytes.as_bytes()).expect("write");
        file
    };
    then_dark(PowerLoss::Everything, || {
        drop(plain("/new", "x"));
        drop(plain("/old", "er"));
        super::disk::rename(&fs.at("/old"), &fs.at("/moved")).expect("rename");
        super::disk::make_dir(&fs.at("/dir"), 0o755).expect("directory");
    });
    assert_eq!(fs.list("/").expect("list"), ["old"]);
    assert_eq!(text(&fs, "/old").as_deref(), Some("old"));
    // Bytes without a name, and a name without bytes.
    then_dark(PowerLoss::Everything, || {
        plain("/nameless", "x").sync_all().expect("sync");
    });
    assert_eq!(text(&fs, "/nameless"), None);
    then_dark(PowerLoss::Bytes, || {
        let file = plain("/empty", "x");
        super::disk::rename(&fs.at("/empty"), &fs.at("/named")).expect("rename");
        drop(file);
    });
    assert_eq!(text(&fs, "/named").as_deref(), Some(""));
}

#[test]
fn what_the_host_seam_calls_done_outlives_the_power() {
    for loss in [PowerLoss::Everything, PowerLoss::Bytes] {
        let (_dir, fs) = machine();
        let mode = Attrs::mode(0o644);
        fs.write("/there/gone/x", b"x", &mode).expect("before");
        fs.write("/there/moves", b"moved", &mode).expect("before");
        fs.make_dir("/there/empty", &Attrs::mode(0o755))
            .expect("before");
        then_dark(loss, || {
            // In directories that are new as well.
            fs.write("/a/b/c/file", b"text", &mode).expect("write");
            fs.link("/d/e/link", "target").expect("link");
            fs.make_dir("/f/g", &Attrs::mode(0o750)).expect("directory");
            fs.rename("/there/moves", "/there/moved").expect("rename");
            fs.remove_tree("/there/gone").expect("tree");
            assert!(fs.remove_empty_dir("/there/empty").expect("empty"));
        });
        assert_eq!(
            text(&fs, "/a/b/c/file").as_deref(),
            Some("text"),
            "{loss:?}"
        );
        let link = fs.found("/d/e/link").expect("found");
        assert_eq!(link, Found::Link("target".into()));
        assert!(matches!(
            fs.found("/f/g"),
            Ok(Found::Dir { mode: 0o750, .. })
        ));
        assert_eq!(fs.list("/there").expect("list"), ["moved"], "{loss:?}");
    }
}

/// It goes through years: what it noted would be more than it had made.
#[test]
fn a_life_with_only_a_clock_notes_nothing() {
    let (_dir, fs) = machine();
    let year = jiff::SignedDuration::from_hours(365 * 24);
    let scope = Scope::with_a_clock();
    scope.set_clock(Clock::Off(year));
    let here = scope.enter();
    let real = jiff::Timestamp::now();
    fs.write("/file", b"text", &Attrs::mode(0o644))
        .expect("write");
    fs.remove_file("/file").expect("remove");
    assert!(super::clock::now() >= real + year);
    // A disk that fails, and is well again.
    let bad = fs.at("/bad");
    scope.refuse(Some((bad.as_path(), nix::errno::Errno::EIO)));
    let write = |path: &str| fs.write(path, b"text", &Attrs::mode(0o644));
    write("/bad/file").expect_err("refused");
    write("/good").expect("elsewhere");
    scope.refuse(None);
    write("/bad/file").expect("well");
    std::fs::remove_dir_all(fs.at("/bad")).expect("remove");
    fs.remove_file("/good").expect("remove");
    drop(here);
    assert!(scope.points().is_empty());
    assert_eq!(std::fs::read_dir(fs.at("/")).expect("list").count(), 0);
}

#[test]
fn a_life_that_ended_reaches_nothing_any_more() {
    let (_dir, fs) = machine();
    let scope = Scope::whole();
    let _here = scope.enter();
    let begun = fs.begin("/file", &Attrs::mode(0o644)).expect("begun");
    let temporary = begun.temporary().to_path_buf();
    scope.end();
    drop(begun);
    assert!(temporary.exists(), "its destructor ran, and it is there");
    fs.write("/other", b"", &Attrs::mode(0o644))
        .expect_err("over");
    assert!(!fs.at("/other").exists());
}

#[test]
fn each_point_can_end_the_life_that_passes_it_and_says_whose_it_is() {
    let (_dir, fs) = machine();
    let write = |scope: &Arc<Scope>| {
        let _here = scope.enter();
        let work = || fs.write("/file", b"text", &Attrs::mode(0o644));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
    };
    let whole = Scope::whole();
    write(&whole).expect("whole").expect("written");
    let points = whole.points();
    let kinds: Vec<CallKind> = points.iter().map(|p| p.kind).collect();
    let wanted = [
        CallKind::Open,
        CallKind::Attributes,
        CallKind::Write,
        CallKind::Sync,
        CallKind::Rename,
        CallKind::SyncDir,
    ];
    assert_eq!(kinds, wanted);
    assert!(
        points
            .iter()
            .all(|p| p.place.starts_with("src/seam/disk.rs:")),
        "{points:?}"
    );
    for (n, point) in points.iter().enumerate() {
        for fault in point.kind.faults() {
            let scope = Scope::breaking(n, fault);
            let ended = write(&scope);
            let broke = scope.broke().expect("it came to it");
            assert_eq!((broke.kind, broke.place), (point.kind, point.place));
            match fault {
                InjectedFault::Fail(_) => assert!(ended.is_ok_and(|w| w.is_err()), "{point:?}"),
                InjectedFault::Kill | InjectedFault::Power(_) | InjectedFault::Stop => {
                    assert!(ended.is_err() && scope.is_over(), "{point:?}");
                }
            }
            let said = text(&fs, "/file");
            assert_eq!(said.as_deref(), Some("text"), "the old or the new");
        }
    }
}

/// What a test says of a program is what the program reads, and what that tells is what the test reads.
#[test]
fn a_program_and_its_test_understand_each_other() {
    let passed = PassedPoint {
        kind: CallKind::Open,
        name: "src/seam/disk.rs:93@src/host/fs.rs:400:9#2".into(),
        about: "a:b".into(),
        broke: true,
    };
    for fault in passed.kind.faults() {
        let read = program::read(&passed.with(fault));
        assert_eq!(read, Some((At::Name(passed.name.clone()), fault)));
    }
    let by_number = Some((At::Number(7), InjectedFault::Fail(Errno::ENOSPC)));
    assert_eq!(program::read("7:28"), by_number);
    // The end of the program cut its last line.
    let told = format!("{}{}{{\"kind\":", passed.line(), passed.line());
    assert_eq!(PassedPoint::all(&told), [passed.clone(), passed.clone()]);
    assert!(PassedPoint::any_broke(&told));
    let whole = PassedPoint {
        // Quotes of a path are no field.
        about: r#""broke":true"#.into(),
        broke: false,
        ..passed
    };
    assert!(!PassedPoint::any_broke(&whole.line()));
}

/// The points that exist, from the sources: there is no list.
fn all_points() -> BTreeSet<String> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut dirs = vec![root.join("src")];
    let mut found = BTreeSet::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("sources") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let name = path
                .strip_prefix(root)
                .expect("below")
                .display()
                .to_string();
            if ["src/seam.rs", "src/seam/tests.rs"].contains(&&*name) || !name.ends_with(".rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("source");
            for (n, line) in text.lines().enumerate() {
                let code = line.trim_start();
                let point = ["point!(", "point_soon!(", "fault::CallKind::"];
                // The one that is written out says its line below its kind.
                let written_out = code.starts_with("fault::CallKind::");
                // The steps of the plane's store are walked by its own test, which says so.
                let stores = code.contains("\"store\"");
                if !code.starts_with("//") && !stores && point.iter().any(|p| code.contains(p)) {
                    found.insert(format!("{name}:{}", n + 1 + usize::from(written_out)));
                }
            }
        }
    }
    found
}

/// With the place of each that no scenario comes to.
#[tokio::test]
async fn every_point_is_reached_by_a_scenario() {
    use crate::nodelet::inbox::tests::walk as inbox;
    use crate::nodelet::tests::walk as nodelet;
    use crate::stack::tests::walk as stack;

    let mut reached = BTreeSet::new();
    let mut callers = BTreeSet::new();
    let mut passed = 0;
    let all = [
        reference(&nodelet::INSTALL).await,
        reference(&nodelet::REPAIR).await,
        reference(&nodelet::DETACH).await,
        reference(&stack::Comes::<false>).await,
        reference(&stack::Comes::<true>).await,
        reference(&inbox::HandedOver).await,
    ];
    for point in all.iter().flat_map(|r| &r.points) {
        passed += 1;
        reached.insert(point.place.to_owned());
        callers.insert(point.caller.to_string());
    }
    let there = all_points();
    println!(
        "{} points in the seam, {passed} passed, called from {} places",
        there.len(),
        callers.len()
    );
    let missed: Vec<_> = there.difference(&reached).collect();
    assert!(missed.is_empty(), "no scenario comes to {missed:#?}");
    let unknown: Vec<_> = reached.difference(&there).collect();
    assert!(unknown.is_empty(), "not found in the sources: {unknown:#?}");
}
