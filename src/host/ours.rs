//! What on this machine is ours, and by what rule. The one place that answers: checks before
//! enrolment, observation, removal, the proof of removal and the package's maintainer scripts ask
//! here, so that what one of them removes is what another one looks for.
//!
//! Pure: a rule judges what was seen, and seeing is [`super::proc`], [`super::mounts`] and [`super::net`]. Where a
//! caller must be stricter (what may be killed, what may be deleted without a ledger) the rule has a name of its own
//! instead of a second list elsewhere.
//!
//! | file | judges |
//! |---|---|
//! | `paths`     | files, directories, mount points; temporary files of interrupted writes |
//! | `processes` | a process, by its program, its arguments and where its root comes from |
//! | `units`     | names of systemd units |
//! | `ports`     | TCP ports a node listens on |
//! | `network`   | links, routes, packet-filter chains and tables |

pub mod network;
pub mod paths;
pub mod ports;
pub mod processes;
pub mod units;
