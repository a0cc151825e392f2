//! Files that count only when root alone can have written them: what root allows, and what root has run.

use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::fs::{Found, HostFs};

/// Why this file, or this directory, is not root's alone: another user may write it or a directory above it, or it is a
/// link. Checked up to the root of the file system.
pub fn fault(fs: &HostFs, path: &str) -> Option<String> {
    let mut at: Option<&Path> = Some(Path::new(path));
    while let Some(here) = at {
        if let Some(why) = own_fault(fs, here) {
            return Some(why);
        }
        at = here
            .parent()
            .filter(|p| *p != Path::new("/") && *p != Path::new(""));
    }
    None
}

fn own_fault(fs: &HostFs, path: &Path) -> Option<String> {
    let shown: PathBuf = path.to_owned();
    let (mode, uid) = match fs.found(path) {
        Ok(Found::File { mode, uid, .. } | Found::Dir { mode, uid, .. }) => (mode, uid),
        Ok(Found::Link(target)) => {
            return Some(format!(
                "{} is a link to {}",
                shown.display(),
                target.display()
            ));
        }
        Ok(Found::Nothing) => return Some(format!("{} does not exist", shown.display())),
        Ok(Found::Other) => {
            return Some(format!("{} is neither file nor directory", shown.display()));
        }
        Err(e) => return Some(crate::telemetry::chain(&e)),
    };
    // The user that runs this: root on a host, a person in a test.
    if uid != 0 && uid != geteuid().as_raw() {
        return Some(format!(
            "{} belongs to user id {uid}, not to root",
            shown.display()
        ));
    }
    (mode & 0o022 != 0).then(|| {
        format!(
            "{} can be written by others than root (mode {mode:04o})",
            shown.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::host::fs::Attrs;

    #[test]
    fn whatever_others_can_write_or_point_elsewhere_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let file = "/etc/pf9/operations.toml";
        assert!(fault(&fs, file).is_some_and(|w| w.contains("does not exist")));
        fs.write(file, b"", &Attrs::mode(0o644)).expect("write");
        assert_eq!(fault(&fs, file), None);
        let set = |path: &str, mode| {
            let to = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(fs.at(path), to).expect("mode");
        };
        for (path, good, bad) in [
            (file, 0o644, 0o664),
            ("/etc/pf9", 0o755, 0o777),
            ("/etc", 0o755, 0o757),
        ] {
            set(path, bad);
            let why = fault(&fs, file).expect("refused");
            assert!(
                why.contains(path) && why.contains("written by others"),
                "{why}"
            );
            set(path, good);
        }
        std::fs::rename(fs.at(file), fs.at("/etc/pf9/other")).expect("rename");
        symlink("other", fs.at(file)).expect("link");
        assert!(fault(&fs, file).is_some_and(|w| w.contains("is a link")));
    }
}
