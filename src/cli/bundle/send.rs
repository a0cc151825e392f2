//! To the plane, which asked for it: by comms' socket, as it is made, and never on a disk of this machine.
//!
//! ```text
//! entry ─► archive ─► what it wrote ─► one piece at a time ─► PUT /v1/hosts/self/bundles/ID
//! ```
//!
//! An error in the middle aborts the request; the plane keeps nothing of it.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::archive::{About, Written};
use super::{Broke, Making, WHAT};
use crate::cli::context::CommandContext;
use crate::local::LocalError;
use crate::model::{Fault, FaultCode, paths};

/// Longest that one is on its way: its unit ends it soon after.
const SEND_MAX: Duration = Duration::from_secs(1500);
/// Larger pieces of what is written go one by one.
const PIECE: usize = 64 * 1024;

/// Archive bytes that wait to be sent: at most one entry's.
#[derive(Clone, Default)]
struct Fresh(Rc<RefCell<Vec<u8>>>);

impl Write for Fresh {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes it and sends it.
pub(super) async fn run(
    ctx: &CommandContext,
    making: &Making,
    about: About,
    id: Uuid,
) -> Result<Written, Fault> {
    let cannot = |e: LocalError| e.fault("no support bundle was sent");
    let client = ctx.socket(paths::PLANE_SOCKET).map_err(cannot)?;
    // One piece waits while another is on its way: the plane's pace is the pace of all of it.
    let (to, mut from) = mpsc::channel::<io::Result<Bytes>>(1);
    let body = stream::poll_fn(move |cx| from.poll_recv(cx));
    let path = format!("/v1/hosts/self/bundles/{id}");
    // Owns the sending half: the body ends with it.
    let made = async move {
        let sink = Fresh::default();
        let ends = to.clone();
        let hand_on = async || {
            let bytes = Bytes::from(std::mem::take(&mut *sink.0.borrow_mut()));
            let mut at = 0;
            while at < bytes.len() {
                let end = bytes.len().min(at + PIECE);
                let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
                to.send(Ok(bytes.slice(at..end))).await.map_err(gone)?;
                at = end;
            }
            Ok(())
        };
        let made = making
            .make(ctx, Box::new(sink.clone()), about, |_| {}, hand_on)
            .await;
        if made.is_err() {
            // Without this the body would only end, and look whole.
            drop(
                ends.send(Err(io::Error::from(io::ErrorKind::Interrupted)))
                    .await,
            );
        }
        made
    };
    let (made, sent) = tokio::join!(made, client.send_stream(&path, body, SEND_MAX));
    match (made, sent) {
        (Ok(written), Ok(())) => Ok(written),
        (Err(Broke::Stopped(fault)), _) => Err(fault),
        // A plane that takes no more says why.
        (Ok(_) | Err(Broke::Io(_)), Err(e)) => Err(cannot(e)),
        (Err(Broke::Io(e)), Ok(())) => {
            Err(Fault::new(FaultCode::OutputFailed, WHAT, e.to_string()))
        }
    }
}
