//! What comms says of itself on its socket: sessions, streams, pings.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Envelope, Expiry, Fault};

/// The tunnel's view: `GET /v1/status` on comms' socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// [`super::STATUS_SCHEMA`].
    pub schema: u32,
    /// Connected by at least one session, or why not.
    pub state: TunnelState,
    /// The endpoint in use or tried last.
    pub endpoint: Option<String>,
    /// Smoothed round-trip time of the best session, microseconds.
    pub rtt_us: Option<u64>,
    /// Streams open now, on all sessions.
    pub streams: u32,
    /// Bytes from the plane, on the present sessions.
    pub bytes_in: u64,
    /// Bytes to the plane, on the present sessions.
    pub bytes_out: u64,
    /// When the plane was last reached.
    pub last_contact: Option<Timestamp>,
    /// Why the last connection ended or could not be made.
    pub last_fault: Option<Fault>,
    /// Every session: one per slot, and old ones that finish their streams.
    #[serde(default)]
    pub sessions: Vec<SessionStatus>,
    /// Signed documents that came with the plane's refusal of this machine; for nodelet, which
    /// alone judges them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<Envelope>,
    /// The certificates of the tunnel: this host's, and the plane's authorities.
    #[serde(default)]
    pub certificates: Vec<Expiry>,
}

/// Connected, or what is being done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum TunnelState {
    /// Not enrolled: nothing to connect with.
    NotEnrolled,
    /// Dialling.
    Connecting,
    /// Up since then.
    Connected {
        /// When the tunnel came up.
        since: Timestamp,
    },
    /// Waits before the next try.
    Waiting {
        /// When it is tried again.
        next_try: Timestamp,
    },
}

/// One session, or the place of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Which of the parallel sessions, from 0.
    pub slot: u8,
    /// Where it is connected, or tried last.
    pub endpoint: Option<String>,
    /// How it is.
    pub state: SessionState,
    /// What it is good for, while it is up.
    #[serde(default)]
    pub kind: SessionKind,
    /// Smoothed round-trip time of its pings, microseconds.
    pub rtt_us: Option<u64>,
    /// Mean deviation of that, microseconds.
    pub jitter_us: Option<u64>,
    /// Streams open now.
    pub streams: u32,
    /// Payload bytes from the plane.
    pub bytes_in: u64,
    /// Payload bytes to the plane.
    pub bytes_out: u64,
    /// What the kernel knows of the connection.
    pub tcp: Option<TcpStatus>,
    /// Connections of this slot that were made after its first one.
    pub reconnects: u64,
    /// When the plane was last reached on this slot.
    pub last_contact: Option<Timestamp>,
    /// How the connection before ended, or why none was made.
    pub last_end: Option<SessionEnd>,
}

/// What a session is good for: the plane decides by the certificate that opened it, and says it in
/// the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionKind {
    /// Everything.
    #[default]
    Full,
    /// To renew the host's certificate, which has expired.
    RenewalOnly,
    /// To fetch the signed order of removal and to say that it was followed: the host was removed.
    RemovalOnly,
}

/// How a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum SessionState {
    /// Dialling.
    Connecting,
    /// Carries streams.
    Connected {
        /// When it came up.
        since: Timestamp,
    },
    /// Finishes the streams it has; new ones go elsewhere.
    Draining {
        /// When it came up.
        since: Timestamp,
        /// When what is left is cut.
        until: Timestamp,
    },
    /// Waits before the next try.
    Waiting {
        /// When it is tried again.
        next_try: Timestamp,
    },
}

/// How and when a connection ended or was not made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEnd {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub fault: Fault,
}

/// What the kernel knows of a TCP connection (`TCP_INFO`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpStatus {
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: u32,
    /// Its deviation, microseconds.
    pub rttvar_us: u32,
    /// Congestion window, segments.
    pub cwnd: u32,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Segments that TCP counts as lost now.
    pub lost: u32,
    /// Segments sent again since the connection began.
    pub retransmits: u32,
}

/// Most streams in one answer: more than a screen ever shows, about 150 KiB.
pub const STREAMS_SHOWN_MAX: usize = 512;

/// The open streams: `GET /v1/streams` on comms' socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelStreams {
    /// [`super::STATUS_SCHEMA`].
    pub schema: u32,
    /// When they were looked at.
    pub taken_at: Timestamp,
    /// How many are open; at most [`STREAMS_SHOWN_MAX`] are listed.
    pub open: u32,
    /// The streams.
    pub streams: Vec<StreamStatus>,
}

/// One stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// Number of its session, counted since comms started.
    pub session: u64,
    /// Its number on the session.
    pub stream: u32,
    /// Where its session is connected.
    pub endpoint: String,
    /// Its service.
    pub service: String,
    /// The caller, as the plane names it; empty for our own streams.
    pub who: String,
    /// Its opener.
    pub direction: StreamDirection,
    /// How it is scheduled.
    pub class: StreamClass,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// What the plane may have under way, bytes.
    pub window: u64,
    /// Bytes to the plane that wait for their turn.
    pub queued: u64,
    /// Payload bytes from the plane.
    pub bytes_in: u64,
    /// Payload bytes to the plane.
    pub bytes_out: u64,
}

/// Which side opened a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamDirection {
    /// The plane, to a service of this host.
    ToNode,
    /// This host, to a service of the plane.
    ToPlane,
}

/// How a stream is scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamClass {
    /// Goes first.
    Interactive,
    /// Throughput counts.
    Bulk,
}

/// One round of pings: `POST /v1/ping` on comms' socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelPing {
    /// [`super::STATUS_SCHEMA`].
    pub schema: u32,
    /// One per session that is up.
    pub sessions: Vec<SessionPing>,
}

/// What one ping brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPing {
    /// Number of the session, counted since comms started.
    pub session: u64,
    /// Which of the parallel sessions.
    pub slot: u8,
    /// Where it is connected.
    pub endpoint: String,
    /// The round trip, microseconds; none when no answer came in time.
    pub rtt_us: Option<u64>,
}

// === impl SessionKind ===

impl SessionKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Full, Self::RenewalOnly, Self::RemovalOnly];

    /// The word in documents and in the handshake.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::RenewalOnly => "renewal-only",
            Self::RemovalOnly => "removal-only",
        }
    }
}

impl std::fmt::Display for SessionKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl StreamDirection, StreamClass ===

impl StreamDirection {
    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ToNode => "to-node",
            Self::ToPlane => "to-plane",
        }
    }
}

impl StreamClass {
    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Bulk => "bulk",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page has a row for each.
    #[test]
    fn the_page_says_what_sessions_are_good_for() {
        let page = include_str!("../../docs/protocol.md");
        for kind in SessionKind::ALL {
            let row = page.lines().find(|l| l.starts_with(&format!("| `{kind}`")));
            assert!(row.is_some(), "no row of {kind}");
        }
    }
}
