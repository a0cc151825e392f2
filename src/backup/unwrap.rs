//! Opening a backup with the plane's key, which is on no node: what stands in the backup's head goes to
//! the plane, and the key of that one file comes back, sealed for a key that is made here for it.
//!
//! ```text
//! Asking::of(file) ─► UnwrapOrder (signed by root; the carrier does not matter) ─► plane
//! Unwrapped ◄─ Asking::opened ◄─ UnwrapAnswer ◄───────────────────────────┘
//! ```

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use age::secrecy::ExposeSecret;
use age::x25519::Identity;
use age::{DecryptError, Decryptor};
use age_core::format::{FILE_KEY_BYTES, FileKey, Stanza};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::seal::ANOTHER;
use crate::model::{
    BelievedManifest, Fault, FaultCode, HostId, Nonce, ORDER_SCHEMA, UnwrapAnswer, UnwrapOrder,
    WrappedKey,
};

const WHAT: &str = "the plane did not open the backup";

/// A question to the plane about one backup.
pub struct Asking {
    own: Identity,
    stanzas: Vec<WrappedKey>,
}

/// The key of one backup. It opens that one, as any identity of `age` would.
pub struct Unwrapped(FileKey);

/// Sees the head of a file and opens nothing.
#[derive(Default)]
struct Looks(RefCell<Vec<WrappedKey>>);

impl Asking {
    /// About this sealed file.
    pub fn of(sealed: &Path) -> Result<Self, Fault> {
        let broken = |why: String| {
            let what = format!("cannot open {}", sealed.display());
            Fault::new(FaultCode::BackupBroken, what, why).fix(ANOTHER)
        };
        let file = File::open(sealed).map_err(|e| broken(e.to_string()))?;
        let head = Decryptor::new_buffered(BufReader::new(file));
        let head = head.map_err(|e| broken(e.to_string()))?;
        let looks = Looks::default();
        let only = std::iter::once(&looks as &dyn age::Identity);
        // It never opens: all that is wanted is what it was shown.
        drop(head.decrypt(only));
        Ok(Self {
            own: Identity::generate(),
            stanzas: looks.0.into_inner(),
        })
    }

    /// The order that root signs.
    pub fn order(&self, host_id: HostId, backup: &BelievedManifest, nonce: Nonce) -> UnwrapOrder {
        UnwrapOrder {
            schema: ORDER_SCHEMA,
            host_id,
            cluster_id: backup.manifest().cluster_id,
            nonce,
            manifest: backup.envelope().clone(),
            stanzas: self.stanzas.clone(),
            recipient: self.own.to_public().to_string(),
        }
    }

    /// What the plane answered.
    pub fn opened(&self, answer: &UnwrapAnswer) -> Result<Unwrapped, Fault> {
        let garbage = |why: String| Fault::new(FaultCode::PlaneGarbage, WHAT, why);
        let sealed = BASE64.decode(&answer.sealed);
        let sealed = sealed.map_err(|e| garbage(e.to_string()))?;
        let only = std::iter::once(&self.own as &dyn age::Identity);
        let opened = Decryptor::new_buffered(sealed.as_slice()).and_then(|d| d.decrypt(only));
        let mut opened = opened.map_err(|e| garbage(e.to_string()))?;
        let key = FileKey::try_init_with_mut(|key| opened.read_exact(key));
        key.map(Unwrapped).map_err(|e| garbage(e.to_string()))
    }
}

impl age::Identity for Looks {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        self.0.borrow_mut().push(WrappedKey {
            tag: stanza.tag.clone(),
            args: stanza.args.clone(),
            body: BASE64.encode(&stanza.body),
        });
        None
    }
}

impl age::Identity for Unwrapped {
    fn unwrap_stanza(&self, _: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        // The head's own checksum tells whether it is the key of this file.
        let mut copy = [0; FILE_KEY_BYTES];
        copy.copy_from_slice(self.0.expose_secret());
        Some(Ok(FileKey::init_with_mut(|key| *key = copy)))
    }
}
