//! TLS handshakes take turns.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::mux;

/// Turns of a listener's handshakes.
#[derive(Debug)]
pub struct Handshakes(Semaphore);

/// Bytes the kernel may hold unsent on a connection; the node's end has the same bound.
const UNSENT_MAX: u32 = 128 * 1024;
/// TLS handshakes at a time: a returning fleet queues here instead of taking every core.
const HANDSHAKES_MAX: usize = 64;
/// How long a connection may wait for its turn, or for its first byte. With the handshake itself
/// it is a little less than a node waits.
const TURN_DEADLINE: Duration = Duration::from_secs(12);
/// How long a handshake may take: three round trips of the slowest path, with loss. Who holds a
/// turn keeps others waiting.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

// === impl Handshakes ===

impl Default for Handshakes {
    fn default() -> Self {
        Self(Semaphore::new(HANDSHAKES_MAX))
    }
}

impl Handshakes {
    /// Waits for a turn and takes it; `None` for whoever is too slow, or does not speak TLS.
    pub async fn accept(
        &self,
        stream: TcpStream,
        acceptor: &TlsAcceptor,
    ) -> Option<TlsStream<TcpStream>> {
        // Frames and prompts are small: they must not wait for company.
        drop(stream.set_nodelay(true));
        // What the kernel holds unsent is what a key stroke finds ahead of itself.
        drop(socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_MAX));
        let turn = async {
            // Who says nothing does not hold a turn that others wait for.
            stream.peek(&mut [0]).await.ok()?;
            self.0.acquire().await.ok()
        };
        let turn = tokio::time::timeout(TURN_DEADLINE, turn).await.ok()??;
        let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await;
        drop(turn);
        let mut stream = handshake
            .ok()?
            .inspect_err(|e| tracing::debug!(why = %e, "tls handshake failed"))
            .ok()?;
        stream.get_mut().1.set_buffer_limit(Some(mux::WRITE_MAX));
        Some(stream)
    }
}
