//! This host's trust anchors, on disk: `/etc/pf9/trust/`, and the authorities that the tunnel's
//! dialler reads.
//!
//! Applied by root alone. New keys and authorities are added before old ones are removed, and the version comes last:
//! interrupted anywhere, the host still trusts a signer that can send the document again.

use super::material::parse_all;
use super::store::{FILE_MAX, IdentityError, certificates, damaged, json, trust_files};
use super::verify::believing;
use crate::host::fs::{Attrs, HostFs};
use crate::model::{Digest, TrustDocument, TrustStatus, TrustVersion, paths};

/// Which document was applied last; none before the first one and the enrolment that counts them.
pub fn trust_version(fs: &HostFs) -> Result<Option<TrustVersion>, IdentityError> {
    let Some(bytes) = fs.read(paths::TRUST_VERSION, FILE_MAX)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| damaged(paths::TRUST_VERSION, e))
}

/// What is trusted now, for the status document.
pub fn trust_status(fs: &HostFs) -> Result<TrustStatus, IdentityError> {
    let authorities = match fs.read(paths::PLANE_CA, FILE_MAX)? {
        Some(pem) => certificates(paths::PLANE_CA, &pem)?,
        None => Vec::new(),
    };
    Ok(TrustStatus {
        version: trust_version(fs)?,
        keys: super::store::trust(fs)?.ids(),
        authorities: authorities.iter().map(|a| Digest::of(a)).collect(),
        spec_key: None,
        stack_key: None,
    })
}

/// Applies a document that was verified and is not older than what was applied.
pub fn apply_trust(fs: &HostFs, document: &TrustDocument) -> Result<(), IdentityError> {
    let anchors = parse_all(&document.authorities).map_err(|why| damaged(paths::PLANE_CA, why))?;
    believing(&anchors).map_err(|e| damaged(paths::PLANE_CA, e))?;
    let world = Attrs::mode(0o644);
    for key in &document.keys {
        let path = format!("{}/{}.json", paths::TRUST_DIR, key.id);
        fs.write(&path, &json(&path, key)?, &world)?;
    }
    let bundle = document.authorities.as_bytes();
    if fs.read(paths::PLANE_CA, FILE_MAX)?.as_deref() != Some(bundle) {
        fs.write(paths::PLANE_CA, bundle, &world)?;
    }
    let stays = |name: &str| {
        document
            .keys
            .iter()
            .any(|k| name == format!("{}.json", k.id))
    };
    for name in trust_files(fs)?.into_iter().filter(|n| !stays(n)) {
        fs.remove_file(format!("{}/{name}", paths::TRUST_DIR))?;
    }
    if let Some(machine) = &document.machine {
        super::machine::pin(fs, machine)?;
    }
    note_version(fs, &document.version)
}

/// Notes the version that keys and authorities on the disk are of.
pub(super) fn note_version(fs: &HostFs, version: &TrustVersion) -> Result<(), IdentityError> {
    let path = paths::TRUST_VERSION;
    Ok(fs.write(path, &json(path, version)?, &Attrs::mode(0o644))?)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::{HostId, SigningKey, TRUST_SCHEMA, Timestamp, TrustedKey};

    fn authority() -> String {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("key");
        params.self_signed(&key).expect("ca").pem()
    }

    fn document(serial: u64, keys: &[&TrustedKey], authorities: &[&str]) -> TrustDocument {
        TrustDocument {
            schema: TRUST_SCHEMA,
            host_id: HostId::random(),
            version: TrustVersion {
                plane: Uuid::from_u128(7),
                serial,
                revision: 0,
            },
            issued_at: Timestamp::UNIX_EPOCH,
            keys: keys.iter().map(|k| (*k).clone()).collect(),
            authorities: authorities.concat(),
            machine: None,
            hold: None,
        }
    }

    #[test]
    fn a_second_key_comes_beside_the_first_and_the_first_goes() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let [a, b] = [(); 2].map(|()| SigningKey::generate().expect("key").0.trusted());
        let [x, y] = [(); 2].map(|()| authority());
        let seen = |serial| {
            let status = trust_status(&fs).expect("status");
            assert_eq!(status.version.map(|v| v.serial), Some(serial));
            (status.keys.len(), status.authorities.len())
        };
        apply_trust(&fs, &document(1, &[&a], &[&x])).expect("first");
        assert_eq!(seen(1), (1, 1));
        apply_trust(&fs, &document(2, &[&a, &b], &[&x, &y])).expect("both");
        assert_eq!(seen(2), (2, 2));
        apply_trust(&fs, &document(3, &[&b], &[&y])).expect("second");
        assert_eq!(seen(3), (1, 1));
        assert_eq!(
            trust_status(&fs).expect("status").keys,
            std::slice::from_ref(&b.id)
        );
        // What is no certificate changes nothing.
        apply_trust(&fs, &document(4, &[&a], &["nonsense"])).expect_err("refused");
        assert_eq!(trust_status(&fs).expect("status").keys, [b.id]);
        assert_eq!(seen(3), (1, 1));
    }

    /// New anchors in place of the old ones, broken at every point: see [`crate::seam::walk`].
    #[cfg(feature = "fault")]
    mod walk {
        use std::collections::BTreeMap;

        use super::*;
        use crate::host::ours::paths::WRITTEN_BY_ROOT;
        use crate::host::temps;
        use crate::seam::walk::{Scenario, files, walk};

        struct NextAnchors {
            keys: [TrustedKey; 2],
            authorities: [String; 2],
        }

        impl NextAnchors {
            fn document(&self, which: usize) -> TrustDocument {
                let serial = u64::try_from(which).expect("small") + 1;
                document(serial, &[&self.keys[which]], &[&self.authorities[which]])
            }
        }

        impl Scenario for NextAnchors {
            const NAME: &'static str = "trust anchors";
            type World = (tempfile::TempDir, HostFs);

            async fn begin(&self) -> Self::World {
                let dir = tempfile::tempdir().expect("tempdir");
                let fs = HostFs::new(dir.path());
                apply_trust(&fs, &self.document(0)).expect("the first");
                (dir, fs)
            }

            async fn life(&self, (_, fs): &mut Self::World, starts: bool) -> bool {
                if starts {
                    temps::collect(fs, WRITTEN_BY_ROOT);
                }
                let status = trust_status(fs).expect("status");
                // Whichever signer the plane has, it can send the document again.
                assert!(!status.keys.is_empty() && !status.authorities.is_empty());
                if status.version.is_some_and(|v| v.serial == 2) {
                    assert_eq!(status.keys, [self.keys[1].id.clone()]);
                }
                apply_trust(fs, &self.document(1)).is_ok()
            }

            async fn end(&self, (_, fs): &mut Self::World) -> BTreeMap<String, String> {
                temps::collect(fs, WRITTEN_BY_ROOT);
                files(fs, |_| false)
            }
        }

        #[tokio::test]
        async fn anchors_broken_anywhere_are_the_next_ones_and_never_none() {
            let anchors = NextAnchors {
                keys: [(); 2].map(|()| SigningKey::generate().expect("key").0.trusted()),
                authorities: [(); 2].map(|()| authority()),
            };
            walk(&anchors, 60).await;
        }
    }
}
