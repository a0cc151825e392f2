//! `--ip`: a verb of `node` on many hosts, by the system's own `ssh`, some at a time.
//!
//! ```text
//! hosts, the verb's own arguments ─► call (pure) ─► ssh, N at a time ─► answer (pure) ─► a line a host, one report
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `call`   | [`call::Target`], the command line of one `ssh`, and what it runs there; pure |
//! | `answer` | what came back, judged; pure |
//!
//! Whether a host is the one that is meant is `ssh`'s to know: a key it does not have is refused, whatever a person's
//! configuration says, and no password is asked for. There the same program runs as here, with the same arguments.

pub(super) mod answer;
pub(super) mod call;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::StreamExt;
use futures_util::stream;
use serde::Serialize;

use super::args::{CheckArgs, Format, PrepArgs};
use super::context::CommandContext;
use super::output::{Ink, Screen, Show};
use super::words::took;
use crate::app::Exit;
use crate::host::exec;
use crate::model::{EnrolToken, Fault, FaultCode};

use answer::{HostAnswer, Stand};
use call::Target;

/// Version of the report document.
const REPORT_SCHEMA: u32 = 1;
/// Most hosts of one call: each answer is kept until the end.
const HOSTS_MAX: usize = 1000;
/// A check takes a second or two, a try of each endpoint five, operators' own checks a minute; and ssh has to come there.
const CHECK: Duration = Duration::from_secs(180);
/// Beside what `--wait` says: enrolling, starting, going back.
const PREP: Duration = Duration::from_secs(300);
/// A token has about 120 bytes, and there is one for each host.
const TOKENS_MAX: u64 = 1024 * 1024;

/// Which hosts, and how they are gone to.
#[derive(Debug, Args)]
pub(super) struct RemoteArgs {
    /// Do it on this host with the system's ssh, instead of on this machine; can be repeated, or separated by commas.
    ///
    /// Names of ~/.ssh/config work. A host whose key ssh does not know is refused; passwords are not asked for.
    #[arg(long = "ip", value_name = "HOST", value_delimiter = ',', value_parser = call::target)]
    pub(super) hosts: Vec<Target>,
    /// Log in as this user. A user other than root needs sudo without a password there.
    #[arg(long, value_name = "USER", requires = "hosts", value_parser = call::user)]
    user: Option<String>,
    /// Log in with the private key in this file only.
    #[arg(long, value_name = "FILE", requires = "hosts")]
    ssh_key: Option<PathBuf>,
    /// Read this file instead of ~/.ssh/config: ports, jump hosts, known_hosts files.
    #[arg(long, value_name = "FILE", requires = "hosts")]
    ssh_config: Option<PathBuf>,
    /// How many hosts at a time.
    #[arg(long, value_name = "N", requires = "hosts", default_value_t = 10,
          value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
}

/// What all of them are to do.
struct Order {
    verb: &'static str,
    args: Vec<String>,
    /// The standard input of each host, in the order of the hosts; none of it is on a command line.
    stdin: Vec<Vec<u8>>,
    deadline: Duration,
    /// One JSON value a line.
    stream: bool,
}

/// What became of all of them.
#[derive(Debug, Serialize)]
pub(super) struct Everybody {
    schema: u32,
    verb: &'static str,
    /// On how many it worked.
    done: usize,
    /// On how many it did not.
    failed: usize,
    /// How this program ends.
    exit: u8,
    /// In the order in which they were given.
    hosts: Vec<HostAnswer>,
}

impl Everybody {
    pub(super) fn of(verb: &'static str, hosts: Vec<HostAnswer>) -> Self {
        let done = hosts.iter().filter(|a| a.stand == Stand::Done).count();
        Self {
            schema: REPORT_SCHEMA,
            verb,
            done,
            failed: hosts.len() - done,
            exit: answer::exit(&hosts).code(),
            hosts,
        }
    }
}

/// `node check --ip`.
pub(super) async fn check(ctx: &CommandContext, args: &CheckArgs) -> Result<Exit, Fault> {
    let mut words = vec![
        "node".into(),
        "check".into(),
        "--output".into(),
        "json".into(),
    ];
    option(&mut words, "--plane", args.plane.as_ref());
    repeated(&mut words, "--skip", &args.skip);
    flag(&mut words, "--strict", args.strict);
    let order = Order {
        verb: "node check",
        args: words,
        stdin: args.remote.hosts.iter().map(|_| Vec::new()).collect(),
        deadline: CHECK,
        stream: args.format() == Format::JsonStream,
    };
    all(ctx, &args.remote, order).await
}

/// `node prep --ip`. A token is good once: the file has one for each host.
pub(super) async fn prep(ctx: &CommandContext, args: &PrepArgs) -> Result<Exit, Fault> {
    let hosts = args.remote.hosts.len();
    if args.host_id.is_some() && hosts > 1 {
        return Err(usage("--host-id is for one host, and --ip names more"));
    }
    let stdin = match args.dry_run {
        true => vec![Vec::new(); hosts],
        false => tokens(args.token_file.as_deref(), hosts)?,
    };
    let mut words = vec![
        "node".into(),
        "prep".into(),
        "--json".into(),
        "--no-prompt".into(),
    ];
    option(&mut words, "--plane", Some(&args.plane));
    option(&mut words, "--host-id", args.host_id.as_ref());
    option(&mut words, "--wait", Some(&args.wait));
    repeated(&mut words, "--skip", &args.skips());
    flag(&mut words, "--skip-connected", args.skip_connected);
    flag(&mut words, "--force", args.force);
    flag(&mut words, "--fix", args.fix);
    flag(&mut words, "--yes", args.yes);
    match args.dry_run {
        true => flag(&mut words, "--dry-run", true),
        false => option(&mut words, "--token-file", Some(&"-")),
    }
    let order = Order {
        verb: "node prep",
        args: words,
        stdin,
        deadline: PREP.saturating_add(Duration::from_secs(args.wait)),
        stream: false,
    };
    all(ctx, &args.remote, order).await
}

fn option(words: &mut Vec<String>, name: &str, value: Option<&impl fmt::Display>) {
    words.extend(value.map(|value| format!("{name}={value}")));
}

fn repeated(words: &mut Vec<String>, name: &str, values: &[String]) {
    words.extend(values.iter().map(|value| format!("{name}={value}")));
}

fn flag(words: &mut Vec<String>, name: &str, given: bool) {
    words.extend(given.then(|| name.to_owned()));
}

fn usage(why: impl Into<String>) -> Fault {
    Fault::new(FaultCode::Usage, "nothing was done on any host", why)
}

/// One token a line, as many as there are hosts; each can be read as one.
fn tokens(file: Option<&Path>, hosts: usize) -> Result<Vec<Vec<u8>>, Fault> {
    let path = file.unwrap_or(Path::new("-"));
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().take(TOKENS_MAX).read_to_string(&mut text),
        false => File::open(path).and_then(|f| f.take(TOKENS_MAX).read_to_string(&mut text)),
    };
    read.map_err(|e| usage(format!("{}: {e}", path.display())))?;
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    if lines.len() != hosts {
        let why = format!(
            "there are {hosts} hosts and {} tokens, and a token is valid once",
            lines.len()
        );
        return Err(usage(why)
            .fix("write a line for each host, in their order: pf9-plane token create prints one"));
    }
    for line in &lines {
        line.parse::<EnrolToken>()?;
    }
    Ok(lines
        .iter()
        .map(|line| format!("{line}\n").into_bytes())
        .collect())
}

async fn all(ctx: &CommandContext, args: &RemoteArgs, order: Order) -> Result<Exit, Fault> {
    let hosts = &args.hosts;
    if hosts.len() > HOSTS_MAX {
        let why = format!(
            "{} hosts are named, at most {HOSTS_MAX} at a time",
            hosts.len()
        );
        return Err(usage(why));
    }
    if let Some(twice) = call::twice(hosts) {
        return Err(usage(format!("{twice} is named twice")));
    }
    let ssh = exec::program(&ctx.host, "ssh");
    if !ssh.is_file() {
        let why = format!("{} is not there", ssh.display());
        return Err(
            Fault::new(FaultCode::NotInstalled, "no host can be reached", why)
                .fix("install the distribution's ssh client: openssh-client, or openssh-clients"),
        );
    }
    let way = call::Way {
        ssh,
        user: args.user.clone(),
        key: args.ssh_key.as_deref().map(absolute).transpose()?,
        config: args.ssh_config.as_deref().map(absolute).transpose()?,
        agent: std::env::var_os("SSH_AUTH_SOCK"),
    };
    let each = hosts.iter().zip(&order.stdin).enumerate();
    let mut work = stream::iter(each)
        .map(|(at, (host, stdin))| {
            let (way, order) = (&way, &order);
            async move { (at, one(way, order, host, stdin.clone()).await) }
        })
        .buffer_unordered(usize::from(args.parallel));
    let mut answers: Vec<(usize, HostAnswer)> = Vec::with_capacity(hosts.len());
    let stopped = |begun: usize| {
        let what = format!("{begun} of {} hosts have answered", hosts.len());
        let fault = ctx.interrupted(&what);
        fault.fix("what had started on the others continues there; run it again to see")
    };
    loop {
        ctx.out.waiting(&format!(
            "{} of {} hosts have answered",
            answers.len(),
            hosts.len()
        ));
        let next = tokio::select! {
            // cancel-safe: a dropped answer is not asked for again
            next = work.next() => next,
            () = ctx.stop.cancelled() => return Err(stopped(answers.len())),
        };
        let Some((at, answer)) = next else { break };
        match order.stream {
            true => ctx.out.json_line(&answer),
            false => line(ctx, &answer),
        }
        answers.push((at, answer));
    }
    answers.sort_by_key(|(at, _)| *at);
    let answers: Vec<HostAnswer> = answers.into_iter().map(|(_, answer)| answer).collect();
    let exit = answer::exit(&answers);
    let mut report = Everybody::of(order.verb, answers);
    if order.stream {
        // Each was reported already.
        report.hosts.clear();
        ctx.out.json_line(&report);
    } else {
        ctx.out.show(&report);
    }
    Ok(exit)
}

/// ssh is run in another directory than this one.
fn absolute(path: &Path) -> Result<PathBuf, Fault> {
    let there = std::path::absolute(path).and_then(|path| path.metadata().map(|_| path));
    there.map_err(|e| usage(format!("{}: {e}", path.display())))
}

async fn one(way: &call::Way, order: &Order, host: &Target, stdin: Vec<u8>) -> HostAnswer {
    let begun = Instant::now();
    let cmd = call::command(way, host, &order.args, order.deadline).stdin(stdin);
    let said = exec::ask(cmd).await;
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    answer::answer_of(host, said, took_ms)
}

fn line(ctx: &CommandContext, answer: &HostAnswer) {
    let ink = match answer.stand {
        Stand::Done => Ink::Good,
        Stand::Failed | Stand::Silent | Stand::Unreachable | Stand::Unknown => Ink::Bad,
    };
    ctx.out.step(
        ink,
        &format!(
            "{}: {} ({})",
            answer.host,
            answer.said,
            took(answer.took_ms)
        ),
    );
}

impl Show for Everybody {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        let (ink, word) = match (self.done, self.failed) {
            (_, 0) => (Ink::GoodBlock, " DONE "),
            (0, _) => (Ink::BadBlock, " FAILED "),
            _ => (Ink::WarnBlock, " IN PART "),
        };
        screen.gap();
        let text = format!(
            "  {} on {} of {} hosts",
            self.verb,
            self.done,
            self.hosts.len()
        );
        screen.line([
            (Ink::Plain, "  ".into()),
            (ink, word.into()),
            (Ink::Bold, text),
        ]);
        screen.gap();
        for host in self.hosts.iter().filter(|h| h.stand != Stand::Done) {
            screen.row("host", Ink::Bold, &host.host.to_string(), width);
            screen.row("why", Ink::Plain, &host.said, width);
            if !host.fix.is_empty() {
                screen.row("what to do", Ink::Plain, &host.fix, width);
            }
            screen.gap();
        }
        screen
    }
}
