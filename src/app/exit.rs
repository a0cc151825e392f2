//! The exit-code table: what a script may rely on.

use std::process::ExitCode;

use crate::model::{Fault, FaultKind};

macro_rules! exits {
    ($( $(#[$doc:meta])* $id:ident = $code:literal, $words:literal; )*) => {
        /// How a program of ours ends.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Exit { $( $(#[$doc])* $id = $code, )* }

        impl Exit {
            /// Every row of the table.
            pub const ALL: &'static [Self] = &[ $( Self::$id, )* ];
            /// The number a shell sees.
            pub fn code(self) -> u8 { match self { $( Self::$id => $code, )* } }
            /// What it means, for `--help` and the manual.
            pub fn meaning(self) -> &'static str { match self { $( Self::$id => $words, )* } }
        }
    };
}

exits! {
    /// Done.
    Ok = 0, "done";
    /// It did not work; the message says why.
    Failed = 1, "it failed; the message says why";
    /// It worked on some of several hosts or daemons.
    Partial = 8, "it worked on some of the hosts or daemons and not on others";
    /// The command line is wrong.
    Usage = 64, "the command line is wrong";
    /// A document or answer is malformed.
    BadData = 65, "a document, token or answer is malformed";
    /// The plane, the proxy in between, or one of our daemons cannot be reached.
    Unavailable = 69, "the plane, the proxy or a daemon cannot be reached";
    /// This machine is not supported.
    Unsupported = 71, "this machine or distribution is not supported";
    /// No space left.
    DiskFull = 73, "no disk space";
    /// A port is taken, swap is on, or another check of the machine failed.
    NotReady = 75, "a check of the machine failed (swap, port, memory, …)";
    /// The other side is not who it should be.
    Untrusted = 76, "a certificate or signature is not trusted";
    /// Not allowed: wrong, used or expired token, not root, or a proxy that refuses.
    Refused = 77, "not allowed: token wrong, used or expired, not root, or the proxy refuses";
    /// The configuration is wrong.
    Config = 78, "the configuration is wrong";
    /// A signal or a person asked for the end.
    Interrupted = 130, "interrupted; what had started was undone";
}

impl Exit {
    /// The row for a fault: what kind its code is of.
    pub fn of(fault: &Fault) -> Self {
        match fault.code.kind() {
            FaultKind::Failed => Self::Failed,
            FaultKind::Usage => Self::Usage,
            FaultKind::BadData => Self::BadData,
            FaultKind::Unavailable => Self::Unavailable,
            FaultKind::Unsupported => Self::Unsupported,
            FaultKind::DiskFull => Self::DiskFull,
            FaultKind::NotReady => Self::NotReady,
            FaultKind::Untrusted => Self::Untrusted,
            FaultKind::Refused => Self::Refused,
            FaultKind::Config => Self::Config,
            FaultKind::Interrupted => Self::Interrupted,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FaultCode;

    #[test]
    fn codes_are_distinct() {
        let mut codes: Vec<_> = Exit::ALL.iter().map(|e| e.code()).collect();
        codes.dedup();
        assert_eq!(codes.len(), Exit::ALL.len());
        let fault = Fault::new(FaultCode::TokenUsed, "a", "b");
        assert_eq!(Exit::of(&fault), Exit::Refused);
    }
}
