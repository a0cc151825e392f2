//! The calls to the kernel that may fail, or be the last ones of a process: changes of a disk, readings of the clock.
//!
//! | file | what |
//! |---|---|
//! | `disk`  | [`disk::File`], and every call that changes a file system |
//! | `clock` | what time it is |
//! | `fault` | with the feature `fault`: what breaks, where (`quiet` in every other build: nothing) |
//! | `program` | with the feature `fault`: the same for a program of its own, by its environment |
//! | `unsynced` | with the feature `fault`: what a power cut takes along |
//!
//! Each of those calls, and each start, end and answer in [`crate::host::exec`] and [`crate::local`], names itself with
//! `point!`. In a build with the feature `fault`, which no release can have, a test chooses a point and what happens
//! there: the process ends, the machine loses power, the call fails, or it never comes back. Without the feature a
//! point is nothing at all.
//!
//! **Why here and not below a FUSE.** What was written and not synced has to be lost for real. A FUSE layer sees the
//! calls of all programs, but not which line of ours made them; it needs a device that build machines often lack, is a
//! second process to be waited for, and cannot end ours between two calls. The seam knows each call and its place,
//! works on any file system, and costs microseconds, so that every point is walked and not a sample. The price: it
//! sees only what goes through it. So `tests/arch.rs` lets nobody in the daemons change a disk but through it; what
//! other programs write (etcd, containerd, the package manager) is theirs to keep.

/// One point: `point!(Kind, about)?` for a call that can be refused.
macro_rules! point {
    ($kind:ident, $about:expr) => {
        $crate::seam::fault::verdict(
            $crate::seam::fault::CallKind::$kind,
            concat!(file!(), ":", line!()),
            $about.as_ref(),
        )
        .carried_out()
    };
}

/// One point where a task, and not a thread, may stop for ever.
macro_rules! point_soon {
    ($kind:ident, $about:expr) => {
        $crate::seam::fault::verdict(
            $crate::seam::fault::CallKind::$kind,
            concat!(file!(), ":", line!()),
            $about.as_ref(),
        )
        .carried_out_soon()
    };
}

pub(crate) use {point, point_soon};

pub mod clock;
pub mod disk;
#[cfg(feature = "fault")]
pub mod fault;
#[cfg(not(feature = "fault"))]
#[path = "seam/quiet.rs"]
pub(crate) mod fault;
#[cfg(feature = "fault")]
pub mod program;
#[cfg(all(test, feature = "fault"))]
mod tests;
#[cfg(feature = "fault")]
mod unsynced;
#[cfg(feature = "fault")]
pub mod walk;

#[cfg(all(feature = "fault", not(debug_assertions)))]
compile_error!("a release has no feature `fault`: an environment variable could make it exit");

/// Which of several lives in one process this is; none: there is one.
pub(crate) use fault::life;

/// Work for another thread, whose points belong to the caller.
pub fn carried<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let scope = fault::current();
    move || {
        let _here = scope.enter();
        work()
    }
}
