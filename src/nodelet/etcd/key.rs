//! What opens a backup: a file with a private key where one is named, else the plane. One piece of code for
//! `verify`, drills and restores.
//!
//! By the plane: root of this host signs the order, and the plane's socket carries it. Nothing is kept of
//! the answer, which opens that one file.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::backup::seal::{self, KEY_FILE_MAX, Opener};
use crate::backup::unwrap::{Asking, Unwrapped};
use crate::backup::{blocking, private};
use crate::host::fs::HostFs;
use crate::identity::{self, order_key};
use crate::local::{Client, Method};
use crate::model::{
    BelievedManifest, DocumentKind, Envelope, Fault, FaultCode, FreshNonce, Secret, UnwrapAnswer,
    paths,
};
use crate::telemetry::chain;

/// The plane answers from its store; the tunnel may be slow.
const ASK: Duration = Duration::from_secs(30);
const WHAT: &str = "the plane did not open the backup";
const NO_KEY: &str = "the backup is not opened";

/// Which key opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// A file that a person names for this once, with one private key a line. It may be on a stick whose
    /// file system knows no owners.
    Named(&'a str),
    /// A file that stays on the machine: used only where root alone may read it.
    Kept(&'a str),
    /// The plane, for this one file.
    OfThePlane,
}

/// Those who open this backup.
pub async fn openers(
    fs: &HostFs,
    key: Key<'_>,
    sealed: &Path,
    manifest: &BelievedManifest,
) -> Result<Vec<Opener>, Fault> {
    match key {
        Key::Named(file) => seal::keys(&named(fs, file)?),
        Key::Kept(file) => {
            let text = private::text(fs, file, KEY_FILE_MAX).map_err(|why| {
                let fix = format!("chown root {file} && chmod 0600 {file}");
                Fault::new(FaultCode::KeyInvalid, NO_KEY, format!("{file}: {why}")).fix(fix)
            })?;
            seal::keys(&text)
        }
        Key::OfThePlane => {
            let key = by_the_plane(fs, sealed, manifest)
                .await
                .map_err(or_by_hand)?;
            Ok(vec![Box::new(key)])
        }
    }
}

fn named(fs: &HostFs, file: &str) -> Result<Secret<String>, Fault> {
    let refused = |why: String| {
        let fault = Fault::new(FaultCode::KeyInvalid, NO_KEY, why);
        fault.fix("name the file of the recovery key: --recovery-key")
    };
    let text = fs.read_text(file, KEY_FILE_MAX);
    let text = text.map_err(|e| refused(chain(&e)))?;
    text.map(Secret::new)
        .ok_or_else(|| refused(format!("there is no {file}")))
}

/// What helps without the plane stands beside what helps with it.
fn or_by_hand(fault: Fault) -> Fault {
    let by_hand = "or open it with the recovery key: --recovery-key FILE";
    let fix = match fault.fix.as_str() {
        "" => format!("try again when the plane is reachable, {by_hand}"),
        fix => format!("{fix}; {by_hand}"),
    };
    fault.fix(fix)
}

/// The key of one backup, by the plane.
async fn by_the_plane(
    fs: &HostFs,
    sealed: &Path,
    manifest: &BelievedManifest,
) -> Result<Unwrapped, Fault> {
    let host_id = identity::host_id(fs).map_err(|e| e.fault(WHAT))?;
    let host_id = host_id.ok_or_else(|| {
        Fault::new(
            FaultCode::NotEnrolled,
            WHAT,
            "this machine is not enrolled with a plane",
        )
    })?;
    let file = sealed.to_owned();
    let asking = blocking(move || Asking::of(&file)).await?;
    let key =
        order_key::load(fs, host_id).map_err(|e| e.fault(WHAT).fix(order_key::remedy(host_id)))?;
    let client = Client::unix(fs.at(paths::PLANE_SOCKET)).map_err(|e| e.fault(WHAT))?;
    let nonce: FreshNonce = said(client.send(Method::POST, NONCE, &json!({}), ASK).await)?;
    let order = asking.order(host_id, manifest, nonce.nonce);
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
