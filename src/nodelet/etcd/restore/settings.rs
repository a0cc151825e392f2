//! Whether the cluster is still made as it was when the snapshot was taken: pure. What is in etcd names
//! addresses of its networks and forms of its objects; a restore changes none of them.
//!
//! | differs | then |
//! |---|---|
//! | services | refused: services keep addresses that nobody serves, and DNS is elsewhere |
//! | pods | refused: nodes keep networks that are routed nowhere |
//! | domain | refused: what pods were told to call has no name any more |
//! | Kubernetes, the snapshot's is newer | refused: objects may have a form that this one cannot read |
//! | Kubernetes, more than one minor older | a warning: nobody rewrote old forms of objects in between |
//! | address of the API, name of the cluster | a warning: only what people keep names the old ones |

use semver::Version;

use super::check::{WHAT, unusable};
use crate::model::{BackupManifest, BackupSettings, Fault, FaultCode, NodeSpec, loose_version};

/// What a person does where it was another cluster.
const ELSEWHERE: &str = "create a cluster with the settings of that time (pf9ctl etcd verify shows them), and restore there";

/// Warnings; or why a cluster that is made like this one cannot have these data.
pub fn compare(
    manifest: &BackupManifest,
    node: &NodeSpec,
    kubernetes: Option<&Version>,
) -> Result<Vec<String>, Fault> {
    let (then, now) = (&manifest.settings, &BackupSettings::of(node));
    networks(then, now)?;
    let mut warnings = Vec::new();
    let taken_by = loose_version(&manifest.kubernetes_version);
    if let (Some(then), Some(now)) = (&taken_by, kubernetes) {
        warnings.extend(release(then, now)?);
    }
    let (api, is) = (
        format!("{}:{}", then.api_host, then.api_port),
        format!("{}:{}", now.api_host, now.api_port),
    );
    if api != is {
        warnings.push(format!(
            "the API was at {api} then and is at {is} now: kubeconfigs from that time do not reach it"
        ));
    }
    if then.cluster_name != now.cluster_name {
        warnings.push(format!(
            "the cluster was called {} then and is called {} now",
            then.cluster_name, now.cluster_name
        ));
    }
    Ok(warnings)
}

fn networks(then: &BackupSettings, now: &BackupSettings) -> Result<(), Fault> {
    let rows = [
        (
            "its services have addresses of",
            then.services_cidr.to_string(),
            now.services_cidr.to_string(),
        ),
        (
            "its nodes have pod networks of",
            then.pods_cidr.to_string(),
            now.pods_cidr.to_string(),
        ),
        (
            "its pods call services below the domain",
            then.cluster_domain.clone(),
            now.cluster_domain.clone(),
        ),
    ];
    match rows.into_iter().find(|(_, then, now)| then != now) {
        None => Ok(()),
        Some((what, then, now)) => {
            let why = format!("{what} {then}, and this cluster has {now}");
            Err(unusable(why, ELSEWHERE))
        }
    }
}

fn release(then: &Version, now: &Version) -> Result<Option<String>, Fault> {
    let minor = |v: &Version| (v.major, v.minor);
    if minor(then) > minor(now) {
        let why = format!(
            "Kubernetes {then} wrote it, and {now} runs here: it may not be able to read all that is in it"
        );
        let fix = "bring the cluster to the stack of that time first (pf9-plane cluster upgrade NAME back), or \
            choose an older backup";
        return Err(Fault::new(FaultCode::EtcdRestoreUnfit, WHAT, why).fix(fix));
    }
    let is_old = then.major != now.major || now.minor - then.minor > 1;
    Ok(is_old.then(|| {
        format!(
            "Kubernetes {then} wrote it, and {now} runs here: objects of kinds removed since are no longer served"
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::seal::Sealed;
    use crate::model::Digest;
    use crate::nodelet::etcd::testing;
    use crate::nodelet::testing::{Cas, node};

    type Change = fn(&mut BackupManifest);

    fn manifest(node: &NodeSpec) -> BackupManifest {
        let sealed = Sealed {
            bytes: 1,
            sha256: Digest::of(b"x"),
        };
        testing::manifest(node, 1, sealed)
    }

    fn said(change: Change) -> Result<Vec<String>, String> {
        let node = node(Cas::new().authorities);
        let mut manifest = manifest(&node);
        change(&mut manifest);
        let now = Version::new(1, 37, 2);
        compare(&manifest, &node, Some(&now)).map_err(|fault| fault.to_string())
    }

    #[test]
    fn what_makes_the_restored_cluster_wrong_is_refused_with_both_values() {
        assert_eq!(said(|_| ()), Ok(Vec::new()));
        let cases: [(&str, Change); 4] = [
            ("addresses of 10.99.0.0/16, and", |m| {
                m.settings.services_cidr = "10.99.0.0/16".parse().expect("net");
            }),
            ("pod networks of 10.98.0.0/16, and", |m| {
                m.settings.pods_cidr = "10.98.0.0/16".parse().expect("net");
            }),
            ("the domain example.org, and", |m| {
                m.settings.cluster_domain = "example.org".into();
            }),
            ("Kubernetes 1.38.0 wrote it, and 1.37.2 runs", |m| {
                m.kubernetes_version = "1.38.0".into();
            }),
        ];
        for (words, change) in cases {
            let why = said(change).expect_err(words);
            assert!(why.contains(words), "{words}: {why}");
        }
    }

    #[test]
    fn what_only_people_notice_is_said() {
        let cases: [(&str, Change); 4] = [
            ("the API was at 10.9.9.9:6443", |m| {
                m.settings.api_host = "10.9.9.9".into();
            }),
            (":7443 then", |m| m.settings.api_port = 7443),
            ("was called other then", |m| {
                m.settings.cluster_name = "other".into();
            }),
            ("1.35.1 wrote it", |m| {
                m.kubernetes_version = "1.35.1".into()
            }),
        ];
        for (words, change) in cases {
            let warnings = said(change).expect(words);
            assert!(
                matches!(&warnings[..], [one] if one.contains(words)),
                "{warnings:?}"
            );
        }
        for fine in ["1.37.9", "1.36.0", "", "unknown"] {
            let node = node(Cas::new().authorities);
            let mut manifest = manifest(&node);
            manifest.kubernetes_version = fine.into();
            let now = Version::new(1, 37, 2);
            assert_eq!(
                compare(&manifest, &node, Some(&now)),
                Ok(Vec::new()),
                "{fine}"
            );
            assert_eq!(compare(&manifest, &node, None), Ok(Vec::new()), "no stack");
        }
    }
}
