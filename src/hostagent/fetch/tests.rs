//! A file from the plane, broken at every point: see [`crate::seam::walk`].

use std::collections::BTreeMap;

use super::*;
use crate::host::ours::paths::WRITTEN_BY_HOSTAGENT;
use crate::host::temps;
use crate::model::{FaultCode, paths};
use crate::seam::walk::{Scenario, files, walk};
use crate::telemetry::chain;

/// In three pieces, the last of which is shorter.
const BYTES: &[u8] = b"a stack, or a package of the agent";
const PIECE: usize = 13;

struct Any;

impl Wanted for Any {
    fn fault(&self, failure: Failure) -> Fault {
        let why = match failure {
            Failure::Io { source, .. } => chain(&source),
            Failure::Space(e) => chain(&e),
            Failure::Damaged(why) | Failure::Broken(why) => why,
            Failure::Plane(e) => chain(&*e),
        };
        Fault::new(FaultCode::StackIo, "the file is not fetched", why)
    }

    fn tell(&self, _: &Agent, _: u64) {}
}

struct Fetched;

struct Machine {
    fs: HostFs,
    target: Target<Any>,
    _dir: tempfile::TempDir,
}

impl Machine {
    async fn fetch(&self) -> Result<(), Fault> {
        let Self { fs, target, .. } = self;
        if !target.is_done().await? {
            let mut part = target.open().await?;
            while let Some(rest) = from(part.have).filter(|rest| !rest.is_empty()) {
                let piece = rest.get(..PIECE).unwrap_or(rest);
                target.append(&mut part, Bytes::from_static(piece)).await?;
                let file = Arc::clone(&part.file);
                let synced = blocking(move || file.sync_data()).await;
                synced.map_err(target.io("write", &target.part))?;
            }
            target.place(part).await?;
        }
        keep_on_disk(fs, &target.done, paths::STAGING).map_err(target.io("sync", &target.done))
    }
}

fn from(have: u64) -> Option<&'static [u8]> {
    BYTES.get(usize::try_from(have).ok()?..)
}

impl Scenario for Fetched {
    const NAME: &'static str = "file from the plane";
    type World = Machine;

    async fn begin(&self) -> Machine {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let at = |name: &str| fs.at(format!("{}/{name}", paths::STAGING));
        let target = Target {
            wanted: Any,
            url: String::new(),
            done: at("archive"),
            part: at("archive.part"),
            total: BYTES.len() as u64,
            sha256: Digest::of(BYTES),
        };
        Machine {
            fs,
            target,
            _dir: dir,
        }
    }

    async fn life(&self, machine: &mut Machine, starts: bool) -> bool {
        if starts {
            temps::collect(&machine.fs, WRITTEN_BY_HOSTAGENT);
        }
        machine.fetch().await.is_ok()
    }

    async fn end(&self, machine: &mut Machine) -> BTreeMap<String, String> {
        files(&machine.fs, |_| false)
    }
}

#[tokio::test]
async fn a_download_broken_anywhere_is_whole_and_nothing_is_left_of_its_part() {
    walk(&Fetched, 60).await;
}
