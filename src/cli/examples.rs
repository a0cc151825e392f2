//! How each verb is called: help that teaches by example. A verb without a row fails a test.

use super::known::KNOWN;

/// The verb's words, and lines that can be copied.
pub(super) const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "node check",
        &[
            "sudo pf9ctl node check",
            "sudo pf9ctl node check --plane https://plane.example",
            "pf9ctl node check --list",
            "sudo pf9ctl node check --strict --skip swap='the cluster allows it'",
            "pf9ctl node check --ip 10.0.0.5,10.0.0.6 --user admin --ssh-key ~/.ssh/id_ed25519",
            "sudo pf9ctl node check --output json | jq '.checks[] | select(.outcome == \"fail\")'",
        ],
    ),
    (
        "node prep",
        &[
            "sudo pf9ctl node prep --plane https://plane.example --token-file token",
            "sudo pf9ctl node prep --plane https://plane.example --token-file - < token",
            "sudo pf9ctl node prep --plane https://plane.example --dry-run --fix",
            "sudo pf9ctl node prep --plane https://plane.example --token-file token --fix --yes",
            "pf9ctl node prep --ip node-1,node-2 --plane https://plane.example --token-file tokens",
            "sudo pf9ctl node prep --plane https://plane.example --token-file token \\",
            "    --skip swap='the cluster allows it'",
        ],
    ),
    (
        "node status",
        &[
            "pf9ctl node status",
            "pf9ctl node status --watch",
            "pf9ctl node status --json | jq -r .state",
        ],
    ),
    (
        "node join",
        &[
            "sudo pf9ctl node join --cluster blue",
            "sudo pf9ctl node join --cluster blue --master --config /root/operator.toml",
        ],
    ),
    ("node leave", &["sudo pf9ctl node leave"]),
    (
        "maintenance start",
        &["sudo pf9ctl maintenance start --for 2h --reason 'a disk is replaced'"],
    ),
    ("maintenance end", &["sudo pf9ctl maintenance end"]),
    (
        "maintenance show",
        &["pf9ctl maintenance show", "pf9ctl maintenance show --json"],
    ),
    (
        "support allow",
        &[
            "sudo pf9ctl support allow",
            "sudo pf9ctl support allow --for 15m",
        ],
    ),
    ("support withdraw", &["sudo pf9ctl support withdraw"]),
    (
        "support show",
        &[
            "sudo pf9ctl support show",
            "sudo pf9ctl support show --json | jq .logs",
        ],
    ),
    (
        "cluster list",
        &[
            "pf9ctl cluster list --config operator.toml",
            "pf9ctl cluster list --json | jq -r '.[].name'",
        ],
    ),
    (
        "cluster show",
        &[
            "pf9ctl cluster show blue",
            "pf9ctl cluster show blue --json",
        ],
    ),
    (
        "kube-token",
        &[
            "pf9ctl kube-token --cluster 6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11",
            "pf9ctl kube-token --cluster 6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11 --config ~/operator.toml",
        ],
    ),
    (
        "host list",
        &[
            "pf9ctl host list --config operator.toml",
            "pf9ctl host list --json | jq -r '.[].id'",
        ],
    ),
    (
        "host show",
        &["pf9ctl host show 6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11 --json"],
    ),
    (
        "host authorize",
        &["pf9ctl host authorize 6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11"],
    ),
    (
        "host deauthorize",
        &["pf9ctl host deauthorize 6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11"],
    ),
    (
        "host attach",
        &["pf9ctl host attach 6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11 --cluster blue --master"],
    ),
    (
        "host detach",
        &["pf9ctl host detach 6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11"],
    ),
    (
        "node decommission",
        &[
            "sudo pf9ctl node decommission",
            "sudo pf9ctl node decommission --dry-run",
            "sudo pf9ctl node decommission --yes --keep-logs",
            "sudo pf9ctl node decommission --local-only    # the plane is gone",
        ],
    ),
    (
        "status",
        &[
            "pf9ctl status",
            "pf9ctl status --watch",
            "pf9ctl status --json | jq -r .state",
        ],
    ),
    (
        "plan",
        &[
            "sudo pf9ctl plan",
            "sudo pf9ctl plan --json | jq -r '.steps[].what'",
        ],
    ),
    (
        "phases list",
        &["pf9ctl phases list", "pf9ctl phases list --json"],
    ),
    (
        "phases status",
        &[
            "sudo pf9ctl phases status",
            "sudo pf9ctl phases status --json",
        ],
    ),
    ("phases start", &["sudo pf9ctl phases start"]),
    (
        "phases stop",
        &["sudo pf9ctl phases stop --for 2h --reason 'a disk is replaced'"],
    ),
    (
        "logs",
        &[
            "sudo pf9ctl logs    # the story of the node",
            "sudo pf9ctl logs comms --since 15m",
            "sudo pf9ctl logs nodelet --follow",
            "sudo pf9ctl logs --list",
        ],
    ),
    (
        "log-level",
        &[
            "pf9ctl log-level",
            "sudo pf9ctl log-level debug --for 15m",
            "sudo pf9ctl log-level debug --of comms && sudo pf9ctl logs comms --follow",
            "sudo pf9ctl log-level usual",
        ],
    ),
    (
        "explain",
        &[
            "pf9ctl explain disk-full",
            "pf9ctl explain    # every code",
            "pf9ctl explain --json disk-full | jq -r .do",
        ],
    ),
    (
        "bundle",
        &[
            "sudo pf9ctl bundle",
            "sudo pf9ctl bundle --since 2h --max-size 10M -o /tmp",
            "ssh node-1 sudo pf9ctl bundle -o - > node-1.tar.zst",
            "sudo pf9ctl bundle --encrypt-to age1…",
            "sudo pf9ctl bundle --only logs --since 2h --until 1h --lines 500",
            "tar --zstd -xOf pf9-bundle-node-1-….tar.zst --wildcards '*/MANIFEST.json'",
        ],
    ),
    (
        "config get",
        &[
            "pf9ctl config get comms.ping_s",
            "pf9ctl config get log.level",
        ],
    ),
    (
        "config set",
        &[
            "sudo pf9ctl config set log.level debug",
            "sudo pf9ctl config set comms.ping_s 5",
            "sudo pf9ctl config set comms.tls.pin_sha256 '[\"…\"]'",
            "sudo pf9ctl config set log.level --default",
        ],
    ),
    (
        "config validate",
        &["pf9ctl config validate && sudo systemctl restart pf9-comms"],
    ),
    (
        "config show",
        &["pf9ctl config show", "pf9ctl config show --effective"],
    ),
    (
        "proxy set",
        &[
            "sudo pf9ctl proxy set http://proxy.example:3128 --no-proxy 10.0.0.0/8,.corp.example",
            "sudo pf9ctl proxy set http://proxy.example:3128 --user node --password-file - < password",
            "sudo pf9ctl proxy set --none",
        ],
    ),
    (
        "proxy show",
        &["pf9ctl proxy show", "pf9ctl proxy show --json"],
    ),
    (
        "proxy test",
        &[
            "sudo pf9ctl proxy test",
            "sudo pf9ctl proxy test --plane https://plane.example",
        ],
    ),
    (
        "tunnel status",
        &[
            "sudo pf9ctl tunnel status",
            "sudo pf9ctl tunnel status --json | jq '.sessions[].rtt_us'",
        ],
    ),
    (
        "tunnel ping",
        &[
            "sudo pf9ctl tunnel ping",
            "sudo pf9ctl tunnel ping -c 10 -i 0.5",
        ],
    ),
    (
        "tunnel top",
        &["sudo pf9ctl tunnel top", "sudo pf9ctl tunnel top --once"],
    ),
    (
        "etcd status",
        &["sudo pf9ctl etcd status", "sudo pf9ctl etcd status --json"],
    ),
    ("etcd list", &["sudo pf9ctl etcd list"]),
    ("etcd backup", &["sudo pf9ctl etcd backup"]),
    (
        "etcd drill",
        &[
            "sudo pf9ctl etcd drill",
            "sudo pf9ctl etcd drill --recovery-key recovery.key",
        ],
    ),
    (
        "etcd restore",
        &[
            "sudo pf9ctl etcd restore --help    # read it before",
            "sudo pf9ctl etcd restore BACKUP --recovery-key recovery.key",
        ],
    ),
    ("etcd rejoin", &["sudo pf9ctl etcd rejoin"]),
    ("etcd defrag", &["sudo pf9ctl etcd defrag"]),
    ("etcd alarm", &["sudo pf9ctl etcd alarm"]),
    (
        "etcd verify",
        &[
            "sudo pf9ctl etcd verify",
            "sudo pf9ctl etcd verify --recovery-key recovery.key",
        ],
    ),
    (
        "etcd recovery-key",
        &["pf9ctl etcd recovery-key recovery.key"],
    ),
    (
        "identity show",
        &[
            "pf9ctl identity show",
            "pf9ctl identity show --json | jq -r .host_id",
        ],
    ),
    (
        "identity reset",
        &[
            "sudo pf9ctl identity reset",
            "sudo pf9ctl identity reset --yes",
        ],
    ),
    (
        "version",
        &["pf9ctl version", "pf9ctl version --json | jq -r .client"],
    ),
    (
        "completions",
        &[
            "pf9ctl completions bash > /etc/bash_completion.d/pf9ctl",
            "pf9ctl completions zsh > \"${fpath[1]}/_pf9ctl\"",
            "pf9ctl completions fish > ~/.config/fish/completions/pf9ctl.fish",
        ],
    ),
    // Verbs with verbs of their own: what to begin with.
    (
        "node",
        &[
            "sudo pf9ctl node check",
            "sudo pf9ctl node prep --plane https://plane.example --token-file token",
            "pf9ctl node status",
        ],
    ),
    (
        "config",
        &[
            "pf9ctl config show --effective",
            "sudo pf9ctl config set log.level debug",
        ],
    ),
    (
        "proxy",
        &[
            "sudo pf9ctl proxy set http://proxy.example:3128",
            "sudo pf9ctl proxy test",
        ],
    ),
    (
        "tunnel",
        &["sudo pf9ctl tunnel status", "sudo pf9ctl tunnel ping -c 10"],
    ),
    (
        "etcd",
        &["sudo pf9ctl etcd status", "sudo pf9ctl etcd backup"],
    ),
    (
        "cluster",
        &["pf9ctl cluster list", "pf9ctl cluster show blue"],
    ),
    (
        "host",
        &[
            "pf9ctl host list",
            "pf9ctl host attach 6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11 --cluster blue",
        ],
    ),
    (
        "identity",
        &["pf9ctl identity show", "sudo pf9ctl identity reset"],
    ),
    (
        "phases",
        &["pf9ctl phases list", "sudo pf9ctl phases status"],
    ),
    (
        "maintenance",
        &[
            "sudo pf9ctl maintenance start --for 2h --reason 'a disk is replaced'",
            "sudo pf9ctl maintenance end",
        ],
    ),
    (
        "support",
        &[
            "sudo pf9ctl support allow --for 15m",
            "sudo pf9ctl support show",
        ],
    ),
];

/// Puts each verb's examples under its help.
pub(super) fn under(command: clap::Command, path: &str) -> clap::Command {
    command.mut_subcommands(|verb| {
        let path = match path {
            "" => verb.get_name().to_owned(),
            path => format!("{path} {}", verb.get_name()),
        };
        let known = KNOWN.iter().find(|(known, _)| *known == path);
        let named = known.map_or(path.as_str(), |(_, is)| is);
        let verb = under(verb, &path);
        let Some((_, lines)) = EXAMPLES.iter().find(|(of, _)| *of == named) else {
            return verb;
        };
        let lines = format!("Examples:\n  {}", lines.join("\n  "));
        match verb.has_subcommands() {
            // It has no long help beside the short one: both end with this.
            true => verb.after_help(lines),
            false => verb.after_long_help(lines),
        }
    })
}
