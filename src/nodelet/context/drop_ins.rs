//! Drop-ins of the runtime: what lies in the directory that the spec allows.

use crate::host::fs::{Found, FsError, HostFs};
use crate::nodelet::phase::{DropIns, layout};

/// Most drop-ins: a vendor each for devices, sandboxes and a registry make a handful.
const DROP_INS_MAX: usize = 16;
/// Longest drop-in; a runtime takes a few hundred bytes.
const DROP_IN_MAX: u64 = 64 * 1024;
/// Longest name of one.
const NAME_MAX: usize = 100;

/// Looks at the directory; without one there is nothing to take over.
pub(super) fn look(fs: &HostFs, dir: Option<&str>) -> Result<DropIns, FsError> {
    let mut seen = DropIns {
        copies: fs.list(layout::CONTAINERD_DROP_INS)?,
        ..DropIns::default()
    };
    let Some(dir) = dir else { return Ok(seen) };
    match fs.found(dir)? {
        Found::Nothing => return Ok(seen),
        Found::Dir { mode, uid, .. } if is_safe(mode, uid) => {}
        Found::Dir { .. } | Found::File { .. } | Found::Link(_) | Found::Other => {
            seen.unread.push(format!(
                "{dir} is not a directory that only root may write to"
            ));
            return Ok(seen);
        }
    }
    let names: Vec<String> = fs
        .list(dir)?
        .into_iter()
        .filter(|n| n.ends_with(".toml"))
        .collect();
    if names.len() > DROP_INS_MAX {
        seen.unread.push(format!(
            "{dir} has {} drop-ins, at most {DROP_INS_MAX}",
            names.len()
        ));
        return Ok(seen);
    }
    for name in names {
        match read(fs, dir, &name)? {
            Ok(text) => drop(seen.files.insert(name, text)),
            Err(why) => seen.unread.push(format!("drop-in {dir}/{name} {why}")),
        }
    }
    Ok(seen)
}

/// The copies that the runtime reads.
pub(super) fn kept(fs: &HostFs) -> Result<DropIns, FsError> {
    let copies = fs.list(layout::CONTAINERD_DROP_INS)?;
    let mut kept = DropIns::default();
    for name in &copies {
        let path = format!("{}/{name}", layout::CONTAINERD_DROP_INS);
        if let Some(text) = fs.read_text(&path, DROP_IN_MAX)? {
            kept.files.insert(name.clone(), text);
        }
    }
    kept.copies = copies;
    Ok(kept)
}

fn read(fs: &HostFs, dir: &str, name: &str) -> Result<Result<String, String>, FsError> {
    let clean = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.len() > NAME_MAX || !name.bytes().all(clean) || name.starts_with('.') {
        return Ok(Err(
            "has a name that is not made of letters, digits, '-', '_' and '.'".into(),
        ));
    }
    let path = format!("{dir}/{name}");
    let size = match fs.found(&path)? {
        Found::File {
            mode, uid, size, ..
        } if is_safe(mode, uid) => size,
        Found::File { .. } => return Ok(Err("may be written by others than root".into())),
        Found::Nothing => return Ok(Err("disappeared while it was read".into())),
        Found::Dir { .. } | Found::Link(_) | Found::Other => {
            return Ok(Err("is not a regular file".into()));
        }
    };
    if size > DROP_IN_MAX {
        return Ok(Err(format!("has {size} bytes, at most {DROP_IN_MAX}")));
    }
    let bytes = fs.read(&path, DROP_IN_MAX)?.unwrap_or_default();
    Ok(String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".into()))
}

/// Only who runs this program, root, may write to it.
fn is_safe(mode: u32, uid: u32) -> bool {
    mode & 0o022 == 0 && uid == nix::unistd::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;

    const DIR: &str = "/etc/containerd/conf.d";

    #[test]
    fn only_what_root_alone_may_write_is_taken_over() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        assert_eq!(look(&fs, Some(DIR)).expect("look"), DropIns::default());
        let put = |name: &str, bytes: &[u8], mode: u32| {
            let path = format!("{DIR}/{name}");
            fs.write(&path, bytes, &Attrs::mode(mode)).expect("write");
        };
        put("10-a.toml", b"version = 4", 0o644);
        put("notes.txt", b"not read", 0o644);
        assert_eq!(
            look(&fs, None).expect("look"),
            DropIns::default(),
            "nothing is allowed"
        );
        let seen = look(&fs, Some(DIR)).expect("look");
        assert_eq!(seen.files.keys().collect::<Vec<_>>(), ["10-a.toml"]);
        assert_eq!(seen.unread, [""; 0]);
        put("20-shared.toml", b"version = 4", 0o664);
        put("30-large.toml", &vec![b'#'; 70_000], 0o644);
        put("40-bytes.toml", &[0xff, 0xfe], 0o644);
        put("50 odd.toml", b"version = 4", 0o644);
        fs.link(format!("{DIR}/60-link.toml"), "/etc/shadow")
            .expect("link");
        let seen = look(&fs, Some(DIR)).expect("look");
        assert_eq!(seen.files.keys().collect::<Vec<_>>(), ["10-a.toml"]);
        let all = seen.unread.join("\n");
        for part in [
            "20-shared.toml may be written by others",
            "30-large.toml has 70000 bytes",
            "40-bytes.toml is not UTF-8 text",
            "50 odd.toml has a name",
            "60-link.toml is not a regular file",
        ] {
            assert!(all.contains(part), "{part} in {all}");
        }
        for n in 0..20 {
            put(&format!("{n}.toml"), b"", 0o644);
        }
        let many = look(&fs, Some(DIR)).expect("look");
        assert!(
            many.files.is_empty() && many.unread[0].contains("at most 16"),
            "{many:?}"
        );
    }
}
