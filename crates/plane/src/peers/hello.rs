//! What a connection begins with. A door passes on TLS alone, and only what has begun: the plane with the seat hears nothing
//! of who connects and stays silent. Another door's hello names what it is, so two doors that lead to one another are noticed.

use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::PROTOCOL;

/// Longest hello: a long one, with the largest keys and a ticket, has 4 KiB.
const HELLO_MAX: usize = 16 * 1024;
/// Read at once: most have less.
const PIECE: usize = 2 * 1024;
/// How long it may take: two round trips of the slowest path, with loss. It is a client's whole time before anybody is asked
/// about it, and less than a node waits.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// The beginning of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hello {
    /// A client's; all bytes that were read.
    Client(Vec<u8>),
    /// Another plane's, which takes this one for the plane with the seat.
    Plane,
}

/// `None`: it ended, is too slow, or does not speak TLS.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> Option<Hello> {
    tokio::time::timeout(DEADLINE, begun(from)).await.ok()?
}

async fn begun(from: &mut (impl AsyncRead + Unpin)) -> Option<Hello> {
    let (mut acceptor, mut bytes) = (Acceptor::default(), Vec::<u8>::new());
    loop {
        let seen = bytes.len();
        let room = HELLO_MAX.checked_sub(seen).filter(|room| *room > 0)?;
        bytes.reserve(PIECE);
        let mut piece = (&mut *from).take(room as u64);
        if piece.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let mut new = bytes.get(seen..)?;
        while !new.is_empty() {
            if acceptor.read_tls(&mut new).ok()? == 0 {
                return None;
            }
        }
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let is_plane = hello
                .alpn()
                .is_some_and(|mut names| names.any(|name| name == PROTOCOL.as_bytes()));
            return Some(match is_plane {
                true => Hello::Plane,
                false => Hello::Client(bytes),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection};
    use rustls_pki_types::ServerName;

    use super::*;
    use pf9_hostagent::host::tls::believing_nobody;

    fn hello(config: ClientConfig) -> Vec<u8> {
        let name = ServerName::try_from("a.plane").expect("name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("hello");
        bytes
    }

    fn naming(protocols: &[&str]) -> Vec<u8> {
        let mut config = believing_nobody().expect("configuration");
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        hello(config)
    }

    fn now<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        runtime.expect("runtime").block_on(work)
    }

    /// What is read when it comes in pieces of this length.
    async fn pieces(bytes: &[u8], len: usize) -> Option<Hello> {
        let (mut client, mut door) = tokio::io::duplex(len);
        let sends = async {
            use tokio::io::AsyncWriteExt;
            // Refused: nobody reads the rest.
            drop(client.write_all(bytes).await);
            drop(client);
        };
        let read = async {
            let read = read(&mut door).await;
            drop(door);
            read
        };
        tokio::join!(sends, read).1
    }

    #[test]
    fn another_doors_hello_is_told_from_a_clients() {
        let client = naming(&["http/1.1"]);
        assert_eq!(now(pieces(&client, 7)), Some(Hello::Client(client)));
        let none = naming(&[]);
        assert_eq!(now(pieces(&none, 4096)), Some(Hello::Client(none)));
        let plane = naming(&[PROTOCOL, "http/1.1"]);
        assert_eq!(now(pieces(&plane, 7)), Some(Hello::Plane));
    }

    #[test]
    fn who_says_nothing_or_dribbles_has_its_time_and_no_more() {
        now(async {
            let began = tokio::time::Instant::now();
            let (_client, mut door) = tokio::io::duplex(64);
            assert_eq!(read(&mut door).await, None);
            assert_eq!(began.elapsed(), DEADLINE);
            let (mut client, mut door) = tokio::io::duplex(64);
            let dribbles = async {
                use tokio::io::AsyncWriteExt;
                for byte in naming(&[]) {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if client.write_all(&[byte]).await.is_err() {
                        break;
                    }
                }
            };
            tokio::select! {
                read = read(&mut door) => assert_eq!(read, None),
                () = dribbles => panic!("it was heard to its end"),
            }
            assert_eq!(began.elapsed(), 2 * DEADLINE);
        });
    }

    #[test]
    fn what_is_no_tls_ends_at_once() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"SSH-2.0-x\r\n",
            b"",
            &[22; 5],
        ] {
            assert_eq!(now(pieces(bytes, 64)), None, "{bytes:?}");
        }
        // A record without an end: no more of it is kept than a hello has.
        let mut endless = vec![22, 3, 1, 64, 0, 1, 0, 255, 255];
        endless.resize(4 * HELLO_MAX, 0);
        assert_eq!(now(pieces(&endless, 4096)), None);
    }

    proptest! {
        /// Whatever comes, however cut: all of a client's bytes are passed on, or none.
        #[test]
        fn nothing_is_lost_of_what_was_read(
            rest in prop::collection::vec(any::<u8>(), 0..40), len in 1usize..3000,
            bytes in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let sent = [naming(&["http/1.1"]), rest].concat();
            match now(pieces(&sent, len)) {
                Some(Hello::Client(read)) => prop_assert!(sent.starts_with(&read) && !read.is_empty()),
                other => prop_assert!(false, "{:?}", other),
            }
            prop_assert!(!matches!(now(pieces(&bytes, len)), Some(Hello::Plane)));
        }
    }
}
