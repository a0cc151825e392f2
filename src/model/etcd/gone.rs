//! Members to remove from etcd.

use serde::{Deserialize, Serialize};

use crate::model::HostId;

/// A host that is no longer a master and whose member the others remove. Ordered by the plane only: a member that no
/// order names is never touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdGone {
    /// The host; its member's name.
    pub host_id: HostId,
    /// The member's id in hexadecimal digits, as the host's last status said it; then only this member goes, because
    /// the host may have come back as another one. Absent where it was never reported to the plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<String>,
}
