//! A path with a round-trip time: bytes leave half of it after they came.
//!
//! A client of the control address sends a word, and it is done to every connection there
//! is; new ones are served. [`FREEZE`]: their bytes are neither read nor written any more and nobody
//! is told. [`CUT`]: they are reset at both ends, and what was on the way is lost.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use socket2::SockRef;

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
    /// Where it listens; for peers whose port is fixed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// Words of the control connection.
pub(crate) const FREEZE: u8 = b'f';
pub(crate) const CUT: u8 = b'c';
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

/// A connection through here. Only its threads own it: the sockets close when they end.
struct Link {
    near: TcpStream,
    far: TcpStream,
    frozen: AtomicBool,
    cut: AtomicBool,
}

type Links = Arc<Mutex<Vec<Weak<Link>>>>;

pub(crate) fn run(args: &Args) -> Result<()> {
    let listener = TcpListener::bind(args.listen)?;
    let control = TcpListener::bind("127.0.0.1:0")?;
    println!("{} {}", listener.local_addr()?, control.local_addr()?);
    let links = Links::default();
    let of_control = Arc::clone(&links);
    thread::spawn(move || {
        while let Ok((mut socket, _)) = control.accept() {
            let mut word = [0];
            if socket.read_exact(&mut word).is_ok() {
                obey(word[0], &of_control);
            }
        }
    });
    let delay = Duration::from_millis(args.rtt_ms) / 2;
    let room = args.room_mib << 20;
    loop {
        let (near, _) = listener.accept()?;
        let Ok(far) = TcpStream::connect(args.to) else {
            continue;
        };
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let link = Arc::new(Link {
            near,
            far,
            frozen: AtomicBool::new(false),
            cut: AtomicBool::new(false),
        });
        lock(&links).push(Arc::downgrade(&link));
        for up in [true, false] {
            let way = Arc::new(Way::default());
            let (w, l) = (Arc::clone(&way), Arc::clone(&link));
            thread::spawn(move || w.take_in(&l, up, delay, room));
            let l = Arc::clone(&link);
            thread::spawn(move || way.give_out(&l, up));
        }
    }
}

/// Does what a word says to all connections there are, and forgets them.
fn obey(word: u8, links: &Links) {
    for link in std::mem::take(&mut *lock(links)) {
        let Some(link) = link.upgrade() else {
            continue;
        };
        match word {
            FREEZE => link.frozen.store(true, Ordering::Release),
            CUT => link.cut(),
            _ => {}
        }
    }
}

impl Link {
    /// Resets both ends, once the threads have let go: readers notice at once.
    fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        for socket in [&self.near, &self.far] {
            // One that is over already has nobody who could be told.
            drop(SockRef::from(socket).set_linger(Some(Duration::ZERO)));
            // Says nothing to the other side; it only wakes our reader.
            drop(socket.shutdown(Shutdown::Read));
        }
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// A frozen connection stays as it is until the relay ends.
    fn stay_if_frozen(&self) {
        while self.frozen.load(Ordering::Acquire) {
            thread::park();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Way {
    fn take_in(&self, link: &Link, up: bool, delay: Duration, room: usize) {
        let mut from = if up { &link.near } else { &link.far };
        loop {
            let mut block = lock(&self.state).spare.pop().unwrap_or_default();
            block.resize(BLOCK, 0);
            let n = from.read(&mut block).unwrap_or(0);
            link.stay_if_frozen();
            block.truncate(n);
            let mut state = lock(&self.state);
            if link.is_cut() {
                state.blocks.clear();
                state.broken = true;
            }
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

    fn give_out(&self, link: &Link, up: bool) {
        let mut to = if up { &link.far } else { &link.near };
        loop {
            let mut state = lock(&self.state);
            let (due, block) = loop {
                if let Some(next) = state.blocks.pop_front() {
                    break next;
                }
                if state.ended {
                    if !link.is_cut() {
                        drop(to.shutdown(Shutdown::Write));
                    }
                    return;
                }
                state = wait(&self.changed, state);
            };
            drop(state);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            link.stay_if_frozen();
            if link.is_cut() {
                return;
            }
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
