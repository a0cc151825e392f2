//! `etcd list`: every backup on this master and, for root, in the archive; which are where.

use std::collections::BTreeMap;

use clap::Parser;
use serde::Serialize;

use super::super::context::CommandContext;
use super::super::output::{Ink, Screen, Show};
use super::super::words::{ago, bytes};
use crate::app::Exit;
use crate::backup::shelf;
use crate::model::{Archived, BackupInfo, ChoreAnswer, Fault, FaultCode, HostId, Timestamp};

#[derive(Debug, Parser)]
pub(in super::super) struct ListArgs {
    /// Only those on this master: the archive is not asked.
    #[arg(long)]
    here: bool,
    /// One JSON value instead of a table.
    #[arg(long)]
    pub(in super::super) json: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct List {
    taken_at: Timestamp,
    /// Newest first.
    backups: Vec<Row>,
    /// The archive, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    archive: Option<String>,
    /// Why it was not asked, or did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    archive_fault: Option<Fault>,
}

/// One backup, wherever it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Row {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    taken_at: Option<Timestamp>,
    bytes: u64,
    /// What is known of the one on this master.
    #[serde(skip_serializing_if = "Option::is_none")]
    here: Option<BackupInfo>,
    /// The masters in whose part of the archive it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    archived: Vec<HostId>,
}

pub(super) async fn run(ctx: &CommandContext, args: &ListArgs) -> Result<Exit, Fault> {
    let what = "cannot show the backups";
    let view = super::view(ctx, what).await?;
    let (archived, archive_fault) = match (&view.archive, args.here) {
        (None, _) | (_, true) => (Vec::new(), None),
        (Some(_), false) if ctx.uid != 0 => (Vec::new(), Some(not_root())),
        (Some(place), false) => {
            ctx.out.waiting(&format!("asking {}", place.target));
            match archived(ctx).await {
                Ok(archived) => (archived, None),
                // What is here is shown anyway: it may be all that is left.
                Err(fault) => (Vec::new(), Some(fault)),
            }
        }
    };
    ctx.out.show(&List {
        taken_at: ctx.now(),
        backups: rows(view.backups, archived),
        archive: view
            .archive
            .filter(|_| !args.here)
            .map(|a| a.target.to_string()),
        archive_fault,
    });
    Ok(Exit::Ok)
}

async fn archived(ctx: &CommandContext) -> Result<Vec<Archived>, Fault> {
    let what = "list the backup archive";
    let said = super::order(ctx, "archive", &serde_json::json!({}), what).await?;
    match serde_json::from_value::<ChoreAnswer>(said) {
        Ok(answer) => Ok(answer.archived),
        Err(_) => {
            let why = "it takes long, or another etcd task is running";
            Err(Fault::new(FaultCode::Busy, format!("cannot {what}"), why).fix("try again later"))
        }
    }
}

fn not_root() -> Fault {
    let what = "the archive is not shown";
    Fault::new(FaultCode::NotAllowed, what, "only root may ask it").fix("use sudo")
}

fn rows(here: Vec<BackupInfo>, archived: Vec<Archived>) -> Vec<Row> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for backup in here {
        let row = rows.entry(backup.name.clone()).or_default();
        (row.taken_at, row.bytes) = (Some(backup.taken_at), backup.sealed_bytes);
        row.here = Some(backup);
    }
    for backup in archived {
        let row = rows.entry(backup.name.clone()).or_default();
        if row.here.is_none() {
            (row.taken_at, row.bytes) = (shelf::taken_at(&backup.name), backup.bytes);
        }
        row.archived.push(backup.host_id);
    }
    let named = rows.into_iter().map(|(name, row)| Row { name, ..row });
    named.rev().collect()
}

impl Row {
    fn places(&self) -> String {
        let hosts: Vec<String> = self.archived.iter().map(HostId::to_string).collect();
        match (&self.here, hosts.as_slice()) {
            (Some(_), []) => "here only".to_owned(),
            (Some(_), _) => "here and in the archive".to_owned(),
            (None, hosts) => format!("only in the archive, of host {}", hosts.join(", ")),
        }
    }
}

impl Show for List {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        for row in &self.backups {
            let age = row
                .taken_at
                .map_or(String::new(), |at| ago(self.taken_at, at));
            let keys = row.here.as_ref().map(|b| b.keys);
            let keys = keys.map_or(String::new(), |keys| format!("{keys} keys"));
            let mut text = format!(
                "  {:<32} {:>10}  {keys:>14}  {age}",
                row.name,
                bytes(row.bytes)
            );
            if self.archive.is_some() {
                text.push_str(&format!(", {}", row.places()));
            }
            screen.line([(Ink::Plain, text)]);
        }
        if self.backups.is_empty() {
            screen.line([(Ink::Warn, "  there is no backup".to_owned())]);
        }
        if let Some(place) = &self.archive {
            screen.row("archive", Ink::Plain, place, width);
        }
        if let Some(fault) = &self.archive_fault {
            screen.row("", Ink::Warn, &fault.to_string(), width);
        }
        screen.gap();
        screen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Digest;

    #[test]
    fn each_is_shown_once_with_where_it_is() {
        let host = HostId(uuid::Uuid::from_u128(7));
        let [old, both, new] = [
            "20261127T100000Z-r1",
            "20261128T100000Z-r2",
            "20261128T110000Z-r3",
        ];
        let here = |name: &str| BackupInfo {
            name: name.into(),
            taken_at: shelf::taken_at(name).expect("time"),
            revision: 2,
            keys: 3,
            sealed_bytes: 5,
            sealed_sha256: Digest::of(b"x"),
            etcd_version: "3.7.3".into(),
        };
        let away = |name: &str| Archived {
            name: name.into(),
            host_id: host,
            bytes: 9,
        };
        let backups = rows(vec![here(both), here(new)], vec![away(old), away(both)]);
        let names: Vec<_> = backups.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, [new, both, old]);
        assert_eq!(backups[2].taken_at, shelf::taken_at(old));
        let list = List {
            taken_at: Timestamp::UNIX_EPOCH,
            backups,
            archive: Some("/mnt/nas".into()),
            archive_fault: Some(not_root()),
        };
        let text = list.screen(120).text(false);
        let places = [
            "here only",
            "here and in",
            &format!("only in the archive, of host {host}"),
        ];
        for (name, place) in [new, both, old].into_iter().zip(places) {
            let line = text.lines().find(|line| line.contains(name));
            assert!(line.is_some_and(|line| line.contains(place)), "{text}");
        }
        assert!(text.contains("only root"), "{text}");
    }
}
