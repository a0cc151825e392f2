//! Who leads, as one member sees it, and taking over the lead: without a write, so that a full database
//! does not stand in the way.

use serde_json::json;

use super::{Etcd, EtcdError, Survey, hex};

/// What a member says of itself and of those who lead it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standpoint {
    /// Its id in hexadecimal digits.
    pub own: String,
    /// The leader that it follows, or itself; `None`: none at the moment.
    pub leader: Option<String>,
    /// In which term.
    pub term: u64,
}

impl Etcd {
    /// The member that this one follows.
    pub async fn standpoint(&self) -> Result<Standpoint, EtcdError> {
        let said = self.status().await?;
        Ok(Standpoint {
            own: said.id(),
            leader: (said.leader != 0).then(|| format!("{:x}", said.leader)),
            term: said.term,
        })
    }

    /// Asks the member that leads to hand the lead over to `own`; ids in hexadecimal digits. Only who leads
    /// can do that.
    pub async fn take_the_lead(
        &self,
        survey: &Survey,
        leader: &str,
        own: &str,
    ) -> Result<(), EtcdError> {
        let of = |id: &str| survey.all.members.iter().find(move |m| hex(&m.id) == id);
        let base = of(leader).and_then(|m| m.client_urls.first());
        let (Some(base), Some(own)) = (base, of(own)) else {
            return Err(EtcdError::Nobody);
        };
        let path = "/v3/maintenance/transfer-leadership";
        let body = json!({"targetID": own.id});
        self.at(base).said(path, &body).await.map(drop)
    }
}
