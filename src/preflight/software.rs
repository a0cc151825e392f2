//! What the distribution must bring: our packages depend on it, a stack calls it.

use super::{Check, Facts, Group};

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

pub(super) fn tools(facts: &Facts) -> Check {
    let missing: Vec<&Tool> = TOOLS
        .iter()
        .filter(|t| !facts.programs.contains(t.program))
        .collect();
    judge(
        "tools",
        TOOLS.iter().map(|t| t.program).collect(),
        missing.iter().map(|t| t.program).collect(),
        missing.iter().map(|t| t.package).collect(),
    )
}

pub(super) fn libraries(facts: &Facts) -> Check {
    let missing: Vec<&Library> = LIBRARIES
        .iter()
        .filter(|l| !l.any_of.iter().any(|p| facts.libraries.contains(*p)))
        .collect();
    judge(
        "libraries",
        LIBRARIES.iter().map(|l| l.name).collect(),
        missing.iter().map(|l| l.name).collect(),
        missing.iter().map(|l| l.package).collect(),
    )
}

fn judge(id: &'static str, all: Vec<&str>, missing: Vec<&str>, mut packages: Vec<&str>) -> Check {
    let found = match missing.as_slice() {
        [] => "all there".to_owned(),
        some => format!("missing: {}", some.join(" ")),
    };
    let check = Check::new(Group::Software, id, found, all.join(" "));
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
