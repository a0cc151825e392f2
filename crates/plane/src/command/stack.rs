//! `pf9-plane stack`: the stacks that clusters may run.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use http::Method;

use super::{Listing, State, put, show, text};
use crate::admin::{self, Import, WantedDelta};
use pf9_hostagent::model::{Fault, FaultCode};

#[derive(Debug, Subcommand)]
pub(super) enum StackVerb {
    /// Verify, sign and keep the stack in a directory (stack.tar.zst, manifest.json).
    Import {
        /// The directory.
        path: PathBuf,
        #[command(flatten)]
        state: State,
    },
    /// Make the delta between two stacks: nodes that have the first fetch only that. For two stacks of one minor
    /// this takes half a minute of a processor and, meanwhile, the disk space of both unpacked.
    Delta {
        /// Version of the stack that nodes have.
        #[arg(long)]
        from: String,
        /// Version of the stack that they will get.
        #[arg(long)]
        to: String,
        #[command(flatten)]
        state: State,
    },
    /// List the stacks.
    List {
        #[command(flatten)]
        list: Listing,
    },
}

impl StackVerb {
    pub(super) async fn run(self) -> Result<(), Fault> {
        match self {
            Self::Import { path, state } => import(&state.state_dir, &path).await,
            Self::Delta { from, to, state } => delta(&state.state_dir, from, to).await,
            Self::List { list } => {
                show(
                    &list,
                    "/stacks",
                    &["name", "version", "kubernetes", "manifest", "warnings"],
                )
                .await
            }
        }
    }
}

async fn import(dir: &Path, path: &Path) -> Result<(), Fault> {
    let path = path.canonicalize().map_err(|e| {
        Fault::new(
            FaultCode::StackUnreadable,
            "stack refused",
            format!("{}: {e}", path.display()),
        )
    })?;
    let stack = admin::ask(dir, Method::POST, "/stacks", &Import { path }).await?;
    let words = ["name", "version", "manifest"].map(|field| text(&stack, field));
    let mut said = format!("{}\n", words.join(" "));
    for warning in stack["warnings"].as_array().into_iter().flatten() {
        said.push_str(&format!(
            "warning: {}\n",
            warning.as_str().unwrap_or_default()
        ));
    }
    put(None, &said)
}

async fn delta(dir: &Path, from: String, to: String) -> Result<(), Fault> {
    let said = format!("{from} to {to}");
    let made = admin::ask(
        dir,
        Method::POST,
        "/stacks/delta",
        &WantedDelta { from, to },
    )
    .await?;
    let bytes = |field: &str| made[field].as_u64().unwrap_or_default();
    let (delta, archive) = (bytes("bytes"), bytes("archive"));
    let mega = |n: u64| n as f64 / 1e6;
    put(
        None,
        &format!(
            "{said}: {:.1} MB instead of {:.1} MB ({:.1} %)\n",
            mega(delta),
            mega(archive),
            100.0 * delta as f64 / archive.max(1) as f64
        ),
    )
}
