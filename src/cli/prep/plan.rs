//! `node prep --dry-run`: everything that a run would do now, in its order, and nothing else.

use serde::Serialize;

use super::fix::Fix;
use crate::cli::output::{Ink, Screen, Show};
use crate::model::{HostId, paths};

/// What a run would do.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    /// Why it would stop before anything is changed.
    pub(super) refused: Option<String>,
    /// What `--fix` puts right first.
    pub(super) fixes: Vec<Fix>,
    /// What follows.
    pub(super) steps: Vec<Step>,
}

/// One thing that is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub(super) enum Step {
    /// By systemd-sysusers and systemd-tmpfiles.
    UsersAndDirectories,
    /// Root's key to order with.
    MakeOrderKey,
    /// With the token, which is used up.
    Enrol {
        /// Where.
        plane: String,
        /// The host to prepare as; absent: a new host.
        host_id: Option<HostId>,
    },
    /// The identity that comes of it.
    Write {
        /// Files, and directories of files.
        paths: Vec<&'static str>,
    },
    /// Starts at boot.
    Enable {
        /// Which.
        unit: &'static str,
    },
    /// Is started, if it does not run.
    Start {
        /// Which.
        unit: &'static str,
    },
    /// Is restarted: it had another identity in memory.
    Restart {
        /// Which.
        unit: &'static str,
    },
    /// Until the tunnel is up and the plane has a report.
    Wait {
        /// At most so long.
        seconds: u64,
    },
}

/// What an enrolment writes.
pub(super) const WRITES: [&str; 9] = [
    paths::HOST_ID,
    paths::TRUST_DIR,
    paths::TRUST_VERSION,
    paths::MACHINE,
    paths::ENDPOINTS,
    paths::PLANE_CA,
    paths::HOST_KEY,
    paths::HOST_CERT,
    paths::ORDER_KEY,
];

impl Step {
    fn words(&self) -> String {
        match self {
            Self::UsersAndDirectories => {
                "create missing users and directories (systemd-sysusers, systemd-tmpfiles)"
                    .to_owned()
            }
            Self::MakeOrderKey => format!("generate the order key of root: {}", paths::ORDER_KEY),
            Self::Enrol {
                plane,
                host_id: Some(id),
            } => format!("enrol with {plane} as host {id}; the token is used up"),
            Self::Enrol {
                plane,
                host_id: None,
            } => format!("enrol with {plane} as a new host; the token is used up"),
            Self::Write { paths } => format!("write {}", paths.join(", ")),
            Self::Enable { unit } => format!("enable {unit}"),
            Self::Start { unit } => format!("start {unit}, if it does not run"),
            Self::Restart { unit } => format!("start {unit} (again, if it runs)"),
            Self::Wait { seconds } => {
                format!(
                    "wait until the plane has accepted a status of this host, at most {seconds} s"
                )
            }
        }
    }
}

impl Show for Plan {
    fn screen(&self, width: usize) -> Screen {
        let mut screen = Screen::default();
        screen.gap();
        for fix in &self.fixes {
            screen.row(
                "fix",
                Ink::Warn,
                &format!("{}: {}", fix.name(), fix.does()),
                width,
            );
            screen.row("  undo", Ink::Dim, &fix.undo(), width);
        }
        for (n, step) in self.steps.iter().enumerate() {
            screen.row(&format!("{:>4}", n + 1), Ink::Plain, &step.words(), width);
        }
        screen.gap();
        let (ink, text) = match &self.refused {
            Some(why) => (Ink::Bad, format!("  Nothing would be done: {why}")),
            None => (
                Ink::Bold,
                "  Nothing was changed, and the token was not used.".to_owned(),
            ),
        };
        for (n, part) in crate::cli::output::wrap(&text, width)
            .into_iter()
            .enumerate()
        {
            let part = if n == 0 { part } else { format!("  {part}") };
            screen.line([(ink, part)]);
        }
        screen.gap();
        screen
    }
}
