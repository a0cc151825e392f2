//! Which hosts can take part, and what blocks a roll before it begins. Pure.

use semver::Version;

use super::engine::Look;
use crate::rolls::{Finding, Weight};
use pf9_hostagent::model::{AgentPackage, Fault, FaultCode, HostId, Inventory, PackageFormat};

/// Hosts that a finding names; the rest are counted.
const NAMED: usize = 5;

/// Whether programs of these two versions interoperate: each minor with its neighbours, and the first minor of a major
/// with the last of the previous major.
pub(super) fn one_apart(a: &Version, b: &Version) -> bool {
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    match high.major.checked_sub(low.major) {
        Some(0) => high.minor - low.minor <= 1,
        Some(1) => high.minor == 0,
        Some(_) | None => false,
    }
}

/// Why a host on this version cannot go to `to`.
pub(super) fn unfit(
    running: Option<&Version>,
    machine: Option<&Inventory>,
    to: &Version,
    package: Option<&AgentPackage>,
) -> Option<Fault> {
    let what = format!("the host does not go to agent {to}");
    let fault = |code, why: String, fix: &str| Some(Fault::new(code, what, why).fix(fix));
    let import = "import it with pf9-plane agent import";
    let Some(package) = package else {
        return fault(
            FaultCode::AgentVersionUnknown,
            "no package of it was imported".into(),
            import,
        );
    };
    if let Some(running) = running.filter(|v| !one_apart(v, to)) {
        let why = format!("it runs {running}, and only neighbouring versions are tested together");
        return fault(
            FaultCode::AgentTooFar,
            why,
            "upgrade through the versions in between",
        );
    }
    let machine = machine?;
    // Unknown distribution: either format may fit.
    let known = PackageFormat::of_os(&machine.os_id);
    let formats = known.map_or(vec![PackageFormat::Deb, PackageFormat::Rpm], |f| vec![f]);
    let fits = formats
        .iter()
        .any(|f| package.file(*f, &machine.arch).is_some());
    let words: Vec<&str> = formats.iter().map(|f| f.as_str()).collect();
    let (os, arch) = (&machine.os_id, &machine.arch);
    let why = format!(
        "it is {os} on {arch}, and no .{} for that was imported",
        words.join(" or .")
    );
    match fits {
        true => None,
        false => fault(FaultCode::AgentVersionUnknown, why, import),
    }
}

/// Findings before a roll begins. `here`: versions with packages on this plane.
pub(super) fn findings(
    to: &Version,
    plane: &Version,
    hosts: &[(HostId, Look)],
    here: &[Version],
) -> Vec<Finding> {
    let mut found = of_plane(to, plane);
    found.extend(left_out(hosts, FaultCode::AgentVersionUnknown));
    found.extend(left_out(hosts, FaultCode::AgentTooFar));
    found.extend(no_way_back(to, hosts, here));
    found.extend(way_down(to, hosts));
    found
}

/// The plane interoperates with neighbouring versions and must know a new one before the agents do.
fn of_plane(to: &Version, plane: &Version) -> Vec<Finding> {
    let far = || {
        let why =
            format!("the plane is {plane}, and only neighbouring versions are tested together");
        let what = format!("agent {to} is not for this plane");
        (what, why, "plane", Weight::Refuses)
    };
    let newer = || {
        let why = format!("the plane is {plane}, and is always upgraded first");
        let what = format!("agent {to} is newer than this plane");
        (what, why, "plane-older", Weight::Blocks)
    };
    let is_newer = (to.major, to.minor) > (plane.major, plane.minor);
    let said = [(!one_apart(to, plane)).then(far), is_newer.then(newer)];
    let finding = |(what, why, id, weight)| {
        let fault = Fault::new(FaultCode::AgentTooFar, what, why).fix("upgrade the plane first");
        finding(id, weight, fault)
    };
    said.into_iter().flatten().map(finding).collect()
}

/// Hosts left out for this reason.
fn left_out(hosts: &[(HostId, Look)], code: FaultCode) -> Option<Finding> {
    let faults = hosts
        .iter()
        .filter_map(|(host, look)| Some((*host, look.unfit.as_ref()?)));
    let faults: Vec<_> = faults.filter(|(_, f)| f.code == code).collect();
    let (_, first) = faults.first()?;
    let what = format!("{} hosts are skipped", faults.len());
    let why = format!("{}: {}", names(faults.iter().map(|(h, _)| *h)), first.why);
    let fault = Fault::new(code, what, why).fix(first.fix.clone());
    let id = format!("left-out/{}", code.word());
    Some(finding(&id, Weight::Warns, fault))
}

/// Hosts whose current version has no package on this plane.
fn no_way_back(to: &Version, hosts: &[(HostId, Look)], here: &[Version]) -> Option<Finding> {
    let lost = hosts.iter().filter_map(|(host, look)| {
        let running = look.running.as_ref().filter(|v| *v != to)?;
        (look.unfit.is_none() && !here.contains(running)).then_some((*host, running))
    });
    let lost: Vec<(HostId, &Version)> = lost.collect();
    let (_, version) = lost.first()?;
    let hosts = names(lost.iter().map(|(h, _)| *h));
    let why = format!("{hosts} run a version whose package was not imported, e.g. {version}");
    let what = "not every host could roll back: a package is missing";
    let fault = Fault::new(FaultCode::AgentVersionUnknown, what, why);
    let fault = fault.fix("import that version as well");
    Some(finding("previous", Weight::Blocks, fault))
}

fn way_down(to: &Version, hosts: &[(HostId, Look)]) -> Option<Finding> {
    let newer = hosts
        .iter()
        .filter(|(_, look)| look.running.as_ref().is_some_and(|v| v > to));
    let newer: Vec<HostId> = newer.map(|(h, _)| *h).collect();
    let why = format!("{} run a newer one", names(newer.iter().copied()));
    let fault = Fault::new(FaultCode::RollBlocked, "this is a downgrade", why);
    let found = finding(
        "down",
        Weight::Warns,
        fault.fix("nothing, if this is intended"),
    );
    (!newer.is_empty()).then_some(found)
}

fn finding(id: &str, weight: Weight, fault: Fault) -> Finding {
    let id = id.to_owned();
    Finding { id, weight, fault }
}

pub(super) fn names(hosts: impl ExactSizeIterator<Item = HostId>) -> String {
    let more = hosts.len().saturating_sub(NAMED);
    let mut named: Vec<String> = hosts.take(NAMED).map(|h| h.to_string()).collect();
    named.extend((more > 0).then(|| format!("{more} more")));
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::tests::host;
    use crate::rolls::stands;

    fn v(text: &str) -> Version {
        text.parse().expect("version")
    }

    fn package(version: &str) -> AgentPackage {
        let file = serde_json::json!({"format": "deb", "arch": "amd64", "sha256": "0".repeat(64), "bytes": 1, "path": "p"});
        let package = serde_json::json!({"version": version, "packages": [file]});
        serde_json::from_value(package).expect("package")
    }

    #[test]
    fn neighbouring_versions_interoperate() {
        for (a, b, want) in [
            ("0.1.0", "0.1.9", true),
            ("0.1.0", "0.2.3", true),
            ("0.1.0", "0.3.0", false),
            ("0.9.0", "1.0.0", true),
            ("0.9.0", "1.1.0", false),
            ("1.0.0", "3.0.0", false),
            ("0.2.0-rc1", "0.1.0", true),
        ] {
            assert_eq!(one_apart(&v(a), &v(b)), want, "{a} {b}");
            assert_eq!(one_apart(&v(b), &v(a)), want, "{b} {a}");
        }
    }

    #[test]
    fn a_host_that_cannot_take_part_has_a_reason() {
        let machine = |os: &str, arch: &str| Inventory {
            os_id: os.into(),
            arch: arch.into(),
            ..Inventory::default()
        };
        let code = |running: &str, os: &str, arch: &str| {
            let here = package("0.2.0");
            let machine = machine(os, arch);
            unfit(Some(&v(running)), Some(&machine), &v("0.2.0"), Some(&here)).map(|f| f.code)
        };
        assert_eq!(code("0.1.0", "debian", "amd64"), None);
        assert_eq!(code("0.1.0", "mint", "amd64"), None);
        assert_eq!(code("0.3.0", "debian", "amd64"), None);
        assert_eq!(
            code("0.4.0", "debian", "amd64"),
            Some(FaultCode::AgentTooFar)
        );
        assert_eq!(
            code("0.1.0", "rocky", "amd64"),
            Some(FaultCode::AgentVersionUnknown)
        );
        assert_eq!(
            code("0.1.0", "debian", "arm64"),
            Some(FaultCode::AgentVersionUnknown)
        );
        let none = unfit(None, None, &v("0.2.0"), None).map(|f| f.code);
        assert_eq!(none, Some(FaultCode::AgentVersionUnknown));
    }

    #[test]
    fn the_plan_names_hosts_that_could_not_roll_back_and_blocks() {
        let look = |running: &str| Look {
            there: true,
            running: Some(v(running)),
            ..Look::default()
        };
        let hosts = [(host(1), look("0.1.0")), (host(2), look("0.1.1"))];
        let found = findings(&v("0.2.0"), &v("0.2.0"), &hosts, &[v("0.1.0"), v("0.2.0")]);
        let ids: Vec<&str> = found.iter().map(|f| f.id.as_str()).collect();
        assert_eq!(ids, ["previous"]);
        assert!(
            found[0].fault.why.contains(&host(2).to_string()),
            "{:?}",
            found[0].fault
        );
        assert!(stands(&found, &[]).is_some());
        assert!(stands(&found, &["previous".to_owned()]).is_none());
        let all = [v("0.1.0"), v("0.1.1"), v("0.2.0")];
        assert_eq!(findings(&v("0.2.0"), &v("0.2.0"), &hosts, &all), []);
        let newer = findings(&v("0.2.0"), &v("0.1.9"), &[], &all);
        assert!(stands(&newer, &[]).is_some(), "the plane is upgraded first");
        assert!(stands(&newer, &["plane-older".to_owned()]).is_none());
        assert_eq!(
            findings(&v("0.1.9"), &v("0.1.0"), &[], &all),
            [],
            "patches are not new"
        );
        let far = findings(&v("0.2.0"), &v("0.4.0"), &hosts, &all);
        assert!(
            stands(&far, &["plane".to_owned()]).is_some(),
            "nobody overrules it"
        );
        let down = findings(
            &v("0.0.9"),
            &v("0.1.0"),
            &hosts,
            &[v("0.0.9"), v("0.1.0"), v("0.1.1")],
        );
        let ids: Vec<&str> = down.iter().map(|f| f.id.as_str()).collect();
        assert_eq!(ids, ["down"]);
        assert!(stands(&down, &[]).is_none());
    }
}
