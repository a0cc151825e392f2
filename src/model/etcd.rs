//! etcd's data as both sides speak of them.
//!
//! | file | holds |
//! |---|---|
//! | `archive` | [`ArchivePolicy`]: where a second copy of each backup goes |

mod archive;

pub use archive::*;
