//! Who made a backup: what no master of this cluster signed is refused, whatever it is sealed for.

use std::collections::BTreeMap;

use super::sealed::{KEY, NAS, archived, named};
use super::*;
use crate::model::{BackupManifest, BackupSigner, DocumentKind, Envelope, HostId, SigningKey};
use crate::nodelet::etcd::testing::{NAME, put};

/// The keys of the masters of this cluster, present and past, and a stranger's.
struct Signing {
    machine: Machine,
    manifest: BackupManifest,
    stem: String,
    keys: BTreeMap<&'static str, SigningKey>,
}

impl Signing {
    /// What lies beside the backup is signed by this one.
    fn signs(&self, who: &str, manifest: &BackupManifest) -> Envelope {
        let bytes = serde_json::to_vec(manifest).expect("json");
        let signed = self.keys[who].sign(DocumentKind::Backup, &bytes);
        put(&self.machine.host.fs, &self.stem, &signed);
        signed
    }

    fn is_not_believed(&self, source: Source) {
        let fault = self.machine.refused(source);
        assert_eq!(fault.code, FaultCode::BackupUntrusted, "{fault}");
        assert!(fault.what.contains("nothing was changed"), "{fault}");
        assert!(fault.fix.contains("--unsigned"), "{fault}");
    }

    fn again(&self) {
        let machine = &self.machine;
        machine.phases();
        machine.write("/var/lib/pf9/etcd/member/snap/db", b"old");
        let old = machine.names().into_iter().filter(|n| n.starts_with(ASIDE));
        for name in old {
            let path = format!("{}/{name}", paths::ETCD_DATA);
            machine.host.fs.remove_tree(&path).expect("remove");
        }
    }
}

/// A backup of a master that was replaced; it is on the shelf, or in the archive only.
fn signing(away: bool) -> Signing {
    let owner = HostId::random();
    let (mut machine, mut manifest, mut stem) = archived(owner);
    if !away {
        machine.node.etcd.backup.archive = None;
        stem = format!("{}/{NAME}", paths::ETCD_BACKUPS);
        let text = machine.text("/root/recovery.key").expect("key");
        let key: age::x25519::Identity = text.parse().expect("key");
        manifest = machine.seal(&stem, &key.to_public().to_string());
        manifest.host_id = owner;
    }
    let key = || SigningKey::generate().expect("key").0;
    let names = ["before", "now", "another master", "another cluster"];
    let keys: BTreeMap<_, _> = names.map(|name| (name, key())).into();
    let other = HostId::random();
    let known = [("before", owner), ("now", owner), ("another master", other)];
    machine.node.etcd.backup_signers = known
        .map(|(name, host_id)| BackupSigner {
            host_id,
            key: keys[name].trusted(),
        })
        .into();
    Signing {
        machine,
        manifest,
        stem,
        keys,
    }
}

/// Sealed for the cluster's public keys it opens with the right key: only the signature tells who made it.
#[test]
fn what_no_master_of_the_cluster_signed_is_refused_wherever_it_is() {
    for away in [false, true] {
        let s = signing(away);
        let path = format!("{}.db.age", s.stem);
        let named = |file: &str| named(file, KEY);
        for who in ["another master", "another cluster"] {
            s.signs(who, &s.manifest);
            s.is_not_believed(named(NAME));
            s.is_not_believed(named(&path));
        }
        // What was signed, with another content.
        let good = s.signs("now", &s.manifest);
        let mut other = s.manifest.clone();
        other.revision = 8;
        let forged = Envelope {
            payload: s.signs("another cluster", &other).payload,
            ..good
        };
        put(&s.machine.host.fs, &s.stem, &forged);
        s.is_not_believed(named(NAME));
        // An old one of a master's own, put in the place of a newer one.
        let mut older = s.manifest.clone();
        older.name = "20261127T143000Z-r6".into();
        s.signs("now", &older);
        let fault = s.machine.refused(named(NAME));
        assert!(
            fault.why.contains("is the manifest of another backup"),
            "{fault}"
        );
        // Nobody's.
        let text = serde_json::to_vec(&s.manifest).expect("json");
        s.machine.write(&format!("{}.json", s.stem), &text);
        let fault = s.machine.refused(named(NAME));
        assert!(fault.why.contains("not a signed manifest"), "{fault}");
        // Good ones: with the present key, and with the one before it.
        for who in ["now", "before"] {
            s.signs(who, &s.manifest);
            s.machine.restored(named(NAME));
            s.again();
        }
        // Another file than the one that was signed, sealed for the right keys anyway.
        let text = s.machine.text("/root/recovery.key").expect("key");
        let key: age::x25519::Identity = text.parse().expect("key");
        s.machine.seal(&s.stem, &key.to_public().to_string());
        s.signs("now", &s.manifest);
        let fault = s.machine.refused(named(NAME));
        // Of another size, where chance will have it so.
        let words = ["differs from the one that was written", "a different file"];
        assert!(
            words.iter().any(|w| fault.why.contains(w))
                || fault.code == FaultCode::EtcdArchiveDamaged,
            "{fault}"
        );
    }
}

/// In the archive a forged one in the place of a host that is asked first does not hide the good one.
#[test]
fn a_forged_one_in_another_hosts_place_hides_nothing() {
    let s = signing(true);
    s.signs("now", &s.manifest);
    let own = s.machine.node.host_id;
    let mut forged = s.manifest.clone();
    forged.host_id = own;
    let bytes = serde_json::to_vec(&forged).expect("json");
    let forged = s.keys["another cluster"].sign(DocumentKind::Backup, &bytes);
    let own = format!("{NAS}/{own}/{NAME}");
    put(&s.machine.host.fs, &own, &forged);
    s.machine.restored(named(NAME, KEY));
    // Nor does one that cannot be read.
    s.again();
    let text = s.machine.host.fs.at(format!("{own}.json"));
    std::fs::remove_file(&text).expect("remove");
    nix::unistd::mkfifo(&text, nix::sys::stat::Mode::S_IRWXU).expect("pipe");
    s.machine.restored(named(NAME, KEY));
}

/// With the plane away and all masters new: a file of public keys is kept beside the recovery key; else a person has
/// to say that nobody looks.
#[test]
fn keys_that_are_kept_beside_the_recovery_key_are_believed_and_unsigned_has_to_be_said() {
    let s = signing(false);
    s.signs("another cluster", &s.manifest);
    let mut source = named(NAME, KEY);
    source.signers = Some("/root/signers".into());
    assert_eq!(
        s.machine.refused(source.clone()).code,
        FaultCode::KeyInvalid,
        "there is no such file"
    );
    let kept = BackupSigner {
        host_id: s.manifest.host_id,
        key: s.keys["another cluster"].trusted(),
    };
    let text = format!("# kept\n{}\n", kept.line());
    s.machine.write("/root/signers", text.as_bytes());
    s.is_not_believed(named(NAME, KEY));
    s.machine.restored(source);
    s.again();
    let mut source = named(NAME, KEY);
    source.unsigned = true;
    s.machine.restored(source);
    // It says nothing of whose it may be.
    s.again();
    let mut foreign = s.manifest.clone();
    foreign.cluster_id = ClusterId::random();
    s.signs("another cluster", &foreign);
    let mut source = named(NAME, KEY);
    source.unsigned = true;
    let fault = s.machine.refused(source.clone());
    assert_eq!(fault.code, FaultCode::EtcdRestoreForeign, "{fault}");
    source.any_cluster = true;
    s.machine.restored(source.clone());
    s.again();
    source.unsigned = false;
    s.is_not_believed(source);
}

/// A key of a master that signed for a cluster it was in before makes no backup of this one.
#[test]
fn a_host_that_came_from_another_cluster_brings_no_backups_of_that() {
    let s = signing(false);
    let mut elsewhere = s.manifest.clone();
    elsewhere.cluster_id = ClusterId::random();
    s.signs("before", &elsewhere);
    let fault = s.machine.refused(named(NAME, KEY));
    assert_eq!(fault.code, FaultCode::EtcdRestoreForeign, "{fault}");
}
