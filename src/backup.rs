//! Backups of etcd: snapshots, sealed for two keys, verified, kept on a shelf.
//!
//! ```text
//! take ─► seal (age: the plane's key, the operator's recovery key) ─► shelf ─► list, prune, archive
//!    └──► verify (etcdutl)
//! ```
//!
//! | file | does |
//! |---|---|
//! | `take`   | takes one: a stream of etcd's, sealed, opened once, put onto the shelf |
//! | `seal`   | the sealed form, and the keys |
//! | `unwrap` | the plane's help with opening one |
//! | `verify` | whether a backup is whole, and whether a file is a snapshot |
//! | `private` | files that nobody else may read |
//! | `shelf`  | the directory: what counts in it, what is to go (pure), and taking it away |
//! | `drill`  | a restore into an etcd of its own, counted and taken away |
//! | `archive` | a second copy of each, in another directory or in a bucket |

pub mod archive;
pub mod drill;
pub mod private;
pub mod seal;
pub mod shelf;
pub mod take;
pub mod unwrap;
pub mod verify;

pub(crate) use crate::host::blocking;
