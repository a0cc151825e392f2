//! What a node needs of its distribution, and which package brings it there.

use super::exec;
use super::facts::OsRelease;
use super::fs::HostFs;
use crate::model::PackageFormat;

/// A program or a library, with the packages that have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The program, or what the library is called.
    pub name: &'static str,
    deb: &'static str,
    rpm: &'static str,
}

const fn needed(name: &'static str, deb: &'static str, rpm: &'static str) -> Requirement {
    Requirement { name, deb, rpm }
}

/// Programs that a node calls.
pub const TOOLS: &[Requirement] = &[
    needed("iptables", "iptables", "iptables"),
    needed("iptables-save", "iptables", "iptables"),
    needed("conntrack", "conntrack", "conntrack-tools"),
    needed("ip", "iproute2", "iproute"),
    needed("mount", "mount", "util-linux"),
    needed("umount", "mount", "util-linux"),
    needed("modprobe", "kmod", "kmod"),
    needed("nsenter", "util-linux", "util-linux"),
    needed("systemctl", "systemd", "systemd"),
];

/// What runc is linked with.
pub const LIBSECCOMP: Requirement = needed("libseccomp", "libseccomp2", "libseccomp");

/// Programs that are not on this machine.
pub fn missing(fs: &HostFs) -> Vec<Requirement> {
    let gone = |tool: &&Requirement| !exec::program(fs, tool.name).is_file();
    TOOLS.iter().filter(gone).copied().collect()
}

/// The line that brings them. A distribution that nobody knows is taken for the kin that it names, else for Debian's.
pub fn install(os: &OsRelease, missing: &[Requirement]) -> String {
    let mut names = [&os.id].into_iter().chain(&os.like);
    let format = names.find_map(|name| PackageFormat::of_os(name));
    let (verb, package): (_, fn(&Requirement) -> &'static str) = match format {
        Some(PackageFormat::Rpm) => ("dnf install", |r| r.rpm),
        Some(PackageFormat::Deb) | None => ("apt-get install", |r| r.deb),
    };
    let mut packages: Vec<&str> = missing.iter().map(package).collect();
    packages.sort_unstable();
    packages.dedup();
    format!("{verb} {}", packages.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;

    #[test]
    fn packages_have_the_names_of_their_distribution() {
        let os = |id: &str, like: &[&str]| OsRelease {
            id: id.into(),
            like: like.iter().map(|&l| l.to_owned()).collect(),
            ..OsRelease::default()
        };
        let some: Vec<Requirement> = ["conntrack", "mount", "umount"]
            .map(|name| *TOOLS.iter().find(|t| t.name == name).expect(name))
            .into();
        for debian in [os("debian", &[]), os("mint", &["ubuntu"]), os("", &[])] {
            assert_eq!(install(&debian, &some), "apt-get install conntrack mount");
        }
        for rhel in [
            os("rhel", &["fedora"]),
            os("fedora", &[]),
            os("ol", &["fedora"]),
            os("x", &["rhel"]),
        ] {
            assert_eq!(
                install(&rhel, &some),
                "dnf install conntrack-tools util-linux"
            );
        }
    }

    /// As the packages name what they need: none is asked for here that would not come with them.
    #[test]
    fn the_packages_need_what_a_node_calls() {
        let data = std::fs::read_to_string(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/packaging/package.toml"
        ));
        let data: toml::Table = data.expect("read").parse().expect("TOML");
        let listed = |kind: &str| -> Vec<String> {
            let all = data["needs"][kind].as_array().expect("list").iter();
            let name = |n: &toml::Value| n.as_str()?.split(' ').next().map(str::to_owned);
            all.filter_map(name).collect()
        };
        let (deb, rpm) = (listed("deb"), listed("rpm"));
        for one in TOOLS.iter().chain([&LIBSECCOMP]) {
            assert!(deb.iter().any(|n| n == one.deb), "{one:?}");
            assert!(rpm.iter().any(|n| n == one.rpm), "{one:?}");
        }
    }

    #[test]
    fn what_is_gone_is_seen_wherever_it_would_be() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        for (n, tool) in TOOLS.iter().enumerate() {
            let at = ["/usr/bin", "/sbin", "/usr/sbin"][n % 3];
            fs.write(format!("{at}/{}", tool.name), b"", &Attrs::mode(0o755))
                .expect("write");
        }
        assert_eq!(missing(&fs), []);
        let conntrack = exec::program(&fs, "conntrack");
        std::fs::remove_file(conntrack).expect("remove");
        assert_eq!(
            missing(&fs).iter().map(|n| n.name).collect::<Vec<_>>(),
            ["conntrack"]
        );
    }
}
