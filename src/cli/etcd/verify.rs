//! `etcd verify`: whether a backup is whole, and opens.

use std::path::{Path, PathBuf};

use clap::Parser;
use serde::Serialize;

use super::super::context::Context;
use super::super::output::{Ink, Screen, Show};
use super::super::words::bytes;
use crate::app::Exit;
use crate::backup::verify;
use crate::host::fs::Attrs;
use crate::model::{BackupManifest, Fault, FaultCode, paths};
use crate::nodelet::etcd::key::{Key, openers};
use crate::telemetry::chain;

const NOT_LOOKED_AT: &str = "no backup was looked at";

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
        Some(path) if path.contains('/') => (String::new(), absolute(Path::new(path))?),
        named => on_the_shelf(ctx, named.as_ref()).await?,
    };
    let (manifest, sealed) = verify::find(&ctx.host, &dir, &which)?;
    let etcdutl = ctx.host.at(format!("{}/bin/etcdutl", paths::STACK_CURRENT));
    ctx.out.waiting("reading the backup");
    if args.recovery_key.is_none() && !args.plane {
        verify::sealed(&sealed, &manifest)?;
    }
    let file = args.recovery_key.as_deref().map(absolute).transpose()?;
    let key = match (&file, args.plane) {
        (Some(file), _) => Some(Key::Named(file)),
        (None, true) => Some(Key::OfThePlane),
        (None, false) => None,
    };
    if let Some(key) = key {
        let keys = openers(&ctx.host, key, &sealed, &manifest).await?;
        let made = ctx.host.make_dir(paths::ETCD_SCRATCH, &Attrs::mode(0o700));
        made.map_err(|e| Fault::new(FaultCode::File, NOT_LOOKED_AT, chain(&e)))?;
        let to = format!("{}/opened.db", paths::ETCD_SCRATCH);
        // Not kept: that it opens is what was asked.
        verify::opened(&ctx.host, &etcdutl, &sealed, &manifest, keys, &to).await?;
    }
    ctx.out.show(&Verified {
        manifest,
        opened: key.is_some(),
    });
    Ok(Exit::Ok)
}

/// The directory of the backups, and this one of them or the newest.
async fn on_the_shelf(ctx: &Context, named: Option<&String>) -> Result<(String, String), Fault> {
    let what = NOT_LOOKED_AT;
    let view = super::view(ctx, what).await?;
    let newest = view.backups.last().map(|b| &b.name);
    let which = named.or(newest).cloned().ok_or_else(|| {
        let fault = Fault::new(FaultCode::NotFound, what, "there is none on this master");
        fault.fix("pf9ctl etcd backup")
    })?;
    Ok((view.dir, which))
}

/// As it is found from elsewhere.
fn absolute(file: &Path) -> Result<String, Fault> {
    let bad = |why: String| Fault::new(FaultCode::Usage, NOT_LOOKED_AT, why);
    let path = std::path::absolute(file).map_err(|e| bad(e.to_string()))?;
    let text = path.into_os_string().into_string();
    text.map_err(|_| bad("its path is no UTF-8".to_owned()))
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
