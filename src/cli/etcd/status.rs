//! `etcd status`: the member, its backups, what is wrong.

use clap::Parser;
use serde::Serialize;

use super::super::context::CommandContext;
use super::super::output::{Ink, Screen, Show};
use super::super::words::{ago, bytes, until};
use crate::app::Exit;
use crate::model::{ArchiveStatus, EtcdStatus, EtcdView, Fault, FaultCode, Timestamp};

#[derive(Debug, Parser)]
pub(in super::super) struct StatusArgs {
    /// One JSON value instead of a screen.
    #[arg(long)]
    pub(in super::super) json: bool,
}

/// What the keeper knows, and when it was asked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in super::super) struct Report {
    pub(in super::super) taken_at: Timestamp,
    #[serde(flatten)]
    pub(in super::super) etcd: EtcdStatus,
}

pub(super) async fn run(ctx: &CommandContext) -> Result<Exit, Fault> {
    let what = "cannot show etcd";
    let EtcdView { etcd, .. } = super::view(ctx, what).await?;
    let Some(etcd) = etcd else {
        let why = "this host has no member of etcd";
        return Err(Fault::new(FaultCode::NoMaster, what, why));
    };
    let report = Report {
        taken_at: ctx.now(),
        etcd,
    };
    ctx.out.show(&report);
    Ok(match report.well() {
        true => Exit::Ok,
        false => Exit::Failed,
    })
}

impl Report {
    fn well(&self) -> bool {
        let EtcdStatus {
            fault,
            alarms,
            backups,
            ..
        } = &self.etcd;
        fault.is_none() && alarms.is_empty() && !backups.stale && backups.failing.is_none()
    }
}

impl Show for Report {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        self.members(&mut screen, width);
        self.backups(&mut screen, width);
        if let Some(drill) = &self.etcd.drill {
            let (ink, how) = match &drill.fault {
                None => (Ink::Good, format!("{} keys were restored", drill.keys)),
                Some(fault) => (Ink::Bad, fault.to_string()),
            };
            let age = ago(self.taken_at, drill.at);
            screen.row("drill", ink, &format!("{age}: {how}"), width);
        }
        if let Some(fault) = &self.etcd.drill_failing {
            let how = format!("the one that is due cannot run: {}", fault.why);
            screen.row("drill", Ink::Warn, &how, width);
        }
        if let Some(chore) = &self.etcd.chore {
            screen.row("now", Ink::Bold, chore, width);
        }
        screen.gap();
        screen
    }
}

impl Report {
    fn members(&self, screen: &mut Screen, width: usize) {
        let etcd = &self.etcd;
        match &etcd.fault {
            None => screen.row("member", Ink::Good, &self.member(), width),
            Some(fault) => screen.row("member", Ink::Bad, &fault.to_string(), width),
        }
        for member in &etcd.members {
            let kind = match member.learner {
                true => "learner",
                false => "member",
            };
            let name = match member.name.is_empty() {
                true => "not started yet",
                false => &member.name,
            };
            let leads = match etcd.leader.as_ref() == Some(&member.id) {
                true => ", leads",
                false => "",
            };
            let text = format!("{kind} {} {name}{leads}", member.id);
            screen.row("", Ink::Plain, &text, width);
        }
        if etcd.db_bytes > 0 {
            screen.row("database", Ink::Plain, &self.database(), width);
        }
        for warning in &etcd.warnings {
            screen.row("", Ink::Warn, &warning.to_string(), width);
        }
        for alarm in &etcd.alarms {
            let text = format!("{} of member {}", alarm.alarm, alarm.member);
            screen.row("alarm", Ink::Bad, &text, width);
        }
    }

    fn backups(&self, screen: &mut Screen, width: usize) {
        let (backups, now) = (&self.etcd.backups, self.taken_at);
        match &backups.last {
            None => screen.row("backup", Ink::Warn, "there is none", width),
            Some(last) => {
                let ink = match backups.stale {
                    true => Ink::Bad,
                    false => Ink::Good,
                };
                let (age, takes) = (ago(now, last.taken_at), bytes(last.sealed_bytes));
                let text = format!("{age}, {takes}, revision {}: {}", last.revision, last.name);
                screen.row("backup", ink, &text, width);
                let all = format!("{} of {}", backups.count, bytes(backups.bytes));
                screen.row("all", Ink::Plain, &all, width);
            }
        }
        if let Some(failing) = &backups.failing {
            screen.row("failed", Ink::Bad, &failing.to_string(), width);
        }
        if let Some(next) = backups.next_at {
            screen.row("next", Ink::Plain, &until(now, next), width);
        }
        if let Some(archive) = &backups.archive {
            screen.row("archive", Ink::Plain, &second_place(archive), width);
            if let Some(failing) = &archive.failing {
                screen.row("failed", Ink::Bad, &failing.to_string(), width);
            }
        }
    }

    fn member(&self) -> String {
        let etcd = &self.etcd;
        let mut words = vec!["healthy".to_owned()];
        if !etcd.version.is_empty() {
            let stored = etcd.storage_version.as_ref();
            let stored = stored.map_or(String::new(), |v| format!(" (data of {v})"));
            words.push(format!("etcd {}{stored}", etcd.version));
        }
        if !etcd.member_id.is_empty() {
            words.push(format!(
                "member {} of cluster {}",
                etcd.member_id, etcd.cluster_id
            ));
        }
        if etcd.term > 0 {
            words.push(format!("term {}", etcd.term));
        }
        words.join(", ")
    }

    fn database(&self) -> String {
        let etcd = &self.etcd;
        let quota = match etcd.quota_bytes {
            0 => String::new(),
            quota => format!(" of {}", bytes(quota)),
        };
        let (all, used) = (bytes(etcd.db_bytes), bytes(etcd.db_in_use_bytes));
        let fsync = etcd.fsync_p99_us.map_or(String::new(), |us| {
            format!(", log synced within {} ms", us.div_ceil(1000))
        });
        format!("{all}{quota}, {used} in use{fsync}")
    }
}

fn second_place(archive: &ArchiveStatus) -> String {
    match &archive.last {
        None => format!("{}: no backup is known there", archive.place),
        Some(last) => format!(
            "{}: {} of {}, the newest {last}",
            archive.place,
            archive.count,
            bytes(archive.bytes)
        ),
    }
}
