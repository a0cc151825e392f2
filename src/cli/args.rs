//! The command line. Nothing secret is ever an argument: arguments are public (`ps`).

use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use super::bundle::BundleArgs;
use super::config::ConfigArgs;
use super::etcd::EtcdArgs;
use super::examples::under;
use super::explain::ExplainArgs;
use super::known::{FLAGS, KNOWN};
use super::kube_token::KubeTokenArgs;
use super::log_level::LogLevelArgs;
use super::logs::LogsArgs;
use super::maintenance::MaintenanceArgs;
use super::operator::{
    AttachArgs, ClusterArgs, DetachArgs, HostArgs, HostShowArgs, JoinArgs, LeaveArgs,
};
use super::phases::PhasesArgs;
use super::remote::RemoteArgs;
use super::support::SupportArgs;
use super::tunnel::ping::interval;
use crate::app::Exit;
use crate::host::deadlines::DECOMMISSION;
use crate::model::HostId;

/// Operates a node of a managed Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "pf9ctl", version = crate::model::document::AGENT_VERSION, max_term_width = 100)]
pub(super) struct Args {
    /// Put this directory in front of every path (for tests).
    #[arg(long, global = true, default_value = "/", hide = true)]
    pub(super) root: PathBuf,
    /// Write what is printed to a file of the day in this directory as well.
    #[arg(long, global = true, value_name = "DIR", hide = true)]
    pub(super) log_dir: Option<PathBuf>,
    /// Say on standard error what is being done.
    #[arg(long, global = true, hide = true)]
    pub(super) verbose: bool,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// This machine: check, prep, status, join, leave, decommission.
    Node(NodeArgs),
    /// One screen: state, why, what to do, next try, tunnel, phases.
    Status(StatusArgs),
    /// Show what nodelet would do now; changes nothing.
    Plan(PlanArgs),
    /// The phases that make a host a node, and how far this one is.
    Phases(PhasesArgs),
    /// Show the daemons' logs.
    Logs(LogsArgs),
    /// Change the daemons' log level for a time, without a restart; without a level: show it.
    LogLevel(LogLevelArgs),
    /// Explain a fault code: what it means, its usual causes, what to do.
    Explain(ExplainArgs),
    /// Make a support bundle: one archive, without keys and passwords.
    ///
    /// Works with every daemon dead, without a network and with a full disk. Values of settings that are not on a list,
    /// keys, passwords and tokens are removed from everything, by their form and by comparison with the secrets on this
    /// machine; its MANIFEST.json says what is in it, what is not, and why.
    Bundle(BundleArgs),
    /// The daemons' configuration: get, set, validate, show.
    Config(ConfigArgs),
    /// The HTTP proxy between this machine and its plane: set, show, test.
    Proxy(ProxyArgs),
    /// The tunnel to the plane: its sessions, round trips and streams.
    Tunnel(TunnelArgs),
    /// etcd on a master: its state and its backups.
    Etcd(EtcdArgs),
    /// The plane's clusters, with an operator's token: list, show.
    Cluster(ClusterArgs),
    /// Print a token for kubectl; kubeconfigs that lead through the plane call this.
    KubeToken(KubeTokenArgs),
    /// The plane's hosts, with an operator's token: list, show, authorize, attach, detach.
    Host(HostArgs),
    /// This machine's identity at its plane, and what to do when it is a copy of another machine.
    Identity(IdentityArgs),
    /// The version of this program, of the daemons that run, and of the stack.
    Version(VersionArgs),
    /// Print shell completions; the packages install them.
    Completions(CompletionsArgs),
    /// Look whether this machine can become a node; changes nothing.
    #[command(hide = true)]
    CheckNode(CheckArgs),
    /// Make this machine a host of a plane: check, enrol, start, wait until the plane has heard.
    #[command(hide = true)]
    PrepNode(PrepArgs),
    /// Remove the role, leave the plane, stop the agent, remove everything it made.
    #[command(hide = true)]
    DecommissionNode(DecommissionArgs),
    /// Make a host a node of a cluster.
    #[command(hide = true)]
    AttachNode(AttachArgs),
    /// Take a host out of its cluster; its role is removed.
    #[command(hide = true)]
    DetachNode(DetachArgs),
    /// Authorize a host as a node of this plane's clusters.
    #[command(hide = true)]
    AuthorizeNode(HostShowArgs),
    /// Withdraw that authorization; a host in a cluster is detached first.
    #[command(hide = true)]
    DeauthorizeNode(HostShowArgs),
    /// Change the version of this software; called by its units.
    #[command(hide = true)]
    Agent(AgentArgs),
    /// Install the distribution's updates as ordered; called by pf9-os-update.service.
    #[command(hide = true)]
    OsUpdate,
    /// Suspend repairs and changes on this host for a time; its health is still reported.
    Maintenance(MaintenanceArgs),
    /// What support may fetch from this machine: allow, withdraw, show.
    Support(SupportArgs),
}

/// What a node's verbs have in common is the machine they are run on.
#[derive(Debug, Parser)]
pub(super) struct NodeArgs {
    #[command(subcommand)]
    pub(super) verb: NodeVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum NodeVerb {
    /// Check whether this machine can become a node, or whether its node is healthy; changes nothing.
    Check(CheckArgs),
    /// Make this machine a host of a plane: check, enrol, start, wait until the plane has heard.
    Prep(PrepArgs),
    /// One screen: state, why, what to do, next try, tunnel, phases.
    Status(StatusArgs),
    /// Have this host become a node of a cluster, with an operator's token.
    Join(JoinArgs),
    /// Have this host leave its cluster, with an operator's token; its role is removed.
    Leave(LeaveArgs),
    /// Remove the role, leave the plane, stop the agent, remove everything it made.
    Decommission(DecommissionArgs),
}

#[derive(Debug, Parser)]
pub(super) struct VersionArgs {
    /// One JSON value instead of lines.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct CompletionsArgs {
    /// Which shell.
    #[arg(value_enum)]
    pub(super) shell: Shell,
}

/// Shells that there are completions for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    /// bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

#[derive(Debug, Parser)]
pub(super) struct AgentArgs {
    #[command(subcommand)]
    pub(super) verb: AgentVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum AgentVerb {
    /// Change to the ordered version, prove it or go back; called by pf9-agent-switch.service.
    Switch,
    /// Go back to the proven version before anything starts; called by pf9-agent-boot.service.
    Boot,
}

#[derive(Debug, Parser)]
pub(super) struct PrepArgs {
    /// The plane, as `https://HOST[:PORT]`.
    #[arg(long, value_name = "URL")]
    pub(super) plane: String,
    /// File with the one-time token the plane printed; "-" reads it from standard input. With --ip one line for each host.
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    pub(super) token_file: Option<PathBuf>,
    /// The id of this host; default: the one it had before, or a new one.
    #[arg(long, value_name = "UUID")]
    pub(super) host_id: Option<HostId>,
    /// Enrol again even if this machine is a host already, of this plane or another.
    #[arg(long)]
    pub(super) force: bool,
    /// Do not count this check, and say why; can be repeated. Ids: see node check --list.
    #[arg(long, value_name = "ID=REASON")]
    pub(super) skip: Vec<String>,
    /// Accepted for compatibility: recommended checks never stop enrolment.
    #[arg(long, hide = true)]
    pub(super) skip_checks: bool,
    /// For compatibility: the same as --skip distribution.
    #[arg(long, hide = true)]
    pub(super) skip_os_checks: bool,
    /// For compatibility: do nothing if this machine is a host of this plane already, and connected.
    #[arg(long, hide = true)]
    pub(super) skip_connected: bool,
    /// Show what would be done, exactly, and do nothing; the token is not read.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Fix what can be fixed safely and undone: swap, clock, limits. Shown and asked first.
    #[arg(long)]
    pub(super) fix: bool,
    /// Do not ask before --fix.
    #[arg(long)]
    pub(super) yes: bool,
    /// Fail instead of asking.
    #[arg(long)]
    pub(super) no_prompt: bool,
    /// How long to wait until the plane has accepted a status of this host, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 90,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) wait: u64,
    /// One JSON value instead of lines for people.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) remote: RemoteArgs,
}

#[derive(Debug, Parser)]
pub(super) struct StatusArgs {
    /// One JSON value instead of a screen.
    #[arg(long, conflicts_with = "watch")]
    pub(super) json: bool,
    /// Refresh every second until Ctrl-C.
    #[arg(long)]
    pub(super) watch: bool,
    /// Also ask nodelet what differs from the desired state.
    #[arg(long)]
    pub(super) drift: bool,
}

#[derive(Debug, Parser)]
pub(super) struct CheckArgs {
    /// Every check with its id, group, severity and what it looks at; nothing is looked at.
    #[arg(long)]
    pub(super) list: bool,
    /// How the report is written. json-stream: one JSON value a line, each check as soon as it is known.
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    output: Format,
    /// The same as --output json.
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// Do not count this check, and say why; can be repeated. Ids: see --list.
    #[arg(long, value_name = "ID=REASON")]
    pub(super) skip: Vec<String>,
    /// Warnings count as failures.
    #[arg(long)]
    pub(super) strict: bool,
    /// Accepted for compatibility: nothing is asked in any case.
    #[arg(long, hide = true)]
    no_prompt: bool,
    /// Go to this plane (`https://HOST[:PORT]`) instead of this host's own, up to TLS; for machines
    /// that are not enrolled yet.
    #[arg(long, value_name = "URL")]
    pub(super) plane: Option<String>,
    #[command(flatten)]
    pub(super) remote: RemoteArgs,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// One JSON value.
    Json,
    /// One JSON value a line.
    JsonStream,
}

impl PrepArgs {
    /// What is left out, and why, however it was said.
    pub(super) fn skips(&self) -> Vec<String> {
        let os = "distribution=--skip-os-checks".to_owned();
        let os = self.skip_os_checks.then_some(os);
        self.skip.iter().cloned().chain(os).collect()
    }
}

impl CheckArgs {
    pub(super) fn format(&self) -> Format {
        match self.json {
            true => Format::Json,
            false => self.output,
        }
    }
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
    /// which uses it too. No program of ours reads the environment (https_proxy, NO_PROXY).
    Set(ProxySetArgs),
    /// Show the proxy; never the password.
    Show(ProxyShowArgs),
    /// Connect to the plane as the tunnel does and print each hop with its time.
    ///
    /// Does not disturb a tunnel that is up.
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
    /// User, if the proxy needs one.
    #[arg(long, value_name = "USER", requires = "password_file")]
    pub(super) user: Option<String>,
    /// File with the user's password; "-" reads it from standard input.
    #[arg(long, value_name = "FILE", requires = "user")]
    pub(super) password_file: Option<PathBuf>,
    /// Destinations to reach without the proxy, separated by commas: names (and what is below them),
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
    /// Every session: state, round trip, bytes, TCP statistics, how the last one ended.
    Status(SessionsArgs),
    /// Measure round trips to the plane with PING frames of the tunnel, on every session.
    Ping(PingArgs),
    /// The open streams with who asked, bytes and rates, refreshed until Ctrl-C.
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
    /// Show the host id, what it is bound to, its trust anchors, and whether this is a copy.
    Show(IdentityShowArgs),
    /// Stop being the host that this machine was copied from; then prep-node makes it a new one.
    ///
    /// Stops the agent and, where there is one, the Kubernetes node; removes the key, the session
    /// tickets, the specs and the node's certificates. The other machine is not touched.
    Reset(IdentityResetArgs),
    /// Record the machine's marks where the tunnel's user can read them; called by its unit.
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
    /// Ask nobody: without --yes nothing is done.
    #[arg(long)]
    pub(super) no_prompt: bool,
    /// Show exactly what would be removed, and remove nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not tell the plane; for machines whose plane is gone. Shows what to do there when it is back.
    #[arg(long, visible_alias = "local-only")]
    pub(super) local: bool,
    /// Also if others need this host: a master leaves even if etcd loses its quorum. The cluster's API
    /// then accepts no change until a backup is restored.
    #[arg(long)]
    pub(super) force: bool,
    /// For packages, whose removal leaves nothing: do not write what the plane is told later. They say it in the
    /// environment, because the program that they call may be of another version.
    #[arg(long, hide = true, env = "PF9_NO_FAREWELL")]
    pub(super) no_farewell: bool,
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
            Self::Node(NodeArgs { verb }) => match verb {
                NodeVerb::Check(args) => args.format() != Format::Table,
                NodeVerb::Prep(args) => args.json,
                NodeVerb::Status(args) => args.json,
                NodeVerb::Join(args) => args.plane.json,
                NodeVerb::Leave(args) => args.plane.json,
                NodeVerb::Decommission(args) => args.json,
            },
            Self::Status(args) => args.json,
            Self::CheckNode(args) => args.format() != Format::Table,
            Self::Phases(args) => args.verb.json(),
            Self::Logs(args) => args.json,
            Self::LogLevel(args) => args.json,
            Self::Explain(args) => args.json,
            Self::Bundle(args) => args.json,
            Self::Config(args) => args.verb.json(),
            Self::Version(args) => args.json,
            Self::Cluster(args) => args.verb.json(),
            Self::Host(args) => args.verb.json(),
            Self::AttachNode(args) => args.to.plane.json,
            Self::DetachNode(args) => args.from.plane.json,
            Self::AuthorizeNode(args) | Self::DeauthorizeNode(args) => args.plane.json,
            Self::Completions(_) | Self::KubeToken(_) => false,
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
            Self::Agent(_) | Self::OsUpdate => false,
            Self::Maintenance(args) => args.verb.json(),
            Self::Support(args) => args.verb.json(),
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
    let known = KNOWN.iter().map(|(name, _)| *name);
    let known: Vec<&str> = known.chain(FLAGS.iter().map(|(flag, _)| *flag)).collect();
    let known = format!(
        "Names that tools of this kind have work too: {}.",
        known.join(", ")
    );
    let root = under(Args::command(), "");
    root.after_help(format!("{known}\n\nExit codes:\n{}", rows.join("\n")))
}
