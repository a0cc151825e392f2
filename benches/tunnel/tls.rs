//! The baseline: one rustls stream over loopback, a writer and a reader, nothing between them. Or the
//! same without TLS: what one socket costs, both its ends.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use serde_json::json;

use super::prepare;
use super::procs::cpu_seconds;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What `prepare` wrote.
    #[arg(long)]
    dir: PathBuf,
    /// Seconds of measuring.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Without TLS.
    #[arg(long)]
    plain: bool,
}

/// Bytes of a write: four TLS records.
const WRITE: usize = 64 * 1024;
const READ: usize = 256 * 1024;
const WARM: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &Args) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let server = prepare::server_config(&args.dir)?;
    let client = Arc::new(prepare::client_config(&args.dir)?);
    let plain = args.plain;
    let (stop, got) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let count = Arc::clone(&got);
    let reader = thread::spawn(move || -> Result<()> {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let mut tls: Box<dyn Read> = match plain {
            true => Box::new(socket),
            false => Box::new(StreamOwned::new(ServerConnection::new(server)?, socket)),
        };
        let mut block = vec![0; READ];
        loop {
            match tls.read(&mut block) {
                Ok(n) if n > 0 => count.fetch_add(n as u64, Ordering::Relaxed),
                Ok(_) | Err(_) => return Ok(()),
            };
        }
    });
    let stopped = Arc::clone(&stop);
    let writer = thread::spawn(move || -> Result<()> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        let name = address.ip().into();
        let mut tls: Box<dyn Write> = match plain {
            true => Box::new(socket),
            false => Box::new(StreamOwned::new(
                ClientConnection::new(client, name)?,
                socket,
            )),
        };
        let block = vec![0x5a; WRITE];
        while !stopped.load(Ordering::Relaxed) {
            tls.write_all(&block)?;
        }
        Ok(())
    });
    thread::sleep(WARM);
    let own = [std::process::id()];
    let (began, bytes, cpu) = (
        Instant::now(),
        got.load(Ordering::Relaxed),
        cpu_seconds(&own)?,
    );
    thread::sleep(Duration::from_secs_f64(args.seconds));
    let bytes = got.load(Ordering::Relaxed) - bytes;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds(&own)? - cpu);
    stop.store(true, Ordering::Relaxed);
    for thread in [writer, reader] {
        thread.join().ok().context("a thread panicked")??;
    }
    let result = json!({
        "gbit": bytes as f64 * 8.0 / seconds / 1e9,
        "cpu_s_per_gib": cpu / (bytes as f64 / f64::from(1 << 30)),
    });
    println!("{result}");
    Ok(())
}
