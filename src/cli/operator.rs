//! `host …`, `cluster …`, `node join`, `node leave`: the plane's operator API, with an operator's token.
//!
//! A file ([`CONFIG`], or `--config`) says which plane, and where the token is; the token itself is in a file of its
//! own that only its owner may read. Nothing of this host's identity is used: the caller is a person.
//!
//! | file | holds |
//! |---|---|
//! | here    | the verbs, the plane that is asked |
//! | `login` | what is shown to it |
//! | `hosts` | `host list`: part by part |
//! | `table` | an answer in columns |

mod hosts;
mod login;
mod table;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::context::{CommandContext, MAKE_HOST};
use super::output::{Ink, Screen, Show};
use crate::app::{Config, Exit};
use crate::egress::Egress;
use crate::host::tls;
use crate::model::{ClusterId, Fault, FaultCode, HostId, Secret};
use crate::telemetry::chain;
use table::Table;

/// Which plane, and where the token is.
const CONFIG: &str = "/etc/pf9/operator.toml";
/// A few lines.
const FILE_MAX: u64 = 64 * 1024;
/// All clusters, or [`hosts::PART`] hosts with what each says of itself (60 KiB with a hundred interfaces).
const ANSWER_MAX: usize = 16 * 1024 * 1024;
/// Largest word of a plane that says no.
const WORDS_MAX: usize = 500;
/// A plane with a long list.
const ASK: Duration = Duration::from_secs(30);
/// The project that every plane has.
const PROJECT: &str = "service";
/// The role of a host that may be attached.
const ROLE: &str = "pf9-kube";

/// Which plane is asked, and as which user.
#[derive(Debug, Parser)]
pub(super) struct PlaneFile {
    /// File that says which plane, and where the credentials are: plane, token_file or application_credential_file,
    /// ca_file, project.
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
}

/// Which plane is asked, and how its answer is written.
#[derive(Debug, Parser)]
pub(super) struct PlaneArgs {
    #[command(flatten)]
    file: PlaneFile,
    /// The plane's answer as JSON, instead of lines.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Parser)]
pub(super) struct ClusterArgs {
    #[command(subcommand)]
    pub(super) verb: ClusterVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum ClusterVerb {
    /// Every cluster of the plane.
    List(PlaneArgs),
    /// One cluster.
    Show(ClusterShowArgs),
}

#[derive(Debug, Parser)]
pub(super) struct ClusterShowArgs {
    /// Its name or id.
    cluster: String,
    #[command(flatten)]
    pub(super) plane: PlaneArgs,
}

#[derive(Debug, Parser)]
pub(super) struct HostArgs {
    #[command(subcommand)]
    pub(super) verb: HostVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum HostVerb {
    /// Every host of the plane.
    List(PlaneArgs),
    /// One host.
    Show(HostShowArgs),
    /// Authorize a host as a node of this plane's clusters.
    Authorize(HostShowArgs),
    /// Withdraw that authorization; a host in a cluster is detached first.
    Deauthorize(HostShowArgs),
    /// Make a host a node of a cluster.
    Attach(AttachArgs),
    /// Take a host out of its cluster; its role is removed.
    Detach(DetachArgs),
}

#[derive(Debug, Parser)]
pub(super) struct HostShowArgs {
    /// Its id.
    host: HostId,
    #[command(flatten)]
    pub(super) plane: PlaneArgs,
}

#[derive(Debug, Parser)]
pub(super) struct AttachArgs {
    /// Its id.
    host: HostId,
    #[command(flatten)]
    pub(super) to: JoinArgs,
}

#[derive(Debug, Parser)]
pub(super) struct DetachArgs {
    /// Its id.
    host: HostId,
    #[command(flatten)]
    pub(super) from: LeaveArgs,
}

#[derive(Debug, Parser)]
pub(super) struct JoinArgs {
    /// The cluster's name or id.
    #[arg(long, short, value_name = "CLUSTER")]
    cluster: String,
    /// As a master.
    #[arg(long)]
    master: bool,
    #[command(flatten)]
    pub(super) plane: PlaneArgs,
}

#[derive(Debug, Parser)]
pub(super) struct LeaveArgs {
    /// Also if etcd loses its quorum by it.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    pub(super) plane: PlaneArgs,
}

impl ClusterVerb {
    pub(super) fn json(&self) -> bool {
        match self {
            Self::List(plane) => plane.json,
            Self::Show(args) => args.plane.json,
        }
    }
}

impl HostVerb {
    pub(super) fn json(&self) -> bool {
        match self {
            Self::List(plane) => plane.json,
            Self::Show(args) | Self::Authorize(args) | Self::Deauthorize(args) => args.plane.json,
            Self::Attach(args) => args.to.plane.json,
            Self::Detach(args) => args.from.plane.json,
        }
    }
}

pub(super) async fn cluster(ctx: &CommandContext, verb: &ClusterVerb) -> Result<Exit, Fault> {
    match verb {
        ClusterVerb::List(args) => {
            let plane = Plane::load(ctx, args)?;
            let all = plane
                .ask(Method::GET, &plane.qbert("clusters"), None)
                .await?;
            ctx.out.show(&Table::new(&table::CLUSTERS, all));
        }
        ClusterVerb::Show(args) => {
            let plane = Plane::load(ctx, &args.plane)?;
            let id = plane.cluster(&args.cluster).await?;
            let path = plane.qbert(&format!("clusters/{id}"));
            let one = plane.ask(Method::GET, &path, None).await?;
            ctx.out.show(&Table::new(&table::CLUSTERS, one));
        }
    }
    Ok(Exit::Ok)
}

pub(super) async fn host(ctx: &CommandContext, verb: &HostVerb) -> Result<Exit, Fault> {
    match verb {
        HostVerb::List(args) => {
            let plane = Plane::load(ctx, args)?;
            hosts::list(ctx, &plane).await?;
        }
        HostVerb::Show(args) => {
            let plane = Plane::load(ctx, &args.plane)?;
            let path = format!("/resmgr/v1/hosts/{}", args.host);
            let one = plane.ask(Method::GET, &path, None).await?;
            ctx.out.show(&Table::new(&table::HOSTS, one));
        }
        HostVerb::Authorize(args) => return authorize(ctx, args).await,
        HostVerb::Deauthorize(args) => return deauthorize(ctx, args).await,
        HostVerb::Attach(args) => return attach_one(ctx, args).await,
        HostVerb::Detach(args) => return detach_one(ctx, args).await,
    }
    Ok(Exit::Ok)
}

pub(super) async fn authorize(ctx: &CommandContext, args: &HostShowArgs) -> Result<Exit, Fault> {
    role(ctx, args, Method::PUT, "may be attached to a cluster now").await
}

pub(super) async fn deauthorize(ctx: &CommandContext, args: &HostShowArgs) -> Result<Exit, Fault> {
    role(ctx, args, Method::DELETE, "is no longer a node").await
}

pub(super) async fn attach_one(ctx: &CommandContext, args: &AttachArgs) -> Result<Exit, Fault> {
    attach(ctx, args.host, &args.to).await
}

pub(super) async fn detach_one(ctx: &CommandContext, args: &DetachArgs) -> Result<Exit, Fault> {
    detach(ctx, args.host, &args.from).await
}

/// This host.
pub(super) async fn join(ctx: &CommandContext, args: &JoinArgs) -> Result<Exit, Fault> {
    attach(ctx, own(ctx, "join a cluster")?, args).await
}

/// This host.
pub(super) async fn leave(ctx: &CommandContext, args: &LeaveArgs) -> Result<Exit, Fault> {
    detach(ctx, own(ctx, "leave a cluster")?, args).await
}

fn own(ctx: &CommandContext, what: &str) -> Result<HostId, Fault> {
    let what = format!("this machine cannot {what}");
    let id = crate::identity::host_id(&ctx.host).map_err(|e| e.fault(&what))?;
    id.ok_or_else(|| {
        Fault::new(FaultCode::NotPrepared, what, "it is not a host of a plane").fix(MAKE_HOST)
    })
}

async fn role(
    ctx: &CommandContext,
    args: &HostShowArgs,
    how: Method,
    done: &str,
) -> Result<Exit, Fault> {
    let plane = Plane::load(ctx, &args.plane)?;
    let path = format!("/resmgr/v1/hosts/{}/roles/{ROLE}", args.host);
    plane.ask(how, &path, None).await?;
    ctx.out.show(&Done::of(args.host, done));
    Ok(Exit::Ok)
}

async fn attach(ctx: &CommandContext, host: HostId, args: &JoinArgs) -> Result<Exit, Fault> {
    let plane = Plane::load(ctx, &args.plane)?;
    let cluster = plane.cluster(&args.cluster).await?;
    let path = plane.qbert(&format!("clusters/{cluster}/attach"));
    let body = json!([{"uuid": host, "isMaster": args.master}]);
    plane.ask(Method::POST, &path, Some(body)).await?;
    let role = if args.master { "master" } else { "worker" };
    let done = format!(
        "becomes a {role} of {}; pf9ctl status on it shows how far it is",
        args.cluster
    );
    ctx.out.show(&Done::of(host, &done));
    Ok(Exit::Ok)
}

async fn detach(ctx: &CommandContext, host: HostId, args: &LeaveArgs) -> Result<Exit, Fault> {
    let plane = Plane::load(ctx, &args.plane)?;
    let node = plane.qbert(&format!("nodes/{host}"));
    let node = plane.ask(Method::GET, &node, None).await?;
    let cluster: Option<ClusterId> = serde_json::from_value(node["clusterUuid"].clone()).ok();
    let cluster = cluster.ok_or_else(|| {
        let what = format!("cannot detach host {host}");
        Fault::new(FaultCode::HostNotAttached, what, "it is in no cluster")
    })?;
    let path = plane.qbert(&format!("clusters/{cluster}/detach"));
    let body = json!([{"uuid": host, "force": args.force}]);
    plane.ask(Method::POST, &path, Some(body)).await?;
    ctx.out
        .show(&Done::of(host, "leaves its cluster; its role is removed"));
    Ok(Exit::Ok)
}

/// `operator.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// `https://HOST[:PORT]`.
    plane: String,
    /// Where the token is.
    token_file: Option<PathBuf>,
    /// Where an application credential is, which gets one: `id = "…"`, `secret = "…"`.
    application_credential_file: Option<PathBuf>,
    /// Whom to trust instead of the machine's own authorities (PEM).
    ca_file: Option<PathBuf>,
    project: Option<String>,
}

/// The plane, ready to be asked.
pub(super) struct Plane {
    url: String,
    shows: login::Shows,
    project: String,
    client: reqwest::Client,
}

const WHAT: &str = "cannot ask the plane";

fn wrong(why: String) -> Fault {
    let fix = format!(
        "{CONFIG}, or the file of --config, has lines like plane = \"https://plane.example\" and token_file = \
         \"/root/.pf9-token\" (or application_credential_file), and perhaps ca_file and project"
    );
    Fault::new(FaultCode::ConfigInvalid, WHAT, why).fix(fix)
}

impl Plane {
    fn load(ctx: &CommandContext, args: &PlaneArgs) -> Result<Self, Fault> {
        Self::load_file(ctx, &args.file, None)
    }

    /// As a file says it, but for this project.
    pub(super) fn load_file(
        ctx: &CommandContext,
        args: &PlaneFile,
        project: Option<&str>,
    ) -> Result<Self, Fault> {
        let at = |path: &Path| match path.is_absolute() {
            true => ctx.host.at(path),
            false => path.to_path_buf(),
        };
        let read = |path: &Path| {
            use std::io::Read;
            let mut text = String::new();
            let file = std::fs::File::open(at(path));
            let read = file.and_then(|f| f.take(FILE_MAX).read_to_string(&mut text));
            read.map_err(|e| wrong(format!("{}: {e}", path.display())))?;
            Ok::<_, Fault>(text)
        };
        let name = args.config.display();
        let file: File = toml::from_str(&read(&args.config)?)
            .map_err(|e| wrong(format!("{name}: {}", e.message())))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let project = project.map(str::to_owned).or(file.project);
        let project = project.unwrap_or_else(|| PROJECT.to_owned());
        if !project.chars().all(plain) {
            return Err(wrong(format!(
                "{name}: project {project:?} is not a valid name"
            )));
        }
        if !file.plane.starts_with("https://") || file.plane.contains('@') {
            return Err(wrong(format!(
                "{name}: plane must begin with https://, without a user"
            )));
        }
        let shows = match (&file.token_file, &file.application_credential_file) {
            (Some(path), None) => login::Shows::Token(secret(&at(path)).map_err(wrong)?),
            (None, Some(path)) => login::credential(&at(path)).map_err(wrong)?,
            (Some(_), Some(_)) | (None, None) => {
                let why = "token_file or application_credential_file, not both";
                return Err(wrong(format!("{name}: {why}")));
            }
        };
        let ca = file.ca_file.as_deref().map(&read).transpose()?;
        let config = Config::load(&ctx.host)?;
        let egress = Egress::load(&ctx.host, &config.comms.proxy)?;
        let client = tls::outside(ca.as_deref().map(str::as_bytes), |client| egress.on(client));
        Ok(Self {
            url: file.plane.trim_end_matches('/').to_owned(),
            shows,
            project,
            client: client.map_err(|e| wrong(chain(&e)))?,
        })
    }

    /// A key for this plane, project and user: nothing of it is secret.
    pub(super) fn who(&self) -> String {
        format!("{}\n{}\n{}", self.url, self.project, self.shows.mark())
    }

    pub(super) fn qbert(&self, rest: &str) -> String {
        format!("/qbert/v4/{}/{rest}", self.project)
    }

    /// The id of a cluster that is called so.
    async fn cluster(&self, name: &str) -> Result<ClusterId, Fault> {
        if let Ok(id) = name.parse() {
            return Ok(id);
        }
        let all = self.ask(Method::GET, &self.qbert("clusters"), None).await?;
        let named = all
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["name"] == name);
        let id = named.and_then(|c| serde_json::from_value(c["uuid"].clone()).ok());
        id.ok_or_else(|| {
            let what = format!("there is no cluster {name:?}");
            Fault::new(
                FaultCode::ClusterUnknown,
                what,
                "the plane has none of that name",
            )
            .fix("pf9ctl cluster list")
        })
    }

    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Fault> {
        let token = self.token().await?;
        self.ask_with(&token, method, path, &[], body).await
    }

    async fn ask_with(
        &self,
        token: &Secret<String>,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<Value>,
    ) -> Result<Value, Fault> {
        let url = format!("{}{path}", self.url);
        let mut request = self.client.request(method, &url).query(query).timeout(ASK);
        request = request.header("x-auth-token", token.expose());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.map_err(|e| away(&e))?;
        let status = answer.status();
        let bytes = tls::body(answer, ANSWER_MAX).await.map_err(|e| away(&e))?;
        let bytes = bytes.ok_or_else(|| garbage("its answer is too long"))?;
        if !status.is_success() {
            return Err(refused(status, &bytes));
        }
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|_| garbage("its answer is not valid JSON"))
    }
}

fn garbage(why: &str) -> Fault {
    Fault::new(FaultCode::PlaneGarbage, WHAT, why)
}

fn away(e: &reqwest::Error) -> Fault {
    let code = match e.is_timeout() {
        true => FaultCode::PlaneTimeout,
        false => FaultCode::PlaneUnreachable,
    };
    // Its words name the URL, which has no secret in it.
    Fault::new(code, WHAT, chain(e))
        .fix("check the plane's URL, ca_file, and the proxy (pf9ctl proxy show)")
}

/// What the plane says when it says no, in whichever shape that API has.
fn refused(status: StatusCode, bytes: &[u8]) -> Fault {
    let said: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let words = ["/error/message", "/message", "/why"];
    let words = words.iter().find_map(|at| said.pointer(at)?.as_str());
    let words = words.unwrap_or("it gave no reason");
    let words: String = words
        .chars()
        .filter(|c| !c.is_control())
        .take(WORDS_MAX)
        .collect();
    let why = format!("{}: {words}", status.as_u16());
    match status {
        StatusCode::UNAUTHORIZED => Fault::new(FaultCode::Unauthenticated, WHAT, why)
            .fix("the token has expired or is not of this plane: put a new one into token_file"),
        StatusCode::FORBIDDEN => Fault::new(FaultCode::NotAllowed, WHAT, why),
        StatusCode::NOT_FOUND => Fault::new(FaultCode::NotFound, WHAT, why),
        _ => Fault::new(FaultCode::HttpError, "the plane refuses", why),
    }
}

/// One line that only its owner may read.
fn secret(path: &Path) -> Result<Secret<String>, String> {
    let text = secret_text(path)?;
    let token = text.expose().trim();
    if token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()) {
        return Err(format!("{}: it is not a token", path.display()));
    }
    Ok(Secret::new(token.to_owned()))
}

/// A file that only its owner may read.
fn secret_text(path: &Path) -> Result<Secret<String>, String> {
    use std::io::Read;
    let name = path.display();
    let file = std::fs::File::open(path).map_err(|e| format!("{name}: {e}"))?;
    let mode = file.metadata().map_err(|e| format!("{name}: {e}"))?.mode();
    if mode & 0o077 != 0 {
        return Err(format!("{name}: others may read it (chmod 600)"));
    }
    let mut text = String::new();
    file.take(FILE_MAX)
        .read_to_string(&mut text)
        .map_err(|e| format!("{name}: {e}"))?;
    Ok(Secret::new(text))
}

/// What was ordered.
#[derive(Debug, Serialize)]
struct Done {
    host: HostId,
    done: String,
}

impl Done {
    fn of(host: HostId, done: &str) -> Self {
        Self {
            host,
            done: done.to_owned(),
        }
    }
}

impl Show for Done {
    fn screen(&self, _: usize) -> Screen {
        let mut screen = Screen::default();
        screen.line([
            (Ink::Good, "✓ ".to_owned()),
            (Ink::Plain, format!("host {} {}", self.host, self.done)),
        ]);
        screen
    }
}
