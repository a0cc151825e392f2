//! Resets the shell's `umask`: modes of new files are explicit here.

use nix::sys::stat::{Mode, umask};

/// Directories that are made on the way to a file get their intended modes, whatever umask the calling
/// shell has; so does what child processes make. Files have their modes set one by one.
///
/// Once, at the start of a program, and not with each directory: what is made is made in many places, and one of
/// them would be forgotten.
pub fn usual_modes() {
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
}
