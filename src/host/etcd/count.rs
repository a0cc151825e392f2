//! How many keys a member has, and at which revision.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::{Etcd, EtcdError};
use crate::host::tls;

/// What a member has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Its newest revision.
    pub revision: u64,
    /// Keys that are there, at the revision that was asked for.
    pub keys: u64,
}

#[derive(Deserialize)]
struct Counted {
    header: Header,
    /// Left out where it is 0.
    #[serde(default)]
    count: String,
}

#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    revision: String,
}

impl Etcd {
    /// A client for a member that listens on a socket of this machine, without certificates.
    pub fn at_socket(socket: &Path) -> Result<Self, EtcdError> {
        Ok(Self {
            base: "http://localhost".to_owned(),
            client: tls::at_socket(socket)?,
            // No snapshot is asked of it.
            http2: Arc::new(tls::believing_nobody()?),
        })
    }

    /// Counts its keys, without reading them, now or at a revision of its history. One that was compacted
    /// is refused.
    pub async fn keys(&self, revision: Option<u64>) -> Result<Keys, EtcdError> {
        let path = "/v3/kv/range";
        // From the first key on to the last, both written as one byte of zero.
        let mut question = json!({"key": "AA==", "range_end": "AA==", "count_only": true});
        if let Some(revision) = revision {
            question["revision"] = revision.into();
        }
        let bytes = match self.post(path, &question).await? {
            Ok(bytes) => bytes,
            Err(refusal) => return Err(self.refused(path, refusal.words())),
        };
        let said: Counted = self.read(path, &bytes)?;
        let number = |text: &str| text.parse().unwrap_or(0);
        Ok(Keys {
            revision: number(&said.header.revision),
            keys: number(&said.count),
        })
    }
}
