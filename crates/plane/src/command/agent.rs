//! `pf9-plane agent`: its versions, and rolls of the fleet between them.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use semver::Version;
use serde_json::Value;

use super::roll::{Ask, Pace, Verb, body, fault, findings, heads, rows, why, window};
use super::{Listing, State, align, cell, put, seconds, show, text};
use crate::admin;
use crate::agents::http::{Chosen, Wanted};
use crate::agents::repository::Import;
use crate::rolls::{Patches, Window};
use pf9_hostagent::model::{Fault, FaultCode, HostId};

#[derive(Debug, Subcommand)]
pub(super) enum AgentVerb {
    /// Check packages and keep them: a version has one content.
    Import {
        /// The .deb and .rpm files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// They fix a security fault: a fleet whose policy says so is upgraded at once.
        #[arg(long)]
        security: bool,
        #[command(flatten)]
        state: State,
    },
    /// List the imported versions.
    List {
        #[command(flatten)]
        list: Listing,
    },
    /// Remove a version that no host is told to run.
    Remove {
        /// Which.
        version: Version,
        #[command(flatten)]
        state: State,
    },
    /// Upgrade (or downgrade) the fleet to a version, share by share.
    Upgrade(Upgrade),
    /// The fleet's maintenance window, and which patch releases it installs by itself.
    Policy {
        /// Which newer patch releases it installs by itself.
        #[arg(long, value_enum)]
        patches: Option<PatchesChosen>,
        /// Hosts are told only in it, e.g. "sat,sun 22:00 4h" (UTC).
        #[arg(long, value_name = "DAYS START LENGTH")]
        window: Option<Window>,
        /// Remove the window: at any time.
        #[arg(long, conflicts_with = "window")]
        always: bool,
        #[command(flatten)]
        state: State,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum PatchesChosen {
    /// None.
    Off,
    /// Each that is imported, in the window.
    Window,
    /// The same, and those that mend a security fault at once.
    AtOnce,
}

#[derive(Debug, Args)]
pub(super) struct Upgrade {
    /// What to do with the present one; absent, and without --to: status.
    #[arg(value_enum, conflicts_with_all = ["to", "plan"])]
    verb: Option<Verb>,
    /// The version to go to: one that was imported.
    #[arg(long, value_name = "VERSION")]
    to: Option<Version>,
    /// Only show what would be done, in which order, and the findings against it.
    #[arg(long, requires = "to")]
    plan: bool,
    /// Shares of the fleet in percent, one after the other.
    #[arg(long, value_name = "P,P,100", value_delimiter = ',')]
    percent: Vec<u8>,
    /// Only these hosts. They keep that version: patches pass them over until the whole fleet is upgraded. With `back`: only
    /// these return, also if an earlier upgrade changed them.
    #[arg(
        long,
        value_name = "ID,…",
        value_delimiter = ',',
        conflicts_with = "percent"
    )]
    hosts: Vec<HostId>,
    /// Pause between two shares: a number and s, m, h or d.
    #[arg(long, value_name = "D", value_parser = seconds)]
    pause_between: Option<i64>,
    /// Seconds that a host has in all before it counts as lost and the upgrade stops.
    #[arg(long, value_name = "S")]
    report: Option<u32>,
    #[command(flatten)]
    pace: Pace,
    /// As JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: State,
}

impl AgentVerb {
    pub(super) async fn run(self) -> Result<(), Fault> {
        match self {
            Self::Import {
                files,
                security,
                state,
            } => import(state, files, security).await,
            Self::List { list } => {
                let columns = ["version", "packages", "security", "hosts", "imported_at"];
                show(&list, "/agents", &columns).await
            }
            Self::Remove { version, state } => {
                let path = format!("/agents/{version}");
                admin::ask(&state.state_dir, Method::DELETE, &path, &Value::Null).await?;
                put(None, &format!("agent {version} removed\n"))
            }
            Self::Upgrade(upgrade) => upgrade.run().await,
            Self::Policy {
                patches,
                window,
                always,
                state,
            } => {
                let patches = patches.map(|patches| match patches {
                    PatchesChosen::Off => Patches::Off,
                    PatchesChosen::Window => Patches::Window,
                    PatchesChosen::AtOnce => Patches::AtOnce,
                });
                let body = body(&Chosen {
                    patches,
                    window,
                    always,
                })?;
                let answer =
                    admin::ask(&state.state_dir, Method::POST, "/agents/policy", &body).await?;
                put(None, &(policy_line(&answer) + &held(&answer)))
            }
        }
    }
}

async fn import(state: State, files: Vec<PathBuf>, security: bool) -> Result<(), Fault> {
    // The plane has another working directory.
    let paths = files.iter().map(|path| {
        path.canonicalize().map_err(|e| {
            let why = format!("{}: {e}", path.display());
            Fault::new(FaultCode::AgentPackageRefused, "package refused", why)
        })
    });
    let paths = paths.collect::<Result<_, _>>()?;
    let body = Import { paths, security };
    let answer = admin::ask(&state.state_dir, Method::POST, "/agents", &body).await?;
    let lines = answer.as_array().into_iter().flatten().map(|file| {
        let words = ["version", "format", "arch", "sha256"].map(|field| text(file, field));
        format!("{}\n", words.join(" "))
    });
    put(None, &lines.collect::<String>())
}

impl Upgrade {
    async fn run(self) -> Result<(), Fault> {
        let ask = Ask {
            at: "/agents/upgrade",
            verb: self.verb,
            plan: self.plan,
            begins: self.to.is_some(),
            json: self.json,
            state: &self.state,
        };
        let pause = self.pause_between.map(u32::try_from).transpose();
        let pause_seconds = pause.map_err(|_| {
            let why = "--pause-between: it is too long";
            Fault::new(FaultCode::Usage, "cannot ask", why)
        })?;
        let wanted = Wanted {
            to: self.to,
            percent: self.percent,
            hosts: self.hosts,
            pause_seconds,
            max_unavailable: self.pace.max_unavailable,
            prove_seconds: self.pace.prove,
            report_seconds: self.report,
            any_time: self.pace.any_time,
            window: self.pace.window,
            despite: self.pace.despite,
        };
        ask.run(&wanted, [plan_screen, status_screen]).await
    }
}

fn policy_line(answer: &Value) -> String {
    let window = window(answer).unwrap_or_else(|| "any time".into());
    format!("patches: {}; window: {window}\n", cell(answer, "patches"))
}

/// Patches that hosts do not get now, each with why and what to do.
fn held(answer: &Value) -> String {
    rows(answer, "/patchesHeld").map(fault).collect()
}

fn plan_screen(answer: &Value) -> String {
    let shares =
        rows(answer, "/shares").map(|s| format!("{}% ({})", cell(s, "percent"), cell(s, "hosts")));
    let shares: Vec<String> = shares.collect();
    let mut out = format!(
        "agent {}: {} hosts\n\n",
        cell(answer, "to"),
        shares.join(", then ")
    );
    let mut table = heads(["TURN", "HOST", "NAME", "ROLE", "FROM", ""]);
    for host in rows(answer, "/hosts") {
        let mut row = ["turn", "host", "name", "role", "from"]
            .map(|at| cell(host, at))
            .to_vec();
        row.push(match (&host["leftOut"], &host["away"]) {
            (left, _) if left.is_object() => format!("skipped: {}", text(left, "why")),
            (_, away) if *away == true => "away: it catches up when it is back".into(),
            _ => String::new(),
        });
        table.push(row);
    }
    out.push_str(&align(&table));
    out + &findings(answer)
}

fn status_screen(answer: &Value) -> String {
    let roll = &answer["upgrade"];
    let mut out = policy_line(answer) + &held(answer);
    if !roll.is_object() {
        return out + "this plane never upgraded agents\n";
    }
    out.push_str(&format!(
        "to agent {}: {}, at {}%; {} of {} hosts done, {} under way, {} failed, {} skipped, since {}\n",
        cell(roll, "to"),
        cell(roll, "state"),
        cell(roll, "share"),
        cell(roll, "done"),
        cell(roll, "of"),
        cell(roll, "underWay"),
        cell(roll, "failed"),
        cell(roll, "leftOut"),
        cell(roll, "beganAt"),
    ));
    out.push_str(&why(roll));
    let mut table = heads(["HOST", "NAME", "RUNS", ""]);
    for host in rows(roll, "/hosts") {
        let mut row = ["host", "name", "runs"].map(|at| cell(host, at)).to_vec();
        row.push(text(host, "words").to_owned());
        table.push(row);
    }
    out + "\n" + &align(&table)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_plan_names_every_host_and_every_finding() {
        let answer = json!({
            "to": "0.2.0", "shares": [{"percent": 10, "hosts": 1}, {"percent": 100, "hosts": 2}],
            "hosts": [{"turn": 1, "host": "h1", "name": "a", "role": "none", "from": "0.1.0", "away": false, "leftOut": null},
                      {"turn": 2, "host": "h2", "name": "b", "role": "master", "from": null, "away": true, "leftOut": null}],
            "findings": [{"id": "previous", "weight": "blocks", "what": "no package", "why": "h1", "fix": "import it"}],
            "begins": false,
        });
        assert_eq!(
            plan_screen(&answer),
            "agent 0.2.0: 10% (1), then 100% (2) hosts\n\nTURN  HOST  NAME  ROLE    FROM\n1     h1    a     none    \
             0.1.0\n2     h2    b     master  -      away: it catches up when it is back\n\nblocks [previous] no \
             package: h1\n    import it\n\nit does not start; a blocking finding that you accept is overruled with \
             --despite ID\n"
        );
    }

    #[test]
    fn the_status_shows_every_state_and_why_it_stopped() {
        let answer = json!({
            "window": "sat 22:00 4h", "windowIsOpen": false, "patches": "off",
            "upgrade": {"to": "0.2.0", "state": "stopped", "share": 10, "done": 1, "of": 3, "underWay": 0, "failed": 1,
                "leftOut": 0, "beganAt": "t", "why": {"what": "it is stopped", "why": "host h2", "fix": "resume"},
                "hosts": [{"host": "h1", "name": "a", "runs": "0.2.0", "words": "done"},
                          {"host": "h2", "name": "b", "runs": "0.1.0", "words": "put-back: no tunnel"}]},
        });
        assert_eq!(
            status_screen(&answer),
            "patches: off; window: sat 22:00 4h (not open)\n\
             to agent 0.2.0: stopped, at 10%; 1 of 3 hosts done, 0 under way, 1 failed, 0 skipped, since t\n\
             it is stopped: host h2\n    resume\n\n\
             HOST  NAME  RUNS\n\
             h1    a     0.2.0  done\n\
             h2    b     0.1.0  put-back: no tunnel\n"
        );
        let quiet = json!({"window": null, "patches": "window", "upgrade": null});
        let want = "patches: window; window: any time\nthis plane never upgraded agents\n";
        assert_eq!(status_screen(&quiet), want);
        let held = json!({"window": null, "patches": "window", "upgrade": null,
            "patchesHeld": [{"what": "agent 0.2.1 is held", "why": "a package is missing", "fix": "import it"}]});
        let want = "patches: window; window: any time\nagent 0.2.1 is held: a package is missing\n    import it\n\
                    this plane never upgraded agents\n";
        assert_eq!(status_screen(&held), want);
    }
}
