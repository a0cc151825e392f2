//! What is shown to the plane: a token, or an application credential that gets one.

use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::{ANSWER_MAX, ASK, Plane, WHAT, away, refused, secret_text};
use crate::host::tls;
use crate::model::{Digest, Fault, FaultCode, Secret};

/// What is shown.
pub(in crate::cli) enum Shows {
    Token(Secret<String>),
    Credential { id: String, secret: Secret<String> },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    id: String,
    secret: Secret<String>,
}

/// Reads an application credential; only its owner may read the file.
pub(super) fn credential(path: &Path) -> Result<Shows, String> {
    let text = secret_text(path)?;
    // toml's words repeat the line that is wrong, which may be the secret's.
    let wrong = |_| format!("{}: it is not an id and a secret", path.display());
    let file: File = toml::from_str(text.expose()).map_err(wrong)?;
    Ok(Shows::Credential {
        id: file.id,
        secret: file.secret,
    })
}

impl Shows {
    /// Which one it is, without saying it.
    pub(super) fn mark(&self) -> String {
        match self {
            Self::Token(token) => Digest::of(token.expose().as_bytes()).to_string(),
            Self::Credential { id, secret } => {
                format!("{id} {}", Digest::of(secret.expose().as_bytes()))
            }
        }
    }
}

impl Plane {
    /// The token, got if there is none yet.
    pub(super) async fn token(&self) -> Result<Secret<String>, Fault> {
        let (id, secret) = match &self.shows {
            Shows::Token(token) => return Ok(token.clone()),
            Shows::Credential { id, secret } => (id, secret),
        };
        let method = json!({"id": id, "secret": secret.expose()});
        let identity =
            json!({"methods": ["application_credential"], "application_credential": method});
        let url = format!("{}/keystone/v3/auth/tokens?nocatalog", self.url);
        let request = self.client.post(url).timeout(ASK);
        let answer = request
            .json(&json!({"auth": {"identity": identity}}))
            .send();
        let answer = answer.await.map_err(|e| away(&e))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let bytes = tls::body(answer, ANSWER_MAX).await.map_err(|e| away(&e))?;
        if !status.is_success() {
            return Err(refused(status, &bytes.unwrap_or_default()));
        }
        let token = headers.get("x-subject-token").and_then(|v| v.to_str().ok());
        let garbage = || Fault::new(FaultCode::PlaneGarbage, WHAT, "its answer has no token");
        Ok(Secret::new(token.ok_or_else(garbage)?.to_owned()))
    }
}
