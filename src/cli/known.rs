//! Names and flags that tools of this kind have: fingers and scripts know them.

use clap::error::{ContextKind, ContextValue};

/// Verbs, and what they are here.
pub(super) const KNOWN: [(&str, &str); 7] = [
    ("check-node", "node check"),
    ("prep-node", "node prep"),
    ("decommission-node", "node decommission"),
    ("attach-node", "host attach"),
    ("detach-node", "host detach"),
    ("authorize-node", "host authorize"),
    ("deauthorize-node", "host deauthorize"),
];

/// Flags, and what they are here.
pub(super) const FLAGS: [(&str, &str); 5] = [
    (
        "--skip-checks",
        "with node prep; a recommended check stops nothing in any case",
    ),
    ("--skip-os-checks", "with node prep: --skip distribution"),
    (
        "--skip-connected",
        "with node prep: nothing is done where the machine is a host of this plane already, and connected",
    ),
    (
        "--log-dir DIR",
        "what is printed goes to DIR/pf9ctl-YYYYMMDD.log as well",
    ),
    ("--verbose", "what is done on the way, on standard error"),
];

/// Flags that nothing here has, and why.
const REFUSED: [(&str, &str); 11] = [
    (
        "--password",
        "no secret is ever an argument, for arguments are public; ssh is shown a key, and the plane a token from a file",
    ),
    (
        "--sudo-pass",
        "no secret is ever an argument, for arguments are public; allow the user sudo without a password, or log in as root",
    ),
    (
        "--mfa",
        "no secret is ever an argument; make a token, and name its file in /etc/pf9/operator.toml",
    ),
    (
        "--remove-existing-pkgs",
        "nothing that belongs to others is removed; pf9ctl node decommission removes what is ours, and shows it first with --dry-run",
    ),
    ("--disable-swapoff", "swap is turned off with --fix only"),
    (
        "--skip-kube",
        "a machine that was prepared is a host, and becomes a node when it is attached to a cluster",
    ),
    (
        "--kube-version",
        "which Kubernetes a node has is the cluster's to say",
    ),
    (
        "--master-ip",
        "a host is named by its id (pf9ctl host list), and is a master with --master",
    ),
    (
        "--worker-ip",
        "a host is named by its id (pf9ctl host list), and is a worker without --master",
    ),
    (
        "--node-ip",
        "a host is named by its id: see pf9ctl host list",
    ),
    (
        "--uuid",
        "name the cluster with --cluster, by its name or its id",
    ),
];

/// Why there is no such flag, where that can be said.
pub(super) fn why_not(error: &clap::Error) -> Option<&'static str> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let flag = flag.split_once('=').map_or(flag.as_str(), |(name, _)| name);
    let row = REFUSED.iter().find(|(refused, _)| *refused == flag)?;
    Some(row.1)
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;
    use crate::cli::args::{Args, Verb, command};

    #[test]
    fn each_known_flag_is_taken_and_each_refused_one_says_why() {
        let plane = [
            "pf9ctl",
            "prep-node",
            "--plane",
            "https://p",
            "--token-file",
            "t",
        ];
        for (flag, _) in FLAGS {
            let words = plane.into_iter().chain(flag.split(' '));
            command().try_get_matches_from(words).expect(flag);
        }
        for (flag, why) in REFUSED {
            let words = plane.into_iter().chain([flag]);
            let error = command().try_get_matches_from(words).expect_err(flag);
            assert_eq!(why_not(&error), Some(why));
        }
        let error = command()
            .try_get_matches_from(["pf9ctl", "status", "--never-heard-of"])
            .expect_err("unknown");
        assert_eq!(why_not(&error), None);
    }

    #[test]
    fn the_distribution_is_left_out_by_its_name_and_nothing_else_is() {
        let skips = |flags: &[&str]| {
            let plane = [
                "pf9ctl",
                "prep-node",
                "--plane",
                "https://p",
                "--token-file",
                "t",
            ];
            let matches = command()
                .try_get_matches_from(plane.iter().chain(flags))
                .expect("command line");
            match Args::from_arg_matches(&matches).expect("arguments").verb {
                Verb::PrepNode(args) => args.skips(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(skips(&["--skip-checks"]), Vec::<String>::new());
        assert_eq!(
            skips(&["--skip", "swap=so", "--skip-os-checks"]),
            ["swap=so", "distribution=--skip-os-checks"]
        );
    }
}
