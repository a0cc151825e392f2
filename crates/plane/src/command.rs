//! The command line of `pf9-plane`.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use http::Method;
use ipnet::IpNet;
use jiff::SignedDuration;
use serde_json::Value;

mod addons;
mod agent;
mod alert;
mod authorities;
mod backups;
mod bundles;
mod cluster;
mod keys;
mod kubeconfigs;
mod maintenance;
mod notify;
mod operations;
mod os_update;
mod output;
mod process;
mod recover;
mod roll;
mod stack;
mod store;
mod upgrade;

use output::{align, cell, put, show, text};
use process::{put_back, serve};

use super::admin::{self, NewToken, Reenrol, Removing};
use super::ca::LEAF_LIFE;
use super::machines::Accept;
use super::serve::{DRAIN, DRAIN_MAX, ServeConfig};
use crate::terminal;
use pf9_hostagent::app::Exit;
use pf9_hostagent::host::fs::{Attrs, HostFs};
use pf9_hostagent::model::{Envelope, Fault, FaultCode, HostId};
use pf9_hostagent::telemetry::{self, LogConfig};

/// A farewell has about 500 bytes.
const FAREWELL_MAX: u64 = 16 * 1024;
/// Lifetime of a node's certificates: a year.
const NODE_CERTIFICATE_S: u64 = 365 * 24 * 3600;
/// Shortest: a node has to renew it within a third of it.
const NODE_CERTIFICATE_MIN_S: u64 = 15;

/// The management-plane stub: enrols hosts, makes clusters of them, carries kubectl to them.
#[derive(Debug, Parser)]
#[command(name = "pf9-plane", version)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the plane; SIGTERM drains it, a second SIGTERM ends it at once.
    Serve {
        #[command(flatten)]
        state: State,
        /// Where to listen, e.g. 10.0.0.1:8443.
        #[arg(long, value_name = "IP:PORT")]
        listen: SocketAddr,
        /// How nodes and operators reach it; absent: the listen address.
        #[arg(long, value_name = "https://HOST:PORT")]
        public_url: Option<String>,
        /// An endpoint that nodes get when they enrol; can be repeated, best first.
        /// Absent: this one. They must have the same authority, keys and hosts, as planes that share an
        /// etcd have (--store etcd).
        #[arg(long = "endpoint", value_name = "wss://HOST:PORT")]
        endpoints: Vec<String>,
        /// How many tunnels may begin in a second; hosts beyond that are told to come back later.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        tunnels_per_second: Option<u32>,
        /// How long running requests and streams may go on after SIGTERM; new connections are refused
        /// meanwhile. With several endpoints hosts use another one, so it can be long.
        #[arg(long, value_name = "N", default_value_t = DRAIN.as_secs(),
              value_parser = clap::value_parser!(u64).range(0..=DRAIN_MAX.as_secs()))]
        drain_seconds: u64,
        /// Lifetime of the certificates that are signed for nodes. Below twenty minutes components are
        /// restarted with every renewal, since they would read the new one too late: for tests.
        #[arg(long, value_name = "N", default_value_t = NODE_CERTIFICATE_S,
              value_parser = clap::value_parser!(u64).range(NODE_CERTIFICATE_MIN_S..=NODE_CERTIFICATE_S))]
        node_certificate_seconds: u64,
        /// Lifetime of hosts' certificates; a host renews its own after two thirds of it.
        #[arg(long, value_name = "N", default_value_t = LEAF_LIFE.as_secs(),
              value_parser = clap::value_parser!(i64).range(1..=LEAF_LIFE.as_secs()))]
        host_certificate_seconds: i64,
        /// With --store etcd: where the other planes of the fleet reach this one. A plane that stands by passes its
        /// clients on to the plane that serves, by mutual TLS. It must lead to this plane alone, as a load balancer's
        /// does not. Absent: the listen address.
        #[arg(long, value_name = "HOST:PORT")]
        peer_address: Option<String>,
        /// A network in which projects may have receivers of their alerts, over http as well; can be repeated. Absent:
        /// on the internet only, over https.
        #[arg(long = "receiver-network", value_name = "CIDR")]
        receiver_networks: Vec<IpNet>,
        /// A network in which projects may have no receivers of their alerts although no interface of this machine is in
        /// it, such as its public address behind 1:1 NAT, or the site's NAT64; can be repeated.
        #[arg(long = "inside-network", value_name = "CIDR")]
        inside_networks: Vec<IpNet>,
        #[command(flatten)]
        store: store::StoreArgs,
    },
    /// One-time tokens that let a machine enrol.
    #[command(subcommand)]
    Token(TokenVerb),
    /// The stacks that clusters may run.
    #[command(subcommand)]
    Stack(stack::StackVerb),
    /// The agent itself: its versions, and which hosts run them.
    #[command(subcommand)]
    Agent(agent::AgentVerb),
    /// The enrolled machines.
    #[command(subcommand)]
    Host(HostVerb),
    /// The plane's own keys: a second one is announced, takes over, and the first is retired.
    #[command(subcommand)]
    Keys(keys::KeysVerb),
    /// The clusters.
    #[command(subcommand)]
    Cluster(cluster::ClusterVerb),
    /// Alerts: what is wrong, since when, and what caused it.
    #[command(subcommand)]
    Alert(alert::AlertVerb),
    /// Targets that alerts are sent to.
    #[command(subcommand)]
    Notify(notify::NotifyVerb),
    /// The first administrator.
    #[command(subcommand)]
    Admin(AdminVerb),
    /// Print a kubeconfig that leads through the plane. It holds no secret: kubectl calls pf9ctl kube-token for a token.
    Kubeconfig {
        /// Name or id of the cluster.
        cluster: String,
        #[command(flatten)]
        state: State,
        /// Write it to this file (0600) instead.
        #[arg(long)]
        out: Option<PathBuf>,
        #[command(flatten)]
        kept: kubeconfigs::KeptArgs,
    },
    /// Long-lived kubeconfigs, which hold a token.
    #[command(subcommand)]
    Kubeconfigs(kubeconfigs::KubeconfigsVerb),
    /// After a restore from a backup: bring hosts that are ahead of this plane back under its control.
    Recover(recover::RecoverArgs),
    /// After a downgrade to a version of the plane that refuses the newer store: put back the copy that was made before
    /// the upgrade. The newer store stays beside it. Changes since are not in the copy.
    PutBack {
        #[command(flatten)]
        state: State,
    },
    /// Where the plane's rows are.
    #[command(subcommand)]
    Store(store::StoreVerb),
    /// Print the certificate of the plane's authority.
    Ca {
        #[command(flatten)]
        state: State,
    },
}

#[derive(Debug, Args)]
struct State {
    /// The plane's state directory.
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    state_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum AdminVerb {
    /// Set a new password and write it to the file admin-password in the state directory; the administrator's tokens,
    /// kubeconfigs and application credentials end.
    ResetPassword {
        #[command(flatten)]
        state: State,
    },
}

#[derive(Debug, Subcommand)]
enum TokenVerb {
    /// Make a token and print it.
    Create {
        #[command(flatten)]
        state: State,
        /// How long it is good: a number and s, m, h or d.
        #[arg(long, default_value = "24h", value_parser = seconds)]
        ttl: i64,
        /// The project of the machine: its id, or its name in the default domain.
        #[arg(long)]
        project: Option<String>,
        /// Write it to this file (0600) instead.
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum HostVerb {
    /// List the machines.
    List {
        #[command(flatten)]
        list: Listing,
    },
    /// Show one machine, and the copy of it that was refused last.
    Show {
        /// The host's id.
        host: HostId,
        #[command(flatten)]
        state: State,
    },
    /// Accept this machine as the host when it next connects, once: its disk moved, its mainboard was
    /// replaced, or its disk was restored from an older copy. Refused while one is connected.
    AcceptMachine {
        /// The host's id.
        host: HostId,
        /// Boot id, read on the machine itself: /proc/sys/kernel/random/boot_id. The one in `host show`
        /// may be that of a thief's machine that tried last.
        boot_id: String,
        #[command(flatten)]
        state: State,
    },
    /// Order one operation of a fixed list on a machine, and wait for its result.
    Order(operations::OrderArgs),
    /// Support bundles of a machine: order, list, fetch, remove. Root of the machine must have agreed.
    Bundle(bundles::BundleArgs),
    /// Write the components' own logs of a machine to a file. Root of the machine must have agreed (pf9ctl support allow).
    Logs(bundles::LogsArgs),
    /// Operations of a machine, and their results.
    Operations(operations::ListArgs),
    /// Suspend repairs and changes on a machine for a time; its health is still reported.
    Maintenance(maintenance::MaintenanceArgs),
    /// Remove a machine from its cluster and from the plane. The other masters remove its member from
    /// etcd. Refused if etcd would lose its quorum by it.
    Remove {
        /// The host's id.
        host: HostId,
        /// Also if etcd loses its quorum by it. Then the cluster's API accepts no change until a backup is
        /// restored. What is lost is printed, and logged.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        state: State,
    },
    /// Bring the farewell of a machine that was decommissioned while the plane could not be told: it is removed.
    Farewell {
        /// The file that pf9ctl node decommission named.
        file: PathBuf,
        #[command(flatten)]
        state: State,
    },
    /// Let one enrolment bring a new key for a machine that lost its own. It keeps its role, cluster and
    /// workloads. Any holder of a join token can use this once, so check which machine comes.
    AllowReenrol {
        /// Id of the host.
        host: HostId,
        #[command(flatten)]
        state: State,
        /// How long this is allowed: a number and s, m, h or d.
        #[arg(long, default_value = "1h", value_parser = seconds)]
        ttl: i64,
    },
}

#[derive(Debug, Args)]
struct Listing {
    #[command(flatten)]
    state: State,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The program: parses, logs, runs, reports what went wrong.
pub fn main() -> Exit {
    let mut args = std::env::args_os().skip(1);
    // Before anything else: a process that has threads is given no namespaces.
    if args.next().is_some_and(|verb| verb == terminal::jail::NAME) {
        return ended(terminal::jail::main(args));
    }
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(e) => {
            // If help cannot be printed, the exit code still tells.
            drop(e.print());
            return if e.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            };
        }
    };
    pf9_hostagent::app::usual_modes();
    ended(enter(command).map(|()| Exit::Ok))
}

fn ended(done: Result<Exit, Fault>) -> Exit {
    done.unwrap_or_else(|fault| {
        eprintln!("pf9-plane: {fault}");
        Exit::of(&fault)
    })
}

fn enter(command: Command) -> Result<(), Fault> {
    let cannot = |why: String| Fault::new(FaultCode::PlaneStart, "cannot start", why);
    if let Verb::Serve { state, .. } = &command.verb {
        let files = HostFs::new(&state.state_dir);
        for dir in ["/", "/log", "/log/plane"] {
            let made = files.make_dir(dir, &Attrs::mode(0o700));
            made.map_err(|e| cannot(telemetry::chain(&e)))?;
        }
        let dir = state.state_dir.join("log");
        telemetry::init("pf9-plane", &dir, &LogConfig::default()).map_err(cannot)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| cannot(e.to_string()))?;
    let done = runtime.block_on(run(command));
    // Work interrupted by a second signal may still hold a thread; the store is consistent at any instant.
    runtime.shutdown_background();
    done
}

/// Runs the command.
async fn run(command: Command) -> Result<(), Fault> {
    match command.verb {
        Verb::Serve {
            state,
            listen,
            public_url,
            endpoints,
            tunnels_per_second,
            drain_seconds,
            node_certificate_seconds,
            host_certificate_seconds,
            peer_address,
            receiver_networks,
            inside_networks,
            store,
        } => {
            serve(ServeConfig {
                etcd: store.place()?,
                peer: peer_address,
                receiver_networks,
                inside_networks,
                public_url,
                endpoints,
                tunnels_per_s: tunnels_per_second,
                certificate_life: Some(Duration::from_secs(node_certificate_seconds)),
                drain: Duration::from_secs(drain_seconds),
                host_certificate: SignedDuration::from_secs(host_certificate_seconds),
                ..ServeConfig::new(state.state_dir, listen)
            })
            .await
        }
        Verb::Token(TokenVerb::Create {
            state,
            ttl,
            project,
            out,
        }) => {
            let body = NewToken {
                ttl_s: ttl,
                project,
            };
            let answer = admin::ask(&state.state_dir, Method::POST, "/tokens", &body).await?;
            let token = format!("{}\n", text(&answer, "token"));
            put(out.as_deref(), &token)
        }
        Verb::Stack(verb) => verb.run().await,
        Verb::Host(HostVerb::List { list }) => {
            let columns = [
                "id",
                "info.hostname",
                "pf9.connected",
                "pf9.state",
                "cluster",
            ];
            show(&list, "/hosts", &columns).await
        }
        Verb::Host(HostVerb::Show { host, state }) => {
            let hosts = admin::ask(&state.state_dir, Method::GET, "/hosts", &Value::Null).await?;
            put(None, &shown(&hosts, host)?)
        }
        Verb::Host(HostVerb::AcceptMachine {
            host,
            boot_id,
            state,
        }) => {
            let path = format!("/hosts/{host}/accept-machine");
            let text = format!(
                "the machine with boot id {boot_id} is accepted as host {host} when it next connects\n"
            );
            let body = Accept { boot_id };
            admin::ask(&state.state_dir, Method::POST, &path, &body).await?;
            put(None, &text)
        }
        Verb::Host(HostVerb::Order(args)) => operations::order(args).await,
        Verb::Host(HostVerb::Bundle(args)) => bundles::run(args).await,
        Verb::Host(HostVerb::Logs(args)) => bundles::logs(args).await,
        Verb::Host(HostVerb::Operations(args)) => operations::list(args).await,
        Verb::Host(HostVerb::Maintenance(args)) => maintenance::run(args).await,
        Verb::Host(HostVerb::Remove { host, force, state }) => {
            let path = format!("/hosts/{host}/remove");
            let body = Removing { force };
            let answer = admin::ask(&state.state_dir, Method::POST, &path, &body).await?;
            put(
                None,
                &cluster::left(&answer, &format!("host {host} removed")),
            )
        }
        Verb::Host(HostVerb::Farewell { file, state }) => {
            let said = farewell(&file)?;
            let answer =
                admin::ask(&state.state_dir, Method::POST, "/hosts/farewell", &said).await?;
            put(None, &format!("host {} left\n", text(&answer, "host")))
        }
        Verb::Host(HostVerb::AllowReenrol { host, state, ttl }) => {
            let body = Reenrol { host, ttl_s: ttl };
            let path = "/hosts/allow-reenrol";
            let answer = admin::ask(&state.state_dir, Method::POST, path, &body).await?;
            let until = text(&answer, "until");
            let next = "run pf9ctl node prep --force there with a new token";
            put(
                None,
                &format!("host {host} may bring a new key once, until {until}: {next}\n"),
            )
        }
        Verb::Agent(verb) => verb.run().await,
        Verb::Keys(verb) => keys::run(verb).await,
        Verb::Cluster(verb) => verb.run().await,
        Verb::Alert(verb) => verb.run().await,
        Verb::Notify(verb) => verb.run().await,
        Verb::Admin(AdminVerb::ResetPassword { state }) => {
            let path = "/admin/reset-password";
            let answer = admin::ask(&state.state_dir, Method::POST, path, &Value::Null).await?;
            let file = state.state_dir.join(text(&answer, "file"));
            let (user, file) = (text(&answer, "user"), file.display());
            put(
                None,
                &format!(
                    "{user} has the password in {file}; all earlier tokens and credentials are revoked\n"
                ),
            )
        }
        Verb::Kubeconfig {
            cluster,
            state,
            out,
            kept,
        } => {
            let body = kept.wanted(cluster);
            let answer = admin::ask(&state.state_dir, Method::POST, "/kubeconfig", &body).await?;
            put(out.as_deref(), text(&answer, "kubeconfig"))
        }
        Verb::Kubeconfigs(verb) => kubeconfigs::run(verb).await,
        Verb::Recover(args) => recover::run(&args).await,
        Verb::Store(verb) => store::run(verb).await,
        Verb::PutBack { state } => put_back(&state.state_dir),
        Verb::Ca { state } => {
            let pem = std::fs::read_to_string(state.state_dir.join("ca.pem")).map_err(|e| {
                Fault::new(FaultCode::CaMissing, "cannot show ca.pem", e.to_string())
            })?;
            put(None, &pem)
        }
    }
}

/// What root of a host signed; the plane judges it.
fn farewell(file: &Path) -> Result<Envelope, Fault> {
    let bad = |why: String| {
        Fault::new(FaultCode::Files, "cannot read the farewell", why)
            .fix("give the file that pf9ctl node decommission named")
    };
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|f| f.take(FAREWELL_MAX).read_to_end(&mut bytes))
        .map_err(|e| bad(format!("{}: {e}", file.display())))?;
    serde_json::from_slice(&bytes).map_err(|e| bad(format!("{}: {e}", file.display())))
}

/// A path that does not depend on the working directory.
fn absolute(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|e| e.to_string())
}

fn seconds(text: &str) -> Result<i64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| "it is not a number with s, m, h or d".to_owned())?;
    let unit = match text.get(digits.len()..) {
        Some("" | "s") => 1,
        Some("m") => 60,
        Some("h") => 3600,
        Some("d") => 86_400,
        _ => return Err("its unit is not s, m, h or d".into()),
    };
    let total = Duration::from_secs(number.saturating_mul(unit)).as_secs();
    i64::try_from(total).map_err(|_| "it is too long".into())
}

/// One host, for people: what identifies it, and the copy that was refused.
fn shown(hosts: &Value, host: HostId) -> Result<String, Fault> {
    let id = host.to_string();
    let known = hosts.as_array().into_iter().flatten();
    let known = known.into_iter().find(|h| text(h, "id") == id);
    let known = known.ok_or_else(|| {
        let what = format!("cannot show host {host}");
        Fault::new(FaultCode::HostUnknown, what, "no such host is enrolled")
            .fix("pf9-plane host list")
    })?;
    let rows = [
        ("host", "id"),
        ("name", "info.hostname"),
        ("connected", "pf9.connected"),
        ("state", "pf9.state"),
        ("cluster", "cluster"),
        ("boot id", "pf9.boot_id"),
        ("refused copy, at", "pf9.copy.at"),
        ("refused copy, boot id", "pf9.copy.boot_id"),
        ("refused copy, why", "pf9.copy.fault.why"),
    ];
    let rows = rows.map(|(name, path)| vec![name.to_owned(), cell(known, path)]);
    Ok(align(&rows))
}

#[cfg(test)]
mod tests;
