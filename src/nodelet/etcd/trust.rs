//! Whose backups of this master's etcd are trusted: those that the signed spec names, and root of this machine itself.

use crate::host::fs::HostFs;
use crate::identity::order_key::{self, OrderKey};
use crate::model::{
    BACKUP_SIGNERS_MAX, BackupManifest, BackupSigner, BackupTrust, DocumentKind, Envelope, Fault,
    FaultCode, NodeSpec,
};
use crate::telemetry::chain;

/// A file of public keys has a line of less than 100 characters each, and comments.
const KEYS_MAX: u64 = 200 * BACKUP_SIGNERS_MAX as u64;

/// Whose signed backups this master trusts. The present key is root's own, and may be newer than the spec.
pub fn of(fs: &HostFs, node: &NodeSpec) -> BackupTrust {
    BackupTrust::Signers(signers(fs, node))
}

/// The same, one by one.
pub fn signers(fs: &HostFs, node: &NodeSpec) -> Vec<BackupSigner> {
    let mut signers = node.etcd.backup_signers.clone();
    if let Ok(own) = order_key::load(fs, node.host_id) {
        let own = BackupSigner {
            host_id: node.host_id,
            key: own.public(),
        };
        if !signers.contains(&own) {
            signers.push(own);
        }
    }
    signers
}

/// Those in a file that a person keeps beside the recovery key.
pub fn kept(fs: &HostFs, file: &str) -> Result<Vec<BackupSigner>, Fault> {
    let refused = |why: String| {
        let what = "no trusted signer of backups is known";
        Fault::new(FaultCode::KeyInvalid, what, why).fix(
            "name a file with a host id and a public key per line: pf9-plane cluster backups NAME signers writes it",
        )
    };
    let text = fs.read_text(file, KEYS_MAX);
    let text = text.map_err(|e| refused(chain(&e)))?;
    let text = text.ok_or_else(|| refused(format!("there is no {file}")))?;
    BackupSigner::lines(&text).map_err(|why| refused(format!("{file}: {why}")))
}

/// Signs as root of this master. Asked for before etcd is: a backup that no restore takes is none.
pub(super) fn signing(
    fs: &HostFs,
    node: &NodeSpec,
) -> Result<impl Fn(&BackupManifest) -> Result<Envelope, Fault> + Sync + use<>, Fault> {
    let what = "etcd has no new backup: there is no key to sign it";
    let key: OrderKey = order_key::load(fs, node.host_id)
        .map_err(|e| e.fault(what).fix(order_key::remedy(node.host_id)))?;
    Ok(move |manifest: &BackupManifest| key.sign(DocumentKind::Backup, manifest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;
    use crate::model::SigningKey;
    use crate::nodelet::testing::{Cas, enrolled, host_id, node};

    #[test]
    fn believed_are_those_of_the_spec_and_root_of_this_machine() {
        let dir = tempfile::tempdir().expect("directory");
        let fs = HostFs::new(dir.path());
        let mut node = node(Cas::new().authorities);
        assert!(signing(&fs, &node).is_err(), "there is no key");
        let other = BackupSigner {
            host_id: crate::model::HostId::random(),
            key: SigningKey::generate().expect("key").0.trusted(),
        };
        node.etcd.backup_signers = vec![other.clone()];
        assert_eq!(signers(&fs, &node), std::slice::from_ref(&other));
        enrolled(&fs);
        let (own, _) = order_key::ensure(&fs, host_id()).expect("key");
        let own = BackupSigner {
            host_id: host_id(),
            key: own.public(),
        };
        assert_eq!(signers(&fs, &node), [other.clone(), own.clone()]);
        node.etcd.backup_signers.push(own.clone());
        assert_eq!(signers(&fs, &node), [other, own]);
    }

    #[test]
    fn a_file_of_keys_is_read_or_refused_with_what_to_do() {
        let dir = tempfile::tempdir().expect("directory");
        let fs = HostFs::new(dir.path());
        let signer = BackupSigner {
            host_id: host_id(),
            key: SigningKey::generate().expect("key").0.trusted(),
        };
        let refused = |file| {
            let fault = kept(&fs, file).expect_err(file);
            assert!(fault.fix.contains("backups NAME signers"), "{fault}");
        };
        refused("/root/none");
        fs.write("/root/bad", b"x\n", &Attrs::mode(0o600))
            .expect("write");
        refused("/root/bad");
        let text = format!("# of cluster c\n{}\n", signer.line());
        fs.write("/root/good", text.as_bytes(), &Attrs::mode(0o600))
            .expect("write");
        assert_eq!(kept(&fs, "/root/good"), Ok(vec![signer]));
    }
}
