//! Backups of etcd's data.
//!
//! | file | holds |
//! |---|---|
//! | `archive` | [`archive::Archive`]: a second copy of each backup, in a directory or a bucket |

pub mod archive;
