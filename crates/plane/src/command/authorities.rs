//! `pf9-plane cluster authorities`.

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::Value;

use super::{State, cell, put, seconds};
use crate::admin;
use crate::authorities::Wanted;
use pf9_hostagent::model::{Authority, Fault, FaultCode};

#[derive(Debug, Args)]
pub(super) struct Authorities {
    /// Name or id of the cluster.
    cluster: String,
    #[command(subcommand)]
    verb: AuthoritiesVerb,
}

#[derive(Debug, Subcommand)]
enum AuthoritiesVerb {
    /// Show the authorities, the progress of a rotation, and which nodes it waits for.
    Show {
        #[command(flatten)]
        state: State,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Rotate to new authorities while the cluster works: they are announced to every node, then they
    /// sign, then the old ones are removed.
    Rotate {
        #[command(flatten)]
        state: State,
        /// Which; can be repeated. Absent: all three.
        #[arg(long = "authority", value_name = "cluster|etcd|front-proxy")]
        authorities: Vec<Which>,
        /// How long every node trusts both before the new one signs: a number and s, m, h or d.
        /// Pods get a new cluster authority within minutes; programs that read it only once need a
        /// restart.
        #[arg(long, default_value = "10m", value_parser = seconds)]
        hold: i64,
    },
    /// Cancel a rotation: the old ones sign again and the new ones are removed.
    Abort {
        #[command(flatten)]
        state: State,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    Cluster,
    Etcd,
    FrontProxy,
}

impl Authorities {
    pub(super) async fn run(self) -> Result<(), Fault> {
        let at = format!("/clusters/{}/authorities", self.cluster);
        let (state, json, method, path, body) = match self.verb {
            AuthoritiesVerb::Show { state, json } => {
                (state, json, Method::GET, at, serde_json::to_value(()))
            }
            AuthoritiesVerb::Rotate {
                state,
                authorities,
                hold,
            } => {
                let wanted = Wanted {
                    authorities: authorities.into_iter().map(Which::of).collect(),
                    hold_s: hold,
                };
                let body = serde_json::to_value(wanted);
                (state, false, Method::POST, format!("{at}/rotate"), body)
            }
            AuthoritiesVerb::Abort { state } => {
                let body = serde_json::to_value(());
                (state, false, Method::POST, format!("{at}/abort"), body)
            }
        };
        let body =
            body.map_err(|e| Fault::new(FaultCode::OutputFailed, "cannot ask", e.to_string()))?;
        let answer = admin::ask(&state.state_dir, method, &path, &body).await?;
        put(
            None,
            &if json {
                format!("{answer:#}\n")
            } else {
                screen(&answer)
            },
        )
    }
}

impl Which {
    fn of(self) -> Authority {
        match self {
            Self::Cluster => Authority::Cluster,
            Self::Etcd => Authority::Etcd,
            Self::FrontProxy => Authority::FrontProxy,
        }
    }
}

/// For people.
fn screen(answer: &Value) -> String {
    let list = |at: &str| answer.pointer(at).and_then(Value::as_array);
    let mut out = String::new();
    for row in list("/authorities").into_iter().flatten() {
        out.push_str(&format!(
            "{:<12} {:<8}  {}  ends {}\n",
            cell(row, "authority"),
            cell(row, "state"),
            cell(row, "name"),
            cell(row, "ends"),
        ));
    }
    let rotation = answer.get("rotation").filter(|r| !r.is_null());
    let Some(rotation) = rotation else {
        return out + "no rotation is under way\n";
    };
    out.push_str(&format!(
        "stage {}: {}\n",
        cell(rotation, "stage"),
        cell(rotation, "words")
    ));
    for row in list("/rotation/waits_for").into_iter().flatten() {
        out.push_str(&format!(
            "  waits for {}: {} (heard at {}) {}\n",
            cell(row, "node"),
            cell(row, "state"),
            cell(row, "heard_at"),
            cell(row, "reason"),
        ));
    }
    let later = list("/rotation/after_them").map_or(0, Vec::len);
    if later > 0 {
        out.push_str(&format!("  {later} more nodes after them\n"));
    }
    let since = rotation.get("complete_since").filter(|s| !s.is_null());
    if let Some(since) = since.and_then(Value::as_str) {
        let hold = cell(rotation, "hold_s");
        out.push_str(&format!(
            "  every node has confirmed since {since}; held for {hold} s\n"
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_screen_names_the_stage_and_the_hosts_waited_for() {
        let answer = serde_json::json!({
            "cluster": "c",
            "authorities": [
                {"authority": "etcd", "state": "goes", "name": "c etcd-ca", "ends": "2030-01-01T00:00:00Z"},
            ],
            "rotation": {
                "stage": "signing", "words": "the new one signs", "hold_s": 600,
                "complete_since": null, "after_them": ["w-2", "w-3"],
                "waits_for": [{"node": "m-1", "state": "retrying", "heard_at": "t", "reason": "why"}],
            },
        });
        assert_eq!(
            screen(&answer),
            "etcd         goes      c etcd-ca  ends 2030-01-01T00:00:00Z\n\
             stage signing: the new one signs\n  waits for m-1: retrying (heard at t) why\n  \
             2 more nodes after them\n"
        );
        let quiet = serde_json::json!({"authorities": [], "rotation": null});
        assert_eq!(screen(&quiet), "no rotation is under way\n");
    }
}
