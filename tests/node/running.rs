//! Programs that run while a test does something else, and their output.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::demo::{Outcome, command};
use crate::network::PATIENCE;

/// Processes of a test; none outlives it.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// `scripts/demo` with these arguments, with its pipes in our hands.
pub(crate) fn start(args: &[&str]) -> Outcome<Running> {
    command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map(Running)
        .map_err(|e| format!("scripts/demo: {e}"))
}

/// Lines of a pipe as they arrive.
pub(crate) fn lines(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

pub(crate) fn line_with(
    lines: &mpsc::Receiver<String>,
    words: &str,
    limit: Duration,
) -> Outcome<String> {
    let until = Instant::now() + limit;
    let mut last = String::new();
    while let Ok(line) = lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
        if line.contains(words) {
            return Ok(line);
        }
        last = line;
    }
    Err(format!(
        "no line with {words:?} within {limit:?}; the last was {last:?}"
    ))
}

/// A kubectl that keeps showing what happens.
pub(crate) struct Following {
    running: Running,
    pub(crate) seen: mpsc::Receiver<String>,
}

impl Following {
    /// It has shown its first line.
    pub(crate) fn begin(args: &[&str]) -> Outcome<Self> {
        let mut running = start(args)?;
        let seen = lines(running.0.stdout.take().ok_or("no stdout")?);
        seen.recv_timeout(PATIENCE)
            .map_err(|e| format!("{args:?}: {e}"))?;
        Ok(Self { running, seen })
    }

    /// Its connection was cut: it shows what came after that, or ends. It must not wait for ever for a line that never
    /// comes.
    pub(crate) fn goes_on_or_ends(mut self, what: &str, mark: &str) -> Outcome {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Ok(Some(status)) = self.running.0.try_wait() {
                println!("{what}: ended with its tunnel, {status}");
                return Ok(());
            }
            match self.seen.recv_timeout(Duration::from_millis(100)) {
                Ok(line) if line.contains(mark) => {
                    println!("{what}: goes on");
                    return Ok(());
                }
                Ok(_) | Err(mpsc::RecvTimeoutError::Timeout) => {}
                // Its last line was read; it is about to end.
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
        Err(format!(
            "{what}: neither {mark:?} nor an end within {PATIENCE:?}"
        ))
    }
}
