//! What differs between releases of components, in a function named after the difference. Of Kubernetes, where no manifest
//! is no difference: `ctx.manifest.as_ref().is_some_and(|m| m.kubernetes >= Version::new(1, 38, 0))`. Of another component
//! `major_minor(ctx.stack()?.component("containerd")…)` against a release; `runtime::config` has one.
//!
//! No setting differs between the supported releases of Kubernetes (1.35 to 1.37, and 1.34 to upgrade from) at present.
//! What a release rejects is found by running its programs (`trials`), not by a table.

/// `major.minor` of a component such as `3.6.16`; zero where it is no number.
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

    #[test]
    fn component_versions_are_read_loosely() {
        assert_eq!(major_minor("3.6.16"), (3, 6));
        assert_eq!(major_minor("v2.4.2+x"), (2, 4));
        assert_eq!(major_minor("odd"), (0, 0));
    }
}
