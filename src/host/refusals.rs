//! What the kernel refuses whatever is tried, and what a person does about it: a file system that accepts no writes, and a
//! machine that has no more processes, memory or descriptors.
//!
//! ```text
//! error ─► its cause, and the path that it is about ─► code, what to do (the file system is named)
//! ```

use std::error::Error;
use std::io;
use std::path::Path;

use nix::errno::Errno;

use super::exec::ExecError;
use super::fs::FsError;
use super::{Lost, space};
use crate::model::{Fault, FaultCode};
use crate::telemetry::{causes, chain};

/// What a person does about a machine on which nothing can be started.
const MORE_PROCESSES: &str = "see what has so many (ps -eLf), or raise kernel.pid_max, kernel.threads-max and the unit's \
     TasksMax; it is retried automatically";
const MORE_MEMORY: &str =
    "stop some programs, or give the machine more memory; it is retried automatically";
const MORE_DESCRIPTORS: &str = "see which process has so many files open (lsof), or raise fs.file-max and the unit's LimitNOFILE; \
     it is retried automatically";

/// Code and remedy of an error whose cause is the machine and not what was tried; `None`: it is of the thing itself.
pub fn of(error: &(dyn Error + 'static)) -> Option<(FaultCode, String)> {
    let (mut at, mut starts) = (None, false);
    for cause in causes(error) {
        starts |= cause.is::<ExecError>();
        if let Some(Lost::NoThread) = cause.downcast_ref() {
            return Some((FaultCode::ProcessesFull, MORE_PROCESSES.to_owned()));
        }
        if let Some(e) = cause.downcast_ref::<FsError>() {
            at = Some(e.path.as_path());
        }
        if let Some(e) = cause.downcast_ref::<io::Error>() {
            // A socket whose queue is full answers it as well.
            let refused = starts && e.raw_os_error() == Some(Errno::EAGAIN as i32);
            return match refused {
                true => Some((FaultCode::ProcessesFull, MORE_PROCESSES.to_owned())),
                false => of_call(e, at),
            };
        }
    }
    None
}

/// The same, of a call of the kernel about a file, if it was about one.
pub fn of_call(error: &io::Error, at: Option<&Path>) -> Option<(FaultCode, String)> {
    if space::is_full(error) {
        let fix = at.map_or_else(|| space::FIX.to_owned(), space::fix);
        return Some((FaultCode::DiskFull, fix));
    }
    if let Some(Lost::NoThread) = error.get_ref().and_then(|e| e.downcast_ref()) {
        return Some((FaultCode::ProcessesFull, MORE_PROCESSES.to_owned()));
    }
    let errno = Errno::from_raw(error.raw_os_error()?);
    match errno {
        // Without a path it may be a file of the kernel's own: a parameter that may not be set in a container.
        Errno::EROFS => Some((FaultCode::DiskFailed, space::writable(at?))),
        // The second one: metadata that make no sense.
        Errno::EIO | Errno::EUCLEAN => Some((FaultCode::DiskFailed, space::repair(at?))),
        Errno::ENOMEM => Some((FaultCode::MemoryLow, MORE_MEMORY.to_owned())),
        Errno::EMFILE | Errno::ENFILE => {
            Some((FaultCode::DescriptorsFull, MORE_DESCRIPTORS.to_owned()))
        }
        _ => None,
    }
}

/// The fault of an error: with the machine's code and remedy where the machine is the cause, `otherwise` without one.
pub fn fault(
    otherwise: FaultCode,
    what: impl Into<String>,
    error: &(dyn Error + 'static),
) -> Fault {
    let why = chain(error);
    match of(error) {
        Some((code, fix)) => Fault::new(code, what, why).fix(fix),
        None => Fault::new(otherwise, what, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(errno: Errno) -> FsError {
        FsError {
            action: "write",
            path: "/proc/self/no/such".into(),
            source: errno.into(),
        }
    }

    #[test]
    fn a_file_system_that_accepts_nothing_is_named_with_what_helps() {
        let cases = [
            (
                Errno::ENOSPC,
                FaultCode::DiskFull,
                "free some space on /proc,",
            ),
            (
                Errno::EDQUOT,
                FaultCode::DiskFull,
                "free some space on /proc,",
            ),
            (Errno::EROFS, FaultCode::DiskFailed, "remount,rw /proc"),
            (Errno::EIO, FaultCode::DiskFailed, "holds /proc"),
            (Errno::EUCLEAN, FaultCode::DiskFailed, "holds /proc"),
        ];
        for (errno, code, words) in cases {
            let fault = fault(FaultCode::File, "cannot write x", &file(errno));
            assert_eq!(fault.code, code, "{errno}");
            assert!(fault.fix.contains(words), "{errno}: {fault}");
            assert!(fault.fix.contains("retried automatically"), "{fault}");
        }
        // A path that is wrong is nothing of the machine's.
        for errno in [Errno::EACCES, Errno::ENOENT, Errno::EAGAIN] {
            let fault = fault(FaultCode::File, "cannot write x", &file(errno));
            assert_eq!((fault.code, fault.fix.as_str()), (FaultCode::File, ""));
        }
    }

    #[test]
    fn a_program_that_cannot_be_started_for_want_of_something_says_of_what() {
        let start = |errno: Errno| {
            let error = ExecError::Start {
                program: "/usr/bin/systemctl".into(),
                source: errno.into(),
            };
            of(&error).map(|(code, _)| code)
        };
        assert_eq!(start(Errno::EAGAIN), Some(FaultCode::ProcessesFull));
        assert_eq!(start(Errno::ENOMEM), Some(FaultCode::MemoryLow));
        assert_eq!(start(Errno::EMFILE), Some(FaultCode::DescriptorsFull));
        assert_eq!(start(Errno::ENOENT), None);
    }
}
