//! One thing that root says to the plane: a number from there, root's signature from nodelet. This
//! process only carries them; it can sign nothing and change nothing.

use std::time::Duration;

use super::Agent;
use super::plane;
use crate::local::Method;
use crate::model::{Envelope, Fault, FaultCode, FreshNonce};

/// nodelet reads a dozen files and signs.
const DEADLINE: Duration = Duration::from_secs(30);

/// What nodelet says at `path`, signed and good once.
pub(super) async fn signed(agent: &Agent, path: &str, what: &str) -> Result<Envelope, Fault> {
    let empty = |who: &str| {
        let why = format!("the answer of {who} is empty");
        Fault::new(FaultCode::PlaneGarbage, what, why)
    };
    let nonce = agent
        .plane
        .post::<_, FreshNonce>("/v1/hosts/self/nonce", &serde_json::json!({}))
        .await
        .map_err(|e| plane::fault(&e, what))?
        .ok_or_else(|| empty("the plane"))?;
    agent
        .nodelet
        .send::<_, Envelope>(Method::POST, path, &nonce, DEADLINE)
        .await
        .map_err(|e| e.fault(what))?
        .ok_or_else(|| empty("nodelet"))
}
