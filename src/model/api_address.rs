//! The address that a cluster's masters share, as one of them sees it.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Fault;

/// Where the shared address is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiAddressStatus {
    /// The address.
    pub address: IpAddr,
    /// It is on this machine.
    #[serde(default)]
    pub here: bool,
    /// The interface of this machine that it is on, or would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The node that has it, by the lease; absent: none, or that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Since when this machine has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Why this machine cannot have it, or what is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

impl fmt::Display for ApiAddressStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address;
        match (self.here, &self.holder) {
            (true, _) => {
                let on = self.interface.as_deref().unwrap_or("an interface");
                write!(f, "{address} is here, on {on}")
            }
            (false, Some(holder)) => write!(f, "{address} is on {holder}"),
            (false, None) => write!(f, "{address} is on no master that this one knows of"),
        }
    }
}
