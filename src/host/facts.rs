//! What the machine is: `os-release`, the version of systemd, memory.

use std::collections::BTreeMap;

use super::fs::{FsError, HostFs};

/// The file is a dozen lines everywhere.
const OS_RELEASE_MAX: u64 = 64 * 1024;

/// `os-release`, as far as it is of use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OsRelease {
    /// `ID`, e.g. `debian`.
    pub id: String,
    /// `VERSION_ID`, e.g. `12`.
    pub version: String,
    /// `PRETTY_NAME`.
    pub pretty: String,
    /// `ID_LIKE`, split.
    pub like: Vec<String>,
}

/// `/proc/meminfo` is some sixty lines.
const MEMINFO_MAX: u64 = 64 * 1024;

/// Logical processors of the machine, by `/proc/cpuinfo`; where that counts none, those that this process may use.
pub fn cpus(cpuinfo: &str) -> u32 {
    let count = match cpuinfo
        .lines()
        .filter(|l| l.starts_with("processor"))
        .count()
    {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    };
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// One field of `/proc/meminfo`, in bytes.
pub fn meminfo(text: &str, field: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Bytes of memory that programs could still have; `None` where the kernel does not say.
pub fn memory_available(fs: &HostFs) -> Option<u64> {
    let text = fs.read_text("/proc/meminfo", MEMINFO_MAX).ok().flatten()?;
    meminfo(&text, "MemAvailable")
}

/// Reads `/etc/os-release`, or the copy below `/usr/lib`.
pub fn os_release(fs: &HostFs) -> Result<OsRelease, FsError> {
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        if let Some(text) = fs.read_text(path, OS_RELEASE_MAX)? {
            return Ok(parse(&text));
        }
    }
    Ok(OsRelease::default())
}

/// The version of systemd, e.g. `252`: part of the name of the library that all its programs share,
/// so that nothing has to be run.
pub fn systemd_version(fs: &HostFs) -> Option<String> {
    const DIRS: [&str; 4] = [
        "/usr/lib/systemd",
        "/usr/lib64/systemd",
        "/usr/lib/x86_64-linux-gnu/systemd",
        "/usr/lib/aarch64-linux-gnu/systemd",
    ];
    let names = DIRS.iter().filter_map(|dir| fs.list(dir).ok()).flatten();
    let mut numbers = names.filter_map(|name| {
        let version = name
            .strip_prefix("libsystemd-shared-")?
            .strip_suffix(".so")?;
        let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse::<u32>().ok()
    });
    let first = numbers.next()?;
    // An upgrade may leave an older one behind.
    Some(numbers.fold(first, u32::max).to_string())
}

fn parse(text: &str) -> OsRelease {
    let fields: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|l| l.split_once('='))
        .map(|(k, v)| (k.trim(), v.trim().trim_matches(['"', '\''])))
        .collect();
    let get = |k: &str| fields.get(k).copied().unwrap_or_default().to_owned();
    OsRelease {
        id: get("ID"),
        version: get("VERSION_ID"),
        pretty: get("PRETTY_NAME"),
        like: get("ID_LIKE")
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_those_of_the_machine() {
        let text = "processor\t: 0\nmodel name\t: x\n\nprocessor\t: 1\n";
        assert_eq!(cpus(text), 2);
        assert!(cpus("") > 0, "what this process may use");
    }

    #[test]
    fn fields_of_memory_are_read_in_bytes() {
        assert_eq!(
            meminfo("MemTotal:  16 kB\nMemFree: 1 kB", "MemTotal"),
            Some(16384)
        );
        assert_eq!(meminfo("MemTotal: x", "MemTotal"), None);
    }

    #[test]
    fn systemd_is_known_by_its_library() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        assert_eq!(systemd_version(&fs), None);
        let attrs = super::super::fs::Attrs::mode(0o644);
        for name in [
            "systemd/libsystemd-shared-252-46.el9.so",
            "x86_64-linux-gnu/systemd/libsystemd-shared-255.so",
            "systemd/libsystemd-core-999.so",
        ] {
            fs.write(format!("/usr/lib/{name}"), b"", &attrs)
                .expect("write");
        }
        assert_eq!(systemd_version(&fs).as_deref(), Some("255"));
    }

    #[test]
    fn quotes_are_optional() {
        let os = parse("ID=ubuntu\nVERSION_ID=\"22.04\"\nID_LIKE=debian\nPRETTY_NAME='U 22'\n");
        assert_eq!((os.id.as_str(), os.version.as_str()), ("ubuntu", "22.04"));
        assert_eq!(
            (os.like, os.pretty.as_str()),
            (vec!["debian".to_owned()], "U 22")
        );
    }
}
