//! `kube-token`: the exec credential plugin of kubeconfigs that lead through the plane.
//!
//! kubectl runs it and reads an `ExecCredential` from it: a token that is good for one cluster, for a quarter of an hour, as the
//! person whose credentials `operator.toml` names. It is kept in a file of its own (0600) until little of its time is left,
//! so that the plane is not asked for every command. Nothing secret is an argument, and the plane's address comes
//! from `operator.toml` alone: a kubeconfig from elsewhere cannot send credentials elsewhere.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Parser;
use http::Method;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::context::CommandContext;
use super::operator::{Plane, PlaneFile};
use super::output::{Ink, Screen, Show};
use crate::app::Exit;
use crate::host::fs::Attrs;
use crate::model::{ClusterId, Digest, Fault, FaultCode, Secret, Timestamp};

/// So much of its time must be left: a command that begins now is to end with it.
const LEFT: SignedDuration = SignedDuration::from_mins(2);
/// A token and a time.
const CACHE_MAX: u64 = 16 * 1024;

#[derive(Debug, Parser)]
pub(super) struct KubeTokenArgs {
    /// Id of the cluster.
    #[arg(long, value_name = "UUID")]
    cluster: ClusterId,
    /// Its project, if it is another than operator.toml says.
    #[arg(long, value_name = "ID")]
    project: Option<String>,
    /// Where the token is kept until it ends; default: pf9 below XDG_CACHE_HOME, or .cache of your home. In a directory
    /// that others can write it is not kept.
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    #[command(flatten)]
    plane: PlaneFile,
}

/// What is kept, and what the plane answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    #[serde(serialize_with = "said")]
    token: Secret<String>,
    expires_at: Timestamp,
}

fn said<S: serde::Serializer>(secret: &Secret<String>, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(secret.expose())
}

/// `ExecCredential` of `client.authentication.k8s.io/v1`.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Credential(Value);

impl Credential {
    fn of(kept: &Kept) -> Self {
        Self(json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {
                "token": kept.token.expose(),
                "expirationTimestamp": kept.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            },
        }))
    }
}

impl Show for Credential {
    fn screen(&self, _: usize) -> Screen {
        let mut screen = Screen::default();
        screen.line([(Ink::Plain, self.0.to_string())]);
        screen
    }
}

pub(super) async fn run(ctx: &CommandContext, args: &KubeTokenArgs) -> Result<Exit, Fault> {
    let plane = Plane::load_file(ctx, &args.plane, args.project.as_deref())?;
    let dir = args.cache_dir.clone().or_else(default_dir);
    let file = dir.map(|dir| dir.join(name_of(&plane, args.cluster)));
    let now = ctx.now();
    if let Some(kept) = file.as_deref().and_then(|file| read(ctx, file))
        && kept.expires_at > now + LEFT
    {
        ctx.out.show(&Credential::of(&kept));
        return Ok(Exit::Ok);
    }
    let path = plane.qbert(&format!("clusters/{}/kube-token", args.cluster));
    let answer = plane.ask(Method::POST, &path, Some(json!({}))).await?;
    let kept: Kept = serde_json::from_value(answer).map_err(|_| {
        let what = "cannot get a token for the cluster";
        Fault::new(
            FaultCode::PlaneGarbage,
            what,
            "the plane's answer cannot be used",
        )
    })?;
    if let Some(file) = file {
        keep(ctx, &file, &kept);
    }
    ctx.out.show(&Credential::of(&kept));
    Ok(Exit::Ok)
}

/// Another plane, cluster, project or person is another file.
fn name_of(plane: &Plane, cluster: ClusterId) -> String {
    let of = format!("{cluster}\n{}", plane.who());
    let digest = Digest::of(of.as_bytes()).to_string();
    let digits = digest.rsplit(':').next().unwrap_or_default();
    format!("kube-token-{}.json", digits.get(..32).unwrap_or(digits))
}

fn default_dir() -> Option<PathBuf> {
    let named = |name| std::env::var_os(name).map(PathBuf::from);
    let is_whole = |path: &PathBuf| path.is_absolute();
    let cache = named("XDG_CACHE_HOME").filter(is_whole);
    let cache = cache.or_else(|| Some(named("HOME").filter(is_whole)?.join(".cache")));
    cache.map(|cache| cache.join("pf9"))
}

/// Whether only this user (and root) can write there, or read what is there.
fn is_ours(ctx: &CommandContext, path: &Path, bits: u32) -> bool {
    let meta = std::fs::symlink_metadata(ctx.host.at(path));
    meta.is_ok_and(|m| m.uid() == ctx.uid && m.mode() & bits == 0 && !m.is_symlink())
}

fn read(ctx: &CommandContext, file: &Path) -> Option<Kept> {
    let dir = file.parent()?;
    if !is_ours(ctx, dir, 0o022) || !is_ours(ctx, file, 0o077) {
        return None;
    }
    // One that cannot be read is as good as none: another one is got.
    let bytes = ctx.host.read(file, CACHE_MAX).ok()??;
    serde_json::from_slice(&bytes).ok()
}

/// A cache: what cannot be kept is got again.
fn keep(ctx: &CommandContext, file: &Path, kept: &Kept) {
    let (Some(dir), Ok(bytes)) = (file.parent(), serde_json::to_vec(kept)) else {
        return;
    };
    if !ctx.host.at(dir).exists() && ctx.host.make_dir(dir, &Attrs::mode(0o700)).is_err() {
        return;
    }
    if is_ours(ctx, dir, 0o022) {
        drop(ctx.host.write(file, &bytes, &Attrs::mode(0o600)));
    }
}
