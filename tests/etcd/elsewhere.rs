//! A backup that only the archive has: the disk it was made on is dead. A directory, and a real S3 server.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use pf9_hostagent::backup::archive::Archive;
use pf9_hostagent::backup::seal;
use pf9_hostagent::backup::shelf::{MANIFEST, SEALED};
use pf9_hostagent::egress::Egress;
use pf9_hostagent::host::fs::{Attrs, HostFs};
use pf9_hostagent::model::{
    ArchivePolicy, ArchiveTarget, BackupManifest, BackupSigner, DocumentKind, FaultCode, HostId,
    Secret, SigningKey, paths,
};
use pf9_hostagent::nodelet::etcd::restore::run::Went;
use pf9_hostagent::nodelet::etcd::restore::{RestoreGoal, Source};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;

use crate::drill::taken;
use crate::lab::{Lab, Machine};
use crate::restoring::{all_keys_are_there, ask, go, lose_the_data, write_keys};

const KEY: &str = "/root/recovery.key";
const BUCKET: &str = "backups";

/// A master with data and one local backup.
fn backed_up(lab: &mut Lab, target: ArchiveTarget) -> (BackupManifest, Secret<String>) {
    let only = &mut lab.machines[0];
    let (key, public) = seal::new_key();
    let policy = &mut only.node.spec_mut().etcd.backup;
    policy.recovery_recipient = Some(public);
    policy.archive = Some(ArchivePolicy::new(target));
    only.settled();
    write_keys(only);
    let manifest = only.inside(async |node| taken(node).await);
    let text = key.expose().as_bytes();
    only.fs
        .write(KEY, text, &Attrs::mode(0o600))
        .expect("write");
    (manifest, key)
}

fn files(fs: &HostFs, name: &str) -> [PathBuf; 2] {
    [SEALED, MANIFEST].map(|end| fs.at(format!("{}/{name}{end}", paths::ETCD_BACKUPS)))
}

fn restore(name: &str) -> RestoreGoal {
    RestoreGoal::Restored(Source {
        file: name.to_owned(),
        recovery_key: Some(KEY.to_owned()),
        any_cluster: false,
        signers: None,
        unsigned: false,
    })
}

/// The disk with etcd and the backups is gone, and so are the notes on it.
fn the_disk_dies(machine: &Machine) {
    lose_the_data(machine);
    machine.fs.remove_tree(paths::ETCD_BACKUPS).expect("gone");
}

fn nothing_is_left_over(machine: &Machine) {
    let names = machine.fs.list(paths::ETCD_DATA).expect("list");
    assert_eq!(names, ["member"], "what was brought is gone");
}

#[test]
fn a_dead_disks_backup_comes_from_a_directory_and_the_cluster_is_there_again() {
    let mut lab = Lab::new("3.7.3", 1);
    let target = ArchiveTarget::Dir {
        path: "/mnt/nas/etcd".into(),
        mount: None,
    };
    let (manifest, _) = backed_up(&mut lab, target);
    let only = &mut lab.machines[0];
    let name = manifest.name.clone();
    // As the periodic task copies it.
    only.inside(async |node| {
        let (fs, spec) = (&node.host.fs, node.spec());
        let policy = spec.etcd.backup.archive.as_ref().expect("an archive");
        let archive = Archive::open(fs, policy, spec.host_id, &Egress::direct()).expect("open");
        let [sealed, text] = files(fs, &name);
        let text = fs::read(text).expect("manifest");
        archive.put(&name, &sealed, &text).await.expect("put");
    });
    the_disk_dies(only);
    ask(only, restore(&manifest.name));
    assert_eq!(go(only), Went::Ended(None));
    nothing_is_left_over(only);
    only.settled();
    all_keys_are_there(only);
}

#[test]
fn a_dead_disks_backup_comes_from_a_bucket_below_another_hosts_id() {
    let mut lab = Lab::new("3.7.3", 1);
    let bucket = Bucket::start();
    let target = ArchiveTarget::S3 {
        endpoint: format!("http://{}", bucket.at),
        region: "us-east-1".into(),
        bucket: BUCKET.into(),
        prefix: "clusters/lab".into(),
        path_style: true,
        authority: None,
    };
    let (mut manifest, _) = backed_up(&mut lab, target);
    let only = &mut lab.machines[0];
    let credentials = "aws_access_key_id = K1\naws_secret_access_key = hunter2\n";
    only.fs
        .write(
            paths::ETCD_ARCHIVE_CREDENTIALS,
            credentials.as_bytes(),
            &Attrs::mode(0o600),
        )
        .expect("write");
    // The machine is a new one: the backups are those of the host that it replaces.
    let was = HostId::random();
    manifest.host_id = was;
    let [sealed, _] = files(&only.fs, &manifest.name);
    let place = bucket
        .dir
        .path()
        .join(BUCKET)
        .join("clusters/lab")
        .join(was.to_string());
    fs::create_dir_all(&place).expect("directory");
    fs::copy(sealed, place.join(format!("{}{SEALED}", manifest.name))).expect("copy");
    // Root of it signed them, and the plane remembers its key.
    let (key, _) = SigningKey::generate().expect("key");
    let bytes = serde_json::to_vec(&manifest).expect("json");
    let signed = key.sign(DocumentKind::Backup, &bytes);
    let signer = BackupSigner {
        host_id: was,
        key: key.trusted(),
    };
    only.node.spec_mut().etcd.backup_signers.push(signer);
    let text = serde_json::to_vec(&signed).expect("json");
    fs::write(place.join(format!("{}{MANIFEST}", manifest.name)), text).expect("write");
    the_disk_dies(only);
    ask(only, restore("20200101T000000Z-r1"));
    let Went::Ended(Some(fault)) = go(only) else {
        panic!("there is no such backup");
    };
    assert_eq!(fault.code, FaultCode::EtcdArchiveMissing, "{fault}");
    ask(only, restore(&manifest.name));
    assert_eq!(go(only), Went::Ended(None));
    nothing_is_left_over(only);
    only.settled();
    all_keys_are_there(only);
}

/// A bucket of a real server, on the lab's network; ends with the value.
struct Bucket {
    at: SocketAddr,
    dir: tempfile::TempDir,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Bucket {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        fs::create_dir(dir.path().join(BUCKET)).expect("bucket");
        let store = s3s_fs::FileSystem::new(dir.path()).expect("store");
        let mut service = S3ServiceBuilder::new(store);
        service.set_auth(SimpleAuth::from_single("K1", "hunter2"));
        let service = service.build();
        // Bound here: threads of a runtime are in the network namespace they were started in.
        let listener = std::net::TcpListener::bind((crate::lab::OUTSIDE, 0)).expect("bind");
        listener.set_nonblocking(true).expect("set");
        let at = listener.local_addr().expect("address");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("listener");
            loop {
                let (tcp, _) = listener.accept().await.expect("accept");
                let service = service.clone();
                tokio::spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    drop(http.serve_connection(TokioIo::new(tcp), service).await);
                });
            }
        });
        Self {
            at,
            dir,
            runtime: Some(runtime),
        }
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
