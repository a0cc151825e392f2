//! `kubeconfig --long-lived`, `kubeconfigs list | withdraw`.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use super::{Listing, State, put, seconds, show, text};
use crate::admin::{self, WantedKubeconfig};
use crate::kubeconfig::Keep;
use pf9_hostagent::model::Fault;

/// Options of a kubeconfig with an embedded token.
#[derive(Debug, Args)]
pub(super) struct KeptArgs {
    /// Include a token that is valid this long: a number and s, m, h or d; at most 365d. Any holder of the file acts as
    /// its user: for programs without pf9ctl. `kubeconfigs list` shows it, `kubeconfigs withdraw` ends it.
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
    /// Its user, by id or `DOMAIN/NAME`; absent: the administrator.
    #[arg(long, requires = "long_lived")]
    user: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum KubeconfigsVerb {
    /// List the valid ones.
    List {
        #[command(flatten)]
        list: Listing,
    },
    /// Withdraw one: it is no longer accepted.
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
