//! A backup that only the archive has, brought here: beside etcd's data, where the room for what is
//! made of it is, and never onto the shelf, where it could be pruned as too old. Nothing is stopped for it.
//!
//! It downloads in turns of a few minutes, each of which resumes where the last one ended: in between the loop sees a
//! request to stop, and reports progress.

use std::path::PathBuf;
use std::time::Duration;

use super::RestoreRun;
use super::check::WHAT;
use super::stage::RestoreContext;
use crate::backup::archive::{self, Archive, ArchiveError};
use crate::backup::seal::Sealed;
use crate::backup::shelf::{MANIFEST, SEALED};
use crate::backup::verify;
use crate::egress::Egress;
use crate::host::fs::{Attrs, FsError};
use crate::host::space;
use crate::model::{
    ArchivePolicy, ArchiveTarget, BackupManifest, BackupTrust, BelievedManifest, Fault, FaultCode,
    HostId,
};
use crate::telemetry::chain;

/// A few hundred short questions at most.
const FIND_MAX: Duration = Duration::from_secs(5 * 60);
/// One turn. A sender that brings not one byte in it is given up.
pub(super) const TURN: Duration = Duration::from_secs(120);
const PRIVATE: u32 = 0o700;
const SECRET: u32 = 0o600;
const MIB: u64 = 1024 * 1024;

/// A backup in the archive.
pub(super) struct Away {
    archive: Archive,
    target: ArchiveTarget,
    /// Where it comes.
    path: String,
}

/// Looks for the backup of this name: in this master's place, in those of the other masters, in all.
pub(super) async fn look(
    hands: RestoreContext<'_>,
    run: &RestoreRun,
    policy: &ArchivePolicy,
    (name, trust): (&str, &BackupTrust),
) -> Result<(BelievedManifest, Away), Fault> {
    let (fs, node) = (&hands.host.fs, hands.node);
    let egress = hands.egress.as_ref().map_err(Clone::clone)?;
    let dir = run.fetching_dir();
    let fails = |error: ArchiveError| error.fault(&policy.target, WHAT);
    let away = |owner: HostId, egress: &Egress| -> Result<Away, Fault> {
        let archive = Archive::open(fs, policy, owner, egress).map_err(fails)?;
        Ok(Away {
            archive,
            target: policy.target.clone(),
            path: format!("{dir}/{name}{SEALED}"),
        })
    };
    // Found in an earlier turn.
    if let Ok((manifest, _)) = verify::find(fs, &dir, name, trust) {
        let away = away(manifest.manifest().host_id, egress)?;
        return Ok((manifest, away));
    }
    let others = node.etcd.members.iter().map(|m| m.host_id);
    let first: Vec<HostId> = std::iter::once(node.host_id).chain(others).collect();
    let find = archive::find(fs, policy, egress, &first, name, (node.cluster_id, trust));
    let found = tokio::time::timeout(FIND_MAX, find).await;
    let late = ArchiveError::Slow {
        seconds: FIND_MAX.as_secs(),
    };
    let manifest = found.unwrap_or(Err(late)).map_err(fails)?;
    let noted = || {
        let text = serde_json::to_vec(manifest.envelope()).unwrap_or_default();
        fs.make_dir(&dir, &Attrs::mode(PRIVATE))?;
        fs.write(
            format!("{dir}/{name}{MANIFEST}"),
            &text,
            &Attrs::mode(SECRET),
        )
    };
    noted().map_err(|e: FsError| fails(ArchiveError::Fs(e)))?;
    let away = away(manifest.manifest().host_id, egress)?;
    Ok((manifest, away))
}

impl Away {
    /// One turn. The file, byte for byte the one that the manifest speaks of; or how far it is.
    pub(super) async fn bring(
        &self,
        hands: RestoreContext<'_>,
        manifest: &BackupManifest,
        turn: Duration,
    ) -> Result<Result<PathBuf, String>, Fault> {
        let into = hands.host.fs.at(&self.path);
        let have = || std::fs::metadata(&into).map_or(0, |m| m.len());
        let (before, total) = (have(), manifest.sealed_bytes);
        self.room(hands, manifest, before)?;
        let sealed = Sealed {
            bytes: total,
            sha256: manifest.sealed_sha256,
        };
        let get = self.archive.get(&manifest.name, sealed, &into);
        let fails = |error: ArchiveError| error.fault(&self.target, WHAT);
        match tokio::time::timeout(turn, get).await {
            Ok(got) => got.map(|()| Ok(into)).map_err(fails),
            Err(_) if have() > before => Ok(Err(format!(
                "the backup comes from {}: {} of {} MiB are here",
                self.target,
                have() / MIB,
                total.div_ceil(MIB)
            ))),
            Err(_) => Err(fails(ArchiveError::Slow {
                seconds: turn.as_secs(),
            })),
        }
    }

    /// For the rest of it, what is in it, and what is made of that: asked before a byte comes.
    fn room(
        &self,
        hands: RestoreContext<'_>,
        manifest: &BackupManifest,
        have: u64,
    ) -> Result<(), Fault> {
        let place = hands.host.fs.at(crate::model::paths::ETCD_DATA);
        let full = |why: String| Fault::new(FaultCode::DiskFull, WHAT, why).fix(space::FIX);
        let room = space::of(&place).map_err(|e| full(chain(&e)))?;
        let rest = manifest.sealed_bytes.saturating_sub(have);
        let made = manifest.plain_bytes.saturating_mul(2);
        room.require(&place, rest.saturating_add(made))
            .map_err(|e| full(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;
    use crate::host::Host;
    use crate::host::fs::HostFs;
    use crate::model::{Digest, Timestamp, paths};
    use crate::nodelet::etcd::restore::source::Shelves;
    use crate::nodelet::etcd::restore::{By, RestoreGoal};
    use crate::nodelet::etcd::testing::{NAME, manifest};
    use crate::nodelet::testing::{Cas, node};

    const TOTAL: usize = 1_000_000;
    /// What comes before it hangs.
    const COMES: usize = 300_000;
    /// Long for a loopback, and short for a waiting test.
    const SHORT: Duration = Duration::from_secs(2);

    /// A server that begins to answer the first request and is silent from then on. Connections stay open.
    async fn hanging() -> (std::net::SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let at = listener.local_addr().expect("address");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut tcp, _)) = listener.accept().await {
                if open.is_empty() {
                    let mut head = vec![0; 4096];
                    let asked = tcp.read(&mut head).await.expect("a request");
                    assert!(asked > 0, "a request");
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n");
                    tcp.write_all(head.as_bytes()).await.expect("head");
                    tcp.write_all(&vec![7; COMES]).await.expect("a part");
                }
                open.push(tcp);
            }
        });
        (at, tasks)
    }

    /// Each turn ends by itself: one that brought something says how far it is, one that did not gives up.
    #[tokio::test]
    async fn a_bucket_that_hangs_in_the_middle_ends_the_turn_and_not_the_loop() {
        let (at, _tasks) = hanging().await;
        let dir = tempfile::tempdir().expect("directory");
        let host = Host::new(HostFs::new(dir.path()));
        let key = b"aws_access_key_id = K1\naws_secret_access_key = s\n";
        host.fs
            .write(paths::ETCD_ARCHIVE_CREDENTIALS, key, &Attrs::mode(SECRET))
            .expect("write");
        let node = node(Cas::new().authorities);
        let (egress, shelves) = (Ok(Egress::direct()), Shelves::default());
        let hands = RestoreContext {
            host: &host,
            node: &node,
            egress: &egress,
            shelves: &shelves,
        };
        let target = ArchiveTarget::S3 {
            endpoint: format!("http://{at}"),
            region: "us-east-1".into(),
            bucket: "backups".into(),
            prefix: String::new(),
            path_style: true,
            authority: None,
        };
        let run = RestoreRun::asked(
            uuid::Uuid::from_u128(7),
            By::Plane,
            node.cluster_id,
            RestoreGoal::Rejoined,
            Timestamp::UNIX_EPOCH,
        );
        let dir = run.fetching_dir();
        host.fs.make_dir(&dir, &Attrs::mode(PRIVATE)).expect("make");
        let archive = Archive::open(
            &host.fs,
            &ArchivePolicy::new(target.clone()),
            node.host_id,
            &Egress::direct(),
        );
        let away = Away {
            archive: archive.expect("open"),
            target,
            path: format!("{dir}/{NAME}{SEALED}"),
        };
        let sealed = Sealed {
            bytes: TOTAL as u64,
            sha256: Digest::of(b"x"),
        };
        let manifest = manifest(&node, 1, sealed);
        let began = Instant::now();
        let first = away.bring(hands, &manifest, SHORT).await.expect("a turn");
        let words = first.expect_err("not whole");
        assert!(words.contains("0 of 1 MiB"), "{words}");
        let have = std::fs::metadata(host.fs.at(&away.path))
            .expect("there")
            .len();
        assert_eq!(have, COMES as u64, "what came stays for the next turn");
        let fault = away
            .bring(hands, &manifest, SHORT)
            .await
            .expect_err("silent");
        assert_eq!(fault.code, FaultCode::EtcdArchiveAway, "{fault}");
        assert!(began.elapsed() < SHORT * 5);
        let have = std::fs::metadata(host.fs.at(&away.path))
            .expect("there")
            .len();
        assert_eq!(have, COMES as u64);
    }
}
