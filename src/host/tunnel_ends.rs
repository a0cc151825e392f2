//! Where the tunnel goes now: of a plane that is known by a name, or by a proxy on the way to it, nothing else on this
//! machine says an address. Nobody is asked, least of all DNS.
//!
//! Comms writes it (`comms::ends`) and it is comms' word: good enough to say what must not be cut off, and which of
//! several interfaces is the way out where no route says that. It is no proof of anything. The kernel's own list of
//! connections was rejected: reading it walks a table that grows with the machine's memory, and cost a quarter of the
//! processor time of all daemons on an idle node.

use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use super::fs::{Attrs, FsError, HostFs};
use crate::model::paths;

/// Most ends in the file: one or two endpoints, of each a few addresses while one is chosen.
const ENDS_MAX: usize = 16;
/// An address of IPv6 has at most 45 letters.
const FILE_MAX: u64 = (ENDS_MAX * 46) as u64;

/// The far ends of the tunnel's connections that leave the machine; none while it is down.
pub fn tunnel_ends(fs: &HostFs) -> Vec<IpAddr> {
    // Comms has fewer rights than the reader: a link in the file's place leads nowhere, a pipe blocks no reader.
    let mut open = std::fs::File::options();
    let open = open.read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK);
    let mut text = String::new();
    if let Ok(file) = open.open(fs.at(paths::TUNNEL_ENDS)) {
        // What cannot be read whole says nothing.
        match file.take(FILE_MAX).read_to_string(&mut text) {
            Ok(_) => {}
            Err(_) => text.clear(),
        }
    }
    text.lines()
        .filter_map(|line| line.parse().ok())
        .take(ENDS_MAX)
        .collect()
}

/// Tells them; none: nothing is left there.
pub fn tell_tunnel_ends(fs: &HostFs, ends: &[IpAddr]) -> Result<(), FsError> {
    if ends.is_empty() {
        return fs.remove_file(paths::TUNNEL_ENDS);
    }
    let lines: Vec<String> = ends
        .iter()
        .take(ENDS_MAX)
        .map(|ip| format!("{ip}\n"))
        .collect();
    fs.write(
        paths::TUNNEL_ENDS,
        lines.concat().as_bytes(),
        &Attrs::mode(0o644),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_read_and_nothing_else() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        assert_eq!(tunnel_ends(&fs), [] as [IpAddr; 0]);
        let ends: Vec<IpAddr> = ["10.1.0.1", "fd00::9"]
            .map(|ip| ip.parse().expect("ip"))
            .into();
        tell_tunnel_ends(&fs, &ends).expect("told");
        assert_eq!(tunnel_ends(&fs), ends);
        let many: Vec<IpAddr> = (0..100).map(|n| IpAddr::from([10, 1, 0, n])).collect();
        tell_tunnel_ends(&fs, &many).expect("told");
        assert_eq!(tunnel_ends(&fs), many[..ENDS_MAX]);
        tell_tunnel_ends(&fs, &[]).expect("gone");
        tell_tunnel_ends(&fs, &[]).expect("twice");
        assert_eq!(tunnel_ends(&fs), [] as [IpAddr; 0]);
    }

    #[test]
    fn who_may_write_there_leads_nobody_elsewhere_and_holds_nobody_up() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let at = fs.at(paths::TUNNEL_ENDS);
        let attrs = Attrs::mode(0o644);
        fs.write("/elsewhere", b"10.1.0.1\n", &attrs)
            .expect("write");
        std::fs::create_dir_all(at.parent().expect("parent")).expect("mkdir");
        std::os::unix::fs::symlink(fs.at("/elsewhere"), &at).expect("link");
        assert_eq!(tunnel_ends(&fs), [] as [IpAddr; 0]);
        std::fs::remove_file(&at).expect("remove");
        nix::unistd::mkfifo(&at, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
        assert_eq!(tunnel_ends(&fs), [] as [IpAddr; 0]);
        std::fs::remove_file(&at).expect("remove");
        for text in [&b"\xff\xfe"[..], b"not an address", &[b'1'; 1 << 20]] {
            std::fs::write(&at, text).expect("write");
            assert_eq!(tunnel_ends(&fs), [] as [IpAddr; 0]);
        }
        std::fs::write(&at, "x\n10.1.0.7\n").expect("write");
        assert_eq!(tunnel_ends(&fs), [IpAddr::from([10, 1, 0, 7])]);
    }
}
