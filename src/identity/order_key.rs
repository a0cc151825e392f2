//! The key that root of this host orders with.
//!
//! Made by `pf9ctl node prep`, before it enrols; read by `pf9ctl` and nodelet, both root. Directory
//! and file are root's alone, so neither comms nor hostagent can have it: what they carry to the
//! plane is signed, or it is not an order. It belongs to a host id and is kept for as long as the
//! host has that, because the plane pinned it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::store::IdentityError;
use crate::host::fs::{Attrs, Found, FsError, HostFs, fail};
use crate::model::{DocumentKind, Fault, FaultCode, HostId, Secret, SigningKey, TrustedKey, paths};
use crate::seam::disk;
use crate::telemetry::chain;

/// The file is under 300 bytes.
const FILE_MAX: u64 = 4096;
/// Version of the file.
const SCHEMA: u32 = 1;

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    schema: u32,
    host_id: HostId,
    /// PKCS#8, base64.
    #[serde(serialize_with = "expose")]
    key: Secret<String>,
}

/// The key of a host, with what it may sign.
pub struct OrderKey(SigningKey);

/// How [`ensure`] came by the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Had {
    /// It was there.
    Kept,
    /// There was none.
    Made,
    /// There was one that cannot be used, or is another host id's.
    Replaced,
}

/// Reads the key of this host.
pub fn load(fs: &HostFs, host: HostId) -> Result<OrderKey, IdentityError> {
    let bad = |why: String| IdentityError::Damaged {
        path: paths::ORDER_KEY.to_owned(),
        why,
    };
    let mode = match fs.found(paths::ORDER_KEY)? {
        Found::Nothing => return Err(IdentityError::Incomplete(paths::ORDER_KEY)),
        Found::File { mode, .. } => mode,
        Found::Dir { .. } | Found::Link(_) | Found::Other => {
            return Err(bad("it is not a file".to_owned()));
        }
    };
    // Any reader of it could have signed orders.
    if mode & 0o077 != 0 {
        return Err(bad(format!("others than root may read it (mode {mode:o})")));
    }
    let bytes = fs.read(paths::ORDER_KEY, FILE_MAX)?.unwrap_or_default();
    let stored: Stored = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    if stored.schema != SCHEMA {
        return Err(bad(format!("schema {} is not {SCHEMA}", stored.schema)));
    }
    if stored.host_id != host {
        return Err(bad(format!("it is host {}'s", stored.host_id)));
    }
    let doc = BASE64
        .decode(stored.key.expose())
        .map_err(|_| bad("the key is not base64".to_owned()))?;
    let key = SigningKey::from_pkcs8(&doc).map_err(|fault| bad(fault.why))?;
    Ok(OrderKey(key))
}

/// Why this host cannot order certificates; `None`: it can. For root, who alone may read the key.
pub fn fault(fs: &HostFs, host: HostId) -> Option<Fault> {
    let e = load(fs, host).err()?;
    let what = "this host cannot order certificates: none is renewed or issued";
    let fault = Fault::new(FaultCode::OrderKeyUnusable, what, chain(&e));
    Some(fault.fix(match e {
        IdentityError::Fs(_) => "check the disk and the named path".to_owned(),
        IdentityError::Incomplete(_) | IdentityError::Damaged { .. } | IdentityError::Tls(_) => {
            remedy(host)
        }
    }))
}

/// What helps where the key cannot be used: the plane pinned it, so another one wants its leave.
pub fn remedy(host: HostId) -> String {
    format!(
        "allow another key on the plane (pf9-plane host allow-reenrol {host}), then run pf9ctl \
         node prep --force here with a new token: role and workloads stay"
    )
}

/// The host id that the key on this machine is of, whatever else can be read.
pub fn host_id(fs: &HostFs) -> Option<HostId> {
    named_by(fs, paths::ORDER_KEY)
}

/// The same of the key that [`ensure`] replaced.
pub fn replaced_host_id(fs: &HostFs) -> Option<HostId> {
    named_by(fs, paths::ORDER_KEY_REPLACED)
}

fn named_by(fs: &HostFs, path: &str) -> Option<HostId> {
    let bytes = fs.read(path, FILE_MAX).ok().flatten()?;
    let stored: Stored = serde_json::from_slice(&bytes).ok()?;
    Some(stored.host_id)
}

/// Puts the key back that [`ensure`] replaced, if it did.
pub fn put_back(fs: &HostFs) -> Result<(), FsError> {
    let (from, to) = (fs.at(paths::ORDER_KEY_REPLACED), fs.at(paths::ORDER_KEY));
    match disk::rename(&from, &to) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(fail("put back", &to, source))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The key that [`ensure`] made stays.
pub fn settle(fs: &HostFs) -> Result<(), FsError> {
    fs.remove_file(paths::ORDER_KEY_REPLACED)
}

/// The key of this host; made where there is none that can be used. One that is replaced is kept
/// beside it until [`settle`]: the plane knows that one, and may not take another.
pub fn ensure(fs: &HostFs, host: HostId) -> Result<(OrderKey, Had), Fault> {
    let what = "cannot generate the order key of this host";
    let had = match load(fs, host) {
        Ok(key) => return Ok((key, Had::Kept)),
        Err(e @ IdentityError::Fs(_)) => return Err(e.fault(what)),
        Err(IdentityError::Incomplete(_)) => Had::Made,
        Err(IdentityError::Damaged { .. } | IdentityError::Tls(_)) => Had::Replaced,
    };
    let (key, doc) = SigningKey::generate()?;
    let stored = Stored {
        schema: SCHEMA,
        host_id: host,
        key: Secret::new(BASE64.encode(doc)),
    };
    let bytes = serde_json::to_vec(&stored)
        .map_err(|e| Fault::new(FaultCode::IdentityKey, what, e.to_string()))?;
    let write = || {
        fs.make_dir(paths::ROOT_DIR, &Attrs::mode(0o700))?;
        if had == Had::Replaced {
            keep(fs)?;
        }
        fs.write(paths::ORDER_KEY, &bytes, &Attrs::mode(0o600))
    };
    write().map_err(|e| IdentityError::from(e).fault(what))?;
    Ok((OrderKey(key), had))
}

/// The key that is there, under its second name. One that is kept already is the one the plane knows.
fn keep(fs: &HostFs) -> Result<(), FsError> {
    let (from, to) = (fs.at(paths::ORDER_KEY), fs.at(paths::ORDER_KEY_REPLACED));
    match disk::hard_link(&from, &to) {
        Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(fail("keep the old", &to, source))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

// === impl OrderKey ===

impl OrderKey {
    /// The public half, as the plane pins it.
    pub fn public(&self) -> TrustedKey {
        self.0.trusted()
    }

    /// Signs a document; the caller has composed it field by field.
    pub fn sign<T: Serialize>(
        &self,
        kind: DocumentKind,
        document: &T,
    ) -> Result<crate::model::Envelope, Fault> {
        let bytes = serde_json::to_vec(document)
            .map_err(|e| Fault::new(FaultCode::Order, "cannot sign an order", e.to_string()))?;
        Ok(self.0.sign(kind, &bytes))
    }
}

fn expose<S: serde::Serializer>(secret: &Secret<String>, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(secret.expose())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TrustStore;

    fn host() -> (tempfile::TempDir, HostFs, HostId) {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        (dir, fs, HostId::random())
    }

    #[test]
    fn only_its_owner_can_read_it_and_it_stays_the_same() {
        let (_dir, fs, id) = host();
        let (made, had) = ensure(&fs, id).expect("made");
        assert_eq!(had, Had::Made);
        let found = fs.found(paths::ORDER_KEY).expect("found");
        assert!(
            matches!(found, Found::File { mode: 0o600, uid, .. }
                if uid == nix::unistd::geteuid().as_raw()),
            "{found:?}"
        );
        let found = fs.found(paths::ROOT_DIR).expect("found");
        assert!(matches!(found, Found::Dir { mode: 0o700, .. }), "{found:?}");
        let (again, had) = ensure(&fs, id).expect("there");
        assert_eq!((again.public(), had), (made.public(), Had::Kept));
        let signed = load(&fs, id)
            .expect("load")
            .sign(DocumentKind::Order, &[1, 2])
            .expect("sign");
        let trust = TrustStore::new([made.public()]).expect("trust");
        let read: Vec<u8> = signed.open(DocumentKind::Order, &trust).expect("open");
        assert_eq!(read, [1, 2]);
    }

    #[test]
    fn one_that_others_could_read_or_of_another_host_is_not_used() {
        let (_dir, fs, id) = host();
        assert!(matches!(load(&fs, id), Err(IdentityError::Incomplete(_))));
        let (first, _) = ensure(&fs, id).expect("made");
        let bytes = fs.read(paths::ORDER_KEY, FILE_MAX).expect("read");
        let bytes = bytes.expect("there");
        let why = |host| match load(&fs, host) {
            Err(e) => e.fault("x").why,
            Ok(_) => "used".to_owned(),
        };
        for mode in [0o640, 0o604, 0o644] {
            fs.write(paths::ORDER_KEY, &bytes, &Attrs::mode(mode))
                .expect("write");
            assert!(
                why(id).contains("others than root"),
                "{mode:o}: {}",
                why(id)
            );
        }
        fs.write(paths::ORDER_KEY, &bytes, &Attrs::mode(0o600))
            .expect("write");
        assert_eq!(why(id), "used");
        assert!(why(HostId::random()).contains(&id.to_string()));
        fs.write(paths::ORDER_KEY, &bytes[..20], &Attrs::mode(0o600))
            .expect("write");
        assert!(why(id).contains("cannot be used"), "{}", why(id));
        let said = fault(&fs, id).expect("said");
        assert_eq!(said.code, FaultCode::OrderKeyUnusable);
        let next = format!("pf9-plane host allow-reenrol {id}");
        assert!(said.fix.contains(&next), "{said}");
        let (second, had) = ensure(&fs, id).expect("made anew");
        assert_eq!(had, Had::Replaced);
        assert_ne!(second.public(), first.public());
        assert_eq!(why(id), "used");
        assert_eq!(fault(&fs, id), None);
    }
}
