//! pf9ctl: the operator's hand on the node.
//!
//! Every verb gathers one value, and `output` renders it: as a screen for people or as JSON. No
//! other file prints.
//!
//! | file | holds |
//! |---|---|
//! | `args`          | the command line |
//! | `output`        | [`output::Output`]: the only printer; screens, JSON, progress lines |
//! | `known`         | names and flags of tools of this kind |
//! | `examples`      | how each verb is called, under its help |
//! | `context`       | [`context::CommandContext`]: host, units, sockets, owners, clock, stop |
//! | `check`         | `node check`: the machine, its network, its plane, the agent |
//! | `prep`          | `node prep`: checks, enrols, starts, waits; undone when it fails |
//! | `before`        | the identity files as they were, and the way back |
//! | `status`        | `status`: gathers the report |
//! | `status_screen` | the report as one screen |
//! | `plan`          | `plan`: what nodelet would do |
//! | `phases`        | `phases list`, `status`, `start`, `stop` |
//! | `logs`          | `logs`: the daemons' files |
//! | `log_level`     | `log-level`: louder or quieter, for a time |
//! | `explain`       | `explain`: what a code means |
//! | `bundle`        | `bundle`: the support bundle |
//! | `config`        | `config get`, `set`, `validate`, `show` |
//! | `version`       | `version` |
//! | `operator`      | `host`, `cluster`, `node join`, `node leave`: the plane's operator API |
//! | `proxy`         | `proxy set`, `proxy show` |
//! | `proxy_test`    | `proxy test`: each hop of the way to the plane |
//! | `remote`        | `--ip`: a verb on many hosts, by the system's ssh |
//! | `way`           | the way to the plane as configured |
//! | `tunnel`        | `tunnel status`, `ping`, `top`: the connection to the plane |
//! | `kube_token`    | `kube-token`: what kubectl shows the plane |
//! | `etcd`          | `etcd status`, `list`, `backup`, `verify`: the cluster's memory |
//! | `identity`      | `identity show`, `identity reset` |
//! | `maintenance`   | `maintenance start`, `end`, `show` |
//! | `support`       | `support allow`, `withdraw`, `show` |
//! | `decommission`  | `node decommission` |
//! | `leftovers`     | what is ours on this machine, and its removal |
//! | `words`         | times and sizes for people |

mod args;
mod before;
mod bundle;
mod check;
mod config;
mod context;
mod decommission;
mod etcd;
mod examples;
mod explain;
mod identity;
mod known;
mod kube_token;
mod leftovers;
mod log_level;
mod logs;
mod maintenance;
mod operator;
mod output;
mod phases;
mod plan;
mod prep;
mod proxy;
mod proxy_test;
mod remote;
mod status;
mod status_screen;
mod support;
mod tunnel;
mod version;
mod way;
mod words;

#[cfg(test)]
mod tests;

use clap::FromArgMatches;
use tokio::signal::unix::{SignalKind, signal};

use crate::agent;
use crate::app::Exit;
use crate::host::Host;
use crate::model::{Fault, FaultCode, paths};
use crate::os;
use crate::telemetry::{self, LogConfig};

use args::{
    AgentArgs, AgentVerb, Args, IdentityArgs, IdentityVerb, NodeArgs, NodeVerb, ProxyArgs,
    ProxyVerb, Shell, Verb,
};
use context::CommandContext;
use output::{Ink, Output};

/// Parses the command line, runs the verb, returns how it ended.
pub fn main() -> Exit {
    let matches = match args::command().try_get_matches() {
        Ok(matches) => matches,
        Err(e) => return output::usage(&e),
    };
    let args = match Args::from_arg_matches(&matches) {
        Ok(args) => args,
        Err(e) => return output::usage(&e),
    };
    let mut out = Output::terminal(args.verb.json());
    crate::app::usual_modes();
    if args.verbose {
        telemetry::to_stderr();
    }
    if let Some(dir) = &args.log_dir
        && let Err(fault) = out.also_to(dir)
    {
        return out.fault(&fault);
    }
    crate::tls::install();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(until_signal(args, out)),
        Err(e) => out.fault(&Fault::new(
            FaultCode::Runtime,
            "cannot start",
            e.to_string(),
        )),
    }
}

/// Runs the verb; SIGINT and SIGTERM ask it to end, so that it can undo what it began.
async fn until_signal(args: Args, out: Output) -> Exit {
    let ctx = CommandContext::new(&args.root, out);
    let stop = ctx.stop.clone();
    let both = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    );
    let (Ok(mut int), Ok(mut term)) = both else {
        let fault = Fault::new(
            FaultCode::Runtime,
            "cannot start",
            "cannot listen to signals",
        );
        return ctx.out.fault(&fault);
    };
    let work = run(&ctx, &args.verb);
    tokio::pin!(work);
    loop {
        tokio::select! {
            // cancel-safe: signals are only flags, and the work is kept pinned
            exit = &mut work => return exit,
            _ = int.recv() => stop.cancel(),
            _ = term.recv() => stop.cancel(),
        }
    }
}

async fn run(ctx: &CommandContext, verb: &Verb) -> Exit {
    let result = match verb {
        Verb::Node(NodeArgs {
            verb: NodeVerb::Check(args),
        })
        | Verb::CheckNode(args) => Box::pin(check::run(ctx, args)).await,
        Verb::Node(NodeArgs {
            verb: NodeVerb::Prep(args),
        })
        | Verb::PrepNode(args) => Box::pin(prep::run(ctx, args)).await,
        Verb::Node(NodeArgs {
            verb: NodeVerb::Status(args),
        })
        | Verb::Status(args) => Box::pin(status::run(ctx, args)).await,
        Verb::Node(NodeArgs {
            verb: NodeVerb::Decommission(args),
        })
        | Verb::DecommissionNode(args) => Box::pin(decommission::run(ctx, args)).await,
        Verb::Node(NodeArgs {
            verb: NodeVerb::Join(args),
        }) => operator::join(ctx, args).await,
        Verb::Node(NodeArgs {
            verb: NodeVerb::Leave(args),
        }) => operator::leave(ctx, args).await,
        Verb::Cluster(args) => operator::cluster(ctx, &args.verb).await,
        Verb::Host(args) => operator::host(ctx, &args.verb).await,
        Verb::KubeToken(args) => kube_token::run(ctx, args).await,
        Verb::AttachNode(args) => operator::attach_one(ctx, args).await,
        Verb::DetachNode(args) => operator::detach_one(ctx, args).await,
        Verb::AuthorizeNode(args) => operator::authorize(ctx, args).await,
        Verb::DeauthorizeNode(args) => operator::deauthorize(ctx, args).await,
        Verb::Phases(args) => phases::run(ctx, &args.verb).await,
        Verb::Logs(args) => Box::pin(logs::run(ctx, args)).await,
        Verb::LogLevel(args) => Box::pin(log_level::run(ctx, args)).await,
        Verb::Explain(args) => explain::run(ctx, args),
        Verb::Bundle(args) => Box::pin(bundle::run(ctx, args)).await,
        Verb::Config(args) => config::run(ctx, &args.verb),
        Verb::Version(_) => version::run(ctx).await,
        Verb::Completions(args) => {
            ctx.out.raw(completions(args.shell));
            Ok(Exit::Ok)
        }
        Verb::Plan(_) => plan::run(ctx).await,
        Verb::Proxy(ProxyArgs {
            verb: ProxyVerb::Set(args),
        }) => proxy::set(ctx, args).await,
        Verb::Proxy(ProxyArgs {
            verb: ProxyVerb::Show(_),
        }) => proxy::show(ctx),
        Verb::Proxy(ProxyArgs {
            verb: ProxyVerb::Test(args),
        }) => proxy_test::run(ctx, args).await,
        Verb::Tunnel(args) => tunnel::run(ctx, &args.verb).await,
        Verb::Etcd(args) => etcd::run(ctx, &args.verb).await,
        Verb::Identity(IdentityArgs { verb }) => match verb {
            IdentityVerb::Show(args) => identity::show(ctx, args),
            IdentityVerb::Reset(args) => identity::reset(ctx, args).await,
            IdentityVerb::Note => identity::note(ctx),
        },
        Verb::Agent(AgentArgs { verb }) => Box::pin(agent_version(ctx, verb)).await,
        Verb::OsUpdate => Box::pin(os_update(ctx)).await,
        Verb::Maintenance(args) => maintenance::run(ctx, &args.verb).await,
        Verb::Support(args) => support::run(ctx, &args.verb),
    };
    result.unwrap_or_else(|fault| {
        // Those two make a host, or end one, and know better what went wrong.
        let knows = matches!(
            verb,
            Verb::PrepNode(_)
                | Verb::DecommissionNode(_)
                | Verb::Node(NodeArgs {
                    verb: NodeVerb::Prep(_) | NodeVerb::Decommission(_)
                })
        );
        ctx.out.fault(&match knows {
            true => fault,
            false => ctx.or_no_host(fault),
        })
    })
}

/// Brings in the distribution's updates, as ordered. Told to end it continues: see its unit.
async fn os_update(ctx: &CommandContext) -> Result<Exit, Fault> {
    ctx.need_root("install the distribution's updates")?;
    logs_as_daemons_do(ctx, "pf9-os-update");
    os::perform(&Host::new(ctx.host.clone())).await?;
    Ok(Exit::Ok)
}

/// Made of the command line by a test, and installed by the packages.
fn completions(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => include_str!("../packaging/completions/pf9ctl.bash"),
        Shell::Zsh => include_str!("../packaging/completions/_pf9ctl"),
        Shell::Fish => include_str!("../packaging/completions/pf9ctl.fish"),
    }
}

fn logs_as_daemons_do(ctx: &CommandContext, program: &str) {
    let dir = ctx.host.at(paths::LOG_DIR);
    if let Err(why) = telemetry::init(program, &dir, &LogConfig::default()) {
        ctx.out.step(Ink::Warn, &format!("logging is off: {why}"));
    }
}

/// What the two units of the agent's version do.
async fn agent_version(ctx: &CommandContext, verb: &AgentVerb) -> Result<Exit, Fault> {
    ctx.need_root("change the agent's version")?;
    logs_as_daemons_do(ctx, "pf9-agent");
    let host = Host::new(ctx.host.clone());
    match verb {
        AgentVerb::Switch => agent::switch(&host).await?,
        AgentVerb::Boot => agent::at_boot(&host).await?,
    }
    Ok(Exit::Ok)
}
