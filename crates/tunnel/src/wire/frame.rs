//! The codec. One websocket message is one frame, so no length field of a peer is ever trusted.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::code::Code;
use super::limits::{
    CAPABILITIES_MAX, CAPABILITY_MAX, DATA_MAX, HEADER, META_MAX, META_TEXT_MAX, SERVICE_MAX,
    WORDS_MAX,
};

/// A stream of a connection. The node opens odd ids, the plane even ones, each rising; 0 is the connection itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// How a stream is scheduled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Class {
    /// A person or a controller waits.
    #[default]
    Interactive,
    /// Throughput counts.
    Bulk,
}

/// Annotations of a stream: who asked, trace id.
pub type Meta = BTreeMap<String, String>;

/// First frame of each side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Highest version the side speaks; the lower of both is used.
    pub version: u16,
    /// Initial credit of each new stream, towards this side.
    pub initial_window: u32,
    /// Streams this side lets the peer open.
    pub max_streams: u32,
    /// Names of optional features; unknown ones are ignored.
    pub capabilities: Vec<String>,
}

/// Opens a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Name of the service.
    pub service: String,
    /// How it is scheduled.
    pub class: Class,
    /// Annotations.
    pub meta: Meta,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// First frame of each side.
    Hello(Hello),
    /// Opens a stream; data may follow immediately.
    Open(StreamId, Open),
    /// The other side accepted the stream.
    Accept(StreamId),
    /// Bytes of a stream; `fin`: no more will follow.
    Data(StreamId, Bytes, bool),
    /// The peer may send this many bytes of the stream in total.
    Credit(StreamId, u64),
    /// The sender knew that it may send this many bytes in total, and needs no more than that many.
    Return(StreamId, u64, u64),
    /// The stream is over in both directions.
    Reset(StreamId, Code, u32, String),
    /// Requests a PONG with the same token.
    Ping(u64),
    /// Answer to a PING.
    Pong(u64),
    /// The side drains: last stream of the peer it accepted, why, come back after (ms), words.
    GoAway(StreamId, Code, u32, String),
    /// A kind (0x80 and above) that this version does not know and may skip.
    Skipped(u8),
}

/// Why a message is not a valid frame. Ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than its header or its fields.
    #[error("frame is too short")]
    Short,
    /// Longer than its kind allows.
    #[error("frame is too long")]
    Long,
    /// A kind below 0x80 that this version does not know.
    #[error("unknown frame kind {0:#04x}")]
    UnknownKind(u8),
    /// A flag this version does not know.
    #[error("unknown flags {0:#04x}")]
    UnknownFlags(u8),
    /// Text that is not UTF-8 or has control characters, or a reserved field that is not zero.
    #[error("a field has an invalid value")]
    Field,
    /// A connection frame on a stream, or a stream frame on the connection.
    #[error("stream id does not fit the frame kind")]
    Stream,
}

mod kind {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const OPEN: u8 = 0x02;
    pub(super) const ACCEPT: u8 = 0x03;
    pub(super) const DATA: u8 = 0x04;
    pub(super) const CREDIT: u8 = 0x05;
    pub(super) const RESET: u8 = 0x06;
    pub(super) const PING: u8 = 0x07;
    pub(super) const PONG: u8 = 0x08;
    pub(super) const GOAWAY: u8 = 0x09;
    pub(super) const RETURN: u8 = 0x0a;
    pub(super) const SKIPPABLE: u8 = 0x80;
}

const FLAG_FIN: u8 = 0x01;
const CONNECTION: StreamId = StreamId(0);

// === impl Frame ===

impl Frame {
    /// Decodes one message. Payloads are slices of it: only names are copied.
    pub fn decode(mut message: Bytes) -> Result<Self, Malformed> {
        if message.len() < HEADER {
            return Err(Malformed::Short);
        }
        let kind = message.get_u8();
        let flags = message.get_u8();
        let reserved = message.get_u16();
        let stream = StreamId(message.get_u32());
        if kind >= kind::SKIPPABLE {
            return Ok(Self::Skipped(kind));
        }
        let allowed = if kind == kind::DATA { FLAG_FIN } else { 0 };
        if flags & !allowed != 0 {
            return Err(Malformed::UnknownFlags(flags));
        }
        if reserved != 0 {
            return Err(Malformed::Field);
        }
        let of_connection = matches!(kind, kind::HELLO | kind::PING | kind::PONG | kind::GOAWAY);
        if of_connection != (stream == CONNECTION) {
            return Err(Malformed::Stream);
        }
        let mut body = Reader(message);
        let frame = match kind {
            kind::HELLO => Self::Hello(Hello::decode(&mut body)?),
            kind::OPEN => Self::Open(stream, Open::decode(&mut body)?),
            kind::ACCEPT => Self::Accept(stream),
            kind::DATA => {
                if body.0.len() > DATA_MAX {
                    return Err(Malformed::Long);
                }
                return Ok(Self::Data(stream, body.0, flags & FLAG_FIN != 0));
            }
            kind::CREDIT => Self::Credit(stream, body.u64()?),
            kind::RETURN => Self::Return(stream, body.u64()?, body.u64()?),
            kind::RESET => {
                let (code, detail) = (Code::from_number(body.u16()?), body.u32()?);
                Self::Reset(stream, code, detail, body.words()?)
            }
            kind::PING => Self::Ping(body.u64()?),
            kind::PONG => Self::Pong(body.u64()?),
            kind::GOAWAY => {
                let last = StreamId(body.u32()?);
                let (code, after) = (Code::from_number(body.u16()?), body.u32()?);
                Self::GoAway(last, code, after, body.words()?)
            }
            unknown => return Err(Malformed::UnknownKind(unknown)),
        };
        if body.0.is_empty() {
            Ok(frame)
        } else {
            Err(Malformed::Long)
        }
    }

    /// Encodes one message.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        let payload = self.clone().into_parts(&mut out);
        out.put_slice(&payload);
        out.freeze()
    }

    /// Encodes the message except the payload of DATA, which is returned as it is: the message is `head` followed by
    /// it. Nothing large is copied.
    pub fn into_parts(self, head: &mut BytesMut) -> Bytes {
        match self {
            Self::Hello(hello) => {
                header(head, kind::HELLO, 0, CONNECTION);
                hello.encode(head);
            }
            Self::Open(stream, open) => {
                header(head, kind::OPEN, 0, stream);
                open.encode(head);
            }
            Self::Accept(stream) => header(head, kind::ACCEPT, 0, stream),
            Self::Data(stream, payload, fin) => {
                header(head, kind::DATA, if fin { FLAG_FIN } else { 0 }, stream);
                return payload;
            }
            Self::Credit(stream, upto) => {
                header(head, kind::CREDIT, 0, stream);
                head.put_u64(upto);
            }
            Self::Return(stream, had, keeps) => {
                header(head, kind::RETURN, 0, stream);
                head.put_u64(had);
                head.put_u64(keeps);
            }
            Self::Reset(stream, code, detail, words) => {
                header(head, kind::RESET, 0, stream);
                head.put_u16(code.number());
                head.put_u32(detail);
                head.put_slice(clip(&words).as_bytes());
            }
            Self::Ping(token) => {
                header(head, kind::PING, 0, CONNECTION);
                head.put_u64(token);
            }
            Self::Pong(token) => {
                header(head, kind::PONG, 0, CONNECTION);
                head.put_u64(token);
            }
            Self::GoAway(last, code, after, words) => {
                header(head, kind::GOAWAY, 0, CONNECTION);
                head.put_u32(last.0);
                head.put_u16(code.number());
                head.put_u32(after);
                head.put_slice(clip(&words).as_bytes());
            }
            Self::Skipped(kind) => header(head, kind, 0, CONNECTION),
        }
        Bytes::new()
    }
}

fn header(out: &mut BytesMut, kind: u8, flags: u8, stream: StreamId) {
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u16(0);
    out.put_u32(stream.0);
}

// === impl Hello ===

impl Hello {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u16(self.version);
        out.put_u32(self.initial_window);
        out.put_u32(self.max_streams);
        let count = self.capabilities.len().min(CAPABILITIES_MAX);
        out.put_u8(small(count));
        for name in self.capabilities.iter().take(count) {
            put_text(out, name, CAPABILITY_MAX);
        }
    }

    fn decode(body: &mut Reader) -> Result<Self, Malformed> {
        let version = body.u16()?;
        let initial_window = body.u32()?;
        let max_streams = body.u32()?;
        let count = usize::from(body.u8()?);
        if count > CAPABILITIES_MAX {
            return Err(Malformed::Long);
        }
        let capabilities = (0..count)
            .map(|_| body.text(CAPABILITY_MAX))
            .collect::<Result<_, _>>()?;
        // Later versions may append fields: the rest of a HELLO is skipped.
        body.0.clear();
        Ok(Self {
            version,
            initial_window,
            max_streams,
            capabilities,
        })
    }
}

// === impl Open ===

impl Open {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(match self.class {
            Class::Interactive => 0,
            Class::Bulk => 1,
        });
        put_text(out, &self.service, SERVICE_MAX);
        let count = self.meta.len().min(META_MAX);
        out.put_u8(small(count));
        for (key, value) in self.meta.iter().take(count) {
            put_text(out, key, META_TEXT_MAX);
            put_text(out, value, META_TEXT_MAX);
        }
    }

    fn decode(body: &mut Reader) -> Result<Self, Malformed> {
        let class = match body.u8()? {
            0 => Class::Interactive,
            1 => Class::Bulk,
            _ => return Err(Malformed::Field),
        };
        let service = body.text(SERVICE_MAX)?;
        let count = usize::from(body.u8()?);
        if count > META_MAX {
            return Err(Malformed::Long);
        }
        let mut meta = Meta::new();
        for _ in 0..count {
            let key = body.text(META_TEXT_MAX)?;
            meta.insert(key, body.text(META_TEXT_MAX)?);
        }
        Ok(Self {
            service,
            class,
            meta,
        })
    }
}

// === fields ===

struct Reader(Bytes);

impl Reader {
    fn need(&self, n: usize) -> Result<(), Malformed> {
        if self.0.len() < n {
            return Err(Malformed::Short);
        }
        Ok(())
    }
    fn u8(&mut self) -> Result<u8, Malformed> {
        self.need(1)?;
        Ok(self.0.get_u8())
    }
    fn u16(&mut self) -> Result<u16, Malformed> {
        self.need(2)?;
        Ok(self.0.get_u16())
    }
    fn u32(&mut self) -> Result<u32, Malformed> {
        self.need(4)?;
        Ok(self.0.get_u32())
    }
    fn u64(&mut self) -> Result<u64, Malformed> {
        self.need(8)?;
        Ok(self.0.get_u64())
    }
    fn text(&mut self, max: usize) -> Result<String, Malformed> {
        let len = usize::from(self.u8()?);
        if len > max {
            return Err(Malformed::Long);
        }
        self.need(len)?;
        let bytes = self.0.split_to(len);
        plain(&bytes)
    }
    /// The rest of the frame, as words.
    fn words(&mut self) -> Result<String, Malformed> {
        if self.0.len() > WORDS_MAX {
            return Err(Malformed::Long);
        }
        let bytes = self.0.split_to(self.0.len());
        plain(&bytes)
    }
}

/// Text that is safe to log: UTF-8 without control characters.
fn plain(bytes: &[u8]) -> Result<String, Malformed> {
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed::Field)?;
    if text.chars().any(char::is_control) {
        return Err(Malformed::Field);
    }
    Ok(text.to_owned())
}

/// Our own texts are truncated rather than refused: they come from error messages.
fn put_text(out: &mut BytesMut, text: &str, max: usize) {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    let bytes = cut(&text, max).as_bytes();
    out.put_u8(small(bytes.len()));
    out.put_slice(bytes);
}

fn clip(words: &str) -> String {
    let plain: String = words
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    cut(&plain, WORDS_MAX).to_owned()
}

fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len()))
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// A count that its bound keeps below 256.
fn small(n: usize) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let id = (1u32..).prop_map(StreamId);
        let word = "[a-z0-9 é]{0,40}";
        let data = (
            id.clone(),
            prop::collection::vec(any::<u8>(), 0..100),
            any::<bool>(),
        );
        let meta = prop::collection::btree_map(word, word, 0..=META_MAX);
        prop_oneof![
            (
                any::<u16>(),
                any::<u32>(),
                any::<u32>(),
                prop::collection::vec(word, 0..4)
            )
                .prop_map(|(version, initial_window, max_streams, capabilities)| {
                    Frame::Hello(Hello {
                        version,
                        initial_window,
                        max_streams,
                        capabilities,
                    })
                }),
            (id.clone(), word, any::<bool>(), meta).prop_map(|(s, service, bulk, meta)| {
                let class = if bulk {
                    Class::Bulk
                } else {
                    Class::Interactive
                };
                Frame::Open(
                    s,
                    Open {
                        service,
                        class,
                        meta,
                    },
                )
            }),
            id.clone().prop_map(Frame::Accept),
            data.prop_map(|(s, d, fin)| Frame::Data(s, d.into(), fin)),
            (id.clone(), any::<u64>()).prop_map(|(s, n)| Frame::Credit(s, n)),
            (id.clone(), any::<u64>(), any::<u64>()).prop_map(|(s, n, m)| Frame::Return(s, n, m)),
            (id, any::<u16>(), any::<u32>(), word).prop_map(|(s, c, d, w)| Frame::Reset(
                s,
                Code::from_number(c),
                d,
                w
            )),
            any::<u64>().prop_map(Frame::Ping),
            any::<u64>().prop_map(Frame::Pong),
            (any::<u32>(), any::<u16>(), any::<u32>(), word)
                .prop_map(|(s, c, d, w)| Frame::GoAway(StreamId(s), Code::from_number(c), d, w)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(frame in frames()) {
            prop_assert_eq!(Frame::decode(frame.encode()), Ok(frame));
        }

        #[test]
        fn no_bytes_can_hurt(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(frame) = Frame::decode(bytes.into()) {
                prop_assert!(matches!(frame, Frame::Skipped(_)) || Frame::decode(frame.encode()).is_ok());
            }
        }

        #[test]
        fn a_cut_frame_is_refused_or_a_shorter_one(frame in frames(), cut in 0usize..64) {
            let bytes = frame.encode();
            let cut = cut.min(bytes.len());
            // Must not panic; DATA and words have no length field and may be shorter.
            drop(Frame::decode(bytes.slice(..bytes.len() - cut)));
        }
    }

    #[test]
    fn rules_of_the_page() {
        let raw = |b: &[u8]| Frame::decode(Bytes::copy_from_slice(b));
        assert_eq!(raw(&[]), Err(Malformed::Short));
        assert_eq!(
            raw(&[0x7f, 0, 0, 0, 0, 0, 0, 1]),
            Err(Malformed::UnknownKind(0x7f))
        );
        assert_eq!(
            raw(&[0x80, 9, 9, 9, 9, 9, 9, 9, 9]),
            Ok(Frame::Skipped(0x80))
        );
        assert_eq!(
            raw(&[4, 2, 0, 0, 0, 0, 0, 1]),
            Err(Malformed::UnknownFlags(2))
        );
        assert_eq!(raw(&[4, 0, 0, 0, 0, 0, 0, 0]), Err(Malformed::Stream));
        assert_eq!(raw(&[3, 0, 0, 1, 0, 0, 0, 1]), Err(Malformed::Field));
        let long = Frame::Data(StreamId(1), vec![0; DATA_MAX + 1].into(), false);
        assert_eq!(Frame::decode(long.encode()), Err(Malformed::Long));
    }

    #[test]
    fn own_words_are_made_to_fit() {
        let words = "é".repeat(WORDS_MAX) + "\n";
        let frame = Frame::Reset(StreamId(1), Code::Internal, 0, words);
        let Ok(Frame::Reset(_, _, _, back)) = Frame::decode(frame.encode()) else {
            panic!("no reset");
        };
        assert!(back.len() <= WORDS_MAX);
    }
}
