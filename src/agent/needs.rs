//! What a `.deb` needs of the machine, looked at before anything changes: `dpkg -i` unpacks a package whose needs are not met and
//! leaves it half installed, and its `--dry-run` does not look at them. (`rpm --test` does.)

use std::time::Duration;

use crate::host::Host;
use crate::host::exec::{self, Cmd, ProgramEnd};

/// A question to dpkg.
const ASK: Duration = Duration::from_secs(20);
/// Most needs of a package that are looked at, and the longest list of them: ours has a dozen.
const NEEDS_MAX: usize = 256;
const LIST_MAX: usize = 16 * 1024;

/// One way to meet a need.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    name: String,
    /// e.g. `>=`, and the version.
    version: Option<(String, String)>,
}

/// The first need of a package that the machine does not meet. What the installed one needs as well is met.
pub(super) async fn unmet(host: &Host, depends: &str) -> Option<String> {
    let installed = ask(host, "${Depends}", "pf9-hostagent")
        .await
        .unwrap_or_default();
    for need in new_needs(depends, &installed) {
        if !is_met(host, &need).await {
            return Some(need);
        }
    }
    None
}

/// Needs of the one that the other does not have.
fn new_needs(depends: &str, installed: &str) -> Vec<String> {
    let had: Vec<&str> = installed.split(',').map(str::trim).collect();
    let list = depends
        .get(..depends.len().min(LIST_MAX))
        .unwrap_or_default();
    let needs = list.split(',').map(str::trim).filter(|n| !n.is_empty());
    let new = needs.filter(|n| !had.contains(n));
    new.take(NEEDS_MAX).map(str::to_owned).collect()
}

async fn is_met(host: &Host, need: &str) -> bool {
    for way in ways(need) {
        let Some(said) = ask(host, "${db:Status-Status} ${Version}", &way.name).await else {
            continue;
        };
        let Some(version) = said.trim().strip_prefix("installed ") else {
            continue;
        };
        match &way.version {
            None => return true,
            Some((op, wanted)) if compares(host, version, op, wanted).await => return true,
            Some(_) => {}
        }
    }
    false
}

/// `a (>= 1) | b` as it is written.
fn ways(need: &str) -> Vec<Way> {
    let plain = |text: &str| {
        text.chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.~:<>=".contains(c))
    };
    let way = |text: &str| {
        let (name, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let inside = rest
            .trim()
            .strip_prefix('(')
            .and_then(|r| r.strip_suffix(')'));
        let version = inside.and_then(|i| i.trim().split_once(' '));
        let version = version.map(|(op, v)| (op.to_owned(), v.trim().to_owned()));
        let good = !name.is_empty()
            && !name.starts_with('-')
            && plain(name)
            && rest.is_empty() == version.is_none()
            && version
                .iter()
                .all(|(op, v)| plain(op) && plain(v) && !v.starts_with('-'));
        good.then(|| Way {
            name: name.to_owned(),
            version,
        })
    };
    need.split('|').filter_map(way).collect()
}

async fn compares(host: &Host, version: &str, op: &str, wanted: &str) -> bool {
    let cmd = Cmd::new(exec::program(&host.fs, "dpkg"), ASK).args([
        "--compare-versions",
        version,
        op,
        wanted,
    ]);
    exec::ask(cmd)
        .await
        .is_ok_and(|a| a.ended == ProgramEnd::Code(0))
}

/// What dpkg says of a package; none where it knows none.
async fn ask(host: &Host, format: &str, package: &str) -> Option<String> {
    let cmd = Cmd::new(exec::program(&host.fs, "dpkg-query"), ASK).args([
        "-W",
        &format!("-f={format}"),
        "--",
        package,
    ]);
    exec::run(cmd).await.ok().map(|o| o.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::{Attrs, HostFs};

    #[test]
    fn needs_are_read_as_dpkg_writes_them() {
        let way = |name: &str, version: Option<(&str, &str)>| Way {
            name: name.into(),
            version: version.map(|(o, v)| (o.to_owned(), v.to_owned())),
        };
        assert_eq!(ways("kmod"), [way("kmod", None)]);
        assert_eq!(
            ways("systemd (>= 247) | elogind"),
            [way("systemd", Some((">=", "247"))), way("elogind", None)]
        );
        for odd in ["", "--help", "a (", "a (>= )", "a;b", "a (>= 1;2)"] {
            assert_eq!(ways(odd), [], "{odd}");
        }
        assert_eq!(new_needs("a, b (>= 2), c", "a,b (>= 1)"), ["b (>= 2)", "c"]);
        assert!(new_needs("a, b", "b, a").is_empty());
    }

    #[tokio::test]
    async fn what_the_machine_lacks_is_named_before_anything_changes() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        // dpkg's own tools over lists of their own would need its whole state: what they are asked is what counts.
        let query = "#!/bin/sh\nfor last; do :; done\ncase $last in pf9-hostagent) echo 'kmod, systemd (>= 247)' ;;\n\
                     systemd) echo 'installed 250-1' ;; gone) echo 'config-files 1' ;; *) exit 1 ;; esac\n";
        let compare = "#!/bin/sh\n[ \"$2\" = 250-1 ] && [ \"$3\" = '>=' ] && [ \"$4\" = 249 ]\n";
        for (name, text) in [("dpkg-query", query), ("dpkg", compare)] {
            fs.write(
                format!("/usr/bin/{name}"),
                text.as_bytes(),
                &Attrs::mode(0o755),
            )
            .expect("write");
        }
        let host = Host::new(fs);
        for (depends, lacks) in [
            ("kmod, systemd (>= 247)", None),
            ("kmod, systemd (>= 249)", None),
            ("kmod, systemd (>= 251)", Some("systemd (>= 251)")),
            ("kmod, nft", Some("nft")),
            ("gone", Some("gone")),
            ("nft | systemd", None),
        ] {
            assert_eq!(unmet(&host, depends).await.as_deref(), lacks, "{depends}");
        }
    }
}
