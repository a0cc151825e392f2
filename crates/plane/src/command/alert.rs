//! `pf9-plane alert`: the plane's alerts.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;
use uuid::Uuid;

use super::{Listing, State, align, cell, put, seconds, text};
use crate::admin;
use crate::alerts::{Rule, WantedAck, WantedSilence};
use pf9_hostagent::model::{ClusterId, Fault, FaultCode, HostId};

#[derive(Debug, Subcommand)]
pub(super) enum AlertVerb {
    /// List open alerts, the most urgent first: those that fire, and those held back with the reason.
    List {
        #[command(flatten)]
        list: Listing,
        /// Resolved ones, the newest first.
        #[arg(long)]
        past: bool,
        /// Also conditions that have not lasted long enough yet.
        #[arg(long, conflicts_with = "past")]
        pending: bool,
        /// Of this cluster.
        #[arg(long, value_name = "ID")]
        cluster: Option<ClusterId>,
        /// Of this host.
        #[arg(long, value_name = "ID")]
        host: Option<HostId>,
    },
    /// Show one: what was found, what was tried, its symptoms, and what to do.
    Show {
        /// Its id.
        id: Uuid,
        #[command(flatten)]
        list: Listing,
    },
    /// Acknowledge one: it is not sent again in that time, unless it gets worse or is over.
    Ack {
        /// Its id.
        id: Uuid,
        #[command(flatten)]
        said: Said,
        #[command(flatten)]
        state: State,
    },
    /// Silences: matching alerts are not sent for a time.
    #[command(subcommand)]
    Silence(SilenceVerb),
}

#[derive(Debug, Subcommand)]
pub(super) enum SilenceVerb {
    /// Begin one; an absent selector matches all.
    Add {
        /// Of this rule.
        #[arg(long)]
        rule: Option<Rule>,
        /// Of this cluster.
        #[arg(long, value_name = "ID")]
        cluster: Option<ClusterId>,
        /// Of this host.
        #[arg(long, value_name = "ID")]
        host: Option<HostId>,
        #[command(flatten)]
        said: Said,
        #[command(flatten)]
        state: State,
    },
    /// List active silences.
    List {
        #[command(flatten)]
        list: Listing,
    },
    /// End one before its time.
    End {
        /// Its id.
        id: Uuid,
        #[command(flatten)]
        state: State,
    },
}

#[derive(Debug, Args)]
pub(super) struct Said {
    /// Who acknowledges or silences.
    #[arg(long, value_name = "NAME")]
    who: String,
    /// Why, in one line.
    #[arg(long, value_name = "TEXT")]
    why: String,
    /// For how long: a number and s, m, h or d; at most 30 days.
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    length: i64,
}

impl Said {
    fn for_seconds(&self) -> Result<u32, Fault> {
        u32::try_from(self.length).map_err(|_| {
            let why = format!("{} s is not an allowed duration", self.length);
            Fault::new(FaultCode::Usage, "nothing was changed", why)
        })
    }
}

impl AlertVerb {
    pub(super) async fn run(self) -> Result<(), Fault> {
        match self {
            Self::List {
                list,
                past,
                pending,
                cluster,
                host,
            } => {
                let state = if past { "past" } else { "open" };
                let mut path = format!("/alerts?state={state}");
                for (name, id) in [
                    ("cluster", cluster.map(|c| c.to_string())),
                    ("host", host.map(|h| h.to_string())),
                ] {
                    path += &id.map_or_else(String::new, |id| format!("&{name}={id}"));
                }
                let all = ask(&list.state, Method::GET, &path, &Value::Null).await?;
                match list.json {
                    true => put(None, &format!("{all:#}\n")),
                    false => put(None, &listed(&all, past, pending)),
                }
            }
            Self::Show { id, list } => {
                let path = format!("/alerts/{id}");
                let alert = ask(&list.state, Method::GET, &path, &Value::Null).await?;
                match list.json {
                    true => put(None, &format!("{alert:#}\n")),
                    false => put(None, &shown(&alert)),
                }
            }
            Self::Ack { id, said, state } => {
                let body = WantedAck {
                    for_seconds: said.for_seconds()?,
                    who: said.who,
                    why: said.why,
                };
                let path = format!("/alerts/{id}/acknowledge");
                let alert = ask(&state, Method::POST, &path, &body).await?;
                let until = cell(&alert, "acknowledged.until");
                let what = text(&alert, "what");
                put(None, &format!("{what}: silenced until {until}\n"))
            }
            Self::Silence(verb) => verb.run().await,
        }
    }
}

impl SilenceVerb {
    async fn run(self) -> Result<(), Fault> {
        match self {
            Self::Add {
                rule,
                cluster,
                host,
                said,
                state,
            } => {
                let body = WantedSilence {
                    rule,
                    cluster,
                    host,
                    for_seconds: said.for_seconds()?,
                    who: said.who,
                    why: said.why,
                };
                let done = ask(&state, Method::POST, "/silences", &body).await?;
                let (id, until) = (text(&done, "id"), text(&done, "until"));
                put(None, &format!("silence {id} until {until}\n"))
            }
            Self::List { list } => {
                let columns = ["id", "rule", "cluster", "host", "until", "who", "why"];
                super::show(&list, "/silences", &columns).await
            }
            Self::End { id, state } => {
                let path = format!("/silences/{id}");
                let done = ask(&state, Method::DELETE, &path, &Value::Null).await?;
                let ended = done.get("ended").and_then(Value::as_bool);
                put(
                    None,
                    &match ended {
                        Some(true) => format!("silence {id} has ended\n"),
                        Some(false) | None => format!("there was no silence {id}\n"),
                    },
                )
            }
        }
    }
}

async fn ask<B: serde::Serialize>(
    state: &State,
    method: Method,
    path: &str,
    body: &B,
) -> Result<Value, Fault> {
    admin::ask(&state.state_dir, method, path, body).await
}

/// One line each; the reason below those that are held back.
fn listed(all: &Value, past: bool, pending: bool) -> String {
    let rows = all.as_array().into_iter().flatten();
    let rows: Vec<&Value> = rows
        .filter(|a| pending || text(a, "state") != "pending")
        .collect();
    if rows.is_empty() {
        return match past {
            true => "nothing was\n".into(),
            false => "no alert is open\n".into(),
        };
    }
    let end = if past { "resolvedAt" } else { "since" };
    let head = ["URGENCY", "STATE", end_head(past), "ID", "WHAT"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for alert in rows {
        let said = match (text(alert, "state"), alert.pointer("/held/why")) {
            ("held", Some(why)) => format!(
                "{} ({})",
                text(alert, "what"),
                why.as_str().unwrap_or_default()
            ),
            _ => text(alert, "what").to_owned(),
        };
        let seen_to = cell(alert, "acknowledged.who");
        let said = match seen_to.as_str() {
            "-" => said,
            who => format!("{said} (acknowledged by {who})"),
        };
        table.push(vec![
            text(alert, "urgency").to_owned(),
            text(alert, "state").to_owned(),
            text(alert, end).to_owned(),
            text(alert, "id").to_owned(),
            said,
        ]);
    }
    align(&table)
}

fn end_head(past: bool) -> &'static str {
    if past { "OVER" } else { "SINCE" }
}

/// One in full.
fn shown(alert: &Value) -> String {
    let rows = [
        ("", "what"),
        ("rule", "rule"),
        ("urgency", "urgency"),
        ("state", "state"),
        ("held back", "held.why"),
        ("why", "why"),
        ("tried", "tried"),
        ("to do", "fix"),
        ("since", "since"),
        ("told", "toldAt"),
        ("over", "resolvedAt"),
        ("handled by", "acknowledged.who"),
        ("until", "acknowledged.until"),
        ("because", "acknowledged.why"),
        ("id", "id"),
    ];
    let said = rows.map(|(name, path)| vec![name.to_owned(), cell(alert, path)]);
    let said = said
        .into_iter()
        .filter(|r| !["-", ""].contains(&r[1].as_str()));
    let mut out = align(&said.collect::<Vec<_>>());
    let symptoms = alert["symptoms"].as_array().into_iter().flatten();
    let symptoms: Vec<&str> = symptoms.filter_map(Value::as_str).collect();
    if !symptoms.is_empty() {
        out += "\ncaused by it:\n";
        for symptom in symptoms {
            out += &format!("  {symptom}\n");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn alerts() -> Value {
        let alert = |id: u128, state: &str, what: &str| {
            json!({
                "id": Uuid::from_u128(id), "rule": "HostNotResponding", "urgency": "critical", "state": state,
                "what": what, "why": "it was heard of last at 2026-11-29T10:00:00Z", "tried": "",
                "fix": "is the machine on?", "since": "2026-11-29T10:00:00Z", "toldAt": null,
                "resolvedAt": null, "held": null, "symptoms": [], "acknowledged": null,
            })
        };
        let mut first = alert(1, "firing", "Host m1 is not responding");
        first["symptoms"] = json!(["NodeNotReady: Host m1 is a node that is not Ready"]);
        first["acknowledged"] = json!({
            "who": "ann", "why": "a new board comes", "until": "2026-11-29T18:00:00Z",
        });
        let mut second = alert(2, "held", "Host m1 is a node that is not Ready");
        second["urgency"] = json!("high");
        second["held"] = json!({
            "by": "cause", "why": "it follows from this: Host m1 is not responding",
        });
        json!([
            first,
            second,
            alert(3, "pending", "Host w1 is short of memory")
        ])
    }

    #[test]
    fn the_list_has_firing_and_held_alerts_with_the_reason() {
        let wanted = "URGENCY   STATE   SINCE                 ID                                    WHAT
critical  \
            firing  2026-11-29T10:00:00Z  00000000-0000-0000-0000-000000000001  Host m1 is not responding (acknowledged \
            by ann)
high      held    2026-11-29T10:00:00Z  00000000-0000-0000-0000-000000000002  Host m1 is \
            a node that is not Ready (it follows from this: Host m1 is not responding)
";
        assert_eq!(listed(&alerts(), false, false), wanted);
        assert_eq!(listed(&alerts(), false, true).lines().count(), 4);
        assert_eq!(listed(&json!([]), false, false), "no alert is open\n");
    }

    #[test]
    fn an_alert_is_shown_with_its_symptoms() {
        let wanted = "            Host m1 is not responding
rule        HostNotResponding
urgency     \
            critical
state       firing
why         it was heard of last at 2026-11-29T10:00:00Z
to do       is the \
            machine on?
since       2026-11-29T10:00:00Z
handled by  ann
until       2026-11-29T18:00:00Z
because     \
                a new board comes
id          00000000-0000-0000-0000-000000000001

caused by it:
  NodeNotReady: \
            Host m1 is a node that is not Ready
";
        assert_eq!(shown(&alerts()[0]), wanted);
    }
}
