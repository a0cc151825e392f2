//! One failure, and every place where it is shown.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use pf9_hostagent::model::{Fault, FaultCode, Generation, NodeState, Timestamp};
use tracing_subscriber::fmt::MakeWriter;

use super::fixture::Bed;

/// Log of this test.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("log").write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The plane, a person on the machine, the event and the log: what, why, what to do; and where a program reads it, when
/// the next retry is. (nodelet's own: `nodelet::tests`; the screen of `pf9ctl status`: `cli::tests::status`.)
#[tokio::test]
async fn what_fails_is_said_with_the_same_words_everywhere() {
    let bed = Bed::new();
    let log = Log::default();
    let to_log = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(log.clone());
    let _logged = tracing::subscriber::set_default(to_log.finish());
    let _agent = bed.start().await;
    bed.plane.offer(bed.sign(1, bed.worker(&bed.no_stack())));
    bed.node.until(|n| n.specs.last().cloned()).await;
    let fault = Fault::new(FaultCode::Unit, "cannot start etcd", "no space is left")
        .fix("make room")
        .next_try(Timestamp::UNIX_EPOCH);
    bed.node.say(|s| {
        s.generation = Generation(1);
        s.state = NodeState::Retrying;
        s.reason = Some(fault.clone());
    });
    let retrying = |s: &NodeState| *s == NodeState::Retrying;
    bed.plane.until(|p| p.last_state().filter(retrying)).await;
    let told = bed.plane.read(|p| p.statuses.last().cloned());
    assert_eq!(told.expect("status").reason, Some(fault.clone()));
    assert_eq!(bed.local_status().await.reason, Some(fault.clone()));
    let words = format!("state retrying: {fault}");
    assert!(words.contains("cannot start etcd: no space is left; make room"));
    let event = bed.plane.until(|p| {
        let mut events = p.events.iter();
        events.find(|e| e.fault.as_ref() == Some(&fault)).cloned()
    });
    assert_eq!(event.await.message, words);
    let log = String::from_utf8(log.0.lock().expect("log").clone()).expect("text");
    assert!(log.contains(&words), "{log}");
}
