//! What a spec may say of Kubernetes' own programs, as far as that can be judged without them: the
//! plane asks before it signs, a node before it obeys. Whether this release knows a flag or a gate
//! only its programs can say; the node asks them before it changes anything.

use std::collections::BTreeMap;

use super::KubeletSpec;

/// Most feature gates, and most flags, of one spec: a person wrote them.
const LIST_MAX: usize = 64;
/// Longest name of a gate or a flag.
const NAME_MAX: usize = 100;
/// Longest value of a flag: a list of names fits.
const VALUE_MAX: usize = 4096;
/// Ids of a pod come in blocks of this many: kubelet takes no other number.
const ID_BLOCK: u32 = 65_536;
/// Most of them, so that the usual hundred pods of a node fit below 2^32.
const IDS_MAX: u32 = ID_BLOCK * 512;

/// Flags of the API server that nodelet owns: their values follow from the rest of the spec, and another value would
/// hand the node to someone else or make it unreachable.
pub const API_SERVER_OWN: [&str; 38] = [
    "admission-control-config-file",
    "advertise-address",
    "allow-privileged",
    "anonymous-auth",
    "authentication-config",
    "authorization-config",
    "authorization-policy-file",
    "bind-address",
    "client-ca-file",
    "enable-admission-plugins",
    "etcd-cafile",
    "etcd-certfile",
    "etcd-keyfile",
    "etcd-servers",
    "feature-gates",
    "kubelet-certificate-authority",
    "kubelet-client-certificate",
    "kubelet-client-key",
    "kubelet-preferred-address-types",
    "profiling",
    "proxy-client-cert-file",
    "proxy-client-key-file",
    "requestheader-allowed-names",
    "requestheader-client-ca-file",
    "requestheader-extra-headers-prefix",
    "requestheader-group-headers",
    "requestheader-username-headers",
    "secure-port",
    "service-account-issuer",
    "service-account-key-file",
    "service-account-signing-key-file",
    "service-cluster-ip-range",
    "tls-cert-file",
    "tls-min-version",
    "tls-private-key-file",
    "v",
    // Would take the place of some of these.
    "authorization-mode",
    "token-auth-file",
];

/// Flags of the API server that follow from the spec's `audit`. They were a person's once, and clusters may still have
/// them: a plane takes none of them any more, and a node passes over them. One that refused such a spec would obey none
/// that comes, not even what puts its agent back.
pub const API_SERVER_AUDIT: [&str; 5] = [
    "audit-log-maxage",
    "audit-log-maxbackup",
    "audit-log-maxsize",
    "audit-log-path",
    "audit-policy-file",
];

/// Required admission plugins: the first keeps a node from changing others, the second enforces the spec's pod-security
/// level.
const ADMISSION_NEEDED: [&str; 2] = ["NodeRestriction", "PodSecurity"];

/// Gates that the refusal of machines that left rests on: the user's UID in a certificate is beta
/// (kube-apiserver, 1.33 to 1.37).
const NEEDED: &[&str] = &["AllowParsingUserUIDFromCertAuth", "AllBeta"];

/// Names of feature gates, as far as they can be names, and none off that is needed.
pub fn gates(gates: &BTreeMap<String, bool>) -> Result<(), String> {
    if gates.len() > LIST_MAX {
        return Err(format!("{} gates, at most {LIST_MAX}", gates.len()));
    }
    let good = |name: &str| {
        !name.is_empty()
            && name.len() <= NAME_MAX
            && name.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    if let Some(name) = gates.keys().find(|name| !good(name)) {
        return Err(format!(
            "{:?} is not a valid name of a feature gate",
            clip(name)
        ));
    }
    match NEEDED.iter().find(|name| gates.get(**name) == Some(&false)) {
        Some(name) => Err(format!(
            "{name} stays on: it refuses machines that left the cluster"
        )),
        None => Ok(()),
    }
}

/// More flags of the API server.
pub fn extra_args(args: &BTreeMap<String, String>) -> Result<(), String> {
    if args.len() > LIST_MAX {
        return Err(format!("{} flags, at most {LIST_MAX}", args.len()));
    }
    for (name, value) in args {
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let good = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.len() <= NAME_MAX
            && name.bytes().all(word);
        if !good {
            let name = clip(name);
            return Err(format!(
                "{name:?} is not a valid name of a flag (without its dashes)"
            ));
        }
        if API_SERVER_OWN.contains(&name.as_str()) {
            return Err(format!("--{name} is the agent's own"));
        }
        if name.starts_with("oidc-") {
            // They know one issuer only, need none of its authorities, and let it say any name.
            return Err(format!("--{name}: issuers are given by the setting oidc"));
        }
        if name == "disable-admission-plugins"
            && let Some(plugin) = ADMISSION_NEEDED.iter().find(|p| value.contains(**p))
        {
            return Err(format!("--{name}: {plugin} stays on"));
        }
        if value.starts_with('/') {
            return Err(format!(
                "--{name} names a file or directory; the API server's pod sees only its own"
            ));
        }
        if value.len() > VALUE_MAX || value.chars().any(char::is_control) {
            return Err(format!(
                "--{name}: its value is longer than {VALUE_MAX} bytes, or has control characters"
            ));
        }
    }
    Ok(())
}

/// What does not fit together among kubelet's choices: the field, and why.
pub fn kubelet(spec: &KubeletSpec) -> Result<(), (&'static str, String)> {
    if spec.pods_swap && !spec.allow_swap {
        let why = "pods can use swap only where allow_swap is true";
        return Err(("pods_swap", why.to_owned()));
    }
    match spec.ids_per_pod {
        Some(ids) if ids == 0 || ids % ID_BLOCK != 0 || ids > IDS_MAX => {
            let why = format!("{ids} is not a multiple of {ID_BLOCK}, or above {IDS_MAX}");
            Err(("ids_per_pod", why))
        }
        Some(_) | None => Ok(()),
    }
}

fn clip(text: &str) -> String {
    const SHOWN: usize = 80;
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map<V: Clone>(name: &str, value: V) -> BTreeMap<String, V> {
        BTreeMap::from([(name.to_owned(), value)])
    }

    #[test]
    fn gates_and_flags_are_names() {
        assert_eq!(gates(&map("NodeSwap", true)), Ok(()));
        for needed in NEEDED {
            assert!(gates(&map(needed, false)).is_err(), "{needed}");
            assert_eq!(gates(&map(needed, true)), Ok(()));
        }
        for bad in ["", "Node Swap", "A=true,B", "é"] {
            assert!(gates(&map(bad, true)).is_err(), "{bad:?}");
        }
        let many = (0..=LIST_MAX).map(|n| (format!("G{n}"), true)).collect();
        assert!(gates(&many).is_err());
        assert_eq!(
            extra_args(&map("audit-webhook-mode", "batch".into())),
            Ok(())
        );
        let long = "x".repeat(VALUE_MAX + 1);
        for (name, value) in [
            ("--event-ttl", "2h"),
            ("oidc-issuer-url", "https://x"),
            ("authentication-config", "x"),
            ("disable-admission-plugins", "X,NodeRestriction"),
            ("disable-admission-plugins", "PodSecurity"),
            ("", "x"),
            ("A", "x"),
            ("a b", "x"),
            ("secure-port", "1"),
            ("feature-gates", "A=true"),
            ("event-ttl", "a\nb"),
            ("event-ttl", "/var/log/audit.log"),
            ("event-ttl", &long),
        ] {
            let said = extra_args(&map(name, value.to_owned()));
            assert!(said.is_err(), "{name:?}");
        }
    }

    #[test]
    fn swap_for_pods_needs_swap_and_ids_come_in_blocks() {
        let of = |allow_swap, pods_swap, ids_per_pod| KubeletSpec {
            allow_swap,
            pods_swap,
            ids_per_pod,
            ..KubeletSpec::default()
        };
        for good in [
            of(false, false, None),
            of(true, false, None),
            of(true, true, Some(ID_BLOCK)),
            of(false, false, Some(IDS_MAX)),
        ] {
            assert_eq!(kubelet(&good), Ok(()));
        }
        let field = |spec: &KubeletSpec| kubelet(spec).map_err(|(field, _)| field);
        assert_eq!(field(&of(false, true, None)), Err("pods_swap"));
        for ids in [0, 1, ID_BLOCK + 1, IDS_MAX + ID_BLOCK] {
            assert_eq!(field(&of(true, true, Some(ids))), Err("ids_per_pod"));
        }
    }
}
