//! What differs between Kubernetes releases, in one place.
//!
//! A flag that upstream removed is never emitted; a setting that became a field of a configuration
//! file is written there from the release on that has the field. Each line names its source in the
//! Kubernetes change logs.

use semver::Version;

/// The release of Kubernetes a stack holds, as far as files and flags differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kubernetes {
    major: u64,
    minor: u64,
}

impl Kubernetes {
    pub(super) fn new(version: &Version) -> Self {
        Self {
            major: version.major,
            minor: version.minor,
        }
    }

    fn before(self, minor: u64) -> bool {
        (self.major, self.minor) < (1, minor)
    }

    /// kubelet needs `--container-runtime=remote`, and takes `--network-plugin` and the CNI
    /// directories: gone with dockershim in 1.24 (change log 1.24, "dockershim removed").
    pub(super) fn has_dockershim_flags(self) -> bool {
        self.before(24)
    }

    /// `--container-runtime-endpoint` is a flag until `containerRuntimeEndpoint` became a field of
    /// KubeletConfiguration in 1.27 (change log 1.27, kubelet; #112136).
    pub(super) fn runtime_endpoint_is_flag(self) -> bool {
        self.before(27)
    }

    /// `--pod-infra-container-image` protects the sandbox image from garbage collection; without
    /// effect since 1.29, where the runtime pins it (#118544), and removed in 1.35 (#133774).
    pub(super) fn pod_infra_image_is_flag(self) -> bool {
        self.before(29)
    }

    /// `--register-with-taints` is a flag until `registerWithTaints` became a field of
    /// KubeletConfiguration in 1.23 (#105437).
    pub(super) fn register_taints_is_flag(self) -> bool {
        self.before(23)
    }

    /// kube-controller-manager and kube-scheduler listen without TLS unless `--port=0` says no;
    /// without effect since 1.23, removed in 1.24 (change logs 1.22 to 1.24, insecure serving).
    pub(super) fn has_insecure_ports(self) -> bool {
        self.before(23)
    }

    /// kubelet refuses control groups of version 1 from 1.35 on unless `failCgroupV1` is false; the
    /// field is there since 1.31 (KEP 4569).
    pub(super) fn can_fail_on_cgroup_v1(self) -> bool {
        !self.before(31)
    }

    /// kubelet reads a renewed serving certificate by itself since 1.31
    /// (`ReloadKubeletServerCertificateFile`, beta; #124574).
    pub(super) fn kubelet_reloads_serving_certificate(self) -> bool {
        !self.before(31)
    }

    /// kubelet looks for credentials of the cloud's image registries by itself: gone from the tree
    /// in 1.26 (KEP 2133). On a network without the cloud's metadata address that costs seconds of
    /// every start.
    pub(super) fn kubelet_asks_cloud_metadata(self) -> bool {
        self.before(26)
    }

    /// kube-scheduler is told by KubeSchedulerConfiguration `v1`, there since 1.25 (KEP 785). With
    /// the older versions of that file releases before 1.23 cannot be kept from listening without
    /// TLS: `--port=0` is ignored beside it, and its own fields refuse port 0. So those get flags.
    pub(super) fn scheduler_reads_config_file(self) -> bool {
        !self.before(25)
    }
}

/// `major.minor` of a component such as `3.4.23`; zero where it is no number.
pub(super) fn major_minor(version: &str) -> (u64, u64) {
    let mut numbers = version
        .trim_start_matches('v')
        .split(['.', '-', '+', '~'])
        .map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(minor: u64) -> Kubernetes {
        Kubernetes::new(&Version::new(1, minor, 2))
    }

    #[test]
    fn each_setting_is_a_flag_or_a_field_in_every_release() {
        for minor in 20..40 {
            let k = release(minor);
            assert_eq!(k.has_dockershim_flags(), minor < 24, "1.{minor}");
            assert_eq!(k.runtime_endpoint_is_flag(), minor < 27, "1.{minor}");
            assert_eq!(k.register_taints_is_flag(), minor < 23, "1.{minor}");
        }
    }

    #[test]
    fn component_versions_are_read_loosely() {
        assert_eq!(major_minor("3.4.23"), (3, 4));
        assert_eq!(major_minor("v2.0.1+x"), (2, 0));
        assert_eq!(major_minor("odd"), (0, 0));
    }
}
