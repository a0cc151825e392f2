//! What the distribution must bring: our packages depend on it, a stack calls it.

use super::{Finding, MachineFacts};
use crate::host::tools::{self, LIBSECCOMP, Requirement, TOOLS};

/// A library: any of these paths will do.
pub(super) struct Library {
    needed: Requirement,
    pub(super) any_of: &'static [&'static str],
}

pub(super) const LIBRARIES: &[Library] = &[Library {
    needed: LIBSECCOMP,
    any_of: &[
        "/usr/lib/x86_64-linux-gnu/libseccomp.so.2",
        "/lib/x86_64-linux-gnu/libseccomp.so.2",
        "/usr/lib/aarch64-linux-gnu/libseccomp.so.2",
        "/lib/aarch64-linux-gnu/libseccomp.so.2",
        "/usr/lib64/libseccomp.so.2",
    ],
}];

pub(super) fn tools(facts: &MachineFacts) -> Finding {
    let gone = |t: &&Requirement| !facts.programs.contains(t.name);
    let missing: Vec<Requirement> = TOOLS.iter().filter(gone).copied().collect();
    finding(facts, TOOLS.iter().copied(), &missing)
}

pub(super) fn libraries(facts: &MachineFacts) -> Finding {
    let gone = |l: &&Library| !l.any_of.iter().any(|p| facts.libraries.contains(*p));
    let missing: Vec<Requirement> = LIBRARIES.iter().filter(gone).map(|l| l.needed).collect();
    finding(facts, LIBRARIES.iter().map(|l| l.needed), &missing)
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

fn finding(
    facts: &MachineFacts,
    all: impl Iterator<Item = Requirement>,
    missing: &[Requirement],
) -> Finding {
    let words = |some: Vec<Requirement>| -> String {
        let names: Vec<&str> = some.iter().map(|n| n.name).collect();
        names.join(" ")
    };
    let found = match missing {
        [] => "all present".to_owned(),
        some => format!("missing: {}", words(some.to_vec())),
    };
    let check = Finding::new(found, words(all.collect()));
    if missing.is_empty() {
        return check;
    }
    check.fail(
        "the node's programs call them",
        tools::install(&facts.os, missing),
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
