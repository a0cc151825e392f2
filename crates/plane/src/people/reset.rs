//! A new password for an administrator who lost theirs: set through the administrator's socket, whose users could read
//! the store anyway.
//!
//! The administrator's tokens, kubeconfigs and credentials end: more than the password may be lost. Other users' are
//! not touched.

use std::sync::Arc;

use super::find;
use super::keep;
use crate::bootstrap::{ADMIN_PASSWORD, ADMIN_ROW};
use crate::logins;
use crate::refusal::{Answer, Refusal};
use crate::secrets::{self, PasswordHash};
use crate::state::{Change, Plane};
use pf9_hostagent::host::fs::Attrs;
use pf9_hostagent::host::work::brief;

/// Sets a new one, and writes it to the file of the first one.
pub(crate) async fn administrator(plane: &Arc<Plane>) -> Answer<()> {
    let shared = Arc::clone(plane);
    // Hashing is slow on purpose, and the file waits for the disk: not on a thread that moves bytes.
    let made = brief(move || -> Answer<PasswordHash> {
        let password = secrets::fresh()?;
        let hash = PasswordHash::of(password.expose())?;
        // The file first: there must be no administrator whose password nobody knows.
        let text = format!("{}\n", password.expose());
        let attrs = Attrs::mode(0o600);
        let written = shared.files.write(ADMIN_PASSWORD, text.as_bytes(), &attrs);
        written.map_err(|e| Refusal::internal("the password was not written", &e))?;
        Ok(hash)
    });
    let hash = made
        .await
        .map_err(|e| Refusal::internal("a password was not made", &e))??;
    plane.change(move |change| give(change, hash)).await?;
    tracing::warn!(
        "the administrator's password was reset on this machine; all of their tokens and credentials were revoked"
    );
    Ok(())
}

/// The row, and the end of every token, kubeconfig and credential of the administrator.
fn give(change: &mut Change<'_>, hash: PasswordHash) -> Answer<()> {
    let mut row = find::user(&**change, ADMIN_ROW)?;
    for credential in keep::credentials_of(&**change, &row.id)? {
        keep::delete_credential(change, &credential)?;
    }
    logins::forget(change, &row.id, |_| true)?;
    row.password = Some(hash);
    row.since = change.now;
    keep::put_user(change, &row)
}
