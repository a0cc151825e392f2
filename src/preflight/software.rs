//! What the distribution must bring: our packages depend on it, a stack calls it.

use super::{Finding, MachineFacts};

/// A program and the package that has it.
pub(super) struct Tool {
    pub(super) program: &'static str,
    package: &'static str,
}

pub(super) const TOOLS: &[Tool] = &[
    Tool {
        program: "iptables",
        package: "iptables",
    },
    Tool {
        program: "iptables-save",
        package: "iptables",
    },
    Tool {
        program: "conntrack",
        package: "conntrack",
    },
    Tool {
        program: "ip",
        package: "iproute2",
    },
    Tool {
        program: "mount",
        package: "mount",
    },
    Tool {
        program: "umount",
        package: "mount",
    },
    Tool {
        program: "modprobe",
        package: "kmod",
    },
    Tool {
        program: "nsenter",
        package: "util-linux",
    },
    Tool {
        program: "systemctl",
        package: "systemd",
    },
];

/// A library: any of these paths will do.
pub(super) struct Library {
    name: &'static str,
    package: &'static str,
    pub(super) any_of: &'static [&'static str],
}

pub(super) const LIBRARIES: &[Library] = &[Library {
    name: "libseccomp",
    package: "libseccomp2",
    any_of: &[
        "/usr/lib/x86_64-linux-gnu/libseccomp.so.2",
        "/lib/x86_64-linux-gnu/libseccomp.so.2",
        "/usr/lib/aarch64-linux-gnu/libseccomp.so.2",
        "/lib/aarch64-linux-gnu/libseccomp.so.2",
        "/usr/lib64/libseccomp.so.2",
    ],
}];

pub(super) fn tools(facts: &MachineFacts) -> Finding {
    let missing: Vec<&Tool> = TOOLS
        .iter()
        .filter(|t| !facts.programs.contains(t.program))
        .collect();
    finding(
        TOOLS.iter().map(|t| t.program).collect(),
        missing.iter().map(|t| t.program).collect(),
        missing.iter().map(|t| t.package).collect(),
    )
}

pub(super) fn libraries(facts: &MachineFacts) -> Finding {
    let missing: Vec<&Library> = LIBRARIES
        .iter()
        .filter(|l| !l.any_of.iter().any(|p| facts.libraries.contains(*p)))
        .collect();
    finding(
        LIBRARIES.iter().map(|l| l.name).collect(),
        missing.iter().map(|l| l.name).collect(),
        missing.iter().map(|l| l.package).collect(),
    )
}

/// Whether pods get DNS by the machine's own file about it.
pub(super) fn dns(facts: &MachineFacts) -> Finding {
    let servers: Vec<String> = facts
        .resolver
        .servers
        .iter()
        .map(ToString::to_string)
        .collect();
    let found = match (&facts.resolver.missing, servers.as_slice()) {
        (Some(missing), _) => format!("{}: {missing}", facts.resolver.path),
        (None, []) => "no server".to_owned(),
        (None, some) => format!("{} in {}", some.join(" "), facts.resolver.path),
    };
    let check = Finding::new(found, "a server that pods can reach, in /etc/resolv.conf");
    match facts.resolver.no_dns() {
        None => check,
        Some(no_dns) if no_dns.harmless => check.warn(no_dns.why, no_dns.fix),
        Some(no_dns) => check.fail(no_dns.why, no_dns.fix),
    }
}

fn finding(all: Vec<&str>, missing: Vec<&str>, mut packages: Vec<&str>) -> Finding {
    let found = match missing.as_slice() {
        [] => "all present".to_owned(),
        some => format!("missing: {}", some.join(" ")),
    };
    let check = Finding::new(found, all.join(" "));
    if missing.is_empty() {
        return check;
    }
    packages.sort_unstable();
    packages.dedup();
    check.fail(
        "the node's programs call them",
        format!("install {}", packages.join(" ")),
    )
}

/// Locks of apt, dpkg and rpm.
pub(super) const LOCKS: &[&str] = &[
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/lib/rpm/.rpm.lock",
    "/usr/lib/sysimage/rpm/.rpm.lock",
];

pub(super) fn package_locks(facts: &MachineFacts) -> Finding {
    let held: Vec<String> = facts
        .package_locks
        .iter()
        .map(|lock| match &lock.holder {
            Some(who) => format!(
                "{} is held by {} (process {})",
                lock.path, who.name, who.pid
            ),
            None => format!("{} is held by an invisible process", lock.path),
        })
        .collect();
    let found = match held.as_slice() {
        [] => "free".to_owned(),
        some => some.join("; "),
    };
    let finding = Finding::new(found, "free");
    if held.is_empty() {
        return finding;
    }
    finding.warn(
        "installing packages has to wait for it, and so has a change of the agent's version",
        "let it finish; unattended-upgrades and cloud-init take minutes after a boot",
    )
}
