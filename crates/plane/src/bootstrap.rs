//! The start of the plane, first or later: its identity and its administrator.
//!
//! The identity (authorities, signing keys: `keys`) is one row of the store, so it exists as a whole or not at all.
//! What people need of it is written beside the store: at every start `ca.pem`, at the first one `admin-password`
//! (0600).

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::ca::CaError;
use super::keys::{IDENTITY, IDENTITY_ROW, Identity, Ring};
use super::people::{self, ProjectId};
use super::records;
use super::secrets::{self, NoRandomness, PasswordHash};
use super::stacks;
use super::store::{self, EtcdPlace, Read, Remote, Store, StoreError};
use pf9_hostagent::host::fs::{Attrs, FsError, HostFs};
use pf9_hostagent::host::work::long;
use pf9_hostagent::model::Fault;

/// Name of the administrator.
pub(super) const ADMIN: &str = "admin@pf9.local";
/// Name of the default project.
pub(super) const PROJECT: &str = "service";
/// Key of the administrator's row.
pub(super) const ADMIN_ROW: &str = "admin";
/// The administrator's password until it is changed, below the state directory.
pub(super) const ADMIN_PASSWORD: &str = "/admin-password";

pub(super) const STORE_FILE: &str = "plane.redb";
/// Local copy for reads while the rows are in etcd; rebuilt at every start.
const COPY_FILE: &str = "plane-copy.redb";
/// Result of a start.
pub(super) struct Started {
    pub(super) store: Store,
    pub(super) ring: Ring,
    /// True when this start made the identity.
    pub(super) first: bool,
}

/// Why the plane cannot start.
#[derive(Debug, thiserror::Error)]
pub(super) enum BootError {
    #[error("cannot prepare the state directory")]
    Files(#[from] FsError),
    #[error("cannot use the store")]
    Store(#[from] StoreError),
    #[error("cannot use the certificate authority")]
    Ca(#[from] CaError),
    #[error("cannot make secrets")]
    Random(#[from] NoRandomness),
    #[error("cannot use the signing key")]
    Signing(#[from] Fault),
}

impl BootError {
    /// What to do, if known.
    pub(super) fn fix(&self) -> Option<String> {
        match self {
            Self::Store(e) => e.fix(),
            Self::Files(_) | Self::Ca(_) | Self::Random(_) | Self::Signing(_) => None,
        }
    }
}

/// Replaces the store with the copy made before its newest schema; returns where the newer one is moved to.
pub(super) fn put_back(dir: &Path) -> Result<PathBuf, StoreError> {
    Store::put_back(&dir.join(STORE_FILE))
}

/// Copies the embedded store's rows to etcd; returns how many, and where the embedded store is moved to.
pub(super) async fn to_etcd(dir: &Path, place: &EtcdPlace) -> Result<(usize, PathBuf), StoreError> {
    let file = dir.join(STORE_FILE);
    with_seat(place, move |remote| store::to_etcd(&file, remote)).await
}

/// The other way; returns how many.
pub(super) async fn to_embedded(dir: &Path, place: &EtcdPlace) -> Result<usize, StoreError> {
    let file = dir.join(STORE_FILE);
    with_seat(place, move |remote| store::to_embedded(remote, &file)).await
}

/// Runs it while no plane holds the store; does not wait for one that does.
async fn with_seat<T: Send + 'static>(
    place: &EtcdPlace,
    work: impl FnOnce(&Remote) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let (busy, mut told) = tokio::sync::mpsc::channel(1);
    let waits = move |holder: &store::Holder| {
        // One message is enough.
        drop(busy.try_send(holder.at.clone()));
    };
    let remote = tokio::select! {
        // cancel-safe: a seat that was taken just then is free when its lease ends
        taken = Remote::take(place, "pf9-plane store copy", None, waits) => taken?,
        Some(at) = told.recv() => {
            return Err(StoreError::Place(format!("the plane at {at} has the store: stop it first")));
        }
    };
    let done = long(move || {
        let done = work(&remote);
        (done, remote)
    });
    let (done, remote) = done.await.map_err(|_| StoreError::Stopped)?;
    remote.leave().await;
    done
}

/// Opens the state directory, creating what is missing.
pub(super) fn start(dir: &Path, now: Timestamp) -> Result<Started, BootError> {
    start_with(dir, None, now)
}

/// The same with the rows in etcd, if configured. Blocks until all of them are read.
pub(super) fn start_with(
    dir: &Path,
    remote: Option<Remote>,
    now: Timestamp,
) -> Result<Started, BootError> {
    let files = HostFs::new(dir);
    files.make_dir("/", &Attrs::mode(0o700))?;
    files.make_dir("/stacks", &Attrs::mode(0o700))?;
    files.make_dir("/agents", &Attrs::mode(0o700))?;
    stacks::deltas::sweep(&files);
    let mut tables = records::tables();
    tables.insert("identity");
    let embedded = dir.join(STORE_FILE);
    let store = match remote {
        None => Store::open(&embedded, &tables)?,
        Some(remote) => Store::open_remote(remote, &dir.join(COPY_FILE), &embedded, &tables)?,
    };
    let found = store.read()?.get(&IDENTITY, IDENTITY_ROW)?;
    let first = found.is_none();
    let identity = match found {
        Some(identity) => identity,
        None => make(&files, &store, now)?,
    };
    let ring = Ring::load(identity)?;
    write_bundle(&files, &ring)?;
    Ok(Started { store, ring, first })
}

/// The certificates of the plane's authorities, for people.
pub(super) fn write_bundle(files: &HostFs, ring: &Ring) -> Result<(), FsError> {
    files.write("/ca.pem", ring.bundle().as_bytes(), &Attrs::mode(0o644))
}

fn make(files: &HostFs, store: &Store, now: Timestamp) -> Result<Identity, BootError> {
    let identity = Identity::make(now)?;
    let password = secrets::fresh()?;
    let hash = PasswordHash::of(password.expose())?;
    // The file first: there must be no administrator whose password nobody knows.
    let text = format!("{}\n", password.expose());
    files.write(ADMIN_PASSWORD, text.as_bytes(), &Attrs::mode(0o600))?;
    store.write(|write| {
        people::make::first(write, ProjectId::fresh(), hash, now)?;
        write.put(&IDENTITY, IDENTITY_ROW, &identity)
    })?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_finds_the_same_identity() {
        let dir = tempfile::tempdir().expect("tempdir");
        let now = Timestamp::from_second(1_800_000_000).expect("time");
        let a = start(dir.path(), now).expect("first");
        let before = (a.ring.bundle(), a.ring.trusted());
        assert!(a.first);
        let password = std::fs::read_to_string(dir.path().join("admin-password")).expect("file");
        drop(a);
        let b = start(dir.path(), now).expect("second");
        assert!(!b.first);
        assert_eq!((b.ring.bundle(), b.ring.trusted()), before);
        let user = b
            .store
            .read()
            .expect("read")
            .get(&people::USERS, ADMIN_ROW)
            .expect("get");
        let kept = user.expect("admin").password.expect("a password");
        assert!(kept.matches(password.trim()));
    }
}
