//! How a master opens a backup with the plane's help, without the plane's key ever leaving it: the
//! node sends what stands in the backup's head, the plane unwraps the key of that one file, and seals
//! it for a key that root of the node made for this one answer.

use serde::{Deserialize, Serialize};

use super::signed::SIGNED_MANIFEST_MAX;
use crate::model::{ClusterId, Envelope, HostId, Nonce};

/// Most stanzas of one head: two recipients, and what `age` puts beside them.
pub const STANZAS_MAX: usize = 8;
/// Longest text of a stanza, its body in base64.
pub const STANZA_TEXT_MAX: usize = 512;

/// The order, signed by root of the host as [`DocumentKind::Unwrap`](crate::model::DocumentKind).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnwrapOrder {
    /// [`ORDER_SCHEMA`](crate::model::ORDER_SCHEMA).
    pub schema: u32,
    /// The host that orders; refused unless it is a master of the cluster.
    pub host_id: HostId,
    /// Whose backup it is.
    pub cluster_id: ClusterId,
    /// What it answers.
    pub nonce: Nonce,
    /// What stands beside it, as a master signed it: nothing else is opened.
    pub manifest: Envelope,
    /// What stands in its head.
    pub stanzas: Vec<WrappedKey>,
    /// The recipient of the sealed answer: a key that root made for it (`age1…`).
    pub recipient: String,
}

/// One stanza of an `age` file's header: the file's key, wrapped for one recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    /// Its kind, `X25519`.
    pub tag: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// The wrapped key, base64.
    pub body: String,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnwrapAnswer {
    /// The file's key, sealed for the order's recipient: an `age` file, base64.
    pub sealed: String,
}

impl UnwrapOrder {
    /// Why it cannot be, as far as its form says.
    pub fn fault(&self) -> Option<String> {
        let long = |text: &String| text.len() > STANZA_TEXT_MAX;
        let stanzas = &self.stanzas;
        let wild = stanzas.iter().any(|s| {
            long(&s.tag) || long(&s.body) || s.args.len() > STANZAS_MAX || s.args.iter().any(long)
        });
        if stanzas.is_empty() || stanzas.len() > STANZAS_MAX || wild {
            return Some(format!("its stanzas are not 1 to {STANZAS_MAX} short ones"));
        }
        if self.manifest.payload.len() > SIGNED_MANIFEST_MAX {
            return Some(format!(
                "its manifest has more than {SIGNED_MANIFEST_MAX} bytes"
            ));
        }
        super::backup::recipient_fault(&self.recipient).map(|why| format!("its recipient {why}"))
    }
}
