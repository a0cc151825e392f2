//! `kubeconfig --long-lived`, `kubeconfigs list | withdraw`.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use super::{Listing, State, put, seconds, show, text};
use crate::admin::{self, WantedKubeconfig};
use crate::kubeconfig::Keep;
use pf9_hostagent::model::Fault;

/// What a kubeconfig with a token in it is to be.
#[derive(Debug, Args)]
pub(super) struct KeptArgs {
    /// With a token in it, good for so long: a number and s, m, h or d; at most 365d. Whoever has the file is its user:
    /// for programs that have no pf9ctl. `kubeconfigs list` shows it, `kubeconfigs withdraw` ends it.
    #[arg(long, value_name = "TTL", value_parser = seconds)]
    long_lived: Option<i64>,
    /// What it is for.
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "made on the plane",
        requires = "long_lived"
    )]
    note: String,
    /// Whose it is, by id or `DOMAIN/NAME`; absent: the administrator's.
    #[arg(long, requires = "long_lived")]
    user: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum KubeconfigsVerb {
    /// All that are good.
    List {
        #[command(flatten)]
        list: Listing,
    },
    /// End one: whoever has it is let in no more.
    Withdraw {
        /// Its id, as list shows it.
        id: String,
        #[command(flatten)]
        state: State,
    },
}

impl KeptArgs {
    pub(super) fn wanted(self, cluster: String) -> WantedKubeconfig {
        let note = self.note;
        WantedKubeconfig {
            cluster,
            long_lived: self.long_lived.map(|ttl_s| Keep { name: note, ttl_s }),
            user: self.user,
        }
    }
}

pub(super) async fn run(verb: KubeconfigsVerb) -> Result<(), Fault> {
    match verb {
        KubeconfigsVerb::List { list } => {
            let columns = ["id", "name", "user_name", "cluster", "expires_at"];
            show(&list, "/kubeconfigs", &columns).await
        }
        KubeconfigsVerb::Withdraw { id, state } => {
            let plain = id.chars().filter(char::is_ascii_alphanumeric);
            let path = format!("/kubeconfigs/{}", plain.collect::<String>());
            let answer = admin::ask(&state.state_dir, Method::DELETE, &path, &Value::Null).await?;
            put(
                None,
                &format!("kubeconfig {} is withdrawn\n", text(&answer, "id")),
            )
        }
    }
}
