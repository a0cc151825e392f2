//! `etcd verify`: whether a backup is whole, and opens.

use std::path::PathBuf;

use clap::Parser;
use serde::Serialize;

use super::super::context::Context;
use super::super::output::{Ink, Screen, Show};
use super::super::words::bytes;
use crate::app::Exit;
use crate::backup::{seal, verify};
use crate::host::fs::HostFs;
use crate::model::{BackupManifest, Fault, FaultCode, Secret, paths};
use crate::nodelet::etcd::by_the_plane;
use crate::telemetry::chain;

#[derive(Debug, Parser)]
pub(in super::super) struct VerifyArgs {
    /// Name of a backup (see list), or path of its file; default: the newest.
    #[arg(value_name = "BACKUP")]
    pub(in super::super) backup: Option<String>,
    /// Open it with this key, and look whether it holds what it says.
    #[arg(long, value_name = "FILE", conflicts_with = "plane")]
    pub(in super::super) recovery_key: Option<PathBuf>,
    /// Open it with the plane's help.
    #[arg(long)]
    pub(in super::super) plane: bool,
    /// One JSON value instead of lines.
    #[arg(long)]
    pub(in super::super) json: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Verified {
    manifest: BackupManifest,
    /// It was opened, not only looked at.
    opened: bool,
}

pub(super) async fn run(ctx: &Context, args: &VerifyArgs) -> Result<Exit, Fault> {
    ctx.need_root("look into a backup")?;
    let (dir, which) = match &args.backup {
        Some(path) if path.contains('/') => {
            let path = std::path::absolute(path).map_err(|e| {
                Fault::new(FaultCode::File, "no backup was looked at", e.to_string())
            })?;
            (String::new(), path.to_string_lossy().into_owned())
        }
        named => on_the_shelf(ctx, named.as_ref()).await?,
    };
    let (manifest, sealed) = verify::find(&ctx.host, &dir, &which)?;
    let etcdutl = ctx.host.at(format!("{}/bin/etcdutl", paths::STACK_CURRENT));
    ctx.out.waiting("reading the backup");
    verify::sealed(&sealed, &manifest)?;
    let from = match (&args.recovery_key, args.plane) {
        (Some(file), _) => {
            let keys = seal::keys(&key_file(file)?)?;
            Some(seal::open(
                &sealed,
                keys.iter().map(|k| k as &dyn age::Identity),
            )?)
        }
        (None, true) => {
            let key = by_the_plane(&ctx.host, &sealed, &manifest).await?;
            Some(seal::open(
                &sealed,
                std::iter::once(&key as &dyn age::Identity),
            )?)
        }
        (None, false) => None,
    };
    let opened = match from {
        Some(from) => Some(verify::opened(&ctx.host, &etcdutl, &manifest, from).await?),
        None => None,
    };
    ctx.out.show(&Verified {
        manifest,
        opened: opened.is_some(),
    });
    Ok(Exit::Ok)
}

/// The directory of the backups, and this one of them or the newest.
async fn on_the_shelf(ctx: &Context, named: Option<&String>) -> Result<(String, String), Fault> {
    let what = "no backup was looked at";
    let view = super::view(ctx, what).await?;
    let newest = view.backups.last().map(|b| &b.name);
    let which = named.or(newest).cloned().ok_or_else(|| {
        let fault = Fault::new(FaultCode::NotFound, what, "there is none on this master");
        fault.fix("pf9ctl etcd backup")
    })?;
    Ok((view.dir, which))
}

/// A person's file of private keys.
pub(super) fn key_file(file: &std::path::Path) -> Result<Secret<String>, Fault> {
    let what = "cannot read the recovery key";
    let cannot = |why: String| Fault::new(FaultCode::File, what, why);
    let here = std::env::current_dir().map_err(|e| cannot(e.to_string()))?;
    let text = HostFs::real().read_text(here.join(file), seal::KEY_FILE_MAX);
    let text = text.map_err(|e| cannot(chain(&e)))?;
    let text = text.ok_or_else(|| cannot(format!("there is no {}", file.display())))?;
    Ok(Secret::new(text))
}

impl Show for Verified {
    fn screen(&self, width: usize) -> Screen {
        let m = &self.manifest;
        let mut screen = Screen::default();
        screen.gap();
        let how = match self.opened {
            true => "whole, opens, and holds what it says",
            false => {
                "the file is the one that was written; a key was not given, so it was not opened"
            }
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
