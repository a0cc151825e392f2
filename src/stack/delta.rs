//! A stack as what differs from another one that the node has.
//!
//! ```text
//! "pf9-delta-1\n"  digest of the old manifest (32 bytes)  digest of the new manifest (32 bytes)
//! for each file of the new manifest, in its order:
//!   0  number of the same file among the old ones
//!   1  its bytes
//!   2  number of the old file it is made from, number of pieces, the pieces,
//!      all differences, all bytes that are new
//! ```
//!
//! All of it in one zstd frame; numbers are LEB128. A piece says how many bytes are the old ones plus a difference,
//! how many new ones follow, and how far the place in the old file moves before it (zig-zag). Programs are moved
//! about from one build to the next: most bytes of a piece differ by nothing, and addresses by a little.
//!
//! Nothing here is signed. Each file is trusted by the digest in the signed manifest, as those of an archive are;
//! a delta that was made wrong costs its transfer, and the archive is fetched.
//!
//! zstd's own patches (`--patch-from`) were tried first: they know copies, not differences. metrics-server 0.9.0 of
//! two builds, 69.7 MB: 11.0 MB against 3.1 MB of these and 17.9 MB of the whole program.
//!
//! | file | does |
//! |---|---|
//! | `pieces` | how a new file is made of an old one |
//! | `make`   | writes a delta |
//! | `apply`  | the files of the new stack from those of the old one |

mod apply;
mod make;
mod pieces;
#[cfg(test)]
mod tests;

pub(super) use apply::{Pair, apply};
pub use make::{Packed, make_of_archives};

const MAGIC: &[u8; 12] = b"pf9-delta-1\n";
const SAME: u8 = 0;
const WHOLE: u8 = 1;
const MADE: u8 = 2;

/// Most pieces of a file: a program of 100 MB has some ten thousand, and who reads a delta keeps those of one file
/// in memory, 24 bytes each.
const PIECES_MAX: usize = 1 << 18;

/// A part of a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where the bytes of the old file begin that it is made of.
    pub(crate) old: u64,
    /// How many they are; to each its difference is added.
    pub(crate) add: u64,
    /// Bytes that follow and are in the delta.
    pub(crate) extra: u64,
}
