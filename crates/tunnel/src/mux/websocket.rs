//! RFC 6455 framing, only the part the protocol uses: binary messages, each in one piece.
//!
//! Our own, because here every copy counts. Received payloads are slices of the read buffer; sent ones are passed to
//! TLS as they are, gathered with their headers into vectored writes. Under TLS masking protects nothing, so the node
//! masks with a zero key, which is legal and costs nothing; other keys are honoured. (A general websocket library
//! copies each message twice and masks it.)

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use super::transport::Transport;
use crate::wire::Frame;
use crate::wire::limits::{DATA_MAX, HEADER, MESSAGE_MAX};

/// A websocket whose handshake is done.
pub struct Websocket {
    io: Box<dyn Transport>,
    role: Role,
    input: BytesMut,
    /// Blocks that were filled, until nobody holds a slice of them any more.
    resting: VecDeque<BytesMut>,
    /// Ready to be written, in order.
    output: VecDeque<Bytes>,
    /// Headers and small frames after `output`.
    tail: BytesMut,
    /// The head of the frame being queued; kept to reuse its memory.
    head: BytesMut,
    pong: Option<Bytes>,
    /// Bytes both ways since it last rested.
    carried: usize,
    /// The input was not a valid websocket: the start of the next message is unknown.
    lost: bool,
}

/// Which end of the handshake this was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sent the request: masks what it sends.
    Client,
    /// Answered it: does not mask, insists on masked frames.
    Server,
}

/// What was received.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    Binary(Bytes),
    Close,
}

/// Status of the websocket's own close frame (RFC 6455, 7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseStatus {
    Normal = 1000,
    Protocol = 1002,
}

/// Why a websocket is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum WebsocketError {
    #[error("the connection broke")]
    Io(#[source] io::Error),
    #[error("the connection ended without a farewell")]
    Eof,
    #[error("websocket: {0}")]
    Protocol(&'static str),
}

/// Size of one read: two full frames, so that none has to be moved to another block.
const READ: usize = 2 * FRAME_FULL;
/// A message with a full DATA frame, its own header included: two full TLS records.
pub(super) const FRAME_FULL: usize = DATA_MAX;
/// Payload of such a frame.
pub(super) const DATA_FULL: usize = FRAME_FULL - HEADER_MAX - HEADER;
/// Up to this much from one [`Websocket::rest`] to the next, a connection is quiet: it reads into blocks of
/// [`QUIET_READ`], and holds none while it waits. A plane has thousands that carry pings, and a document a minute.
const QUIET: usize = READ;
/// A ping, or the head of a request; what is longer says so in its header, and gets its room then.
const QUIET_READ: usize = 1024;
/// Most blocks kept for reuse: about what the streams of a busy connection hold.
const RESTING_MAX: usize = 16;
/// Payloads up to this are copied beside their header: one slice less for TLS to gather.
const COPY_MAX: usize = 1024;
/// One block for the headers and small payloads of many frames.
const HEADERS: usize = 4096;
/// Most slices of one write.
const SLICES_MAX: usize = 32;
/// Longest accepted header of a message: two bytes, a length of two, a mask of four.
const HEADER_MAX: usize = 8;
/// Largest payload of a control message (RFC 6455, 5.5).
const CONTROL_MAX: usize = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OP_BINARY: u8 = 0x2;
const OP_CLOSE: u8 = 0x8;
const OP_PING: u8 = 0x9;
const OP_PONG: u8 = 0xa;
const MASKED: u8 = 0x80;

impl Websocket {
    /// A websocket on `io`; `received` is what arrived right after the handshake.
    pub fn new(io: Box<dyn Transport>, role: Role, received: Bytes) -> Self {
        Self {
            io,
            role,
            input: BytesMut::from(received),
            resting: VecDeque::new(),
            output: VecDeque::new(),
            tail: BytesMut::new(),
            head: BytesMut::new(),
            pong: None,
            carried: 0,
            lost: false,
        }
    }

    /// The next whole message in the buffer.
    fn parse(&mut self) -> Result<Option<(u8, Bytes)>, WebsocketError> {
        let Some(header) = Header::parse(&self.input, self.role)? else {
            return Ok(None);
        };
        let whole = header.len + header.payload;
        if self.input.len() < whole {
            let missing = whole - self.input.len();
            self.make_room(missing);
            return Ok(None);
        }
        self.input.advance(header.len);
        let mut payload = self.input.split_to(header.payload);
        if header.mask != [0; 4] {
            payload
                .iter_mut()
                .zip(header.mask.iter().cycle())
                .for_each(|(byte, mask)| *byte ^= mask);
        }
        Ok(Some((header.opcode, payload.freeze())))
    }

    /// Room for the next read. A message whose header is known already has its room: a block with little left is filled
    /// to its end, so that nothing is moved out of it.
    fn make_room_to_read(&mut self) {
        let begun = self.input.len() >= HEADER_MAX;
        let room = self.input.capacity() - self.input.len();
        let enough = self.block() / 2;
        if room == 0 || !begun && room < enough {
            self.make_room(enough);
        }
    }

    fn is_quiet(&self) -> bool {
        self.carried <= QUIET
    }

    /// Size of the next block.
    fn block(&self) -> usize {
        if self.is_quiet() { QUIET_READ } else { READ }
    }

    /// Room to read `n` more bytes into. Under load blocks are recycled: a new one for each read would make the
    /// allocator return pages to the kernel and fetch them again, which costs as much as the decryption.
    fn make_room(&mut self, n: usize) {
        if self.input.capacity() - self.input.len() >= n || self.input.try_reclaim(n) {
            return;
        }
        let size = self.block().max(self.input.len() + n);
        let reclaimed = self.resting.iter_mut().position(|b| b.try_reclaim(size));
        let block = reclaimed.and_then(|at| self.resting.swap_remove_back(at));
        let mut block = block.unwrap_or_else(|| BytesMut::with_capacity(size));
        block.extend_from_slice(&self.input);
        let mut old = std::mem::replace(&mut self.input, block);
        old.clear();
        if !self.is_quiet() && self.resting.len() < RESTING_MAX {
            self.resting.push_back(old);
        }
    }

    /// Frees what a busy time left behind.
    pub(super) fn rest(&mut self) {
        self.resting.clear();
        self.carried = 0;
    }

    /// Nothing is left to do until something comes.
    pub(super) fn wait(&mut self) {
        if self.is_quiet()
            && self.input.is_empty()
            && self.output.is_empty()
            && self.tail.is_empty()
        {
            self.input = BytesMut::new();
            self.resting = VecDeque::new();
            self.output = VecDeque::new();
            self.tail = BytesMut::new();
            self.head = BytesMut::new();
        }
    }

    /// Queues a frame as one message. Returns its size.
    pub(super) fn queue(&mut self, frame: Frame) -> usize {
        self.head.clear();
        let payload = frame.into_parts(&mut self.head);
        let size = self.head.len() + payload.len();
        self.carried = self.carried.saturating_add(size);
        self.put_header(OP_BINARY, size);
        self.tail.extend_from_slice(&self.head);
        if payload.len() <= COPY_MAX {
            self.tail.extend_from_slice(&payload);
        } else {
            self.output.push_back(self.tail.split().freeze());
            self.output.push_back(payload);
        }
        size
    }

    /// Queues the websocket's own close frame.
    pub(super) fn queue_close(&mut self, status: CloseStatus) {
        let status = (status as u16).to_be_bytes();
        self.put_header(OP_CLOSE, status.len());
        self.tail.extend_from_slice(&status);
    }

    fn put_header(&mut self, opcode: u8, size: usize) {
        const ONE: usize = CONTROL_MAX + COPY_MAX;
        if self.tail.capacity() - self.tail.len() < ONE {
            self.tail
                .reserve(if self.is_quiet() { ONE } else { HEADERS });
        }
        let mask = match self.role {
            Role::Client => MASKED,
            Role::Server => 0,
        };
        self.tail.put_u8(FIN | opcode);
        match u8::try_from(size) {
            Ok(short) if usize::from(short) <= CONTROL_MAX => self.tail.put_u8(mask | short),
            // MESSAGE_MAX fits into sixteen bits.
            Ok(_) | Err(_) => {
                self.tail.put_u8(mask | 126);
                self.tail.put_u16(u16::try_from(size).unwrap_or(u16::MAX));
            }
        }
        if self.role == Role::Client {
            self.tail.put_u32(0);
        }
    }
}

impl Websocket {
    /// The next message; pings are answered on the way.
    pub(super) fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Message, WebsocketError>> {
        loop {
            while let Some((opcode, payload)) = self.parse()? {
                match opcode {
                    OP_BINARY => return Poll::Ready(Ok(Message::Binary(payload))),
                    OP_CLOSE => return Poll::Ready(Ok(Message::Close)),
                    // Only the newest is answered: a flood of pings costs one payload.
                    OP_PING => self.pong = Some(payload),
                    _ => {}
                }
            }
            self.make_room_to_read();
            let read = poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input);
            match ready!(read) {
                Ok(0) => return Poll::Ready(Err(WebsocketError::Eof)),
                Ok(n) => self.carried = self.carried.saturating_add(n),
                // TLS reports the same with an error of its own, meant for programmers.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Err(WebsocketError::Eof));
                }
                Err(e) => return Poll::Ready(Err(WebsocketError::Io(e))),
            }
        }
    }

    /// Reads and discards: how many bytes arrived. `None`: the peer closed, or nothing can arrive any more.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        loop {
            match self.parse() {
                _ if self.lost => break self.input.clear(),
                Ok(Some((OP_CLOSE, _))) => return Poll::Ready(None),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => self.lost = true,
            }
        }
        self.make_room_to_read();
        let read = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input));
        Poll::Ready(read.ok().filter(|n| *n > 0))
    }

    /// Nothing more will be written; all of it must have been flushed.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Writes everything that is queued.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(payload) = self.pong.take() {
            self.put_header(OP_PONG, payload.len());
            self.tail.extend_from_slice(&payload);
        }
        if !self.tail.is_empty() {
            self.output.push_back(self.tail.split().freeze());
        }
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let used = slices
                .iter_mut()
                .zip(&self.output)
                .fold(0, |n, (slice, bytes)| {
                    *slice = IoSlice::new(bytes);
                    n + 1
                });
            let slices = slices.get(..used).unwrap_or_default();
            let mut written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            while let Some(front) = self.output.front_mut() {
                if front.len() > written {
                    front.advance(written);
                    break;
                }
                written -= front.len();
                self.output.pop_front();
            }
        }
        // Nobody holds a slice of it now: its room is reclaimed, and no new block is needed.
        if !self.is_quiet() && (1..HEADERS / 2).contains(&self.tail.capacity()) {
            self.tail.reserve(HEADERS);
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }
}

struct Header {
    opcode: u8,
    mask: [u8; 4],
    /// Length of the header itself.
    len: usize,
    payload: usize,
}

impl Header {
    /// `None`: more bytes are needed.
    fn parse(input: &[u8], role: Role) -> Result<Option<Self>, WebsocketError> {
        let mut input_left = input;
        let bytes = &mut input_left;
        if bytes.len() < 2 {
            return Ok(None);
        }
        let (first, second) = (bytes.get_u8(), bytes.get_u8());
        if first & RESERVED != 0 {
            return Err(WebsocketError::Protocol("a reserved bit is set"));
        }
        if first & FIN == 0 {
            return Err(WebsocketError::Protocol("a message came in pieces"));
        }
        let opcode = first & 0x0f;
        if !matches!(opcode, OP_BINARY | OP_CLOSE | OP_PING | OP_PONG) {
            return Err(WebsocketError::Protocol("a message is not binary"));
        }
        let payload = match second & !MASKED {
            126 if bytes.len() < 2 => return Ok(None),
            126 => usize::from(bytes.get_u16()),
            127 => return Err(WebsocketError::Protocol("a message is too long")),
            short => usize::from(short),
        };
        let max = if opcode == OP_BINARY {
            MESSAGE_MAX
        } else {
            CONTROL_MAX
        };
        if payload > max {
            return Err(WebsocketError::Protocol("a message is too long"));
        }
        let masked = second & MASKED != 0;
        if masked != (role == Role::Server) {
            return Err(WebsocketError::Protocol("the wrong side masks"));
        }
        let mut mask = [0; 4];
        if masked {
            if bytes.len() < mask.len() {
                return Ok(None);
            }
            bytes.copy_to_slice(&mut mask);
        }
        Ok(Some(Self {
            opcode,
            mask,
            len: input.len() - bytes.len(),
            payload,
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio_tungstenite::tungstenite::protocol::{Role as TheirRole, WebSocket};

    use super::*;

    fn ours(role: Role, input: &[u8]) -> Websocket {
        Websocket::new(
            Box::new(tokio::io::empty()),
            role,
            Bytes::copy_from_slice(input),
        )
    }

    fn sent(mut ws: Websocket) -> Vec<u8> {
        ws.output.push_back(ws.tail.split().freeze());
        ws.output.iter().flat_map(|b| b.to_vec()).collect()
    }

    /// Another implementation checks our bytes, and we check its.
    #[test]
    fn a_library_reads_what_we_write_and_we_what_it_writes() {
        for (role, their) in [
            (Role::Client, TheirRole::Server),
            (Role::Server, TheirRole::Client),
        ] {
            for size in [0usize, 10, 117, 118, 1024, 1025, 32_768] {
                let frame = Frame::Data(crate::wire::StreamId(1), vec![7; size].into(), false);
                let mut ws = ours(role, &[]);
                ws.queue(frame.clone());
                ws.queue_close(CloseStatus::Normal);
                let bytes = sent(ws);
                let mut judge = WebSocket::from_raw_socket(io::Cursor::new(bytes), their, None);
                let message = judge.read().expect("their reading");
                assert_eq!(
                    Frame::decode(message.into_data()),
                    Ok(frame.clone()),
                    "{size}"
                );

                let mut judge =
                    WebSocket::from_raw_socket(io::Cursor::new(Vec::new()), their, None);
                let message = tokio_tungstenite::tungstenite::Message::Binary(frame.encode());
                judge.send(message).expect("their writing");
                let bytes = judge.get_ref().get_ref().clone();
                let mut ws = ours(role, &bytes);
                let (opcode, payload) = ws.parse().expect("our reading").expect("whole");
                assert_eq!(
                    (opcode, Frame::decode(payload)),
                    (OP_BINARY, Ok(frame)),
                    "{size}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_can_hurt(bytes in prop::collection::vec(any::<u8>(), 0..400), server in any::<bool>()) {
            let mut ws = ours(if server { Role::Server } else { Role::Client }, &bytes);
            while let Ok(Some((_, payload))) = ws.parse() {
                prop_assert!(payload.len() <= MESSAGE_MAX);
            }
            prop_assert!(ws.input.capacity() <= 2 * MESSAGE_MAX + READ);
        }
    }

    /// Two TLS records hold one, and one block two: nothing is left over that would cost a record, a system call or a
    /// copy of its own.
    #[tokio::test]
    async fn full_frames_fill_records_and_blocks() {
        let frame = Frame::Data(crate::wire::StreamId(1), vec![7; DATA_FULL].into(), false);
        for (role, their) in [(Role::Client, Role::Server), (Role::Server, Role::Client)] {
            let mut sender = ours(role, &[]);
            sender.queue(frame.clone());
            let bytes = sent(sender);
            assert!(bytes.len() <= FRAME_FULL && bytes.len() + HEADER_MAX > FRAME_FULL);

            let (here, mut there) = tokio::io::duplex(FRAME_FULL);
            let mut receiver = Websocket::new(Box::new(here), their, Bytes::new());
            // As one that carries much.
            receiver.carried = QUIET + 1;
            let feed = async {
                for _ in 0..2 {
                    there.write_all(&bytes).await.expect("write");
                }
            };
            let take = async {
                let mut payloads = Vec::new();
                while payloads.len() < 2 {
                    let next = std::future::poll_fn(|cx| receiver.poll_message(cx)).await;
                    let Ok(Message::Binary(payload)) = next else {
                        panic!("{next:?}");
                    };
                    payloads.push(payload);
                }
                payloads
            };
            let (payloads, ()) = tokio::join!(take, feed);
            let distance = payloads[1].as_ptr().addr() - payloads[0].as_ptr().addr();
            assert_eq!(distance, bytes.len(), "they lie in one block as they came");
        }
    }

    #[test]
    fn what_the_page_forbids_is_refused() {
        for (bytes, role) in [
            (&[0x02u8, 0x00][..], Role::Client),
            (&[0xc2, 0x00], Role::Client),
            (&[0x81, 0x00], Role::Client),
            (&[0x82, 0x80, 0, 0, 0, 0], Role::Client),
            (&[0x82, 0x00], Role::Server),
            (&[0x82, 0x7f], Role::Client),
            (&[0x82, 0x7e, 0xff, 0xff], Role::Client),
            (&[0x89, 0x7e, 0x00, 0x7e], Role::Client),
        ] {
            assert!(ours(role, bytes).parse().is_err(), "{bytes:x?}");
        }
    }
}
