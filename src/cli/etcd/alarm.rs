//! `etcd alarm`: which alarms are raised, what they mean, and what is done about them.

use clap::Parser;
use serde::Serialize;

use super::super::context::CommandContext;
use super::super::output::{Ink, Screen, Show};
use crate::app::Exit;
use crate::model::{EtcdAlarm, Fault, FaultCode};

#[derive(Debug, Parser)]
pub(in super::super) struct AlarmArgs {
    /// Do now what is due about it: compact, defragment, or take back an alarm whose cause is gone.
    #[arg(long)]
    pub(in super::super) heal: bool,
    /// One JSON value instead of lines for people.
    #[arg(long)]
    pub(in super::super) json: bool,
}

/// What is raised, and what a person has to know.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in super::super) struct Raised {
    pub(in super::super) alarms: Vec<EtcdAlarm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in super::super) fault: Option<Fault>,
}

pub(super) async fn run(ctx: &CommandContext, args: &AlarmArgs) -> Result<Exit, Fault> {
    if args.heal {
        let said = super::order(ctx, "alarm", &serde_json::json!({}), "free space in etcd").await?;
        return Ok(super::ended(ctx, said));
    }
    let what = "cannot show etcd's alarms";
    let Some(etcd) = super::view(ctx, what).await?.etcd else {
        let why = "this host has no member of etcd";
        return Err(Fault::new(FaultCode::NoMaster, what, why));
    };
    let raised = Raised {
        alarms: etcd.alarms,
        fault: etcd.fault,
    };
    ctx.out.show(&raised);
    Ok(match raised.alarms.is_empty() {
        true => Exit::Ok,
        false => Exit::Failed,
    })
}

impl Show for Raised {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        if self.alarms.is_empty() {
            screen.row("alarms", Ink::Good, "none is raised", width);
        }
        for alarm in &self.alarms {
            let text = format!("{} of member {}", alarm.alarm, alarm.member);
            screen.row("alarm", Ink::Bad, &text, width);
        }
        if let Some(fault) = &self.fault {
            screen.row("", Ink::Bad, &fault.to_string(), width);
        }
        screen.gap();
        screen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_raised_is_shown_with_the_way_out() {
        let none = Raised {
            alarms: Vec::new(),
            fault: None,
        };
        let text = |raised: &Raised| raised.screen(80).text(false);
        assert!(text(&none).contains("none is raised"));
        let full = Raised {
            alarms: vec![EtcdAlarm {
                member: "beef".into(),
                alarm: "NOSPACE".into(),
            }],
            fault: Some(Fault::new(FaultCode::EtcdNoSpace, "etcd is full", "16 MiB").fix("delete")),
        };
        let shown = text(&full);
        for word in ["NOSPACE of member beef", "etcd is full", "delete"] {
            assert!(shown.contains(word), "{shown}");
        }
    }
}
