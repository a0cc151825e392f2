//! The command line. Nothing secret is ever an argument: arguments are public (`ps`).

use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use super::etcd::EtcdArgs;
use super::maintenance::MaintenanceArgs;
use super::tunnel::ping::interval;
use crate::app::Exit;
use crate::host::deadlines::DECOMMISSION;
use crate::model::HostId;

/// The operator's hand on a node.
#[derive(Debug, Parser)]
#[command(name = "pf9ctl", version = crate::model::document::AGENT_VERSION, max_term_width = 100)]
pub(super) struct Args {
    /// Put this directory in front of every path (for tests).
    #[arg(long, global = true, default_value = "/", hide = true)]
    pub(super) root: PathBuf,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make this machine a host of a plane: check, enrol, start, wait until the plane has heard.
    PrepNode(PrepArgs),
    /// One screen: state, why, what to do, next try, tunnel, phases.
    Status(StatusArgs),
    /// Look whether this machine can become a node; changes nothing.
    CheckNode(CheckArgs),
    /// Show what nodelet would do now; changes nothing.
    Plan(PlanArgs),
    /// The HTTP proxy between this machine and its plane: set, show, test.
    Proxy(ProxyArgs),
    /// The tunnel to the plane: its sessions, round trips and streams.
    Tunnel(TunnelArgs),
    /// The cluster's memory on a master: etcd's state and its backups.
    Etcd(EtcdArgs),
    /// Who this machine is to its plane, and what to do when it is a copy of another machine.
    Identity(IdentityArgs),
    /// The version of this software: what its units do.
    #[command(hide = true)]
    Agent(AgentArgs),
    /// For a time nothing here is repaired or changed; what the host is like is told as ever.
    Maintenance(MaintenanceArgs),
    /// Remove the role, leave the plane, stop the agent, remove everything it made.
    DecommissionNode(DecommissionArgs),
}

#[derive(Debug, Parser)]
pub(super) struct AgentArgs {
    #[command(subcommand)]
    pub(super) verb: AgentVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum AgentVerb {
    /// Change to the version that is ordered, prove it or go back: pf9-agent-switch.service does.
    Switch,
    /// Back to the proven version before anything starts: pf9-agent-boot.service does.
    Boot,
}

#[derive(Debug, Parser)]
pub(super) struct PrepArgs {
    /// The plane, as `https://HOST[:PORT]`.
    #[arg(long, value_name = "URL")]
    pub(super) plane: String,
    /// File with the one-time token the plane printed; "-" reads it from standard input.
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: PathBuf,
    /// The id this host shall have; default: the one it had before, or a new one.
    #[arg(long, value_name = "UUID")]
    pub(super) host_id: Option<HostId>,
    /// Enrol again although this machine is a host already, of this plane or another.
    #[arg(long)]
    pub(super) force: bool,
    /// Do not count this check; can be repeated. Names: see check-node.
    #[arg(long, value_name = "CHECK")]
    pub(super) skip: Vec<String>,
    /// How long to wait until the plane has heard of this host, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 90,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) wait: u64,
    /// One JSON value instead of lines for people.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct StatusArgs {
    /// One JSON value instead of a screen.
    #[arg(long, conflicts_with = "watch")]
    pub(super) json: bool,
    /// Show it again whenever a second has passed, until Ctrl-C.
    #[arg(long)]
    pub(super) watch: bool,
}

#[derive(Debug, Parser)]
pub(super) struct CheckArgs {
    /// One JSON value instead of a table.
    #[arg(long)]
    pub(super) json: bool,
    /// Do not count this check; can be repeated.
    #[arg(long, value_name = "CHECK")]
    pub(super) skip: Vec<String>,
}

#[derive(Debug, Parser)]
pub(super) struct PlanArgs {
    /// One JSON value instead of lines.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct ProxyArgs {
    #[command(subcommand)]
    pub(super) verb: ProxyVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum ProxyVerb {
    /// Go to the plane through a proxy, or without one. Replaces everything that was set before.
    ///
    /// Writes /etc/pf9/conf.d/50-proxy.toml and, with --user, /etc/pf9/proxy-credentials (only the
    /// tunnel's user can read it); restarts pf9-comms if it runs. Can be done before prep-node,
    /// which goes the same way. The environment (https_proxy, NO_PROXY) is read by no program of
    /// ours.
    Set(ProxySetArgs),
    /// Show the proxy; never the password.
    Show(ProxyShowArgs),
    /// Go to the plane as the tunnel does and print each hop with its time.
    ///
    /// A tunnel that is up is not disturbed.
    Test(ProxyTestArgs),
}

#[derive(Debug, Parser)]
pub(super) struct ProxySetArgs {
    /// The proxy, as `http://HOST:PORT`; without a password.
    #[arg(value_name = "URL", required_unless_present = "none")]
    pub(super) url: Option<String>,
    /// Go without a proxy.
    #[arg(long, conflicts_with_all = ["url", "user", "password_file", "no_proxy"])]
    pub(super) none: bool,
    /// User, if the proxy wants one.
    #[arg(long, value_name = "USER", requires = "password_file")]
    pub(super) user: Option<String>,
    /// File with the user's password; "-" reads it from standard input.
    #[arg(long, value_name = "FILE", requires = "user")]
    pub(super) password_file: Option<PathBuf>,
    /// Who is reached without the proxy, separated by commas: names (and what is below them),
    /// .suffixes, addresses, networks like 10.0.0.0/8, each perhaps with :port; * is everything.
    #[arg(long, value_name = "LIST", default_value = "")]
    pub(super) no_proxy: String,
    /// One JSON value instead of lines for people.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct ProxyShowArgs {
    /// One JSON value instead of lines.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct ProxyTestArgs {
    /// Go to this plane (`https://HOST[:PORT]`) instead of this host's own, up to TLS; for
    /// machines that are not enrolled yet.
    #[arg(long, value_name = "URL")]
    pub(super) plane: Option<String>,
    /// One JSON value instead of lines.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct TunnelArgs {
    #[command(subcommand)]
    pub(super) verb: TunnelVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum TunnelVerb {
    /// Every session: state, round trip, bytes, what the kernel knows, how the last one ended.
    Status(SessionsArgs),
    /// Measure round trips to the plane with PING frames of the tunnel, on every session.
    Ping(PingArgs),
    /// The open streams with who asked, bytes and rates, again and again until Ctrl-C.
    Top(TopArgs),
}

#[derive(Debug, Parser)]
pub(super) struct SessionsArgs {
    /// One JSON value instead of a screen.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct PingArgs {
    /// Stop after so many; default: go on until Ctrl-C.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,
    /// Seconds between two.
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub(super) interval: Duration,
    /// The summary as one JSON value instead of lines.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct TopArgs {
    /// Seconds between two looks; rates are measured over them.
    #[arg(short, long, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    pub(super) interval: Duration,
    /// Once, for scripts.
    #[arg(long)]
    pub(super) once: bool,
    /// Once, as one JSON value.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct IdentityArgs {
    #[command(subcommand)]
    pub(super) verb: IdentityVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum IdentityVerb {
    /// Show the host id, what it is bound to, whom it trusts, and whether this is a copy.
    Show(IdentityShowArgs),
    /// Stop being the host that this machine was copied from; then prep-node makes it a new one.
    ///
    /// Stops the agent and, where there is one, the Kubernetes node; removes the key, the session
    /// tickets, the specs and the node's certificates. The other machine is not touched.
    Reset(IdentityResetArgs),
    /// Note what the machine is where the tunnel's user can read it; its unit does so.
    #[command(hide = true)]
    Note,
}

#[derive(Debug, Parser)]
pub(super) struct IdentityShowArgs {
    /// One JSON value instead of lines.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct IdentityResetArgs {
    /// Do not ask.
    #[arg(long)]
    pub(super) yes: bool,
    /// One JSON value instead of lines for people.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct DecommissionArgs {
    /// Do not ask.
    #[arg(long)]
    pub(super) yes: bool,
    /// Do not tell the plane; for machines whose plane is gone.
    #[arg(long)]
    pub(super) local: bool,
    /// Also where others need this host: a master leaves although etcd loses its quorum. The cluster's API
    /// takes no change then until a backup is restored.
    #[arg(long)]
    pub(super) force: bool,
    /// Keep /var/log/pf9.
    #[arg(long)]
    pub(super) keep_logs: bool,
    /// How long the removal of the role may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = DECOMMISSION.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) wait: u64,
    /// One JSON value instead of lines for people.
    #[arg(long)]
    pub(super) json: bool,
}

impl Verb {
    /// JSON is asked for.
    pub(super) fn json(&self) -> bool {
        match self {
            Self::PrepNode(args) => args.json,
            Self::Status(args) => args.json,
            Self::CheckNode(args) => args.json,
            Self::Plan(args) => args.json,
            Self::Proxy(ProxyArgs { verb }) => match verb {
                ProxyVerb::Set(args) => args.json,
                ProxyVerb::Show(args) => args.json,
                ProxyVerb::Test(args) => args.json,
            },
            Self::Tunnel(args) => match &args.verb {
                TunnelVerb::Status(args) => args.json,
                TunnelVerb::Ping(args) => args.json,
                TunnelVerb::Top(args) => args.json,
            },
            Self::Etcd(EtcdArgs { verb }) => verb.json(),
            Self::Identity(args) => match &args.verb {
                IdentityVerb::Show(args) => args.json,
                IdentityVerb::Reset(args) => args.json,
                IdentityVerb::Note => false,
            },
            Self::Agent(_) => false,
            Self::Maintenance(args) => args.verb.json(),
            Self::DecommissionNode(args) => args.json,
        }
    }
}

/// The command with the exit-code table under its help.
pub(super) fn command() -> clap::Command {
    let rows: Vec<String> = Exit::ALL
        .iter()
        .map(|e| format!("  {:>3}  {}", e.code(), e.meaning()))
        .collect();
    Args::command().after_help(format!("Exit codes:\n{}", rows.join("\n")))
}
