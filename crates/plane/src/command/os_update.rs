//! `pf9-plane cluster os-update`: the plan, the start, and the verbs on a running one.

use clap::Args;
use serde_json::Value;

use super::roll::{Ask, Verb, findings, heads, rows, why};
use super::upgrade::{How, head};
use super::{State, align, cell, text};
use crate::rolls::http::Wanted;
use pf9_hostagent::model::{Fault, OsReboot};

#[derive(Debug, Args)]
pub(super) struct OsUpdate {
    /// Name or id of the cluster.
    name: String,
    /// What to do with the present one; absent: begin one.
    #[arg(value_enum, conflicts_with = "plan")]
    verb: Option<Verb>,
    /// Only show what would be done, in which order, and the findings against it.
    #[arg(long)]
    plan: bool,
    /// Reboot no machine for it; those that need a reboot are listed.
    #[arg(long)]
    no_reboot: bool,
    /// Seconds that one run of the package manager may take.
    #[arg(long, value_name = "S")]
    within: Option<u32>,
    #[command(flatten)]
    how: How,
    /// As JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: State,
}

impl OsUpdate {
    pub(super) async fn run(self) -> Result<(), Fault> {
        let at = format!("/clusters/{}/os-update", self.name);
        let ask = Ask {
            at: &at,
            verb: self.verb,
            plan: self.plan,
            begins: true,
            json: self.json,
            state: &self.state,
        };
        let wanted = Wanted {
            reboot: self.no_reboot.then_some(OsReboot::Never),
            within_seconds: self.within,
            ..self.how.wanted()
        };
        ask.run(&wanted, [plan_screen, status_screen]).await
    }
}

fn plan_screen(answer: &Value) -> String {
    let mut out = format!(
        "cluster {}\n{}\n\n",
        cell(answer, "cluster"),
        text(answer, "order")
    );
    let columns = [
        ("TURN", "turn"),
        ("NODE", "node"),
        ("ROLE", "role"),
        ("ZONE", "zone"),
        ("DISTRIBUTION", "os"),
        ("KERNEL", "kernel"),
        ("BY", "by"),
    ];
    let mut table = heads(columns.map(|(head, _)| head));
    for node in rows(answer, "/nodes") {
        table.push(columns.map(|(_, at)| cell(node, at)).to_vec());
    }
    out.push_str(&align(&table));
    out + &findings(answer)
}

fn status_screen(answer: &Value) -> String {
    let roll = &answer["osUpdate"];
    let mut out = head(answer);
    if !roll.is_object() {
        return out + "this plane never updated the distributions of its nodes\n";
    }
    out.push_str(&format!(
        "updates of the distributions: {}; {} of {} nodes done, since {}\n",
        text(roll, "words"),
        cell(roll, "done"),
        cell(roll, "of"),
        cell(roll, "beganAt"),
    ));
    out.push_str(&why(roll));
    let mut table = heads(["NODE", "ROLE", "UPDATED", "SECURITY", "RESTARTED", ""]);
    for node in rows(roll, "/nodes") {
        let os = &node["os"];
        let updated = match os.is_object() {
            true => format!("{} of {}", cell(os, "updated"), cell(os, "available")),
            false => "-".into(),
        };
        let restarted = match (os["rebooted"] == true, os["reboot_needed"] == true) {
            (_, true) => "to be",
            (true, false) => "yes",
            (false, false) if os.is_object() => "no",
            (false, false) => "-",
        };
        table.push(vec![
            cell(node, "node"),
            cell(node, "role"),
            updated,
            cell(os, "security"),
            restarted.into(),
            text(node, "words").to_owned(),
        ]);
    }
    out + "\n" + &align(&table)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_plan_names_each_machines_package_manager() {
        let answer = json!({
            "cluster": "c", "order": "masters first",
            "nodes": [{"turn": 1, "node": "m1", "role": "master", "zone": null, "os": "Debian 12", "kernel": "6.1.0",
                       "by": "apt-get"}],
            "findings": [], "begins": true,
        });
        assert_eq!(
            plan_screen(&answer),
            "cluster c\nmasters first\n\nTURN  NODE  ROLE    ZONE  DISTRIBUTION  KERNEL  BY\n1     m1    master  -     \
                Debian 12     6.1.0   apt-get\n\nno check blocks it\n"
        );
    }

    #[test]
    fn the_status_counts_nodes_and_names_failures() {
        let answer = json!({
            "cluster": "c", "stack": "1", "window": null,
            "osUpdate": {"words": "stopped", "done": 1, "of": 2, "beganAt": "t",
                "why": {"what": "it is stopped", "why": "node w1: no room", "fix": "resume"},
                "nodes": [{"node": "m1", "role": "master", "words": "done",
                           "os": {"available": 3, "updated": 3, "security": 1, "rebooted": true, "reboot_needed": false}},
                          {"node": "w1", "role": "worker", "os": null, "words": "put-back: no room"}]},
        });
        assert_eq!(
            status_screen(&answer),
            "cluster c: stack 1\n\
             updates of the distributions: stopped; 1 of 2 nodes done, since t\n\
             it is stopped: node w1: no room\n    resume\n\n\
             NODE  ROLE    UPDATED  SECURITY  RESTARTED\n\
             m1    master  3 of 3   1         yes        done\n\
             w1    worker  -        -         -          put-back: no room\n"
        );
        let quiet = json!({"cluster": "c", "stack": "1", "window": null, "osUpdate": null});
        let want = "cluster c: stack 1\nthis plane never updated the distributions of its nodes\n";
        assert_eq!(status_screen(&quiet), want);
    }
}
