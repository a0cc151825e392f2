//! What the three rolls have in common on the command line: of a stack ([`super::upgrade`]), of a distribution's updates
//! ([`super::os_update`]), of the agent ([`super::agent`]).

use clap::{Args, ValueEnum};
use http::Method;
use serde::Serialize;
use serde_json::Value;

use super::{State, cell, put, text};
use crate::admin;
use crate::rolls::{MaxUnavailable, Window};
use pf9_hostagent::model::{Fault, FaultCode};

/// Verbs on an existing roll.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Verb {
    /// How far it is.
    Status,
    /// No other node starts; running ones finish.
    Pause,
    /// Continues after a pause or a stop: a new attempt of those that failed.
    Resume,
    /// Ends it where it is: finished ones keep what is new, the others what they have.
    Cancel,
    /// Everything goes back to what it had, in reverse order; within 7 days. Updates of a distribution have no way back.
    Back,
}

/// How a roll goes, whatever it brings about.
#[derive(Debug, Args)]
pub(super) struct Pace {
    /// Hosts that change at a time: a number, or a share of them like 10%. Never two zones, or two masters of a cluster,
    /// at once.
    #[arg(long, value_name = "N|P%")]
    pub(super) max_unavailable: Option<MaxUnavailable>,
    /// Seconds that a host has to prove itself healthy before it rolls back.
    #[arg(long, value_name = "S")]
    pub(super) prove: Option<u32>,
    /// The maintenance window from now on, e.g. "sat,sun 22:00 4h" (UTC): nothing starts outside it.
    #[arg(long, value_name = "DAYS START LENGTH")]
    pub(super) window: Option<Window>,
    /// Start at any time, whatever the window.
    #[arg(long)]
    pub(super) any_time: bool,
    /// A blocking finding that you accept; several times for several.
    #[arg(long, value_name = "ID")]
    pub(super) despite: Vec<String>,
}

/// A request about a roll.
pub(super) struct Ask<'a> {
    /// Its path.
    pub(super) at: &'a str,
    pub(super) verb: Option<Verb>,
    pub(super) plan: bool,
    /// Without a verb it starts a roll.
    pub(super) begins: bool,
    pub(super) json: bool,
    pub(super) state: &'a State,
}

impl Ask<'_> {
    /// Sends it, and shows the answer: a plan with the first of `screens`, anything else with the second.
    pub(super) async fn run(
        self,
        wanted: &impl Serialize,
        screens: [fn(&Value) -> String; 2],
    ) -> Result<(), Fault> {
        let turn = |verb: &str| (Method::POST, format!("{}/{verb}", self.at));
        let (method, path) = match self.verb {
            None if self.plan => turn("plan"),
            None if self.begins => (Method::POST, self.at.to_owned()),
            None | Some(Verb::Status) => (Method::GET, self.at.to_owned()),
            Some(Verb::Pause) => turn("pause"),
            Some(Verb::Resume) => turn("resume"),
            Some(Verb::Cancel) => turn("cancel"),
            Some(Verb::Back) => turn("back"),
        };
        let body = body(wanted)?;
        let answer = admin::ask(&self.state.state_dir, method, &path, &body).await?;
        let [plan, status] = screens;
        let shown = match (self.json, self.plan) {
            (true, _) => format!("{answer:#}\n"),
            (false, true) => plan(&answer),
            (false, false) => status(&answer),
        };
        put(None, &shown)
    }
}

/// A request's body.
pub(super) fn body(value: &impl Serialize) -> Result<Value, Fault> {
    serde_json::to_value(value)
        .map_err(|e| Fault::new(FaultCode::OutputFailed, "cannot ask", e.to_string()))
}

/// The rows of a list in an answer.
pub(super) fn rows<'a>(answer: &'a Value, at: &str) -> impl Iterator<Item = &'a Value> {
    let list = answer.pointer(at).and_then(Value::as_array);
    list.into_iter().flatten()
}

/// A plan's findings, and whether the roll would start.
pub(super) fn findings(answer: &Value) -> String {
    let mut out = String::new();
    for finding in rows(answer, "/findings") {
        out.push_str(&format!(
            "\n{} [{}] {}: {}\n    {}\n",
            cell(finding, "weight"),
            cell(finding, "id"),
            text(finding, "what"),
            text(finding, "why"),
            text(finding, "fix"),
        ));
    }
    out.push_str(match answer["begins"] == true {
        true => "\nno check blocks it\n",
        false => "\nit does not start; a blocking finding that you accept is overruled with --despite ID\n",
    });
    out
}

/// When nodes or hosts may start, and whether they may now.
pub(super) fn window(answer: &Value) -> Option<String> {
    let window = answer["window"].as_str()?;
    let open = match answer["windowIsOpen"] == true {
        true => "open",
        false => "not open",
    };
    Some(format!("{window} ({open})"))
}

/// Why it is stopped, if it is.
pub(super) fn why(roll: &Value) -> String {
    fault(&roll["why"])
}

/// A fault of an answer, if it is one.
pub(super) fn fault(fault: &Value) -> String {
    if !fault.is_object() {
        return String::new();
    }
    let [what, because, fix] = ["what", "why", "fix"].map(|at| text(fault, at));
    format!("{what}: {because}\n    {fix}\n")
}

/// The head of an aligned table.
pub(super) fn heads<const N: usize>(heads: [&str; N]) -> Vec<Vec<String>> {
    vec![heads.map(str::to_owned).to_vec()]
}
