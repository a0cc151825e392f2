//! An image of a stack becomes one of the runtime without a second copy of it.
//!
//! ```text
//! archive ─► Plain ─► lease ─► snapshot of its layer: prepared, filled from the archive, committed
//!                           ─► configuration and manifest as content ─► image ─► lease ends
//! ```
//!
//! What `ctr images import` does with the same archive: its layer goes to containerd through a stream, is written
//! and synced as a blob, read again, unpacked, and the blob stays. Here the bytes of a file are written once. What
//! comes of it is what an import with `--discard-unpacked-layers` leaves.
//!
//! A snapshot that is there is compared with the archive and mended: power may have failed before its files were
//! on the disk (they are when the whole stack is, see `Step::StackOnDisk`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::NAMESPACE;
use super::archive::Plain;
use super::grpc::{ANSWER, CallError, Client};
use crate::host::fs::HostFs;
use crate::host::protobuf::{Message, Value, fields};
use crate::host::space::{self, NoSpace};
use crate::host::work::long;
use crate::model::{Digest, paths};

/// Where images are unpacked; the only one that our configuration of containerd names.
const SNAPSHOTTER: &str = "overlayfs";
/// What an import that was interrupted leaves is collected after this long.
const LEASE: Duration = Duration::from_secs(3600);
const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar";
const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// By these labels containerd's garbage collection knows what belongs to an image.
const KEEPS_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.overlayfs";
const KEEPS_CONFIG: &str = "containerd.io/gc.ref.content.config";
const LEASE_ENDS: &str = "containerd.io/gc.expire";
/// `COMMIT` of `WriteAction`: with all of the data in one message.
const COMMIT: u64 = 2;

/// Why an image was not imported this way.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportError {
    /// The runtime does not do it.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The archive, or the place of its files.
    #[error("an image's files cannot be written")]
    Files(#[from] std::io::Error),
    /// Another snapshotter than is known here, or another way of it.
    #[error("the container runtime keeps images in an unknown way: {0}")]
    Place(String),
    /// Nothing was started.
    #[error(transparent)]
    Space(#[from] NoSpace),
}

impl ImportError {
    /// There is no room for it.
    pub(super) fn lacks_room(&self) -> bool {
        match self {
            Self::Space(_) => true,
            Self::Files(e) => space::is_full(e),
            Self::Call(CallError::Refused { message, .. }) => message.contains(space::SAID),
            Self::Call(
                CallError::Nobody { .. }
                | CallError::Broken(_)
                | CallError::Late(_)
                | CallError::Answer(_),
            )
            | Self::Place(_) => false,
        }
    }
}

/// What is kept of an image, in bytes.
struct Documents {
    config: Vec<u8>,
    config_digest: String,
    manifest: Vec<u8>,
    manifest_digest: String,
}

/// Imports this archive; `false`: it is no plain one, and nothing was done.
pub(super) async fn import(
    fs: &HostFs,
    socket: &Path,
    archive: PathBuf,
) -> Result<bool, ImportError> {
    let Some(plain) = on_a_thread(move || Plain::open(&archive)).await? else {
        return Ok(false);
    };
    let mut client = Client::connect(socket, NAMESPACE, ANSWER).await?;
    let lease = format!("pf9-{}", Uuid::new_v4());
    lend(&mut client, &lease).await?;
    client.under(lease.clone());
    let done = under_lease(fs, &mut client, plain).await;
    // It ends by itself, too.
    let over = Message::default().text(1, &lease);
    drop(
        client
            .call("containerd.services.leases.v1.Leases/Delete", over)
            .await,
    );
    done.map(|()| true)
}

async fn lend(client: &mut Client, lease: &str) -> Result<(), CallError> {
    let ends = crate::seam::clock::now()
        .checked_add(LEASE)
        .unwrap_or(jiff::Timestamp::MAX);
    let message = Message::default()
        .text(1, lease)
        .entry(3, LEASE_ENDS, &ends.to_string());
    let made = client.call("containerd.services.leases.v1.Leases/Create", message);
    made.await.map(drop)
}

async fn under_lease(fs: &HostFs, client: &mut Client, plain: Plain) -> Result<(), ImportError> {
    let documents = Documents::of(&plain);
    let (names, layer) = (plain.names.clone(), plain.layer.clone());
    snapshot(fs, client, plain).await?;
    let (config, manifest) = (&documents.config_digest, &documents.manifest_digest);
    // The layer's own bytes are not kept, so nothing refers to them.
    content(client, &documents.config, config, (KEEPS_SNAPSHOT, &layer)).await?;
    content(
        client,
        &documents.manifest,
        manifest,
        (KEEPS_CONFIG, config),
    )
    .await?;
    for name in &names {
        image(client, name, &documents).await?;
    }
    Ok(())
}

/// The layer's files are where the runtime looks for them.
async fn snapshot(fs: &HostFs, client: &mut Client, plain: Plain) -> Result<(), ImportError> {
    let key = format!("pf9-import-{}", Uuid::new_v4());
    // The image has one layer, so its chain id is the layer's.
    let chain = plain.layer.clone();
    let of = |field: u32, name: &str| Message::default().text(1, SNAPSHOTTER).text(field, name);
    let known = match client.call(&snapshots("Stat"), of(2, &chain)).await {
        Ok(_) => true,
        Err(e) if e.is_not_there() => false,
        Err(e) => return Err(e.into()),
    };
    if !known {
        // What is there is mended with what it has: a full disk keeps no node from coming back.
        let root = fs.at(paths::CONTAINERD_ROOT);
        space::of(&root)?.require(&root, plain.layer_size)?;
    }
    let begin = if known { "View" } else { "Prepare" };
    let parent = if known { &*chain } else { "" };
    let asked = of(2, &key).text(3, parent);
    let mounts = client.call(&snapshots(begin), asked).await?;
    let filled = match place(fs, &mounts) {
        Ok(root) => on_a_thread(move || plain.fill(&root)).await,
        Err(e) => Err(e),
    };
    if filled.is_ok() && !known {
        let commit = of(2, &chain).text(3, &key);
        match client.call(&snapshots("Commit"), commit).await {
            Ok(_) => return Ok(()),
            // Another image with the same layer came first.
            Err(e) if e.is_there() => {}
            Err(e) => return Err(e.into()),
        }
    }
    let removed = client.call(&snapshots("Remove"), of(2, &key)).await;
    filled?;
    Ok(removed.map(drop)?)
}

fn snapshots(verb: &str) -> String {
    format!("containerd.services.snapshots.v1.Snapshots/{verb}")
}

/// The one directory of a snapshot without a parent, from what would be mounted for it.
fn place(fs: &HostFs, answer: &[u8]) -> Result<PathBuf, ImportError> {
    let unknown = |what: &str| ImportError::Place(what.to_owned());
    let (mut mounts, mut kind, mut source) = (0, String::new(), String::new());
    for field in fields(answer) {
        let Ok((1, Value::Bytes(mount))) = field else {
            return Err(unknown("its answer cannot be read"));
        };
        mounts += 1;
        for field in fields(mount) {
            match field {
                Ok((1, Value::Bytes(text))) => kind = String::from_utf8_lossy(text).into_owned(),
                Ok((2, Value::Bytes(text))) => source = String::from_utf8_lossy(text).into_owned(),
                Ok(_) => {}
                Err(_) => return Err(unknown("its answer cannot be read")),
            }
        }
    }
    if mounts != 1 || kind != "bind" {
        return Err(unknown(&format!("{mounts} mounts, {kind}")));
    }
    let (source, root) = (PathBuf::from(source), fs.at(paths::CONTAINERD_ROOT));
    let down = source.strip_prefix(&root).is_ok_and(|below| {
        let normal = |c| matches!(c, std::path::Component::Normal(_));
        below.components().all(normal) && below.components().next().is_some()
    });
    match down {
        true => Ok(source),
        false => Err(unknown(&format!(
            "{} is not below {}",
            source.display(),
            root.display()
        ))),
    }
}

/// Keeps a document, and what it refers to.
async fn content(
    client: &mut Client,
    bytes: &[u8],
    digest: &str,
    (label, to): (&str, &str),
) -> Result<(), CallError> {
    let size = bytes.len() as u64;
    let write = Message::default()
        .number(1, COMMIT)
        .text(2, &format!("pf9-import-{}", Uuid::new_v4()))
        .number(3, size)
        .text(4, digest)
        .bytes(6, bytes)
        .entry(7, label, to);
    match client
        .call("containerd.services.content.v1.Content/Write", write)
        .await
    {
        Ok(_) => return Ok(()),
        Err(e) if e.is_there() => {}
        Err(e) => return Err(e),
    }
    // From an earlier import, perhaps by another tool.
    let info = Message::default().text(1, digest).entry(5, label, to);
    let mask = Message::default().text(1, &format!("labels.{label}"));
    let update = Message::default().inside(1, &info).inside(2, &mask);
    let done = client.call("containerd.services.content.v1.Content/Update", update);
    done.await.map(drop)
}

async fn image(client: &mut Client, name: &str, documents: &Documents) -> Result<(), CallError> {
    let target = Message::default()
        .text(1, MANIFEST_TYPE)
        .text(2, &documents.manifest_digest)
        .number(3, documents.manifest.len() as u64);
    let image = Message::default().text(1, name).inside(3, &target);
    let message = || Message::default().inside(1, &image);
    match client
        .call("containerd.services.images.v1.Images/Create", message())
        .await
    {
        Err(e) if e.is_there() => {
            let update = client.call("containerd.services.images.v1.Images/Update", message());
            update.await.map(drop)
        }
        made => made.map(drop),
    }
}

impl Documents {
    fn of(plain: &Plain) -> Self {
        let config_digest = digest(&plain.config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {
                "mediaType": CONFIG_TYPE, "digest": config_digest, "size": plain.config.len(),
            },
            "layers": [
                {"mediaType": LAYER_TYPE, "digest": plain.layer, "size": plain.layer_size},
            ],
        });
        let manifest = manifest.to_string().into_bytes();
        Self {
            config: plain.config.clone(),
            manifest_digest: digest(&manifest),
            config_digest,
            manifest,
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Digest::of(bytes))
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, ImportError> {
    Ok(long(work).await.map_err(std::io::Error::from)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str) -> Message {
        Message::default()
            .text(1, kind)
            .text(2, source)
            .text(4, "ro")
    }

    fn answer(mounts: &[Message]) -> Vec<u8> {
        let all = mounts
            .iter()
            .fold(Message::default(), |all, m| all.inside(1, m));
        all.done()
    }

    #[test]
    fn files_go_below_the_runtimes_own_directory_and_nowhere_else() {
        let fs = HostFs::new("/r");
        let of = |mounts: &[Message]| place(&fs, &answer(mounts));
        let good =
            "/r/var/lib/pf9/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs";
        let found = of(&[mount("bind", good)]).expect("a place");
        assert_eq!(found, Path::new(good));
        for source in [
            "/r/var/lib/pf9/containerd",
            "/r/var/lib/pf9/containerd/../../../etc",
            "/r/etc",
            "etc",
            "",
        ] {
            of(&[mount("bind", source)]).expect_err(source);
        }
        of(&[mount("overlay", good)]).expect_err("what is below it is missing");
        of(&[mount("bind", good), mount("bind", good)]).expect_err("two");
        of(&[]).expect_err("none");
        place(&fs, &[0x0a, 0x7f]).expect_err("cut off");
    }
}
