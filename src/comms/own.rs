//! What this machine brings to a handshake, and takes from it: its identity as it is on the disk,
//! what it is, and its tickets.

use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::tickets::Tickets;
use crate::host::fs::HostFs;
use crate::identity::{self, TlsPolicy, TunnelIdentity};
use crate::model::{Digest, paths};
use crate::mux;
use crate::telemetry::chain;

/// A boot id is a UUID.
const BOOT_ID_MAX: u64 = 128;
/// Largest file of the identity.
const FILE_MAX: u64 = 256 * 1024;

/// See the module.
pub(super) struct Own {
    fs: HostFs,
    policy: TlsPolicy,
    tickets: Tickets,
    now: Mutex<Now>,
}

struct Now {
    identity: TunnelIdentity,
    /// Of the files it was made of.
    of: Option<Digest>,
}

impl Own {
    pub(super) fn new(fs: HostFs, policy: TlsPolicy, identity: TunnelIdentity) -> Self {
        let of = files(&fs);
        Self {
            tickets: Tickets::load(fs.clone()),
            fs,
            policy,
            now: Mutex::new(Now { identity, of }),
        }
    }

    /// The identity of now: when the plane's authorities or the host's certificate were replaced, the
    /// next connection goes by the new ones, and those that run are not touched. Dials are rare, so
    /// looking at the files each time needs nobody who tells.
    pub(super) fn identity(&self) -> TunnelIdentity {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let of = files(&self.fs);
        if of.is_none() || of == now.of {
            return now.identity.clone();
        }
        match identity::load(&self.fs, &self.policy) {
            Ok(Some(identity)) => {
                tracing::info!("identity or the plane's authorities changed: read again");
                *now = Now { identity, of };
            }
            Ok(None) => {}
            // One of them is being replaced; the next dial reads it whole.
            Err(e) => tracing::warn!(why = chain(&e), "the identity on disk cannot be used yet"),
        }
        now.identity.clone()
    }

    /// Headers of a handshake with `endpoint`.
    pub(super) fn headers(&self, endpoint: &str) -> HeaderMap {
        let mut headers = self.tickets.headers(endpoint);
        let host = self.identity().host_id;
        let marks = identity::this_machine(&self.fs, host);
        let mut set = |name, text: &str| {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        if !marks.is_empty()
            && let Ok(json) = serde_json::to_vec(&marks)
        {
            set(mux::MACHINE_HEADER, &BASE64.encode(json));
        }
        let boot = self
            .fs
            .read_text("/proc/sys/kernel/random/boot_id", BOOT_ID_MAX);
        if let Ok(Some(boot)) = boot {
            set(mux::BOOT_HEADER, boot.trim());
        }
        headers
    }

    /// What came back.
    pub(super) async fn heard(&self, endpoint: &str, answer: &HeaderMap) {
        self.tickets.take(endpoint, answer).await;
    }
}

/// The digest of what an identity is made of; `None` when a file cannot be read.
fn files(fs: &HostFs) -> Option<Digest> {
    let mut all = Vec::new();
    for path in [paths::HOST_CERT, paths::HOST_KEY, paths::PLANE_CA] {
        all.extend(fs.read(path, FILE_MAX).ok()??);
        all.push(0);
    }
    Some(Digest::of(&all))
}
