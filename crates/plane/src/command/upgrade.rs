//! `pf9-plane cluster upgrade`: the plan, the start, and the verbs on a running one.

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::roll::{Ask, Pace, Verb, fault, findings, heads, rows, why, window};
use super::{State, align, cell, text};
use crate::rolls::http::Wanted;
use pf9_hostagent::model::{AfterDrain, Fault};

#[derive(Debug, Args)]
pub(super) struct Upgrade {
    /// Name or id of the cluster.
    name: String,
    /// What to do with the present one; absent, and without --to: status.
    #[arg(value_enum, conflicts_with_all = ["to", "plan"])]
    verb: Option<Verb>,
    /// Version of the stack to go to: of the same minor of Kubernetes, or of the next.
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    /// Only show what would be done, in which order, and the findings against it.
    #[arg(long, requires = "to")]
    plan: bool,
    #[command(flatten)]
    how: How,
    /// As JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: State,
}

/// Options of a roll over a cluster, of either kind.
#[derive(Debug, Args)]
pub(super) struct How {
    #[command(flatten)]
    pace: Pace,
    /// Seconds that the pods of a node have to be evicted.
    #[arg(long, value_name = "S")]
    drain_timeout: Option<u32>,
    /// What to do with a node whose pods are not evicted in time.
    #[arg(long, value_enum)]
    then: Option<Then>,
    /// Before a node is proven a pod of the stack's busybox has to be Ready on it.
    #[arg(long)]
    probe: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Then {
    /// The node stays as it is, and the upgrade stops.
    Stop,
    /// It goes on waiting, and says for what.
    Wait,
    /// What is left is deleted.
    Force,
}

impl Upgrade {
    pub(super) async fn run(self) -> Result<(), Fault> {
        let at = format!("/clusters/{}/upgrade", self.name);
        let ask = Ask {
            at: &at,
            verb: self.verb,
            plan: self.plan,
            begins: self.to.is_some(),
            json: self.json,
            state: &self.state,
        };
        let wanted = Wanted {
            to: self.to,
            ..self.how.wanted()
        };
        ask.run(&wanted, [plan_screen, status_screen]).await
    }
}

impl How {
    /// The request's form.
    pub(super) fn wanted(self) -> Wanted {
        let then = self.then.map(|then| match then {
            Then::Stop => AfterDrain::Stop,
            Then::Wait => AfterDrain::Wait,
            Then::Force => AfterDrain::Force,
        });
        Wanted {
            max_unavailable: self.pace.max_unavailable,
            drain_timeout_seconds: self.drain_timeout,
            then,
            prove_seconds: self.pace.prove,
            any_time: self.pace.any_time,
            probe: self.probe,
            window: self.pace.window,
            despite: self.pace.despite,
            ..Wanted::default()
        }
    }
}

fn plan_screen(answer: &Value) -> String {
    let mut out = format!(
        "cluster {}: stack {} to {} (Kubernetes {})\n{}\n\n",
        cell(answer, "cluster"),
        cell(answer, "from"),
        cell(answer, "to"),
        cell(answer, "kubernetes"),
        text(answer, "order"),
    );
    let mut table = heads(["TURN", "NODE", "ROLE", "ZONE", "FROM", "RESTARTED"]);
    for node in rows(answer, "/nodes") {
        let restarts = rows(node, "/restarts").map(|r| {
            let name = text(r, "component");
            format!("{name} {} to {}", cell(r, "from"), cell(r, "to"))
        });
        let restarts: Vec<String> = restarts.collect();
        let mut row = ["turn", "node", "role", "zone", "from"]
            .map(|at| cell(node, at))
            .to_vec();
        row.push(restarts.join(", "));
        table.push(row);
    }
    out.push_str(&align(&table));
    let transfers = rows(answer, "/transfers").filter_map(|of| transfer(of, text(answer, "to")));
    let transfers: Vec<String> = transfers.collect();
    if !transfers.is_empty() {
        out.push_str(&format!("\n{}", transfers.concat()));
    }
    out + &findings(answer)
}

/// What each node fetches for a stack, if anything.
fn transfer(of: &Value, to: &str) -> Option<String> {
    let mega = |at: &str| format!("{:.1} MB", of[at].as_f64().unwrap_or_default() / 1e6);
    let (from, all) = (cell(of, "from"), mega("archive"));
    let fetched = match text(of, "by") {
        "delta" => format!("{}, the delta, instead of {all}", mega("bytes")),
        "delta-coming" => format!("the delta, which is being built, instead of {all}"),
        "archive" => {
            format!(
                "{all}, the whole archive; less after pf9-plane stack delta --from {from} --to {to}"
            )
        }
        _ => return None,
    };
    let nodes = match of["nodes"].as_u64() {
        Some(1) => "1 node".to_owned(),
        _ => format!("each of {} nodes", cell(of, "nodes")),
    };
    Some(format!("fetched by {nodes} with {from}: {fetched}\n"))
}

/// The cluster, its current stack, and when steps begin.
pub(super) fn head(answer: &Value) -> String {
    let mut out = format!(
        "cluster {}: stack {}",
        cell(answer, "cluster"),
        cell(answer, "stack")
    );
    if let Some(window) = window(answer) {
        out.push_str(&format!(", window {window}"));
    }
    out.push('\n');
    out
}

fn status_screen(answer: &Value) -> String {
    let roll = &answer["upgrade"];
    let mut out = head(answer) + &fault(&answer["patchBlocked"]);
    if !roll.is_object() {
        return out + "this plane never upgraded it\n";
    }
    out.push_str(&format!(
        "{} to {}: {}; {} of {} nodes done, since {}\n",
        cell(roll, "from"),
        cell(roll, "to"),
        text(roll, "words"),
        cell(roll, "done"),
        cell(roll, "of"),
        cell(roll, "beganAt"),
    ));
    out.push_str(&why(roll));
    let mut table = heads(["NODE", "ROLE", "STACK", "ETCD OF", ""]);
    for node in rows(roll, "/nodes") {
        let mut row = ["node", "role", "stack", "etcd"]
            .map(|at| cell(node, at))
            .to_vec();
        row.push(text(node, "words").to_owned());
        table.push(row);
    }
    out + "\n" + &align(&table)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_plan_names_every_node_and_every_finding() {
        let answer = json!({
            "cluster": "c", "from": "1.36.3-1", "to": "1.37.2-1", "kubernetes": "1.37.2", "order": "masters first",
            "nodes": [{"turn": 1, "node": "m1", "role": "master", "zone": null, "from": "1.36.3-1", "restarts": [
                {"component": "etcd", "from": "3.6.16", "to": "3.7.3"}]}],
            "transfers": [
                {"from": "1.36.3-1", "nodes": 1, "by": "delta", "bytes": 9_400_000, "archive": 273_600_000},
                {"from": "1.36.1-1", "nodes": 2, "by": "archive", "bytes": 273_600_000, "archive": 273_600_000},
                {"from": "1.36.2-1", "nodes": 3, "by": "delta-coming", "bytes": null, "archive": 273_600_000},
                {"from": "1.37.2-1", "nodes": 3, "by": "nothing", "bytes": 0, "archive": 273_600_000}],
            "findings": [{"id": "budget/a/b", "weight": "blocks", "what": "a budget", "why": "never", "fix": "mend it"}],
            "begins": false,
        });
        assert_eq!(
            plan_screen(&answer),
            "cluster c: stack 1.36.3-1 to 1.37.2-1 (Kubernetes 1.37.2)\nmasters first\n\nTURN  NODE  ROLE    ZONE  \
             FROM      RESTARTED\n1     m1    master  -     1.36.3-1  etcd 3.6.16 to 3.7.3\n\nfetched by 1 node \
             with 1.36.3-1: 9.4 MB, the delta, instead of 273.6 MB\nfetched by each of 2 nodes with 1.36.1-1: \
             273.6 MB, the whole archive; less after pf9-plane stack delta --from 1.36.1-1 --to 1.37.2-1\nfetched by each \
             of 3 nodes with 1.36.2-1: the delta, which is being built, instead of 273.6 MB\n\nblocks \
             [budget/a/b] a budget: never\n    mend it\n\nit does not start; a blocking finding that you accept is \
             overruled with --despite ID\n"
        );
    }

    #[test]
    fn the_status_shows_every_state_and_why_it_stopped() {
        let answer = json!({
            "cluster": "c", "stack": "1", "window": "sat 22:00 4h", "windowIsOpen": false,
            "upgrade": {"from": "1", "to": "2", "words": "stopped", "done": 1, "of": 2, "beganAt": "t",
                "why": {"what": "it is stopped", "why": "node w1: no room", "fix": "resume"},
                "nodes": [{"node": "m1", "role": "master", "stack": "2", "etcd": "2", "words": "done"},
                          {"node": "w1", "role": "worker", "stack": "2", "etcd": null, "words": "put-back: no room"}]},
        });
        assert_eq!(
            status_screen(&answer),
            "cluster c: stack 1, window sat 22:00 4h (not open)\n\
             1 to 2: stopped; 1 of 2 nodes done, since t\n\
             it is stopped: node w1: no room\n    resume\n\n\
             NODE  ROLE    STACK  ETCD OF\n\
             m1    master  2      2        done\n\
             w1    worker  2      -        put-back: no room\n"
        );
        let mut quiet = json!({"cluster": "c", "stack": "1", "window": null, "upgrade": null, "patchBlocked": null});
        assert_eq!(
            status_screen(&quiet),
            "cluster c: stack 1\nthis plane never upgraded it\n"
        );
        quiet["patchBlocked"] =
            json!({"what": "stack 2 is not started", "why": "m1 is away", "fix": "look"});
        assert_eq!(
            status_screen(&quiet),
            "cluster c: stack 1\nstack 2 is not started: m1 is away\n    look\nthis plane never upgraded it\n"
        );
    }
}
