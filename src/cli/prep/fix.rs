//! What `node prep --fix` may change on a machine: a closed list, each with a name, what it does, and the command that
//! takes it back. Everything else is a person's to decide.
//!
//! ```text
//! checks that found something ─► fixes (pure) ─► shown, asked ─► run, one by one ─► looked at again
//! ```
//!
//! Each is done wholly or found undone by the next run: what to do follows from what is seen.

use std::time::Duration;

use serde::Serialize;

use crate::cli::args::PrepArgs;
use crate::cli::context::CommandContext;
use crate::cli::output::Ink;
use crate::host::exec::{self, Cmd};
use crate::host::fs::{Attrs, Found, FsError};
use crate::host::kernel::Kernel;
use crate::model::{Fault, FaultCode};
use crate::preflight::{CheckOutcome, MachineFacts, Report};
use crate::telemetry::chain;

/// Turning off swap brings its pages back into memory.
const SWAP_OFF: Duration = Duration::from_secs(120);
/// Asking a service.
const TOOL: Duration = Duration::from_secs(20);
/// File systems of a machine.
const FSTAB: &str = "/etc/fstab";
/// A page.
const FSTAB_MAX: u64 = 256 * 1024;
/// What stands before a line of it that is taken out.
const MARK: &str = "# pf9ctl node prep: ";
/// Kernel parameters for the next boot; before the node's own, which win.
const SYSCTL: &str = "/etc/sysctl.d/80-pf9-prep.conf";

/// One thing that is put right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "fix", rename_all = "kebab-case")]
pub(super) enum Fix {
    /// Swap off, now and at the next boot.
    Swap {
        /// Its areas.
        areas: Vec<String>,
    },
    /// A time service keeps the clock.
    Clock,
    /// The kernel gives more away.
    Limits {
        /// Key, value before, value wanted.
        settings: Vec<(String, u64, u64)>,
    },
}

/// What can be put right of what the checks found; those that are left out are not.
pub(super) fn fixes(facts: &MachineFacts, report: &Report) -> Vec<Fix> {
    let found = |id: &str| {
        let mut odd = report
            .checks
            .iter()
            .filter(|c| c.outcome >= CheckOutcome::Warn);
        odd.any(|c| c.id == id)
    };
    let mut all = Vec::new();
    // A compressed one in memory comes again at boot by a service of its own: which, a person knows.
    if found("swap") && facts.swaps.iter().all(|area| !area.contains("zram")) {
        all.push(Fix::Swap {
            areas: facts.swaps.clone(),
        });
    }
    if found("clock") && facts.clock_keeper.is_none() {
        all.push(Fix::Clock);
    }
    let settings = facts.limits.too_low();
    if found("limits") && !settings.is_empty() {
        let settings = settings
            .into_iter()
            .map(|(k, was, want)| (k.to_owned(), was, want));
        all.push(Fix::Limits {
            settings: settings.collect(),
        });
    }
    all
}

impl Fix {
    /// The check that it is for.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Swap { .. } => "swap",
            Self::Clock => "clock",
            Self::Limits { .. } => "limits",
        }
    }

    /// What is done, as text.
    pub(super) fn does(&self) -> String {
        match self {
            Self::Swap { areas } => {
                format!(
                    "turn off swap ({}) and remove it from {FSTAB}",
                    areas.join(", ")
                )
            }
            Self::Clock => "let systemd-timesyncd (or its substitute) keep the clock".to_owned(),
            Self::Limits { settings } => {
                let set: Vec<String> = settings
                    .iter()
                    .map(|(k, _, v)| format!("{k}={v}"))
                    .collect();
                format!("set {} now, and in {SYSCTL}", set.join(" "))
            }
        }
    }

    /// What takes it back.
    pub(super) fn undo(&self) -> String {
        match self {
            Self::Swap { .. } => format!("sed -i 's/^{MARK}//' {FSTAB} && swapon -a"),
            Self::Clock => "timedatectl set-ntp false".to_owned(),
            Self::Limits { settings } => {
                let set: Vec<String> = settings
                    .iter()
                    .map(|(k, v, _)| format!("{k}={v}"))
                    .collect();
                format!("rm {SYSCTL} && sysctl -w {}", set.join(" "))
            }
        }
    }

    /// Does it.
    pub(super) async fn run(&self, ctx: &CommandContext) -> Result<(), Fault> {
        let fault = |why: String| {
            let what = format!("cannot fix {}", self.name());
            let fix = format!("do it by hand ({}), then run this again", self.does());
            Fault::new(FaultCode::Files, what, why).fix(fix)
        };
        let tool = |name: &str, deadline| Cmd::new(exec::program(&ctx.host, name), deadline);
        match self {
            Self::Swap { areas } => {
                // The file first: what is interrupted between the two comes again and is done again.
                without_swap(ctx).map_err(|e| fault(chain(&e)))?;
                for area in areas {
                    let done = exec::run(tool("swapoff", SWAP_OFF).arg(area)).await;
                    done.map_err(|e| fault(chain(&e)))?;
                }
            }
            Self::Clock => {
                let cmd = tool("timedatectl", TOOL).args(["set-ntp", "true"]);
                exec::run(cmd).await.map_err(|e| fault(chain(&e)))?;
            }
            Self::Limits { settings } => {
                let lines = settings
                    .iter()
                    .map(|(k, was, v)| format!("# was {was}\n{k} = {v}\n"));
                let text = format!(
                    "# Written by pf9ctl node prep --fix.\n{}",
                    lines.collect::<String>()
                );
                ctx.host
                    .write(SYSCTL, text.as_bytes(), &Attrs::mode(0o644))
                    .map_err(|e| fault(chain(&e)))?;
                let kernel = Kernel::new(ctx.host.clone());
                for (key, _, value) in settings {
                    let set = kernel.set_sysctl(key, &value.to_string());
                    set.map_err(|e| fault(chain(&e)))?;
                }
            }
        }
        Ok(())
    }
}

/// What `--fix` may, after it was shown and agreed to.
pub(super) async fn put_right(
    ctx: &CommandContext,
    args: &PrepArgs,
    fixes: &[Fix],
) -> Result<(), Fault> {
    if fixes.is_empty() {
        return Ok(());
    }
    for fix in fixes {
        let text = format!("{}: {}; undo: {}", fix.name(), fix.does(), fix.undo());
        ctx.out.step(Ink::Plain, &text);
    }
    let agreed = args.yes || !args.no_prompt && ctx.out.can_ask() && ctx.out.ask("Fix that?");
    if !agreed {
        let asked = !args.no_prompt && ctx.out.can_ask();
        let what = "this machine is not prepared";
        return Err(match asked {
            true => Fault::new(FaultCode::Interrupted, what, "the answer was no"),
            false => Fault::new(
                FaultCode::Usage,
                what,
                "--fix changes the machine, and there is no terminal to ask on",
            )
            .fix("give --yes to go ahead"),
        });
    }
    for fix in fixes {
        ctx.out.waiting(&fix.does());
        fix.run(ctx).await?;
        ctx.out.step(Ink::Good, &format!("fixed: {}", fix.name()));
    }
    Ok(())
}

/// The lines of swap areas become comments; the file's mode stays, and so does every other line.
fn without_swap(ctx: &CommandContext) -> Result<(), FsError> {
    let Some(text) = ctx.host.read_text(FSTAB, FSTAB_MAX)? else {
        return Ok(());
    };
    let new = commented(&text);
    if new == text {
        return Ok(());
    }
    let mode = match ctx.host.found(FSTAB)? {
        Found::File { mode, .. } => mode,
        Found::Nothing | Found::Dir { .. } | Found::Link(_) | Found::Other => 0o644,
    };
    ctx.host.write(FSTAB, new.as_bytes(), &Attrs::mode(mode))
}

fn commented(fstab: &str) -> String {
    let line = |line: &str| {
        let is_swap =
            !line.trim_start().starts_with('#') && line.split_whitespace().nth(2) == Some("swap");
        match is_swap {
            true => format!("{MARK}{line}"),
            false => line.to_owned(),
        }
    };
    fstab.split_inclusive('\n').map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What is said to take it back does: only marks come, and only before lines of swap.
        #[test]
        fn a_table_of_file_systems_is_as_before_without_the_marks(
            lines in prop::collection::vec("(# )?[a-z/=]{1,8}[ \t][a-z/]{1,8}[ \t](swap|ext4|xfs)[ \t]defaults 0 0", 0..8)
        ) {
            let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
            let new = commented(&text);
            let back: String = new
                .split_inclusive('\n')
                .map(|l| l.strip_prefix(MARK).unwrap_or(l))
                .collect();
            prop_assert_eq!(back, text);
            let left = new.lines().filter(|l| !l.starts_with('#'));
            prop_assert!(left.into_iter().all(|l| l.split_whitespace().nth(2) != Some("swap")));
            prop_assert_eq!(commented(&new), new);
        }
    }
}
