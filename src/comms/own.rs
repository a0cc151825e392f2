//! What this machine brings to a handshake, and takes from it: the authorities that it trusts
//! as they are on the disk, what it is, and its tickets.

use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::tickets::Tickets;
use crate::host::fs::HostFs;
use crate::identity::{self, TlsPolicy, TunnelIdentity};
use crate::model::HostId;
use crate::mux;
use crate::telemetry::chain;

/// A boot id is a UUID.
const BOOT_ID_MAX: u64 = 128;

/// See the module.
pub(super) struct Own {
    fs: HostFs,
    policy: TlsPolicy,
    host: HostId,
    tickets: Tickets,
    /// What was made last because the authorities on the disk had changed.
    now: Mutex<Option<TunnelIdentity>>,
}

impl Own {
    pub(super) fn new(fs: HostFs, policy: TlsPolicy, host: HostId) -> Self {
        Self {
            tickets: Tickets::load(fs.clone()),
            fs,
            policy,
            host,
            now: Mutex::new(None),
        }
    }

    /// The same holder, trusting the plane's present authorities: when they were replaced the next
    /// connection goes by the new ones, and those that run are not touched. Dials are rare, so
    /// looking at the file each time needs nobody who tells. The pair is not looked for there: who
    /// renews it says when it is to be shown.
    pub(super) fn believing_now(&self, holder: &TunnelIdentity) -> TunnelIdentity {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let made = now
            .as_ref()
            .filter(|made| made.certificate == holder.certificate)
            .unwrap_or(holder);
        match identity::believing_anew(&self.fs, &self.policy, made) {
            Ok(None) => made.clone(),
            Ok(Some(anew)) => {
                tracing::info!("the plane's authorities changed: read again");
                *now = Some(anew.clone());
                anew
            }
            // They are being replaced; the next dial reads them whole.
            Err(e) => {
                tracing::warn!(
                    why = chain(&e),
                    "the plane's authorities cannot be used yet"
                );
                made.clone()
            }
        }
    }

    /// Headers of a handshake with `endpoint`.
    pub(super) fn headers(&self, endpoint: &str) -> HeaderMap {
        let mut headers = self.tickets.headers(endpoint);
        let marks = identity::this_machine(&self.fs, self.host);
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
