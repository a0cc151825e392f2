//! What the container runtime says of itself: the one question of the CRI that nodelet asks,
//! `runtime.v1.RuntimeService/Status` with everything (`verbose`).
//!
//! ```text
//! request() ──► socket ──► Reply::take (frames, sans-IO, bounded) ──► message ──► Status (pure)
//! ```
//!
//! One call on one connection that is closed afterwards, so of HTTP/2 only the few frames of one
//! exchange are spoken. (A general client was weighed: four more crates in a process of root, for one
//! question.)

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::protobuf::{NoMessage, Value, fields};

/// containerd answers from memory.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest answer: its configuration as JSON is some 10 KiB.
const MESSAGE_MAX: u32 = 1024 * 1024;
/// Longest frame that a server may send to a client that does not ask for longer ones (RFC 9113, 6.5.2).
const FRAME_MAX: usize = 16 * 1024;
/// Length, type, flags, stream.
const HEAD: usize = 9;
/// A flag and the length of a message (gRPC).
const PREFIX: usize = 5;
/// The only stream.
const STREAM: u32 = 1;

/// What the runtime says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// e.g. `RuntimeReady`.
    pub conditions: Vec<Condition>,
    /// More, by name; `config` is the configuration that it works by, as JSON.
    pub info: BTreeMap<String, String>,
}

/// One condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Which.
    pub kind: String,
    /// It holds.
    pub holds: bool,
    /// Why not.
    pub message: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// Nobody listens, or the connection broke.
    #[error("the runtime's socket does not answer")]
    Io(#[from] std::io::Error),
    /// In time.
    #[error("the runtime did not answer within {} s", DEADLINE.as_secs())]
    Late,
    /// What came is no answer.
    #[error("the runtime's answer cannot be used: {0}")]
    Answer(&'static str),
}

impl From<NoMessage> for CriError {
    fn from(_: NoMessage) -> Self {
        Self::Answer("a message is truncated")
    }
}

/// Asks the runtime that listens here.
pub async fn status(socket: &Path) -> Result<Status, CriError> {
    tokio::time::timeout(DEADLINE, exchange(socket))
        .await
        .map_err(|_| CriError::Late)?
}

async fn exchange(socket: &Path) -> Result<Status, CriError> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(&request()).await?;
    let mut reply = Reply::default();
    let mut chunk = vec![0; FRAME_MAX];
    loop {
        let n = stream.read(&mut chunk).await?;
        if n == 0 {
            return Err(CriError::Answer("it ended early"));
        }
        if let Some(message) = reply.take(chunk.get(..n).unwrap_or_default())? {
            return Status::read(&message);
        }
    }
}

/// All that is sent: preface, settings, room for the answer, the question.
fn request() -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut settings = Vec::new();
    // No table of headers, nothing pushed, room for the whole answer.
    for (id, value) in [(1u16, 0u32), (2, 0), (4, MESSAGE_MAX)] {
        settings.extend(id.to_be_bytes());
        settings.extend(value.to_be_bytes());
    }
    frame(&mut out, 4, 0, 0, &settings);
    frame(&mut out, 8, 0, 0, &MESSAGE_MAX.to_be_bytes());
    // HPACK: `:method POST`, `:scheme http`, then names of the static table (4, 1, 31) and one in
    // letters, each without indexing.
    let mut head = vec![0x83, 0x86];
    let mut text = |name: &[u8], value: &str| {
        head.extend(name);
        head.push(u8::try_from(value.len()).unwrap_or_default());
        head.extend(value.as_bytes());
    };
    text(&[0x04], "/runtime.v1.RuntimeService/Status");
    text(&[0x01], "localhost");
    text(&[0x0f, 0x10], "application/grpc");
    text(&[0x00, 2, b't', b'e'], "trailers");
    frame(&mut out, 1, 0x4, STREAM, &head);
    // `verbose: true`, not compressed, two bytes long.
    frame(&mut out, 0, 0x1, STREAM, &[0, 0, 0, 0, 2, 0x08, 0x01]);
    out
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len())
        .unwrap_or_default()
        .to_be_bytes();
    out.extend(&length[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

/// An answer that is being received.
#[derive(Default)]
struct Reply {
    /// Bytes of frames that are not whole yet.
    raw: Vec<u8>,
    body: Vec<u8>,
}

impl Reply {
    /// Takes in what came; the message once it is whole.
    fn take(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, CriError> {
        self.raw.extend_from_slice(bytes);
        while let Some((head, rest)) = self.raw.split_at_checked(HEAD) {
            let word = |at: usize| head.get(at).copied().unwrap_or_default();
            let length = u32::from_be_bytes([0, word(0), word(1), word(2)]) as usize;
            if length > FRAME_MAX {
                return Err(CriError::Answer("a frame is longer than allowed"));
            }
            let Some(payload) = rest.get(..length) else {
                break;
            };
            let stream = u32::from_be_bytes([word(5) & 0x7f, word(6), word(7), word(8)]);
            let payload = payload.to_vec();
            let (kind, flags) = (word(3), word(4));
            self.raw.drain(..HEAD + length);
            if let Some(message) = self.frame(kind, flags, stream, &payload)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> Result<Option<Vec<u8>>, CriError> {
        const END_STREAM: u8 = 0x1;
        const PADDED: u8 = 0x8;
        match kind {
            0 if stream == STREAM && flags & PADDED != 0 => {
                return Err(CriError::Answer("it is padded"));
            }
            0 if stream == STREAM => self.body.extend_from_slice(payload),
            3 if stream == STREAM => return Err(CriError::Answer("it was reset")),
            7 => return Err(CriError::Answer("the runtime closed the connection")),
            // Headers, settings, pings, windows: nothing is decided by them.
            _ => {}
        }
        if let Some(message) = self.message()? {
            return Ok(Some(message));
        }
        let ends = matches!(kind, 0 | 1) && stream == STREAM && flags & END_STREAM != 0;
        if ends {
            Err(CriError::Answer("the question was refused"))
        } else {
            Ok(None)
        }
    }

    fn message(&self) -> Result<Option<Vec<u8>>, CriError> {
        let Some((prefix, rest)) = self.body.split_at_checked(PREFIX) else {
            return Ok(None);
        };
        let &[compressed, a, b, c, d] = prefix else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]);
        if compressed != 0 || length > MESSAGE_MAX {
            return Err(CriError::Answer("its message is compressed or too long"));
        }
        Ok(rest.get(..length as usize).map(<[u8]>::to_vec))
    }
}

impl Status {
    /// `runtime.v1.StatusResponse`, as far as it is used.
    fn read(message: &[u8]) -> Result<Self, CriError> {
        let mut status = Self::default();
        for field in fields(message) {
            match field? {
                (1, Value::Bytes(conditions)) => {
                    for field in fields(conditions) {
                        if let (1, Value::Bytes(condition)) = field? {
                            status.conditions.push(Condition::read(condition)?);
                        }
                    }
                }
                (2, Value::Bytes(entry)) => {
                    let (mut key, mut value) = (String::new(), String::new());
                    for field in fields(entry) {
                        match field? {
                            (1, Value::Bytes(bytes)) => key = text(bytes),
                            (2, Value::Bytes(bytes)) => value = text(bytes),
                            _ => {}
                        }
                    }
                    status.info.insert(key, value);
                }
                _ => {}
            }
        }
        Ok(status)
    }

    /// The condition of this name, if the runtime tells it.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.kind == kind)
    }
}

impl Condition {
    fn read(message: &[u8]) -> Result<Self, CriError> {
        let mut condition = Self::default();
        for field in fields(message) {
            match field? {
                (1, Value::Bytes(bytes)) => condition.kind = text(bytes),
                (2, Value::Number(number)) => condition.holds = number != 0,
                (4, Value::Bytes(bytes)) => condition.message = text(bytes),
                _ => {}
            }
        }
        Ok(condition)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Field, length, bytes.
    fn field(n: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![n << 3 | 2, u8::try_from(bytes.len()).expect("short")];
        out.extend(bytes);
        out
    }

    /// What a server sends: settings, headers, the message in two frames, trailers.
    fn answer(message: &[u8]) -> Vec<u8> {
        let mut body = vec![0];
        body.extend(u32::try_from(message.len()).expect("short").to_be_bytes());
        body.extend(message);
        let (first, second) = body.split_at(body.len() / 2);
        let mut out = Vec::new();
        frame(&mut out, 4, 0, 0, &[]);
        frame(&mut out, 1, 0x4, 1, &[0x88]);
        frame(&mut out, 0, 0, 1, first);
        frame(&mut out, 6, 0, 0, &[0; 8]);
        frame(&mut out, 0, 0, 1, second);
        frame(&mut out, 1, 0x5, 1, &[0x88]);
        out
    }

    fn a_status() -> Vec<u8> {
        let ready = [field(1, b"RuntimeReady"), vec![0x10, 1]].concat();
        let network = [field(1, b"NetworkReady"), field(4, b"no plugin")].concat();
        let conditions = [field(1, &ready), field(1, &network)].concat();
        let entry = [field(1, b"config"), field(2, b"{}")].concat();
        [field(1, &conditions), field(2, &entry)].concat()
    }

    #[tokio::test]
    async fn the_answer_is_read_in_whatever_pieces_it_comes() {
        let dir = tempfile::tempdir().expect("tempdir");
        let socket = dir.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).expect("bind");
        let server = async {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut asked = vec![0; request().len()];
            stream.read_exact(&mut asked).await.expect("the question");
            assert_eq!(asked, request());
            for byte in answer(&a_status()) {
                // Who has the message does not wait for what follows.
                if stream.write_all(&[byte]).await.is_err() {
                    break;
                }
            }
        };
        let (status, ()) = tokio::join!(status(&socket), server);
        let status = status.expect("a status");
        assert!(status.condition("RuntimeReady").is_some_and(|c| c.holds));
        let network = status.condition("NetworkReady").expect("told");
        assert!(!network.holds && network.message == "no plugin");
        assert_eq!(status.info["config"], "{}");
    }

    #[test]
    fn refusals_and_nonsense_are_errors() {
        let mut refused = Vec::new();
        frame(&mut refused, 1, 0x5, 1, &[0x88]);
        let mut reset = Vec::new();
        frame(&mut reset, 3, 0, 1, &[0; 4]);
        let mut long = Vec::new();
        frame(&mut long, 0, 0, 1, &[0, 0xff, 0, 0, 0]);
        let http1 = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
        for bytes in [refused, reset, long, http1] {
            Reply::default().take(&bytes).expect_err("no answer");
        }
        Status::read(&[0x0a, 0x7f, 1]).expect_err("cut off");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_grow(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut reply = Reply::default();
            if let Ok(Some(message)) = reply.take(&bytes) {
                Status::read(&message).ok();
            }
            Status::read(&bytes).ok();
            prop_assert!(reply.raw.len() + reply.body.len() <= bytes.len());
        }
    }
}
