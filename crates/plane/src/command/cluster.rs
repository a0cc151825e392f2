//! `pf9-plane cluster`, except its authorities.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::addons::Addons;
use super::authorities::Authorities;
use super::backups::Backups;
use super::os_update::OsUpdate;
use super::upgrade::Upgrade;
use super::{Listing, State, align, cell, put, show, text};
use crate::admin::{self, Leaving};
use crate::etcd::restore::WantedRestore;
use pf9_hostagent::model::{Fault, HostId};

#[derive(Debug, Subcommand)]
pub(super) enum ClusterVerb {
    /// List the clusters.
    List {
        #[command(flatten)]
        list: Listing,
    },
    /// Show one cluster and its nodes.
    Show {
        /// Name or id of the cluster.
        name: String,
        #[command(flatten)]
        list: Listing,
    },
    /// Show the members of a cluster's etcd: which have a vote, which answer now, which join and what they
    /// wait for, which are being removed.
    Etcd {
        /// Name or id of the cluster.
        name: String,
        #[command(flatten)]
        list: Listing,
    },
    /// Show how much of each month the cluster's API answered the plane, against the target.
    Availability {
        /// Name or id of the cluster.
        name: String,
        #[command(flatten)]
        list: Listing,
    },
    /// Show each node's desired and observed state, what was repaired, and since when something differs. The plane makes
    /// such a report every day and keeps a hundred.
    Report {
        /// Name or id of the cluster.
        name: String,
        /// The report of that day; absent: of now.
        #[arg(long, value_name = "YYYY-MM-DD")]
        day: Option<String>,
        #[command(flatten)]
        list: Listing,
    },
    /// Restore a cluster from a snapshot of its etcd that one of its masters has. What was written since
    /// the snapshot is lost to the cluster. Nothing is stopped before the snapshot is checked and the new
    /// data are made; the present data are kept aside on each master.
    Restore {
        /// Name or id of the cluster.
        name: String,
        /// The name of a backup, on the founder or in the backup archive, or the path of a file on
        /// the founder; absent: its newest.
        #[arg(long)]
        backup: Option<String>,
        /// The master that makes the data; absent: the one with the newest backup.
        #[arg(long, value_name = "HOST")]
        founder: Option<HostId>,
        /// The path on the founder of the key that opens it, where the plane's own does not: a backup of
        /// another cluster, or one of before the plane had a key. The key itself stays there.
        #[arg(long, value_name = "PATH")]
        recovery_key: Option<String>,
        /// Accept a snapshot of another cluster.
        #[arg(long)]
        any_cluster: bool,
        /// Accept a snapshot that no master of this cluster signed, if you know where it comes from. A plain snapshot is
        /// never signed, and does not name its cluster.
        #[arg(long)]
        unsigned: bool,
        /// Only show its progress.
        #[arg(long, conflicts_with_all = ["backup", "founder", "withdraw"])]
        show: bool,
        /// Cancel the restore under way, on masters that have moved no data yet.
        #[arg(long, conflicts_with_all = ["backup", "founder"])]
        withdraw: bool,
        #[command(flatten)]
        state: State,
    },
    /// Detach hosts from a cluster. A master stays if etcd would lose its quorum by it.
    Detach {
        /// Name or id of the cluster.
        name: String,
        /// Ids of the hosts; all of them leave or none.
        #[arg(required = true)]
        hosts: Vec<HostId>,
        /// Also if etcd loses its quorum by it. Then the cluster's API accepts no change until a backup is
        /// restored. What is lost is printed, and logged.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        state: State,
    },
    /// Upgrade a cluster to another stack, node by node, while it works; show progress, pause, resume,
    /// cancel, or go back.
    Upgrade(Box<Upgrade>),
    /// Install the distribution's updates on a cluster's nodes, one after the other, while it works; show progress,
    /// pause, resume, or cancel.
    OsUpdate(Box<OsUpdate>),
    /// Change settings of a cluster while it runs, e.g. '{"networkPolicies": "off"}' or
    /// '{"loadBalancer": {"addresses": ["10.1.2.16/28"]}}'. Other settings stay.
    Settings {
        /// Name or id of the cluster.
        name: String,
        /// The settings, in JSON, as for PATCH of the cluster.
        #[arg(value_parser = json_object)]
        settings: Value,
        #[command(flatten)]
        state: State,
    },
    /// What the cluster's stack brings beside Kubernetes: versions, and how each is there; turn one on or off.
    Addons(Addons),
    /// The certificate authorities of a cluster, and their rotation.
    Authorities(Authorities),
    /// Backups of etcd: what masters have, and their schedule.
    Backups(Backups),
}

impl ClusterVerb {
    pub(super) async fn run(self) -> Result<(), Fault> {
        match self {
            Self::List { list } => {
                let columns = [
                    "uuid",
                    "name",
                    "status",
                    "numMasters",
                    "numWorkers",
                    "stack",
                ];
                show(&list, "/clusters", &columns).await
            }
            Self::Show { name, list } => {
                one(&list, &format!("/clusters/{name}"), show_screen).await
            }
            Self::Etcd { name, list } => {
                one(&list, &format!("/clusters/{name}/etcd"), etcd_screen).await
            }
            Self::Availability { name, list } => {
                let path = format!("/clusters/{name}/availability");
                one(&list, &path, availability_screen).await
            }
            Self::Report { name, day, list } => {
                let day = day.map_or_else(String::new, |day| format!("?day={day}"));
                one(
                    &list,
                    &format!("/clusters/{name}/report{day}"),
                    report_screen,
                )
                .await
            }
            Self::Restore {
                name,
                backup,
                founder,
                recovery_key,
                any_cluster,
                unsigned,
                show,
                withdraw,
                state,
            } => {
                let wanted = WantedRestore {
                    backup,
                    founder,
                    recovery_key,
                    any_cluster,
                    unsigned,
                };
                let method = match (show, withdraw) {
                    (true, _) => Method::GET,
                    (_, true) => Method::DELETE,
                    (false, false) => Method::POST,
                };
                let path = format!("/clusters/{name}/restore");
                let answer = admin::ask(&state.state_dir, method, &path, &wanted).await?;
                put(None, &restore_screen(&answer))
            }
            Self::Detach {
                name,
                hosts,
                force,
                state,
            } => {
                let path = format!("/clusters/{name}/detach");
                let body = Leaving { hosts, force };
                let answer = admin::ask(&state.state_dir, Method::POST, &path, &body).await?;
                put(None, &left(&answer, &format!("detached from {name}")))
            }
            Self::Upgrade(upgrade) => upgrade.run().await,
            Self::OsUpdate(update) => update.run().await,
            Self::Settings {
                name,
                settings,
                state,
            } => {
                let path = format!("/clusters/{name}/settings");
                admin::ask(&state.state_dir, Method::PATCH, &path, &settings).await?;
                put(
                    None,
                    &format!("the settings of cluster {name} are changed\n"),
                )
            }
            Self::Addons(addons) => addons.run().await,
            Self::Authorities(authorities) => authorities.run().await,
            Self::Backups(backups) => backups.run().await,
        }
    }
}

fn json_object(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    match value.is_object() {
        true => Ok(value),
        false => Err("an object of settings like {\"networkPolicies\": \"off\"}".into()),
    }
}

/// Prints one thing: JSON, or its screen.
pub(super) async fn one(
    list: &Listing,
    path: &str,
    screen: fn(&Value) -> String,
) -> Result<(), Fault> {
    let answer = admin::ask(&list.state.state_dir, Method::GET, path, &Value::Null).await?;
    put(
        None,
        &match list.json {
            true => format!("{answer:#}\n"),
            false => screen(&answer),
        },
    )
}

/// The restore's order, and each master's report about it.
fn restore_screen(answer: &Value) -> String {
    if answer.get("withdrawn").is_some() {
        return "the restore is cancelled\n".to_owned();
    }
    let order = &answer["restore"];
    let mut screen = match order.is_object() {
        false => "no restore is under way\n".to_owned(),
        true => format!(
            "restore {} from {} by host {}{}\n",
            text(order, "id"),
            text(order, "snapshot"),
            text(order, "founder"),
            match order["go"] == true {
                true => ": the masters stop and switch to the new data",
                false => ": the new data are being prepared, nothing is stopped",
            }
        ),
    };
    for master in list(answer, "masters") {
        let said = &master["restore"];
        let (state, why) = (text(said, "state"), cell(said, "fault.why"));
        let state = if state.is_empty() { "-" } else { state };
        screen.push_str(&format!("  {}  {state}  {why}\n", text(master, "name")));
        for warning in list(said, "warnings") {
            let warning = warning.as_str().unwrap_or_default();
            screen.push_str(&format!("    {warning}\n"));
        }
    }
    screen
}

/// What was done, and what is lost by it.
pub(super) fn left(answer: &Value, done: &str) -> String {
    match text(answer, "lost") {
        "" => format!("{done}\n"),
        lost => format!("{done} by force: {lost}\n"),
    }
}

pub(super) fn list<'a>(answer: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    answer
        .get(field)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn show_screen(answer: &Value) -> String {
    let rows = [
        ("cluster", "name"),
        ("id", "uuid"),
        ("status", "status"),
        ("stack", "stack"),
        ("pods", "containersCidr"),
        ("services", "servicesCidr"),
        ("API's address", "masterIp"),
        ("pods may be", "podSecurity.enforce"),
        ("API's audit, days", "audit.keepDays"),
        ("replace etcd after, s", "etcdReplaceAfterSeconds"),
    ];
    let mut rows: Vec<Vec<String>> = rows
        .map(|(name, path)| vec![name.to_owned(), cell(answer, path)])
        .into();
    if answer["masterVipEnabled"] == true {
        let holder = cell(answer, "masterVipHolder");
        rows.push(vec!["on master".to_owned(), holder]);
    }
    for issuer in list(answer, "oidc") {
        let (url, prefix) = (cell(issuer, "url"), cell(issuer, "username.prefix"));
        rows.push(vec!["users by".to_owned(), format!("{url} as {prefix}…")]);
    }
    let mut nodes = vec![
        ["NODE", "HOST", "ADDRESS", "ROLE", "ZONE", "STATUS"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for node in list(answer, "nodes") {
        let role = match node.get("isMaster") == Some(&json!(1)) {
            true => "master",
            false => "worker",
        };
        let [name, host, address, zone, status] =
            ["name", "uuid", "primaryIp", "zone", "status"].map(|path| cell(node, path));
        nodes.push(vec![name, host, address, role.to_owned(), zone, status]);
    }
    let leaving: Vec<String> = list(answer, "leaving")
        .map(|who| cell(who, "name"))
        .collect();
    let mut out = align(&rows) + "\n" + &align(&nodes);
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        out.push_str(&format!("{}\n", warning.as_str().unwrap_or_default()));
    }
    if !leaving.is_empty() {
        out.push_str(&format!(
            "members of etcd are still to be removed: {}; see pf9-plane cluster etcd\n",
            leaving.join(", ")
        ));
    }
    out
}

/// Desired and observed state of each node. A block for each node.
fn report_screen(answer: &Value) -> String {
    let nodes = answer["nodes"].as_array().into_iter().flatten();
    let count = nodes.clone().count();
    let mut out = format!(
        "cluster {} at {}: {} of {count} nodes are converged\n",
        text(answer, "name"),
        text(answer, "at"),
        answer["nodesThatConform"],
    );
    for node in nodes {
        let verdict = match node["conforms"].as_bool() {
            Some(true) => "as it should be",
            Some(false) | None => "DIFFERS",
        };
        let since = match text(node, "since") {
            "" => String::new(),
            since => format!(" since {since}"),
        };
        out += &format!(
            "\n{} ({} of stack {}): {verdict}{since}\n",
            text(node, "name"),
            cell(node, "wanted.role"),
            cell(node, "wanted.stack"),
        );
        for differs in node["differs"].as_array().into_iter().flatten() {
            out += &format!("  {}\n", differs.as_str().unwrap_or_default());
        }
        for repair in node["repaired"].as_array().into_iter().flatten() {
            let (at, what, why) = (
                text(repair, "at"),
                text(repair, "what"),
                text(repair, "why"),
            );
            out += &format!("  repaired {at}: {what} ({why})\n");
        }
        out += &format!(
            "  observed {}, reported {}\n",
            cell(node, "found.lookedAt"),
            cell(node, "found.heardAt")
        );
    }
    out
}

/// A line per month, the newest last.
fn availability_screen(answer: &Value) -> String {
    let head = ["MONTH", "ANSWERED", "TARGET", "", "SILENT", "UNMEASURED"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    let target = format!("{} %", text(answer, "targetPercent"));
    for month in answer["months"].as_array().into_iter().flatten() {
        let minutes = |field: &str| {
            let seconds = month.get(field).and_then(Value::as_u64).unwrap_or_default();
            format!("{} min", seconds.div_ceil(60))
        };
        let (answered, met) = match month["met"].as_bool() {
            Some(true) => (format!("{} %", text(month, "percent")), "met"),
            Some(false) => (format!("{} %", text(month, "percent")), "MISSED"),
            None => ("-".to_owned(), "not measured"),
        };
        table.push(vec![
            text(month, "month").to_owned(),
            answered,
            target.clone(),
            met.to_owned(),
            minutes("silentSeconds"),
            minutes("unmeasuredSeconds"),
        ]);
    }
    match table.len() {
        1 => "its API has not answered yet\n".to_owned(),
        _ => align(&table),
    }
}

fn etcd_screen(answer: &Value) -> String {
    let number = |field: &str| {
        answer
            .get(field)
            .and_then(Value::as_u64)
            .unwrap_or_default()
    };
    let (votes, answering, needed) = (number("votes"), number("answering"), number("needed"));
    let verdict = match answering {
        _ if votes == 0 => "there is no voting member yet",
        n if n < needed => "NO QUORUM: the API accepts no writes",
        n if n == votes => "all of them answer",
        n if n == needed => "losing one more stops the cluster",
        _ => "some do not answer",
    };
    let mut out = format!(
        "etcd of {}: {answering} of {votes} votes answer, {needed} must: {verdict}\n\n",
        cell(answer, "cluster")
    );
    let mut table = vec![
        ["MEMBER", "ID", "STATE", "HEALTH", ""]
            .map(str::to_owned)
            .to_vec(),
    ];
    for member in list(answer, "members") {
        let health = match member.get("healthy").and_then(Value::as_bool) {
            Some(true) => "ok".to_owned(),
            Some(false) => "not ok".to_owned(),
            None => "-".to_owned(),
        };
        let why = text(member, "why");
        let words = text(member, "words");
        let words = match why.is_empty() {
            true => words.to_owned(),
            false => format!("{words}; {why}"),
        };
        let [name, id, state] = ["name", "memberId", "state"].map(|path| cell(member, path));
        table.push(vec![name, id, state, health, words]);
    }
    out.push_str(&align(&table));
    let zones = text(answer, "zones");
    if !zones.is_empty() {
        out.push_str(&format!("\nzones: {zones}\n"));
    }
    let listed = cell(answer, "listedAt");
    if listed != "-" {
        out.push_str(&format!(
            "\nmembership as reported by a master at {listed}\n"
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_screen_names_drift_and_repairs() {
        let node = |name: &str, conforms: bool, differs: Value| {
            json!({
                "name": name, "conforms": conforms, "wanted": {"role": "worker", "stack": "1.37.2"},
                "found": {"lookedAt": "t1", "heardAt": "t2"}, "differs": differs, "since": null,
                "repaired": [{"at": "t0", "what": "start kubelet", "why": "it is not running"}],
            })
        };
        let mut away = node("w2", false, json!(["its state is retrying: no space"]));
        away["since"] = json!("t9");
        away["repaired"] = json!([]);
        let answer = json!({"name": "c", "at": "t", "nodesThatConform": 1,
                            "nodes": [node("w1", true, json!([])), away]});
        let wanted = "\
cluster c at t: 1 of 2 nodes are converged

w1 (worker of stack 1.37.2): as it should be
  repaired t0: start kubelet (it is not running)
  observed t1, reported t2

w2 (worker of stack 1.37.2): DIFFERS since t9
  its state is retrying: no space
  observed t1, reported t2
";
        assert_eq!(report_screen(&answer), wanted);
    }

    #[test]
    fn the_availability_screen_shows_the_target_and_unmeasured_time() {
        let answer = json!({"targetPercent": "99.900", "months": [
            {"month": "2026-10", "percent": "99.956", "met": true, "answeredSeconds": 1, "silentSeconds": 1140,
             "unmeasuredSeconds": 0},
            {"month": "2026-11", "percent": "99.120", "met": false, "answeredSeconds": 1, "silentSeconds": 22_700,
             "unmeasuredSeconds": 61},
            {"month": "2026-12", "percent": null, "met": null, "answeredSeconds": 0, "silentSeconds": 0,
             "unmeasuredSeconds": 600},
        ]});
        let wanted = "\
MONTH    ANSWERED  TARGET                  SILENT   UNMEASURED
2026-10  99.956 %  99.900 %  met           19 min   0 min
2026-11  99.120 %  99.900 %  MISSED        379 min  2 min
2026-12  -         99.900 %  not measured  0 min    10 min
";
        assert_eq!(availability_screen(&answer), wanted);
        let none = json!({"targetPercent": "99.900", "months": []});
        assert_eq!(availability_screen(&none), "its API has not answered yet\n");
    }

    #[test]
    fn the_etcd_screen_shows_who_answers_and_who_waits() {
        let answer = json!({
            "cluster": "c", "votes": 3, "answering": 2, "needed": 2, "listedAt": "t",
            "members": [
                {"name": "m1", "memberId": "8e9e05c52164694d", "state": "member", "healthy": true,
                 "why": null, "words": "has a vote"},
                {"name": "m3", "memberId": "a8266ecf031671f3", "state": "taken-out", "healthy": false,
                 "why": "its host is not connected", "words": "its host is gone"},
                {"name": "m4", "memberId": null, "state": "waiting", "healthy": null, "why": null,
                 "words": "waits until the member of m3 is taken out"},
            ],
        });
        assert_eq!(
            etcd_screen(&answer),
            "etcd of c: 2 of 3 votes answer, 2 must: losing one more stops the cluster\n\nMEMBER  ID                \
             STATE      HEALTH\nm1      8e9e05c52164694d  member     ok      has a vote\nm3      a8266ecf031671f3  \
             taken-out  not ok  its host is gone; its host is not connected\nm4      -                 waiting    -       \
                   waits until the member of m3 is taken out\n\nmembership as reported by a master at t\n"
        );
        let lost = json!({"cluster": "c", "votes": 3, "answering": 1, "needed": 2, "members": [],
                          "zones": "with a its quorum is lost"});
        let screen = etcd_screen(&lost);
        assert!(screen.contains("NO QUORUM"));
        assert!(
            screen.ends_with("\nzones: with a its quorum is lost\n"),
            "{screen}"
        );
    }

    #[test]
    fn the_cluster_screen_names_nodes_and_members_to_remove() {
        let answer = json!({
            "name": "c", "uuid": "u", "status": "ok", "stack": "1", "containersCidr": "p",
            "servicesCidr": "s", "etcdReplaceAfterSeconds": 300,
            "nodes": [{"name": "m1", "uuid": "h", "primaryIp": "10.0.0.1", "isMaster": 1, "zone": "a", "status": "ok"}],
            "warnings": ["zones: so and so"],
            "leaving": [{"name": "m3"}],
            "podSecurity": {"enforce": "baseline"}, "audit": {"off": false, "keepDays": 90},
            "masterIp": "10.0.0.250", "masterVipEnabled": true, "masterVipHolder": "m1",
            "oidc": [{"url": "https://login.example.com", "username": {"prefix": "oidc:"}}],
        });
        let screen = show_screen(&answer);
        assert!(screen.contains("replace etcd after, s  300\n"), "{screen}");
        assert!(
            screen.contains("pods may be            baseline\nAPI's audit, days      90\n"),
            "{screen}"
        );
        let address = "API's address          10.0.0.250\n";
        let holder = "on master              m1\n";
        assert!(
            screen.contains(address) && screen.contains(holder),
            "{screen}"
        );
        let users = "users by               https://login.example.com as oidc:…\n";
        assert!(screen.contains(users), "{screen}");
        assert!(
            screen.contains("m1    h     10.0.0.1  master  a     ok\n")
                && screen.contains("\nzones: so and so\n"),
            "{screen}"
        );
        assert!(screen.contains("still to be removed: m3"), "{screen}");
    }

    #[test]
    fn what_is_lost_is_said() {
        assert_eq!(left(&json!({"lost": null}), "done"), "done\n");
        assert_eq!(
            left(&json!({"lost": "much"}), "done"),
            "done by force: much\n"
        );
    }
}
