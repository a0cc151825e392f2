//! A plane that opens backups, on the machine's socket, and the ways it may fail in.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use age::Identity as _;
use age::secrecy::ExposeSecret;
use age_core::format::Stanza;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::backup::seal::{self, Sealed, Sealer};
use crate::host::fs::{Attrs, HostFs};
use crate::identity::order_key;
use crate::local::{Policy, Reply, Request, StatusCode, bind, serve};
use crate::model::{
    BACKUP_SCHEMA, BackupManifest, BackupSettings, Digest, DocumentKind, Envelope, Fault,
    FaultCode, FreshNonce, NodeSpec, Nonce, Secret, UnwrapAnswer, UnwrapOrder, paths,
};
use crate::nodelet::testing::host_id;

/// What the plane does when it is asked to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    Opens,
    /// It is not this cluster's.
    Refuses,
    /// The tunnel breaks between question and answer.
    GoesAway,
    /// What it seals is no key.
    Lies,
}

/// Ends with the value.
pub(crate) struct FakePlane {
    /// Keys that were asked for.
    pub(crate) asked: Arc<AtomicUsize>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl FakePlane {
    /// With the cluster's key.
    pub(crate) fn start(fs: &HostFs, key: &Secret<String>, does: Does) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let key: age::x25519::Identity = key.expose().parse().expect("key");
        let key = Arc::new(std::sync::Mutex::new(key));
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let at = fs.at(paths::PLANE_SOCKET);
        std::fs::create_dir_all(at.parent().expect("directory")).expect("directory");
        drop(std::fs::remove_file(&at));
        runtime.spawn({
            let _inside = runtime.enter();
            let listener = bind(&at, 0o600).expect("bind");
            let stop = CancellationToken::new();
            let policy = Policy {
                body_bound: Arc::new(|_| Ok(64 * 1024)),
                ..Policy::default()
            };
            serve(listener, policy, stop, move |request| {
                let (key, count) = (Arc::clone(&key), Arc::clone(&count));
                async move { answer(&key.lock().expect("lock"), &count, does, &request) }
            })
        });
        Self {
            asked,
            runtime: Some(runtime),
        }
    }
}

impl Drop for FakePlane {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn answer(
    key: &age::x25519::Identity,
    count: &AtomicUsize,
    does: Does,
    request: &Request,
) -> Reply {
    if request.path == "/v1/hosts/self/nonce" {
        let nonce = Nonce(Digest::of(b"n"));
        return Reply::json(StatusCode::OK, &FreshNonce { nonce });
    }
    count.fetch_add(1, Ordering::SeqCst);
    let fault = |code, why: &str| Fault::new(code, "the backup is not opened", why);
    match does {
        Does::Opens => {}
        Does::Refuses => {
            let fault = fault(
                FaultCode::KeyRefused,
                "it was not sealed for this cluster's key",
            );
            return Reply::fault(StatusCode::CONFLICT, &fault);
        }
        Does::GoesAway => {
            let fault = fault(FaultCode::LocalUnreachable, "the plane is not connected");
            return Reply::fault(StatusCode::BAD_GATEWAY, &fault);
        }
        Does::Lies => {
            return Reply::json(StatusCode::OK, &json!({"sealed": BASE64.encode("no key")}));
        }
    }
    let envelope: Envelope = serde_json::from_slice(&request.body).expect("signed");
    let order = BASE64.decode(&envelope.payload).expect("payload");
    let order: UnwrapOrder = serde_json::from_slice(&order).expect("order");
    assert_eq!(order.fault(), None);
    let stanzas: Vec<Stanza> = order
        .stanzas
        .iter()
        .map(|s| Stanza {
            tag: s.tag.clone(),
            args: s.args.clone(),
            body: BASE64.decode(&s.body).expect("body"),
        })
        .collect();
    let Some(Ok(file_key)) = key.unwrap_stanzas(&stanzas) else {
        let fault = fault(
            FaultCode::KeyRefused,
            "it was not sealed for this cluster's key",
        );
        return Reply::fault(StatusCode::CONFLICT, &fault);
    };
    let recipient: age::x25519::Recipient = order.recipient.parse().expect("recipient");
    let only = std::iter::once(&recipient as &dyn age::Recipient);
    let mut sealed = Vec::new();
    let mut writer = age::Encryptor::with_recipients(only)
        .expect("sealer")
        .wrap_output(&mut sealed)
        .expect("head");
    writer.write_all(file_key.expose_secret()).expect("write");
    writer.finish().expect("finish");
    let sealed = BASE64.encode(sealed);
    Reply::json(StatusCode::OK, &UnwrapAnswer { sealed })
}

/// Seals these bytes as a backup of this node's cluster, by the two files of it at `stem`.
pub(crate) fn backup(
    fs: &HostFs,
    node: &NodeSpec,
    stem: &str,
    plain: &[u8],
    recipient: &str,
) -> BackupManifest {
    let recipients = seal::recipients(&[recipient.to_owned()]).expect("key");
    let file = fs.begin(format!("{stem}.db.age"), &Attrs::mode(0o600));
    let mut sealer = Sealer::new(file.expect("file"), &recipients).expect("sealer");
    sealer.write_all(plain).expect("write");
    let (file, sealed) = sealer.finish().expect("sealed");
    file.place().expect("placed");
    let manifest = manifest(node, plain.len() as u64, sealed);
    note(fs, stem, &manifest);
    manifest
}

/// Its manifest, signed by root of this machine.
pub(crate) fn note(fs: &HostFs, stem: &str, manifest: &BackupManifest) {
    let (own, _) = order_key::ensure(fs, host_id()).expect("order key");
    let signed = own.sign(DocumentKind::Backup, manifest).expect("signed");
    put(fs, stem, &signed);
}

/// The manifest beside it, with any signature.
pub(crate) fn put(fs: &HostFs, stem: &str, signed: &Envelope) {
    let text = serde_json::to_vec(signed).expect("json");
    fs.write(format!("{stem}.json"), &text, &Attrs::mode(0o600))
        .expect("write");
}

/// Of a snapshot with revision 7, three keys and hash 1.
pub(crate) fn manifest(node: &NodeSpec, plain_bytes: u64, sealed: Sealed) -> BackupManifest {
    BackupManifest {
        schema: BACKUP_SCHEMA,
        name: NAME.into(),
        taken_at: "2026-11-28T14:30:00Z".parse().expect("time"),
        host_id: node.host_id,
        cluster_id: node.cluster_id,
        etcd_cluster_id: "cafe".into(),
        member_id: "beef".into(),
        revision: 7,
        keys: 3,
        hash: 1,
        plain_bytes,
        sealed_bytes: sealed.bytes,
        sealed_sha256: sealed.sha256,
        etcd_version: "3.7.3".into(),
        storage_version: None,
        kubernetes_version: "1.37.2".into(),
        recipients: Vec::new(),
        settings: BackupSettings::of(node),
    }
}

/// Its name.
pub(crate) const NAME: &str = "20261128T143000Z-r7";
