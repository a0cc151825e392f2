//! A backup is opened with the plane's help: root of this host signs the order, and the plane's socket
//! carries it. Nothing is kept of the answer.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::backup::unwrap::{Asking, Unwrapped};
use crate::host::fs::HostFs;
use crate::identity::{self, order_key};
use crate::local::{Client, Method};
use crate::model::{
    BackupManifest, DocumentKind, Envelope, Fault, FaultCode, FreshNonce, UnwrapAnswer, paths,
};

/// The plane answers from its store; the tunnel may be slow.
const ASK: Duration = Duration::from_secs(30);
const WHAT: &str = "the plane did not open the backup";

/// The key of one backup, by the plane.
pub async fn by_the_plane(
    fs: &HostFs,
    sealed: &Path,
    manifest: &BackupManifest,
) -> Result<Unwrapped, Fault> {
    let host_id = identity::host_id(fs).map_err(|e| e.fault(WHAT))?;
    let host_id = host_id.ok_or_else(|| {
        Fault::new(
            FaultCode::NotEnrolled,
            WHAT,
            "this machine is no host of a plane",
        )
    })?;
    let asking = Asking::of(sealed)?;
    let key =
        order_key::load(fs, host_id).map_err(|e| e.fault(WHAT).fix(order_key::remedy(host_id)))?;
    let client = Client::unix(fs.at(paths::PLANE_SOCKET)).map_err(|e| e.fault(WHAT))?;
    let nonce: FreshNonce = said(client.send(Method::POST, NONCE, &json!({}), ASK).await)?;
    let order = asking.order(host_id, manifest.cluster_id, &manifest.name, nonce.nonce);
    let envelope: Envelope = key.sign(DocumentKind::Unwrap, &order)?;
    let answer: UnwrapAnswer = said(client.send(Method::POST, UNWRAP, &envelope, ASK).await)?;
    asking.opened(&answer)
}

const NONCE: &str = "/v1/hosts/self/nonce";
const UNWRAP: &str = "/v1/hosts/self/unwrap";

fn said<T>(answer: Result<Option<T>, crate::local::LocalError>) -> Result<T, Fault> {
    let empty = || Fault::new(FaultCode::PlaneGarbage, WHAT, "its answer is empty");
    answer.map_err(|e| e.fault(WHAT))?.ok_or_else(empty)
}
