//! etcd of this master.
//!
//! | file | what |
//! |---|---|
//! | `restore` | the cluster begins anew from a snapshot |

pub mod restore;
