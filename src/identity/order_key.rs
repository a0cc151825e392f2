//! The key that root of this host orders with.
//!
//! Made by `pf9ctl node prep`, before it enrols; read by `pf9ctl` and nodelet, both root. Directory
//! and file are root's alone, so neither comms nor hostagent can have it: what they carry to the
//! plane is signed, or it is not an order. It belongs to a host id and is kept for as long as the
//! host has that, because the plane pinned it.
//!
//! ```text
//! offered/HOST.json   made to enrol as that host. Whether the plane has pinned it is unknown until its answer was read:
//!                     it stays, whatever becomes of the program, and the next try as that host takes the same one
//! order-key.json      the plane has taken it: its answer came. Nothing else is used to order
//! ```

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::store::IdentityError;
use crate::host::fs::{Attrs, Found, FsError, HostFs};
use crate::model::{DocumentKind, Fault, FaultCode, HostId, Secret, SigningKey, TrustedKey, paths};
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

/// How [`offer`] came by the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Had {
    /// It was there, and is the one that this host orders with.
    Kept,
    /// It was there: an enrolment that was interrupted made it.
    Offered,
    /// There was none.
    Made,
    /// There was one that cannot be used, or is another host id's; it stays until the plane has taken the new one.
    Replaced,
}

// === impl Had ===

impl Had {
    /// Nothing had this key before: no plane can know it.
    pub fn is_new(self) -> bool {
        matches!(self, Self::Made | Self::Replaced)
    }
}

/// Reads the key of this host.
pub fn load(fs: &HostFs, host: HostId) -> Result<OrderKey, IdentityError> {
    read(fs, paths::ORDER_KEY, host)
}

fn read(fs: &HostFs, path: &str, host: HostId) -> Result<OrderKey, IdentityError> {
    let bad = |why: String| IdentityError::Damaged {
        path: path.to_owned(),
        why,
    };
    let mode = match fs.found(path)? {
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
    let bytes = fs.read(path, FILE_MAX)?.unwrap_or_default();
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

/// The host id that the key on this machine is of, whatever else can be read; else of the newest that was offered.
pub fn host_id(fs: &HostFs) -> Option<HostId> {
    named_by(fs, paths::ORDER_KEY).or_else(|| {
        let names = fs.list(paths::ORDER_KEYS_OFFERED).ok()?.into_iter();
        let all = names.filter_map(|name| {
            let path = format!("{}/{name}", paths::ORDER_KEYS_OFFERED);
            let made = std::fs::metadata(fs.at(&path)).ok()?.modified().ok()?;
            Some((made, named_by(fs, &path)?))
        });
        all.max().map(|(_, id)| id)
    })
}

fn named_by(fs: &HostFs, path: &str) -> Option<HostId> {
    let bytes = fs.read(path, FILE_MAX).ok().flatten()?;
    let stored: Stored = serde_json::from_slice(&bytes).ok()?;
    Some(stored.host_id)
}

/// Whether this host has a key to enrol with.
pub fn is_there(fs: &HostFs, host: HostId) -> bool {
    load(fs, host).is_ok() || read(fs, &offered(host), host).is_ok()
}

/// The key that this host enrols with; made where there is none that can be used, and then beside the one that is in its
/// place: the plane may know that one, and may not take another.
pub fn offer(fs: &HostFs, host: HostId) -> Result<(OrderKey, Had), Fault> {
    let what = "cannot generate the order key of this host";
    let new = match load(fs, host) {
        Ok(key) => return Ok((key, Had::Kept)),
        Err(e @ IdentityError::Fs(_)) => return Err(e.fault(what)),
        Err(IdentityError::Incomplete(_)) => Had::Made,
        Err(IdentityError::Damaged { .. } | IdentityError::Tls(_)) => Had::Replaced,
    };
    let path = offered(host);
    match read(fs, &path, host) {
        Ok(key) => return Ok((key, Had::Offered)),
        Err(e @ IdentityError::Fs(_)) => return Err(e.fault(what)),
        Err(
            IdentityError::Incomplete(_) | IdentityError::Damaged { .. } | IdentityError::Tls(_),
        ) => {}
    }
    let (key, doc) = SigningKey::generate()?;
    let stored = Stored {
        schema: SCHEMA,
        host_id: host,
        key: Secret::new(BASE64.encode(doc)),
    };
    let bytes = serde_json::to_vec(&stored)
        .map_err(|e| Fault::new(FaultCode::IdentityKey, what, e.to_string()))?;
    let write = || {
        for dir in [paths::ROOT_DIR, paths::ORDER_KEYS_OFFERED] {
            fs.make_dir(dir, &Attrs::mode(0o700))?;
        }
        fs.write(&path, &bytes, &Attrs::mode(0o600))
    };
    write().map_err(|e| IdentityError::from(e).fault(what))?;
    Ok((OrderKey(key), new))
}

/// The plane has taken the key of this host, which [`offer`] came by in this way: from now on it orders with that one.
pub fn accept(fs: &HostFs, host: HostId, had: Had) -> Result<(), FsError> {
    let path = offered(host);
    match had {
        // Another one was offered when the one in its place could not be used.
        Had::Kept => fs.remove_file(&path)?,
        Had::Offered | Had::Made | Had::Replaced => fs.rename(&path, paths::ORDER_KEY)?,
    }
    fs.remove_empty_dir(paths::ORDER_KEYS_OFFERED).map(drop)
}

/// The plane has not taken the key that was made for this host, and never will.
pub fn withdraw(fs: &HostFs, host: HostId) -> Result<(), FsError> {
    fs.remove_file(offered(host))?;
    fs.remove_empty_dir(paths::ORDER_KEYS_OFFERED)?;
    fs.remove_empty_dir(paths::ROOT_DIR).map(drop)
}

/// The key of this host in its place, made where there is none, without a plane that could refuse it.
pub fn ensure(fs: &HostFs, host: HostId) -> Result<(OrderKey, Had), Fault> {
    let made = offer(fs, host)?;
    let what = "cannot put the order key of this host in its place";
    accept(fs, host, made.1).map_err(|e| IdentityError::from(e).fault(what))?;
    Ok(made)
}

fn offered(host: HostId) -> String {
    format!("{}/{host}.json", paths::ORDER_KEYS_OFFERED)
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

    /// Whatever becomes of a run, and whatever host the next one is to be.
    #[test]
    fn a_key_that_was_offered_stays_until_the_plane_says_whose_it_is() {
        let (_dir, fs, a) = host();
        let b = HostId::random();
        let (first, had) = offer(&fs, a).expect("made");
        assert!(had == Had::Made && had.is_new());
        assert!(is_there(&fs, a) && !is_there(&fs, b));
        // Nobody orders with it yet.
        assert!(matches!(load(&fs, a), Err(IdentityError::Incomplete(_))));
        assert_eq!(host_id(&fs), Some(a), "and the next run is the same host");
        let (again, had) = offer(&fs, a).expect("there");
        assert_eq!((again.public(), had), (first.public(), Had::Offered));
        assert!(!had.is_new());
        // Another host, which the plane refuses.
        let (other, had) = offer(&fs, b).expect("made");
        assert_eq!(had, Had::Made);
        assert_ne!(other.public(), first.public());
        withdraw(&fs, b).expect("refused");
        assert_eq!(fs.list(paths::ORDER_KEYS_OFFERED).expect("list").len(), 1);
        // And one that it takes: both have their own.
        let (other, _) = offer(&fs, b).expect("made");
        accept(&fs, b, Had::Made).expect("taken");
        assert_eq!(load(&fs, b).expect("in place").public(), other.public());
        assert_eq!(host_id(&fs), Some(b));
        let (again, had) = offer(&fs, a).expect("there");
        assert_eq!((again.public(), had), (first.public(), Had::Offered));
        accept(&fs, a, had).expect("taken");
        assert_eq!(load(&fs, a).expect("in place").public(), first.public());
        assert_eq!(fs.list(paths::ROOT_DIR).expect("list"), ["order-key.json"]);
        // The one that is in its place is the one that is taken, whatever was offered while it could not be used.
        let key = fs.read(paths::ORDER_KEY, FILE_MAX).expect("read");
        fs.remove_file(paths::ORDER_KEY).expect("lost");
        offer(&fs, a).expect("made");
        fs.write(paths::ORDER_KEY, &key.expect("there"), &Attrs::mode(0o600))
            .expect("found again");
        let (kept, had) = offer(&fs, a).expect("there");
        assert_eq!((kept.public(), had), (first.public(), Had::Kept));
        accept(&fs, a, had).expect("taken");
        assert_eq!(load(&fs, a).expect("in place").public(), first.public());
        assert_eq!(fs.list(paths::ROOT_DIR).expect("list"), ["order-key.json"]);
    }

    /// The one in its place is what the plane knows, as far as anybody can tell.
    #[test]
    fn a_key_that_cannot_be_used_stays_in_its_place_until_another_one_is_taken() {
        let (_dir, fs, id) = host();
        fs.write(paths::ORDER_KEY, b"damaged", &Attrs::mode(0o600))
            .expect("write");
        let (new, had) = offer(&fs, id).expect("made");
        assert!(had == Had::Replaced && had.is_new());
        let there = fs.read(paths::ORDER_KEY, FILE_MAX).expect("read");
        assert_eq!(there.as_deref(), Some(&b"damaged"[..]));
        assert_eq!(host_id(&fs), Some(id), "the damaged one names nobody");
        accept(&fs, id, had).expect("taken");
        assert_eq!(load(&fs, id).expect("in place").public(), new.public());
        let found = fs.found(paths::ORDER_KEY).expect("found");
        assert!(
            matches!(found, Found::File { mode: 0o600, .. }),
            "{found:?}"
        );
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
