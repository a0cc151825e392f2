//! What is measured. Each measurement prints one JSON object.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{Bulk, Direction, connect, echo, query};
use super::procs::{cpu_seconds, resident_kib};
use super::relay;
use super::target::{BLOCK, HALF_CLOSE, Mode};

/// Where the load goes in, where it comes out, and who is in between.
#[derive(clap::Args, Clone)]
pub(crate) struct Path {
    /// Where to connect.
    #[arg(long)]
    to: SocketAddr,
    /// The target itself, to ask it what arrived.
    #[arg(long)]
    target: SocketAddr,
    /// Processes whose CPU time and memory count.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// Seconds of measuring.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Seconds before it counts.
    #[arg(long, default_value_t = 0.3)]
    warm: f64,
}

#[derive(Subcommand)]
pub(crate) enum What {
    /// Streams that move as much as they can.
    Bulk {
        #[command(flatten)]
        path: Path,
        #[arg(long)]
        direction: Direction,
        #[arg(long, default_value_t = 1)]
        streams: usize,
    },
    /// The time of a small echo, alone or beside bulk streams.
    Echo {
        #[command(flatten)]
        path: Path,
        /// Where the bulk streams connect; the same as the echo when not given.
        #[arg(long)]
        bulk_to: Option<SocketAddr>,
        #[arg(long, default_value = "down")]
        direction: Direction,
        #[arg(long, default_value_t = 0)]
        streams: usize,
    },
    /// New connections, each good for one echo.
    Opens {
        #[command(flatten)]
        path: Path,
        #[arg(long, default_value_t = 1)]
        callers: usize,
    },
    /// Memory of open connections that do nothing.
    Idle {
        #[command(flatten)]
        path: Path,
        #[arg(long, default_value_t = 1000)]
        count: usize,
    },
    /// Readers that stopped, in both directions, and what others notice of it.
    Stalled {
        #[command(flatten)]
        path: Path,
        #[arg(long, default_value_t = 50)]
        each: usize,
        /// Seconds they read all they can before they stop; 0: they never begin.
        #[arg(long, default_value_t = 0.0)]
        grow: f64,
    },
    /// The connection below is cut: when a new stream brings its first byte again.
    Cut {
        #[command(flatten)]
        path: Path,
        /// Control address of the relay that cuts.
        #[arg(long)]
        relay: SocketAddr,
    },
    /// Half-close both ways, to the byte.
    HalfClose {
        #[command(flatten)]
        path: Path,
    },
}

pub(crate) fn run(what: &What) -> Result<()> {
    let result = match what {
        What::Bulk {
            path,
            direction,
            streams,
        } => bulk(path, *direction, *streams)?,
        What::Echo {
            path,
            bulk_to,
            direction,
            streams,
        } => echoes(path, bulk_to.unwrap_or(path.to), *direction, *streams)?,
        What::Opens { path, callers } => opens(path, *callers)?,
        What::Idle { path, count } => idle(path, *count)?,
        What::Stalled { path, each, grow } => stalled(path, *each, *grow)?,
        What::Cut { path, relay } => cut(path, *relay)?,
        What::HalfClose { path } => half_close(path)?,
    };
    println!("{result}");
    Ok(())
}

/// A stretch of measuring: what arrived, how long it took, what it cost.
struct Stretch {
    began: Instant,
    arrived: u64,
    cpu: f64,
}

impl Stretch {
    fn begin(bulk: &Bulk, pids: &[u32]) -> Result<Self> {
        Ok(Self {
            cpu: cpu_seconds(pids)?,
            arrived: bulk.arrived()?,
            began: Instant::now(),
        })
    }

    fn end(&self, bulk: &Bulk, pids: &[u32]) -> Result<Value> {
        let bytes = bulk.arrived()?.saturating_sub(self.arrived);
        let seconds = self.began.elapsed().as_secs_f64();
        let cpu = cpu_seconds(pids)? - self.cpu;
        let gib = bytes as f64 / f64::from(1 << 30);
        Ok(json!({
            "gbit": bytes as f64 * 8.0 / seconds / 1e9,
            "bytes": bytes,
            "cpu_s_per_gib": if gib > 0.0 { Some(cpu / gib) } else { None },
        }))
    }
}

fn sleep(seconds: f64) {
    thread::sleep(Duration::from_secs_f64(seconds));
}

fn bulk(path: &Path, direction: Direction, streams: usize) -> Result<Value> {
    let bulk = Bulk::begin(path.to, path.target, direction, streams)?;
    sleep(path.warm);
    let stretch = Stretch::begin(&bulk, &path.pids)?;
    sleep(path.seconds);
    let result = stretch.end(&bulk, &path.pids)?;
    bulk.end();
    Ok(result)
}

fn echoes(path: &Path, bulk_to: SocketAddr, direction: Direction, streams: usize) -> Result<Value> {
    let mut probe = connect(path.to, Mode::Echo)?;
    echo(&mut probe)?;
    let bulk = Bulk::begin(bulk_to, path.target, direction, streams)?;
    sleep(path.warm);
    let stretch = Stretch::begin(&bulk, &path.pids)?;
    let times = probe_for(&mut probe, path.seconds)?;
    let mut result = stretch.end(&bulk, &path.pids)?;
    bulk.end();
    put_times(&mut result, times);
    Ok(result)
}

fn probe_for(probe: &mut TcpStream, seconds: f64) -> Result<Vec<Duration>> {
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut times = Vec::new();
    while Instant::now() < until {
        times.push(echo(probe)?);
    }
    Ok(times)
}

fn put_times(result: &mut Value, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| {
        let n = (times.len() as f64 * share) as usize;
        let time = times.get(n.min(times.len().saturating_sub(1)));
        time.map(|t| t.as_secs_f64() * 1e6)
    };
    result["p50_us"] = json!(at(0.5));
    result["p99_us"] = json!(at(0.99));
    result["max_us"] = json!(at(1.0));
    result["samples"] = json!(times.len());
}

fn opens(path: &Path, callers: usize) -> Result<Value> {
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(path.seconds);
    let to = path.to;
    let cpu = cpu_seconds(&path.pids)?;
    let threads: Vec<_> = (0..callers)
        .map(|_| {
            thread::spawn(move || -> Result<Vec<Duration>> {
                let mut times = Vec::new();
                while Instant::now() < until {
                    let began = Instant::now();
                    echo(&mut connect(to, Mode::Echo)?)?;
                    times.push(began.elapsed());
                }
                Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for thread in threads {
        match thread.join() {
            Ok(got) => times.extend(got?),
            Err(_) => bail!("a caller panicked"),
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu = cpu_seconds(&path.pids)? - cpu;
    let mut result = json!({
        "per_second": times.len() as f64 / seconds,
        "cpu_us_per_open": cpu * 1e6 / times.len().max(1) as f64,
    });
    put_times(&mut result, times);
    Ok(result)
}

fn idle(path: &Path, count: usize) -> Result<Value> {
    let before = resident_kib(&path.pids)?;
    let mut held = Vec::new();
    for _ in 0..count {
        let mut socket = connect(path.to, Mode::Echo)?;
        echo(&mut socket)?;
        held.push(socket);
    }
    let after = resident_kib(&path.pids)?;
    Ok(json!({ "before_kib": before, "rss_kib": after }))
}

/// Longest the buffers on the way may take to fill, and how long nothing moves when they are.
const FILL: Duration = Duration::from_secs(20);
const QUIET: f64 = 0.3;
/// CPU seconds of a pair of processes that do nothing, over [`QUIET`].
const QUIET_CPU: f64 = 0.02;

/// Waits until every buffer on the way is full; the seconds it took.
fn fill(pids: &[u32], written: &AtomicU64) -> Result<f64> {
    let began = Instant::now();
    let look = || Ok::<_, anyhow::Error>((written.load(Ordering::Relaxed), cpu_seconds(pids)?));
    let mut before = look()?;
    while began.elapsed() < FILL {
        sleep(QUIET);
        let now = look()?;
        if now.0 == before.0 && now.1 - before.1 <= QUIET_CPU {
            break;
        }
        before = now;
    }
    Ok(began.elapsed().as_secs_f64())
}

fn stalled(path: &Path, each: usize, grow: f64) -> Result<Value> {
    let before = resident_kib(&path.pids)?;
    let mut probe = connect(path.to, Mode::Echo)?;
    echo(&mut probe)?;
    let alone = bulk(path, Direction::Down, 1)?;
    let mut held = Vec::new();
    let mut movers = Vec::new();
    let written = Arc::new(AtomicU64::new(0));
    let halted = Arc::new(AtomicBool::new(false));
    let halt = || {
        halted.store(true, Ordering::Release);
        connect(path.target, Mode::Halt)?.read_exact(&mut [0])?;
        Ok::<_, anyhow::Error>(())
    };
    if grow == 0.0 {
        halt()?;
    }
    for _ in 0..each {
        // Read here, as long as anybody reads …
        let mut socket = connect(path.to, Mode::Source)?;
        held.push(socket.try_clone()?);
        let halted = Arc::clone(&halted);
        movers.push(thread::spawn(move || {
            let mut block = vec![0; BLOCK];
            while !halted.load(Ordering::Acquire) && socket.read(&mut block).is_ok_and(|n| n > 0) {}
        }));
        // … and over there.
        let mut socket = connect(path.to, Mode::Halting)?;
        held.push(socket.try_clone()?);
        let count = Arc::clone(&written);
        movers.push(thread::spawn(move || {
            let block = vec![0x5a; BLOCK];
            while let Ok(n @ 1..) = socket.write(&block) {
                count.fetch_add(n as u64, Ordering::Relaxed);
            }
        }));
    }
    if grow > 0.0 {
        sleep(grow);
        halt()?;
    }
    let filled = fill(&path.pids, &written)?;
    let times = probe_for(&mut probe, path.seconds)?;
    let beside = bulk(path, Direction::Down, 1)?;
    let mut result = json!({
        "before_kib": before,
        "rss_kib": resident_kib(&path.pids)?,
        "filled_s": filled,
        "gbit_before": alone["gbit"],
        "gbit_beside": beside["gbit"],
    });
    put_times(&mut result, times);
    for socket in &held {
        drop(socket.shutdown(Shutdown::Both));
    }
    drop(held);
    connect(path.target, Mode::Release)?.read_exact(&mut [0])?;
    for mover in movers {
        drop(mover.join());
    }
    // The path must be as good as before.
    let again = echo(&mut connect(path.to, Mode::Echo)?)?;
    result["afterwards_us"] = json!(again.as_secs_f64() * 1e6);
    Ok(result)
}

/// Between two tries to open a stream while the tunnel is down: what the figure is exact to.
const TRY_AGAIN: Duration = Duration::from_millis(2);
/// Longest a tunnel may be away after a cut.
const AWAY: Duration = Duration::from_secs(60);

fn cut(path: &Path, relay: SocketAddr) -> Result<Value> {
    let mut probe = connect(path.to, Mode::Echo)?;
    echo(&mut probe)?;
    let mut control = TcpStream::connect(relay)?;
    let began = Instant::now();
    control.write_all(&[relay::CUT])?;
    // The stream that was there tells when the plane's end knows: nothing goes the old way then.
    if let Ok(1..) = probe.read(&mut [0]) {
        bail!("a stream said something nobody asked for");
    }
    let lost = began.elapsed();
    let mut tries = 1;
    while let Err(e) = connect(path.to, Mode::Echo).and_then(|mut socket| echo(&mut socket)) {
        if began.elapsed() > AWAY {
            return Err(e.context("the tunnel did not come back"));
        }
        tries += 1;
        thread::sleep(TRY_AGAIN);
    }
    Ok(json!({
        "lost_s": lost.as_secs_f64(),
        "first_byte_s": began.elapsed().as_secs_f64(),
        "tries": tries,
    }))
}

/// Bytes sent through the client's own half-close tests; no multiple of anything.
const ODD: usize = 1_234_567;

fn half_close(path: &Path) -> Result<Value> {
    // The client ends first and then waits for the answer.
    let mut sink = connect(path.to, Mode::Sink)?;
    sink.write_all(&vec![0x5a; ODD])?;
    sink.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    let first = sink.read_to_end(&mut answer).is_ok() && answer == (ODD as u64).to_be_bytes();
    // The target ends first and then goes on reading.
    let before = query(path.target)?.1;
    let mut socket = connect(path.to, Mode::HalfClose)?;
    let mut got = Vec::new();
    let heard = socket.read_to_end(&mut got).is_ok() && got.len() == HALF_CLOSE;
    let sent = socket.write_all(&vec![0x5a; ODD]).is_ok();
    // Its connection may be gone already: then the count below says so.
    drop(socket.shutdown(Shutdown::Write));
    let until = Instant::now() + Duration::from_secs(2);
    let mut arrived = 0;
    while arrived < ODD as u64 && Instant::now() < until {
        arrived = query(path.target)?.1 - before;
        sleep(0.02);
    }
    let second = heard && sent && arrived == ODD as u64;
    Ok(json!({ "client_first": first, "target_first": second }))
}
