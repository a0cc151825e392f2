//! Calls to the plane, through the socket comms serves.
//!
//! The link's state is logged when it changes and never else: a plane that is away for a weekend
//! costs two lines.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::local::{Client, LocalError, Method};
use crate::model::{Fault, FaultCode};

/// Longest an ordinary call may take: a slow link and a busy plane fit.
pub(super) const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// The plane. Cheap to clone.
#[derive(Clone)]
pub(super) struct Plane {
    client: Client,
    link: Arc<watch::Sender<Link>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Unknown,
    Up,
    Away,
}

impl Plane {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            link: Arc::new(watch::Sender::new(Link::Unknown)),
        }
    }

    /// `GET`, perhaps long-polling; `None` for 204.
    pub(super) async fn poll<T: DeserializeOwned>(
        &self,
        path: &str,
        deadline: Duration,
    ) -> Result<Option<T>, LocalError> {
        self.note(self.client.poll(path, deadline).await)
    }

    /// `POST` of a document.
    pub(super) async fn post<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<Option<T>, LocalError> {
        let call = self.client.send(Method::POST, path, body, CALL_DEADLINE);
        self.note(call.await)
    }

    /// A large body from byte `from` on.
    pub(super) async fn stream(
        &self,
        path: &str,
        from: Option<u64>,
    ) -> Result<reqwest::Response, LocalError> {
        self.note(self.client.stream(path, from, CALL_DEADLINE).await)
    }

    /// It answered the last call.
    pub(super) fn answers(&self) -> bool {
        *self.link.borrow() == Link::Up
    }

    /// Waits until it does not answer. At the start it does not.
    pub(super) async fn until_away(&self) {
        let mut link = self.link.subscribe();
        // The sender is in this: it cannot be gone.
        drop(link.wait_for(|l| *l != Link::Up).await);
    }

    /// Waits for the next try; less when the plane comes back in between.
    pub(super) async fn pause(&self, wait: Duration) {
        let mut link = self.link.subscribe();
        let away = *link.borrow_and_update() == Link::Away;
        let back = async {
            if !away || link.wait_for(|l| *l == Link::Up).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            // cancel-safe: both are
            () = tokio::time::sleep(wait) => {}
            () = back => {}
        }
    }

    fn note<T>(&self, result: Result<T, LocalError>) -> Result<T, LocalError> {
        let now = match &result {
            Err(LocalError::Unreachable { .. } | LocalError::Timeout { .. }) => Link::Away,
            Ok(_) | Err(LocalError::Refused { .. } | LocalError::Malformed { .. }) => Link::Up,
        };
        let changed = self.link.send_if_modified(|link| {
            let changed = *link != now;
            *link = now;
            changed
        });
        match &result {
            Err(error) if changed && now == Link::Away => {
                let why = crate::telemetry::chain(error);
                tracing::warn!(%why, "plane is unreachable; the last accepted spec stays in force");
            }
            Ok(_) | Err(_) if changed => tracing::info!("plane is reachable again"),
            Ok(_) | Err(_) => {}
        }
        result
    }
}

/// A failed call to the plane as a fault about `what`.
pub(super) fn fault(error: &LocalError, what: &str) -> Fault {
    match error {
        LocalError::Unreachable { .. } | LocalError::Timeout { .. } => {
            Fault::new(FaultCode::PlaneAway, what, "the plane does not answer")
                .fix("nothing is lost; it continues automatically when the tunnel is up again")
        }
        LocalError::Refused { .. } | LocalError::Malformed { .. } => error.fault(what),
    }
}
