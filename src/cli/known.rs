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

const ELSEWHERE: &str = "node check and node prep go to other machines, with --ip; the plane's verbs name a host by its \
    id (pf9ctl host list), and what a machine alone can do is run there: ssh HOST sudo pf9ctl node decommission";
/// Flags that only some verbs have, for the others; `-i` is what tools of this kind call the first.
const NOT_HERE: [(&str, &str); 2] = [("--ip", ELSEWHERE), ("-i", ELSEWHERE)];

/// Why there is no such flag, where that can be said.
pub(super) fn why_not(error: &clap::Error) -> Option<&'static str> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let flag = flag.split_once('=').map_or(flag.as_str(), |(name, _)| name);
    let mut all = REFUSED.iter().chain(&NOT_HERE);
    let row = all.find(|(refused, _)| *refused == flag)?;
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
    fn a_verb_that_goes_to_no_other_machine_says_what_does() {
        let id = "6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11";
        for verb in [
            &["authorize-node"][..],
            &["deauthorize-node"],
            &["host", "authorize", id],
            &["host", "deauthorize", id],
            &["decommission-node"],
            &["node", "decommission", "--yes"],
        ] {
            for given in [&["--ip", "10.0.0.5"][..], &["--ip=10.0.0.5"], &["-i", "x"]] {
                let words = ["pf9ctl"].iter().chain(verb).chain(given);
                let error = command().try_get_matches_from(words).expect_err("no --ip");
                assert_eq!(why_not(&error), Some(ELSEWHERE), "{verb:?} {given:?}");
            }
        }
        // Where there is one, clap's own words say what is wrong with it.
        for given in [&["--ip"][..], &["--ip", "a b"]] {
            let words = ["pf9ctl", "node", "check"].iter().chain(given);
            let error = command().try_get_matches_from(words).expect_err("no host");
            assert_eq!(why_not(&error), None, "{given:?}");
        }
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
