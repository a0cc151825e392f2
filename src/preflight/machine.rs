//! What the machine is.

use super::{Finding, MachineFacts, Thresholds};
use crate::model::{Fit, Machine, Matrix, NodeName, Taken};

pub(super) fn root(facts: &MachineFacts) -> Finding {
    let found = match facts.uid {
        0 => "root".to_owned(),
        uid => format!("user id {uid}"),
    };
    let check = Finding::new(found, "root");
    if facts.uid == 0 {
        return check;
    }
    check.fail(
        "enrolling and the units are the administrator's",
        "run it with sudo",
    )
}

pub(super) fn distribution(facts: &MachineFacts) -> Finding {
    let os = &facts.os;
    let found = match (os.pretty.as_str(), os.id.as_str()) {
        ("", "") => "no os-release file".to_owned(),
        ("", id) => format!("{id} {}", os.version),
        (pretty, _) => pretty.to_owned(),
    };
    let check = Finding::new(
        found,
        "Debian 12, Ubuntu 22.04, RHEL 9 or newer, or a rebuild of them",
    );
    let fix = "use a supported distribution";
    let major = os.version.split('.').next().unwrap_or_default();
    match Thresholds::ours().platform.distributions.get(&os.id) {
        // Debian's testing and unstable carry no version.
        Some(_) if major.is_empty() => check,
        Some(oldest) if major.parse::<u32>().is_ok_and(|v| v >= *oldest) => check,
        Some(_) => check.fail(
            "this release is older than what the packages are made for",
            fix,
        ),
        None if ["debian", "ubuntu", "rhel", "fedora"]
            .iter()
            .any(|id| os.like.iter().any(|l| l == id)) =>
        {
            check.warn("a relative of a supported distribution: untested", "")
        }
        None => check.fail("untested, and the paths of its tools are unknown", fix),
    }
}

pub(super) fn architecture(facts: &MachineFacts) -> Finding {
    let check = Finding::new(facts.arch.clone(), "x86_64 or aarch64");
    match facts.arch.as_str() {
        "x86_64" | "aarch64" => check,
        _ => check.fail("there is no stack for it", "use another machine"),
    }
}

pub(super) fn init(facts: &MachineFacts) -> Finding {
    let found = if facts.systemd {
        "systemd"
    } else {
        "something else, or nothing"
    };
    let check = Finding::new(found, "systemd as process 1");
    if facts.systemd {
        return check;
    }
    check.fail(
        "agent and node run as systemd units",
        "boot the machine with systemd",
    )
}

/// What the support matrix says of this machine, whatever stack comes.
pub(super) fn tested(facts: &MachineFacts) -> Finding {
    let machine = Machine {
        arch: None,
        systemd: facts.systemd_version.clone(),
        cgroup: Some(if facts.cgroup_v2 { 2 } else { 1 }),
        kernel: (!facts.kernel.is_empty()).then(|| facts.kernel.clone()),
    };
    let systemd = facts
        .systemd_version
        .as_deref()
        .unwrap_or("of unknown version");
    let check = Finding::new(
        format!(
            "systemd {systemd}, control groups v{}, Linux {}",
            if facts.cgroup_v2 { 2 } else { 1 },
            facts.kernel
        ),
        "a machine like those of the tests (see the matrix in the README)",
    );
    match Matrix::ours().of_machine(&machine) {
        Fit::Tested => check,
        Fit::Warned(words) => check.warn(words.join("; "), ""),
        Fit::Refused(fault) => check.fail(fault.why, fault.fix),
    }
}

pub(super) fn host_name(facts: &MachineFacts) -> Finding {
    let check = Finding::new(
        facts.host_name.clone(),
        "a DNS name of its own, of at most 63 bytes, that no cluster uses itself",
    );
    let fix = "hostnamectl hostname NAME";
    let not_set = ["", "(none)"].contains(&facts.host_name.as_str());
    let generic = facts.host_name.to_lowercase().starts_with("localhost");
    if not_set || generic {
        return check.fail("it becomes the node's name in the cluster", fix);
    }
    let name = match NodeName::of_host(&facts.host_name) {
        Ok(name) => name,
        Err(e) => {
            return check.fail(
                format!("it becomes the node's name in the cluster: {e}"),
                fix,
            );
        }
    };
    // Reserved in every cluster: names of the API, of services, and those that are addresses.
    match Taken::default().check_name(&name) {
        Ok(()) => check,
        Err(taken) => check.fail(format!("no cluster accepts it: {taken}"), fix),
    }
}

pub(super) fn clock(facts: &MachineFacts) -> Finding {
    let day = facts.now.strftime("%Y-%m-%d").to_string();
    let kept = match &facts.clock_keeper {
        Some(keeper) => format!("{day}, synchronised by {keeper}"),
        None => format!("{day}, not synchronised"),
    };
    let check = Finding::new(kept, "today, synchronised by a time service");
    if facts.now < Thresholds::ours().platform.earliest_clock {
        return check.fail(
            "no certificate is valid at that time",
            "set the clock: timedatectl set-ntp true",
        );
    }
    if facts.clock_keeper.is_none() {
        return check.warn(
            "a drifting clock breaks certificates and etcd",
            "timedatectl set-ntp true, or install chrony",
        );
    }
    check
}
