//! `etcd verify`: whether a backup is whole, and opens.

use std::path::{Path, PathBuf};

use clap::Parser;
use serde::Serialize;

use super::super::context::CommandContext;
use super::super::output::{Ink, Screen, Show};
use super::super::words::bytes;
use super::brought::Brought;
use crate::app::Exit;
use crate::backup::{shelf, verify};
use crate::host::fs::Attrs;
use crate::model::{
    BackupManifest, BackupTrust, BelievedManifest, EtcdView, Fault, FaultCode, paths,
};
use crate::nodelet::etcd::key::{Key, openers};
use crate::nodelet::etcd::trust;
use crate::telemetry::chain;

const NOT_LOOKED_AT: &str = "no backup was verified";

#[derive(Debug, Parser)]
pub(in super::super) struct VerifyArgs {
    /// Name of a backup, on this master or in the archive (see list), or path of its file; default: the newest
    /// here.
    #[arg(value_name = "BACKUP")]
    pub(in super::super) backup: Option<String>,
    /// Open it with this key, and look whether it holds what it says.
    #[arg(long, value_name = "FILE", conflicts_with = "plane")]
    pub(in super::super) recovery_key: Option<PathBuf>,
    /// Open it with the plane's help.
    #[arg(long)]
    pub(in super::super) plane: bool,
    /// Believe these as well: a file that `pf9-plane cluster backups NAME signers` wrote. Without it one of this
    /// cluster's masters has to have signed it.
    #[arg(long, value_name = "FILE", conflicts_with = "unsigned")]
    pub(in super::super) signers: Option<PathBuf>,
    /// Do not look who made it.
    #[arg(long)]
    pub(in super::super) unsigned: bool,
    /// One JSON value instead of lines.
    #[arg(long)]
    pub(in super::super) json: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Verified {
    manifest: BackupManifest,
    /// It was opened, not only looked at.
    opened: bool,
    /// A master of the cluster signed it, or one whose key was named.
    signed: bool,
    /// Where it was, if not on this master.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
}

pub(super) async fn run(ctx: &CommandContext, args: &VerifyArgs) -> Result<Exit, Fault> {
    ctx.need_root("verify a backup")?;
    let view = super::view(ctx, NOT_LOOKED_AT).await;
    let trust = trust(ctx, args, &view)?;
    let place = match &args.backup {
        Some(path) if path.contains('/') => {
            let (found, sealed) = verify::find(&ctx.host, "", &absolute(Path::new(path))?, &trust)?;
            Place::Here(Box::new(found), sealed)
        }
        named => of_the_cluster(ctx, &view?, named.as_deref(), &trust).await?,
    };
    let (believed, sealed) = place.both();
    let manifest = believed.manifest();
    let etcdutl = ctx.host.at(format!("{}/bin/etcdutl", paths::STACK_CURRENT));
    ctx.out.waiting("reading the backup");
    if args.recovery_key.is_none() && !args.plane {
        verify::sealed(sealed, manifest)?;
    }
    let file = args.recovery_key.as_deref().map(absolute).transpose()?;
    let key = match (&file, args.plane) {
        (Some(file), _) => Some(Key::Named(file)),
        (None, true) => Some(Key::OfThePlane),
        (None, false) => None,
    };
    if let Some(key) = key {
        let keys = openers(&ctx.host, key, sealed, believed).await?;
        let made = ctx.host.make_dir(paths::ETCD_SCRATCH, &Attrs::mode(0o700));
        made.map_err(|e| Fault::new(FaultCode::File, NOT_LOOKED_AT, chain(&e)))?;
        let to = format!("{}/opened.db", paths::ETCD_SCRATCH);
        // Not kept: that it opens is what was asked.
        verify::opened(&ctx.host, &etcdutl, sealed, manifest, keys, &to).await?;
    }
    ctx.out.show(&Verified {
        manifest: manifest.clone(),
        opened: key.is_some(),
        signed: trust != BackupTrust::Unchecked,
        from: place.from(),
    });
    Ok(Exit::Ok)
}

/// Whose signature is asked for. nodelet knows the masters of this cluster; without it a file has to.
fn trust(
    ctx: &CommandContext,
    args: &VerifyArgs,
    view: &Result<EtcdView, Fault>,
) -> Result<BackupTrust, Fault> {
    if args.unsigned {
        return Ok(BackupTrust::Unchecked);
    }
    let named = args.signers.as_deref().map(absolute).transpose()?;
    let named = named
        .map(|file| trust::kept(&ctx.host, &file))
        .transpose()?;
    let mut signers = match (view, &named) {
        (Ok(view), _) => view.signers.clone(),
        (Err(_), Some(_)) => Vec::new(),
        (Err(fault), None) => return Err(fault.clone()),
    };
    signers.extend(named.unwrap_or_default());
    Ok(BackupTrust::Signers(signers))
}

/// Where the backup is that is looked at.
enum Place {
    Here(Box<BelievedManifest>, PathBuf),
    Away(Box<Brought>),
}

impl Place {
    fn both(&self) -> (&BelievedManifest, &Path) {
        match self {
            Self::Here(believed, sealed) => (believed, sealed),
            Self::Away(brought) => (&brought.believed, &brought.sealed),
        }
    }

    fn from(&self) -> Option<String> {
        match self {
            Self::Here(..) => None,
            Self::Away(brought) => Some(brought.from.clone()),
        }
    }
}

/// The one of this name, or the newest: on this master, else in the archive.
async fn of_the_cluster(
    ctx: &CommandContext,
    view: &EtcdView,
    named: Option<&str>,
    trust: &BackupTrust,
) -> Result<Place, Fault> {
    let newest = view.backups.last().map(|b| b.name.as_str());
    let which = named.or(newest).ok_or_else(|| {
        let why = "there is none on this master";
        Fault::new(FaultCode::NotFound, NOT_LOOKED_AT, why).fix("pf9ctl etcd backup")
    })?;
    let is_here = view.backups.iter().any(|b| b.name == which);
    match &view.archive {
        Some(second) if !is_here && shelf::is_name(which) => {
            ctx.out
                .waiting(&format!("fetching it from {}", second.target));
            let brought = Brought::bring(ctx, view, second, which, trust).await?;
            Ok(Place::Away(Box::new(brought)))
        }
        Some(_) | None => {
            let (found, sealed) = verify::find(&ctx.host, &view.dir, which, trust)?;
            Ok(Place::Here(Box::new(found), sealed))
        }
    }
}

/// As it is found from elsewhere.
fn absolute(file: &Path) -> Result<String, Fault> {
    let bad = |why: String| Fault::new(FaultCode::Usage, NOT_LOOKED_AT, why);
    let path = std::path::absolute(file).map_err(|e| bad(e.to_string()))?;
    let text = path.into_os_string().into_string();
    text.map_err(|_| bad("its path is not UTF-8".to_owned()))
}

impl Show for Verified {
    fn screen(&self, width: usize) -> Screen {
        let m = &self.manifest;
        let mut screen = Screen::default();
        screen.gap();
        let how = match self.opened {
            true => "complete, opens, and matches its manifest",
            false => "the file is the one that was written; no key was given, so it was not opened",
        };
        screen.row("backup", Ink::Good, &format!("{}: {how}", m.name), width);
        let of = format!(
            "cluster {} ({}), at {}",
            m.settings.cluster_name, m.cluster_id, m.taken_at
        );
        screen.row("of", Ink::Plain, &of, width);
        let holds = format!(
            "{} keys, revision {}, {} ({} sealed)",
            m.keys,
            m.revision,
            bytes(m.plain_bytes),
            bytes(m.sealed_bytes)
        );
        screen.row("holds", Ink::Plain, &holds, width);
        let signed = match self.signed {
            true => format!("by root of host {}", m.host_id),
            false => "NOT CHECKED: --unsigned".to_owned(),
        };
        let ink = if self.signed { Ink::Plain } else { Ink::Warn };
        screen.row("signed", ink, &signed, width);
        if let Some(from) = &self.from {
            screen.row("from", Ink::Plain, from, width);
        }
        let made = format!(
            "etcd {}, Kubernetes {}",
            m.etcd_version, m.kubernetes_version
        );
        screen.row("made by", Ink::Plain, &made, width);
        screen.row("opens with", Ink::Plain, &m.recipients.join(", "), width);
        screen.gap();
        screen
    }
}
