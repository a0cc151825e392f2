//! The cluster's memory on a master.
//!
//! | file | does |
//! |---|---|
//! | `record` | what this member is, kept apart from its data |
//! | `data`   | whether the data that should be there are: pure |

pub mod data;
pub mod record;
