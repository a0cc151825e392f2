//! The far server. The first byte of a connection says what it is for.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// Sends back what it gets.
    Echo = b'e',
    /// Reads to the end, then answers how many bytes came.
    Sink = b'k',
    /// Sends until nobody takes it.
    Source = b's',
    /// Reads until [`Mode::Halt`], then never again.
    Halting = b'p',
    /// Stops all readers that halt.
    Halt = b'z',
    /// Sends [`HALF_CLOSE`] bytes, ends its direction, then reads to the end.
    HalfClose = b'h',
    /// Answers how many bytes were sunk, and how many came after a half-close.
    Query = b'q',
    /// Drops every connection that is not read any more.
    Release = b'x',
}

/// Bytes the target sends before it half-closes.
pub(crate) const HALF_CLOSE: usize = 300_000;
/// Bytes of one read or write.
pub(crate) const BLOCK: usize = 256 * 1024;
/// Threads that wait for connections from the beginning; more are made when all are busy.
const WAITING: usize = 24;

struct Shared {
    listener: TcpListener,
    idle: AtomicUsize,
    sunk: AtomicU64,
    after_close: AtomicU64,
    /// Readers that halt have to.
    halted: AtomicBool,
    never: Mutex<Vec<TcpStream>>,
}

pub(crate) fn run() -> Result<()> {
    let shared = Arc::new(Shared {
        listener: TcpListener::bind("127.0.0.1:0")?,
        idle: AtomicUsize::new(0),
        sunk: AtomicU64::new(0),
        after_close: AtomicU64::new(0),
        halted: AtomicBool::new(false),
        never: Mutex::default(),
    });
    println!("{}", shared.listener.local_addr()?);
    for _ in 1..WAITING {
        begin(&shared);
    }
    work(&shared);
    Ok(())
}

fn begin(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    thread::spawn(move || work(&shared));
}

fn work(shared: &Arc<Shared>) {
    let mut block = Vec::new();
    loop {
        shared.idle.fetch_add(1, Ordering::AcqRel);
        let accepted = shared.listener.accept();
        if shared.idle.fetch_sub(1, Ordering::AcqRel) == 1 {
            begin(shared);
        }
        let Ok((socket, _)) = accepted else {
            continue;
        };
        // A connection that broke is over; its client counts what it got.
        drop(serve(shared, socket, &mut block));
    }
}

fn serve(shared: &Shared, mut socket: TcpStream, block: &mut Vec<u8>) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut mode = [0];
    socket.read_exact(&mut mode)?;
    match mode[0] {
        m if m == Mode::Echo as u8 => {
            let mut small = [0; 4096];
            loop {
                match socket.read(&mut small)? {
                    0 => return Ok(()),
                    n => socket.write_all(&small[..n])?,
                }
            }
        }
        m if m == Mode::Sink as u8 => {
            let n = drain(&mut socket, block, &shared.sunk)?;
            socket.write_all(&n.to_be_bytes())
        }
        m if m == Mode::Source as u8 => {
            block.resize(BLOCK, 0x5a);
            loop {
                socket.write_all(block)?;
            }
        }
        m if m == Mode::Halting as u8 => {
            block.resize(BLOCK, 0);
            while !shared.halted.load(Ordering::Acquire) {
                if socket.read(block)? == 0 {
                    return Ok(());
                }
            }
            let mut never = shared.never.lock().unwrap_or_else(PoisonError::into_inner);
            never.push(socket);
            Ok(())
        }
        m if m == Mode::Halt as u8 => {
            shared.halted.store(true, Ordering::Release);
            socket.write_all(b"z")
        }
        m if m == Mode::HalfClose as u8 => {
            socket.write_all(&vec![0x5a; HALF_CLOSE])?;
            socket.shutdown(Shutdown::Write)?;
            drain(&mut socket, block, &shared.after_close).map(drop)
        }
        m if m == Mode::Query as u8 => {
            let sunk = shared.sunk.load(Ordering::Acquire);
            socket.write_all(&sunk.to_be_bytes())?;
            let after = shared.after_close.load(Ordering::Acquire);
            socket.write_all(&after.to_be_bytes())
        }
        m if m == Mode::Release as u8 => {
            let mut never = shared.never.lock().unwrap_or_else(PoisonError::into_inner);
            never.clear();
            shared.halted.store(false, Ordering::Release);
            socket.write_all(b"x")
        }
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

fn drain(socket: &mut TcpStream, block: &mut Vec<u8>, count: &AtomicU64) -> std::io::Result<u64> {
    block.resize(BLOCK, 0);
    let mut all = 0;
    loop {
        match socket.read(block)? {
            0 => return Ok(all),
            n => {
                all += n as u64;
                count.fetch_add(n as u64, Ordering::AcqRel);
            }
        }
    }
}
