//! TLS handshakes take turns.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::app::tune;
use crate::mux;

/// Turns of a listener's handshakes.
#[derive(Debug)]
pub struct Handshakes(Semaphore);

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
        // Who has gone already cannot be tuned.
        tune(&stream)
            .inspect_err(|e| tracing::debug!(why = %e, "connection not tuned"))
            .ok()?;
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

#[cfg(test)]
mod tests {
    use rustls_pki_types::ServerName;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::app::socket;

    #[tokio::test]
    async fn the_kernel_is_asked_for_all_of_it() {
        let (server, client) = socket::testing::tls();
        let (server, client) = (TlsAcceptor::from(server), TlsConnector::from(client));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let dial = async {
            let tcp = TcpStream::connect(address).await.expect("connect");
            let name = ServerName::try_from("127.0.0.1").expect("name");
            client.connect(name, tcp).await
        };
        let turns = Handshakes::default();
        let (accepted, dialled) = tokio::join!(
            async {
                let (tcp, _) = listener.accept().await.expect("accept");
                turns.accept(tcp, &server).await
            },
            dial
        );
        dialled.expect("dialled");
        socket::testing::check(accepted.expect("accepted").get_ref().0);
    }
}
