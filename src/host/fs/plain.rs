//! Files of untrusted users, read by root: an entry in another user's directory may be a link to one of root's files, a
//! pipe that never ends, or a hard link to another user's file.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::HostFs;

/// For group and others.
const WRITABLE: u32 = 0o022;

impl HostFs {
    /// Opens a regular file for reading, by a path that only root could have changed. Links are followed only where
    /// root alone can make them, and never at the end; a file counts as a directory's own when the directory's owner
    /// owns it, or root.
    pub fn open_plain(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = path.as_ref();
        let mut names = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(Ok(name)),
            Component::RootDir | Component::CurDir => None,
            Component::ParentDir | Component::Prefix(_) => Some(Err(no("its path goes up"))),
        });
        let mut name = names.next().ok_or_else(|| no("it is not a file"))??;
        let dirs = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut dir = File::from(open(&self.root, dirs, Mode::empty())?);
        for next in names {
            let about = dir.metadata()?;
            let roots = about.uid() == 0 && about.mode() & WRITABLE == 0;
            let links = if roots {
                OFlag::empty()
            } else {
                OFlag::O_NOFOLLOW
            };
            dir = File::from(openat(&dir, name, dirs | links, Mode::empty())?);
            name = next?;
        }
        // What is a pipe answers at once, and what is a terminal does not become ours.
        let how = OFlag::O_RDONLY
            | OFlag::O_CLOEXEC
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY;
        let opened: OwnedFd = openat(&dir, name, how, Mode::empty()).map_err(|e| match e {
            nix::errno::Errno::ELOOP => no("it is a link"),
            nix::errno::Errno::ENXIO => no("it is not a regular file"),
            other => other.into(),
        })?;
        let file = File::from(opened);
        let (about, of) = (file.metadata()?, dir.metadata()?);
        if !about.is_file() {
            return Err(no("it is not a regular file"));
        }
        if about.uid() != of.uid() && about.uid() != 0 {
            return Err(no("it is not of the directory's owner"));
        }
        if of.uid() != 0 && about.nlink() > 1 {
            return Err(no("it has a second name"));
        }
        Ok(file)
    }
}

fn no(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::{chown, symlink};

    use super::*;
    use crate::host::fs::Attrs;

    const COMMS: u32 = 54_321;

    /// Root's directory with a secret, and another user's with what it planted there.
    fn planted() -> (tempfile::TempDir, HostFs) {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        let mode = Attrs::mode(0o640);
        for path in [
            "/root/secret",
            "/var/log/pf9/comms/comms.log",
            "/data/log/x/y.log",
        ] {
            host.write(path, b"text\n", &mode).expect("write");
        }
        host.make_dir("/var/log/pf9/comms", &Attrs::mode(0o755))
            .expect("dir");
        (dir, host)
    }

    fn read(host: &HostFs, path: &str) -> Result<String, String> {
        let mut text = String::new();
        let mut file = host.open_plain(path).map_err(|e| e.to_string())?;
        file.read_to_string(&mut text).map_err(|e| e.to_string())?;
        Ok(text)
    }

    #[test]
    fn plain_files_are_read_also_behind_roots_own_links() {
        let (_dir, host) = planted();
        assert_eq!(
            read(&host, "/var/log/pf9/comms/comms.log").as_deref(),
            Ok("text\n")
        );
        symlink("../../../data/log/x", host.at("/var/log/pf9/linked")).expect("link");
        let linked = read(&host, "/var/log/pf9/linked/y.log");
        if nix::unistd::geteuid().is_root() {
            assert_eq!(linked.as_deref(), Ok("text\n"));
        }
        assert!(read(&host, "/var/log/../log/pf9/comms/comms.log").is_err());
        assert!(read(&host, "/").is_err());
    }

    #[test]
    fn nothing_that_another_user_planted_leads_anywhere() {
        let (_dir, host) = planted();
        let at = |name: &str| host.at(format!("/var/log/pf9/comms/{name}"));
        symlink(host.at("/root/secret"), at("link.log")).expect("link");
        symlink(host.at("/root"), at("dir")).expect("link");
        std::fs::hard_link(host.at("/root/secret"), at("second.log")).expect("hard link");
        nix::unistd::mkfifo(&at("pipe.log"), Mode::S_IRUSR).expect("pipe");
        std::fs::create_dir(at("folder.log")).expect("dir");
        if nix::unistd::geteuid().is_root() {
            chown(host.at("/var/log/pf9/comms"), Some(COMMS), Some(COMMS)).expect("chown");
        }
        let wrong = [
            ("link.log", "it is a link"),
            ("pipe.log", "it is not a regular file"),
            ("folder.log", "it is not a regular file"),
            ("second.log", "it has a second name"),
            ("dir/secret", ""),
        ];
        for (name, why) in wrong {
            let path = format!("/var/log/pf9/comms/{name}");
            let said = read(&host, &path).expect_err(name);
            assert!(said.contains(why), "{name}: {said}");
        }
        if nix::unistd::geteuid().is_root() {
            chown(at("link.log"), Some(0), Some(0)).expect("chown");
            chown(host.at("/data/log/x"), Some(COMMS), Some(COMMS)).expect("chown");
            chown(host.at("/data/log/x/y.log"), Some(7), Some(7)).expect("chown");
            let said = read(&host, "/data/log/x/y.log").expect_err("another's");
            assert!(said.contains("owner"), "{said}");
        }
    }
}
