//! Task: operators' own programs, now and then, while nodelet has something to do on this host.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::status::ExtensionsBoard;
use crate::app::Beat;
use crate::host::extensions;
use crate::host::fs::HostFs;

/// Between two runs: what they tell is no alarm, and each costs a few processes.
const EVERY: Duration = Duration::from_secs(300);
/// All are run at once, and each has an end.
const RUN_MAX: Duration = Duration::from_secs(60);

/// Works until shutdown.
pub async fn run(fs: HostFs, board: ExtensionsBoard, beat: Beat, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        beat.within(RUN_MAX);
        let there = extensions::any(&fs);
        let said = match there {
            true => Some(extensions::run(&fs).await),
            false => None,
        };
        board.show(said);
        beat.within(EVERY);
        tokio::select! {
            // cancel-safe: both are
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
