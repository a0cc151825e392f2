//! `pf9-plane keys`: the plane's own keys and their rotation.

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::Value;

use super::{Listing, State, put, text};
use crate::admin;
use crate::keys::Kind;
use crate::takeover::{Step, Wanted};
use pf9_hostagent::model::{Fault, HostId};

#[derive(Debug, Subcommand)]
pub(super) enum KeysVerb {
    /// Show both kinds: which key signs, which is announced or being retired, and how many hosts have followed.
    List {
        #[command(flatten)]
        list: Listing,
    },
    /// Make a second key and have every host trust it beside the first.
    Announce(Which),
    /// Sign with the announced key from now on; earlier specs, stacks and certificates stay valid.
    TakeOver(Which),
    /// Have hosts stop trusting the key that no longer signs, and delete it.
    Retire(Which),
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// Which kind.
    #[arg(value_enum)]
    kind: KindWord,
    /// Give up this host, which has not followed: it must enrol again. Can be repeated.
    #[arg(long, value_name = "HOST")]
    force: Vec<HostId>,
    #[command(flatten)]
    state: State,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KindWord {
    /// The key that signs specs, stacks and trust documents.
    Signing,
    /// The authority that issues the certificates of plane and hosts.
    Authority,
}

pub(super) async fn run(verb: KeysVerb) -> Result<(), Fault> {
    let (step, which) = match verb {
        KeysVerb::List { list } => {
            let keys =
                admin::ask(&list.state.state_dir, Method::GET, "/keys", &Value::Null).await?;
            return match list.json {
                true => put(None, &format!("{keys:#}\n")),
                false => put(None, &table(&keys)),
            };
        }
        KeysVerb::Announce(which) => (Step::Announce, which),
        KeysVerb::TakeOver(which) => (Step::TakeOver, which),
        KeysVerb::Retire(which) => (Step::Retire, which),
    };
    let wanted = Wanted {
        step,
        kind: match which.kind {
            KindWord::Signing => Kind::Signing,
            KindWord::Authority => Kind::Authority,
        },
        force: which.force.into_iter().collect(),
    };
    let keys = admin::ask(&which.state.state_dir, Method::POST, "/keys", &wanted).await?;
    put(None, &table(&keys))
}

/// One paragraph per kind.
fn table(keys: &Value) -> String {
    let mut out = String::new();
    for kind in keys.as_array().into_iter().flatten() {
        out.push_str(&format!("{}\n", text(kind, "kind")));
        for (field, word) in [
            ("current", "signs"),
            ("next", "announced"),
            ("old", "still trusted"),
        ] {
            if let Some(id) = kind.get(field).and_then(Value::as_str) {
                let id: String = id.chars().take(16).collect();
                out.push_str(&format!("  {word:13}  {id}\n"));
            }
        }
        let in_turn = ["next", "old"].iter().any(|f| kind[*f].is_string());
        if in_turn {
            out.push_str(&format!(
                "  {:13}  {} of {} hosts are ready for the next step\n",
                "hosts", kind["ready"], kind["hosts"]
            ));
        }
        for waiting in kind["waiting"].as_array().into_iter().flatten() {
            let (host, why) = (text(waiting, "host"), text(waiting, "why"));
            out.push_str(&format!("  {:13}  {host}: {why}\n", "waits"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rotation_is_shown_with_waiting_hosts() {
        let keys = json!([
            {"kind": "signing", "current": "aaaa", "next": "bbbb", "old": null, "hosts": 3,
             "ready": 2, "waiting": [{"host": "h1", "why": "it does not trust the new key yet"}]},
            {"kind": "authority", "current": "cccc", "next": null, "old": null, "hosts": 3,
             "ready": 3, "waiting": []},
        ]);
        let wanted = "signing\n  signs          aaaa\n  announced      bbbb\n  \
                      hosts          2 of 3 hosts are ready for the next step\n  \
                      waits          h1: it does not trust the new key yet\n\
                      authority\n  signs          cccc\n";
        assert_eq!(table(&keys), wanted);
    }
}
