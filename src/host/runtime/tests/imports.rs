//! Imports images into a containerd of our own, and by a tool that notes its input.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::super::archive::testing;
use super::containerd::{Daemon, Does, State, daemon};
use super::*;
use crate::host::fs::Attrs;
use crate::host::testing::{fill_up, in_namespaces};

const ARCHIVE: &str = "/opt/pf9/stacks/current/images/toy.tar";
const TOOL: &str = "/opt/pf9/stacks/current/bin/ctr";

struct World {
    fs: HostFs,
    state: Arc<Mutex<State>>,
    _dir: Option<tempfile::TempDir>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let world = Self::at(dir.path());
        Self {
            _dir: Some(dir),
            ..world
        }
    }

    fn at(root: &Path) -> Self {
        let fs = HostFs::new(root);
        let put = |path: &str, bytes: &[u8], mode| {
            fs.write(path, bytes, &Attrs::mode(mode)).expect("write");
        };
        put(ARCHIVE, &testing::of_one(&testing::GOOD), 0o644);
        let tool = format!(
            "#!/bin/sh\necho \"$*\" >> {0}/told\n[ ! -e {0}/full ] || {{ echo 'write x: no space left on device' >&2; exit 1; }}\n",
            root.display()
        );
        put(TOOL, tool.as_bytes(), 0o755);
        Self {
            fs,
            state: Arc::default(),
            _dir: None,
        }
    }

    fn daemon(&self, script: impl FnMut(usize, &str) -> Does + Send + 'static) -> Daemon {
        daemon(&self.fs, Arc::clone(&self.state), Box::new(script))
    }

    async fn import(&self) -> Result<(), ImageError> {
        Runtime::new(self.fs.clone()).import(ARCHIVE).await
    }

    /// What the runtime's own tool was told.
    fn told(&self) -> String {
        std::fs::read_to_string(self.fs.at("/told")).unwrap_or_default()
    }

    /// Where the files of the one snapshot are.
    fn files(&self) -> PathBuf {
        let id = *self.state().snapshots.values().next().expect("a snapshot");
        let below = format!("io.containerd.snapshotter.v1.overlayfs/snapshots/{id}/fs");
        self.fs.at(paths::CONTAINERD_ROOT).join(below)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("lock")
    }

    /// All of the image, nothing beside it, and the tool was not asked.
    fn is_imported(&self) {
        let files = self.files();
        let toy = std::fs::read(files.join("usr/bin/toy")).expect("a file");
        assert_eq!(toy, b"program");
        let state = self.state();
        let layer = state.snapshots.keys().next().expect("a snapshot");
        let manifest = &state.images[testing::NAME];
        let (bytes, kept) = &state.content[manifest];
        let said: serde_json::Value = serde_json::from_slice(bytes).expect("a manifest");
        let config = said["config"]["digest"].as_str().expect("a digest");
        assert_eq!(kept["containerd.io/gc.ref.content.config"], config);
        let (bytes, kept) = &state.content[config];
        assert_eq!(kept["containerd.io/gc.ref.snapshot.overlayfs"], *layer);
        let said: serde_json::Value = serde_json::from_slice(bytes).expect("a configuration");
        assert_eq!(said["rootfs"]["diff_ids"][0], **layer);
        assert_eq!(
            (state.snapshots.len(), state.content.len()),
            (1, 2),
            "and nothing else"
        );
        assert_eq!(self.told(), "");
    }

    fn is_tidy(&self) {
        let state = self.state();
        assert!(state.leases.is_empty(), "{:?}", state.leases);
        assert!(state.active.is_empty(), "{:?}", state.active);
    }
}

#[tokio::test]
async fn an_image_is_what_the_runtimes_tool_would_leave_and_mended_where_it_is_damaged() {
    let world = World::new();
    let _daemon = world.daemon(|_, _| Does::Serves);
    world.import().await.expect("imported");
    world.is_imported();
    world.is_tidy();
    {
        let mut state = world.state();
        let lease = state.calls[1].1.clone();
        assert!(lease.is_some(), "made under a lease");
        let (first, rest) = state.calls.split_first().expect("calls");
        assert_eq!(*first, ("Leases/Create".to_owned(), None));
        assert!(rest.iter().all(|c| c.1 == lease), "{rest:?}");
        state.calls.clear();
    }
    let toy = world.files().join("usr/bin/toy");
    let link = world.files().join("usr/bin/link");
    let before = std::fs::symlink_metadata(&link).expect("there").ino();
    std::fs::write(&toy, "\0\0\0\0\0\0\0").expect("damage");
    // Kept by another way of importing, which says nothing of what belongs to it: it would be collected.
    for (_, kept) in world.state().content.values_mut() {
        kept.clear();
    }
    // And the image is of a name that something else had.
    for target in world.state().images.values_mut() {
        *target = "sha256:0".into();
    }
    world.import().await.expect("mended");
    world.is_imported();
    world.is_tidy();
    let now = std::fs::symlink_metadata(&link).expect("there").ino();
    assert_eq!(now, before, "what is right stays");
}

#[tokio::test]
async fn whatever_this_runtime_does_otherwise_is_done_by_its_own_tool_and_nothing_is_left() {
    for refused in [
        "Leases/Create",
        "Snapshots/Prepare",
        "Snapshots/Commit",
        "Content/Write",
    ] {
        let world = World::new();
        let _daemon = world.daemon(move |_, what| match what == refused {
            true => Does::Refuses(12, "not implemented"),
            false => Does::Serves,
        });
        world.import().await.expect("by the tool");
        let told = world.told();
        let root = world.fs.at("/");
        let socket = world.fs.at(paths::CONTAINERD_SOCKET);
        assert_eq!(
            told,
            format!(
                "--address {} --connect-timeout 3s -n k8s.io images import --local \
                 --discard-unpacked-layers {}\n",
                socket.display(),
                root.join(ARCHIVE.trim_start_matches('/')).display()
            ),
            "{refused}"
        );
        assert!(world.state().leases.is_empty(), "{refused}");
    }
    // Its snapshots are unwritable, and an archive is not a plain one.
    let world = World::new();
    let outside = tempfile::tempdir().expect("tempdir");
    world.state().elsewhere = Some(outside.path().to_owned());
    let _daemon = world.daemon(|_, _| Does::Serves);
    world.import().await.expect("by the tool");
    assert_eq!(world.told().lines().count(), 1);
    assert_eq!(
        std::fs::read_dir(outside.path()).map(Iterator::count).ok(),
        Some(0)
    );
    world.is_tidy();
    world.state().calls.clear();
    let attrs = Attrs::mode(0o644);
    let other = [("../x", tar::EntryType::Regular, 0o644, "")];
    for (n, bytes) in [testing::of_one(&other), b"no tar".to_vec()]
        .iter()
        .enumerate()
    {
        world.fs.write(ARCHIVE, bytes, &attrs).expect("write");
        world.import().await.expect("by the tool");
        assert_eq!(world.told().lines().count(), n + 2);
    }
    assert!(world.state().calls.is_empty(), "nothing is asked for it");
}

/// Two images of one layer at once: the one that comes second has nothing to commit, and is imported anyway.
#[tokio::test]
async fn a_layer_that_another_image_brought_meanwhile_is_taken() {
    let first = World::new();
    let daemon = first.daemon(|_, _| Does::Serves);
    first.import().await.expect("imported");
    let layer = first.state().snapshots.keys().next().expect("one").clone();
    drop(daemon);
    let world = World::new();
    let (state, root) = (
        Arc::clone(&world.state),
        world.fs.at(paths::CONTAINERD_ROOT),
    );
    let _daemon = world.daemon(move |_, what| {
        if what == "Snapshots/Commit" {
            const THEIRS: usize = 99;
            let files = "io.containerd.snapshotter.v1.overlayfs/snapshots/99/fs/usr/bin";
            std::fs::create_dir_all(root.join(files)).expect("directory");
            std::fs::write(root.join(files).join("toy"), "program").expect("write");
            let mut state = state.lock().expect("lock");
            state.snapshots.insert(layer.clone(), THEIRS);
        }
        Does::Serves
    });
    world.import().await.expect("imported");
    world.is_imported();
    world.is_tidy();
}

/// What the agent had asked for, and what the runtime had done of it, when the agent was killed.
async fn killed_at(world: &World, n: usize, does: Does) -> bool {
    let daemon = world.daemon(move |at, _| if at == n { does } else { Does::Serves });
    tokio::select! {
        done = world.import() => {
            done.expect("imported");
            false
        }
        () = daemon.hangs.notified() => true,
    }
}

/// Between any two calls, and while the runtime does one: what is started over ends with the whole image, and what was
/// committed is not rewritten.
#[tokio::test]
async fn an_agent_that_is_killed_anywhere_in_an_import_goes_on_with_what_is_there() {
    let mut walked = 0;
    for n in 0.. {
        let mut more = false;
        for does in [Does::Hangs, Does::ServesAndHangs] {
            let world = World::new();
            more |= killed_at(&world, n, does).await;
            let committed = !world.state().snapshots.is_empty();
            let toy = |w: &World| std::fs::metadata(w.files().join("usr/bin/toy")).expect("a file");
            let before = committed.then(|| toy(&world).ino());
            let _daemon = world.daemon(|_, _| Does::Serves);
            world.import().await.expect("imported");
            world.is_imported();
            let same = before.is_none_or(|ino| toy(&world).ino() == ino);
            assert!(same, "written again after {n}, {does:?}");
            // What the killed one left is under its lease, which ends by itself.
            let state = world.state();
            assert!(state.leases.len() <= 1 && state.active.len() <= 1);
        }
        if !more {
            break;
        }
        walked += 1;
    }
    assert!(walked >= 8, "{walked} calls");
}

fn names_disk(e: &ImageError, at: &Path) {
    let ImageError::Full { at: named, why } = e else {
        panic!("{e:?}");
    };
    assert!(named.starts_with(at), "{e}");
    assert!(!why.is_empty());
}

/// A file system of its own for the runtime, which is full when the image's files are written.
#[tokio::test]
async fn a_disk_that_fills_while_an_image_is_written_is_named_and_nothing_is_left() {
    const NAME: &str = "host::runtime::tests::imports::a_disk_that_fills_while_an_image_is_written_is_named_and_nothing_is_left";
    let mount = "mkdir -p \"$1/var/lib/pf9/containerd\" && mount -t tmpfs -o size=140m none \"$1/var/lib/pf9/containerd\"";
    let Some(root) = in_namespaces(NAME, &["--mount"], mount) else {
        return;
    };
    let world = World::at(&root);
    let disk = world.fs.at(paths::CONTAINERD_ROOT);
    // Others fill it when there was room a moment ago.
    let ballast = Arc::new(Mutex::new(None));
    let (held, at) = (Arc::clone(&ballast), disk.clone());
    let daemon = world.daemon(move |_, what| {
        if what == "Snapshots/Prepare" {
            // With its own directory made, and not a byte beside it.
            let own = at.join("io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs");
            std::fs::create_dir_all(own).expect("directory");
            *held.lock().expect("lock") = Some(fill_up(&at));
        }
        Does::Serves
    });
    let refused = world.import().await.expect_err("no room");
    names_disk(&refused, &disk);
    assert_eq!(world.told(), "", "the tool needs more");
    world.is_tidy();
    assert!(
        !disk
            .join("io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs")
            .exists()
    );
    drop(daemon);
    // Still full: nothing starts.
    world.state().calls.clear();
    let daemon = world.daemon(|_, _| Does::Serves);
    names_disk(&world.import().await.expect_err("no room"), &disk);
    assert!(
        !world
            .state()
            .calls
            .iter()
            .any(|c| c.0 == "Snapshots/Prepare")
    );
    world.is_tidy();
    // Room again.
    ballast.lock().expect("lock").take();
    world.import().await.expect("imported");
    world.is_imported();
    world.is_tidy();
    // What is there is looked at without any room, as after a power cut.
    let _ballast = fill_up(&disk);
    world.import().await.expect("nothing is missing");
    world.is_imported();
    drop(daemon);
}

#[tokio::test]
async fn a_full_disk_in_the_words_of_the_runtime_or_its_tool_is_one_too() {
    let world = World::new();
    let daemon = world.daemon(|_, what| match what {
        "Content/Write" => Does::Refuses(2, "open /x: no space left on device"),
        _ => Does::Serves,
    });
    names_disk(&world.import().await.expect_err("full"), &world.fs.at("/"));
    assert_eq!(world.told(), "");
    drop(daemon);
    let attrs = Attrs::mode(0o644);
    world.fs.write(ARCHIVE, b"no tar", &attrs).expect("write");
    world.fs.write("/full", b"", &attrs).expect("write");
    let _daemon = world.daemon(|_, _| Does::Serves);
    names_disk(&world.import().await.expect_err("full"), &world.fs.at("/"));
    assert_eq!(world.told().lines().count(), 1);
    // Another fault of the tool is its own.
    world.fs.remove_file("/full").expect("remove");
    let not = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(world.fs.at(TOOL), not).expect("mode");
    let other = world.import().await.expect_err("it does not run");
    assert!(matches!(other, ImageError::Tool(_)), "{other:?}");
}
