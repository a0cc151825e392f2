//! Why a stream or a connection ended.

macro_rules! codes {
    ($( $(#[$doc:meta])* $id:ident = $code:literal, $word:literal; )*) => {
        /// Reason in RESET and GOAWAY. Codes unknown to this program decode as [`Code::Other`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $( $(#[$doc])* $id, )* /// A code of a newer version.
            Other(u16) }

        impl Code {
            /// Every code of this version.
            pub const ALL: &'static [Self] = &[ $( Self::$id, )* ];
            /// The number on the wire.
            pub fn number(self) -> u16 { match self { $( Self::$id => $code, )* Self::Other(n) => n } }
            /// Decodes the number on the wire.
            pub fn from_number(n: u16) -> Self { match n { $( $code => Self::$id, )* n => Self::Other(n) } }
            /// The word in logs.
            pub fn word(self) -> &'static str { match self { $( Self::$id => $word, )* Self::Other(_) => "other" } }
        }
    };
}

codes! {
    /// Nothing is wrong: the stream is no longer needed.
    Cancelled = 0, "cancelled";
    /// Nobody has a service of that name.
    UnknownService = 1, "unknown-service";
    /// The service exists, but not for this caller.
    NotAllowed = 2, "not-allowed";
    /// The service's address did not answer; detail is the errno.
    DialFailed = 3, "dial-failed";
    /// Limit on streams reached.
    TooMany = 4, "too-many";
    /// The side is draining; try another connection.
    GoingAway = 5, "going-away";
    /// Not answered in time.
    TimedOut = 6, "timed-out";
    /// The socket behind the stream broke; detail is the errno.
    Broken = 7, "broken";
    /// More was sent than there was credit for.
    FlowControl = 8, "flow-control";
    /// The peer broke the protocol.
    Protocol = 9, "protocol";
    /// A newer session of the same host took over.
    Replaced = 10, "replaced";
    /// The program is at fault.
    Internal = 11, "internal";
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Other(n) => write!(f, "code {n}"),
            known => f.write_str(known.word()),
        }
    }
}
