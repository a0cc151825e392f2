//! Connections of the load generator.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::target::{BLOCK, Mode};

/// Longest anything may take before it counts as stuck.
const STUCK: Duration = Duration::from_secs(20);
/// Bytes of an echo.
pub(crate) const ECHO: usize = 64;

/// A connection whose mode is said already.
pub(crate) fn connect(to: SocketAddr, mode: Mode) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(STUCK))?;
    socket.set_write_timeout(Some(STUCK))?;
    socket.write_all(&[mode as u8])?;
    Ok(socket)
}

/// One echo; how long it took.
pub(crate) fn echo(socket: &mut TcpStream) -> Result<Duration> {
    let began = Instant::now();
    socket.write_all(&[7; ECHO])?;
    socket.read_exact(&mut [0; ECHO])?;
    Ok(began.elapsed())
}

/// Bytes the target sunk, and bytes it got after half-closes.
pub(crate) fn query(target: SocketAddr) -> Result<(u64, u64)> {
    let mut socket = connect(target, Mode::Query)?;
    let (mut sunk, mut after) = ([0; 8], [0; 8]);
    socket.read_exact(&mut sunk)?;
    socket.read_exact(&mut after)?;
    Ok((u64::from_be_bytes(sunk), u64::from_be_bytes(after)))
}

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Direction {
    /// From the plane to the node.
    Down,
    /// From the node to the plane.
    Up,
}

/// Streams that move as much as they can until stopped.
pub(crate) struct Bulk {
    direction: Direction,
    target: SocketAddr,
    sockets: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
    read: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Bulk {
    pub(crate) fn begin(
        to: SocketAddr,
        target: SocketAddr,
        direction: Direction,
        streams: usize,
    ) -> Result<Self> {
        let mut bulk = Self {
            direction,
            target,
            sockets: Vec::new(),
            threads: Vec::new(),
            read: Arc::default(),
            stop: Arc::default(),
        };
        for _ in 0..streams {
            let mode = match direction {
                Direction::Down => Mode::Sink,
                Direction::Up => Mode::Source,
            };
            let mut socket = connect(to, mode)?;
            bulk.sockets.push(socket.try_clone()?);
            let (read, stop) = (Arc::clone(&bulk.read), Arc::clone(&bulk.stop));
            bulk.threads.push(thread::spawn(move || {
                let mut block = vec![0x5a; BLOCK];
                while !stop.load(Ordering::Relaxed) {
                    let moved = match direction {
                        Direction::Down => socket.write(&block),
                        Direction::Up => socket.read(&mut block),
                    };
                    match moved {
                        Ok(0) => return,
                        Ok(n) => read.fetch_add(n as u64, Ordering::Relaxed),
                        Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                        Err(_) => return,
                    };
                }
            }));
        }
        Ok(bulk)
    }

    /// Bytes that arrived at the far end so far.
    pub(crate) fn arrived(&self) -> Result<u64> {
        match self.direction {
            Direction::Down => Ok(query(self.target)?.0),
            Direction::Up => Ok(self.read.load(Ordering::Relaxed)),
        }
    }

    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for socket in &self.sockets {
            // It may be gone already.
            drop(socket.shutdown(Shutdown::Both));
        }
        for thread in self.threads {
            drop(thread.join());
        }
    }
}
