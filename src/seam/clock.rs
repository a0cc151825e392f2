//! What time it is, by the machine's clock.
//!
//! Pauses and deadlines are counted by the kernel's own clock (`tokio::time`), which cannot be set.

use jiff::Timestamp;

use super::fault;

/// Now.
#[track_caller]
pub fn now() -> Timestamp {
    // A clock cannot be refused; the process may end here, or stop.
    drop(point!(Clock, "the clock"));
    fault::shown(Timestamp::now())
}
