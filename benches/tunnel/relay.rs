//! A path with a round-trip time: bytes leave half of it after they came.
//!
//! A connection to the control address freezes every connection there is: their bytes are neither
//! read nor written any more and nobody is told. New connections are served.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where connections go.
    #[arg(long)]
    to: SocketAddr,
    /// Round-trip time, milliseconds.
    #[arg(long, default_value_t = 0)]
    rtt_ms: u64,
    /// Most bytes on the way in each direction, MiB.
    #[arg(long, default_value_t = 128)]
    room_mib: usize,
}

/// Bytes of one read.
const BLOCK: usize = 256 * 1024;

#[derive(Default)]
struct Way {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    blocks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
    ended: bool,
    broken: bool,
}

type Frozen = Arc<Mutex<Arc<AtomicBool>>>;

pub(crate) fn run(args: &Args) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let control = TcpListener::bind("127.0.0.1:0")?;
    println!("{} {}", listener.local_addr()?, control.local_addr()?);
    let frozen = Frozen::default();
    let of_control = Arc::clone(&frozen);
    thread::spawn(move || {
        while let Ok((socket, _)) = control.accept() {
            let mut now = lock(&of_control);
            now.store(true, Ordering::Release);
            *now = Arc::default();
            drop(socket);
        }
    });
    let delay = Duration::from_millis(args.rtt_ms) / 2;
    let room = args.room_mib << 20;
    loop {
        let (near, _) = listener.accept()?;
        let Ok(far) = TcpStream::connect(args.to) else {
            continue;
        };
        let frozen = Arc::clone(&lock(&frozen));
        for (from, to) in [(&near, &far), (&far, &near)] {
            from.set_nodelay(true)?;
            let way = Arc::new(Way::default());
            let (reader, writer) = (from.try_clone()?, to.try_clone()?);
            let (w, f) = (Arc::clone(&way), Arc::clone(&frozen));
            thread::spawn(move || w.take_in(reader, delay, room, &f));
            let f = Arc::clone(&frozen);
            thread::spawn(move || way.give_out(writer, &f));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A frozen connection stays as it is until the relay ends.
fn stay_if(frozen: &AtomicBool) {
    while frozen.load(Ordering::Acquire) {
        thread::park();
    }
}

impl Way {
    fn take_in(&self, mut from: TcpStream, delay: Duration, room: usize, frozen: &AtomicBool) {
        loop {
            let mut block = lock(&self.state).spare.pop().unwrap_or_default();
            block.resize(BLOCK, 0);
            let n = from.read(&mut block).unwrap_or(0);
            stay_if(frozen);
            block.truncate(n);
            let mut state = lock(&self.state);
            while state.bytes > room && !state.broken {
                state = wait(&self.changed, state);
            }
            if n == 0 || state.broken {
                state.ended = true;
                self.changed.notify_all();
                return;
            }
            state.bytes += n;
            state.blocks.push_back((Instant::now() + delay, block));
            self.changed.notify_all();
        }
    }

    fn give_out(&self, mut to: TcpStream, frozen: &AtomicBool) {
        loop {
            let mut state = lock(&self.state);
            let (due, block) = loop {
                if let Some(next) = state.blocks.pop_front() {
                    break next;
                }
                if state.ended {
                    drop(to.shutdown(Shutdown::Write));
                    return;
                }
                state = wait(&self.changed, state);
            };
            drop(state);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            stay_if(frozen);
            let broken = to.write_all(&block).is_err();
            let mut state = lock(&self.state);
            state.bytes -= block.len();
            state.spare.push(block);
            state.broken |= broken;
            self.changed.notify_all();
            if broken {
                drop(to.shutdown(Shutdown::Both));
                return;
            }
        }
    }
}

fn wait<'a>(changed: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    changed.wait(state).unwrap_or_else(PoisonError::into_inner)
}
