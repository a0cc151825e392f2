//! Tests of a process that cannot start another thread.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Until it is dropped this process cannot start another thread: it has memory for small things, and none for a stack.
pub(crate) struct NoThreads {
    soft: u64,
    hard: u64,
}

impl NoThreads {
    /// To be called in a process of its own.
    pub(crate) fn begin() -> Self {
        // tokio says by a panic that it has no thread, and a backtrace of it takes memory.
        std::panic::set_hook(Box::new(|said| println!("{said}")));
        let status = std::fs::read_to_string("/proc/self/status").expect("status");
        let size = status.lines().find_map(|l| l.strip_prefix("VmSize:"));
        let size = size.and_then(|l| l.trim().strip_suffix(" kB"));
        let kib: u64 = size.expect("its size").parse().expect("a number");
        let (soft, hard) = getrlimit(Resource::RLIMIT_AS).expect("limit");
        setrlimit(Resource::RLIMIT_AS, (kib + 1024) * 1024, hard).expect("a limit");
        let thread = std::thread::Builder::new().spawn(|| ());
        thread.expect_err("there is no room for its stack");
        Self { soft, hard }
    }
}

impl Drop for NoThreads {
    fn drop(&mut self) {
        setrlimit(Resource::RLIMIT_AS, self.soft, self.hard).expect("as before");
    }
}
