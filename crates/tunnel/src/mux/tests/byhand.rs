//! A peer driven by hand, frame by frame, on another implementation of websockets.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role as TheirRole;

use super::super::*;
use crate::wire::limits::{INITIAL_WINDOW, STREAMS_MAX, VERSION};
use crate::wire::{Class, Config, Frame, Hello, Meta, Open, Side, StreamId};

pub(super) struct Peer<S>(pub(super) WebSocketStream<S>);

pub(super) fn hello() -> Frame {
    Frame::Hello(Hello {
        version: VERSION,
        initial_window: INITIAL_WINDOW,
        max_streams: STREAMS_MAX,
        capabilities: Vec::new(),
    })
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// The server end of handshakes.
    pub(super) async fn server(io: S) -> Self {
        Self(WebSocketStream::from_raw_socket(io, TheirRole::Server, None).await)
    }

    /// The client end.
    pub(super) async fn client(io: S) -> Self {
        Self(WebSocketStream::from_raw_socket(io, TheirRole::Client, None).await)
    }

    pub(super) async fn hello(&mut self) {
        self.send(hello()).await;
    }

    pub(super) async fn send(&mut self, frame: Frame) {
        let message = Message::Binary(frame.encode());
        self.0.send(message).await.expect("send");
    }

    /// The next frame; `None` at the end, however it ends.
    pub(super) async fn frame(&mut self) -> Option<Frame> {
        while let Some(Ok(message)) = self.0.next().await {
            if message.is_binary() {
                return Some(Frame::decode(message.into_data()).expect("a frame"));
            }
        }
        None
    }
}

/// A node's session with a peer driven by hand, which has opened this stream.
pub(super) async fn asked(
    stream: StreamId,
    tasks: &mut JoinSet<()>,
) -> (Peer<DuplexStream>, Handle, Incoming) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let near = Websocket::new(Box::new(near), Role::Client, Bytes::new());
    let (handle, incoming, driver) = session(near, Side::Node, Config::default());
    tasks.spawn(async move { drop(driver.await) });
    let mut peer = Peer::server(far).await;
    peer.hello().await;
    let open = Open {
        service: "s".into(),
        class: Class::Bulk,
        meta: Meta::new(),
    };
    peer.send(Frame::Open(stream, open)).await;
    (peer, handle, incoming)
}
