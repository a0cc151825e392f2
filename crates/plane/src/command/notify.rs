//! `pf9-plane notify`: where alerts are sent.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::Value;

use super::{Listing, State, absolute, put};
use crate::admin;
use crate::alerts::{TargetKind, WantedTarget};
use pf9_hostagent::model::Fault;

#[derive(Debug, Subcommand)]
pub(super) enum NotifyVerb {
    /// Add a target for alerts, those that fire already included; an existing name is changed.
    Add(Add),
    /// List targets, and receivers that projects have set, with what waits for each and why.
    List {
        #[command(flatten)]
        list: Listing,
    },
    /// Remove a target. What waits for it is dropped.
    Remove {
        /// The target's name.
        name: String,
        /// The id of a project: its receiver of that name.
        #[arg(long)]
        project: Option<String>,
        #[command(flatten)]
        state: State,
    },
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// The target's name here.
    name: String,
    /// The format it understands.
    #[arg(long, value_enum)]
    kind: KindWord,
    /// Its URL.
    #[arg(
        long,
        conflicts_with = "url_file",
        required_unless_present = "url_file"
    )]
    url: Option<String>,
    /// A file with the URL, for a URL that is a secret itself.
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    url_file: Option<PathBuf>,
    /// A file with the bearer token. The plane reads these files whenever it delivers, and keeps nothing of them.
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    token_file: Option<PathBuf>,
    /// A file with the authorities to trust, PEM; absent: those of the plane's machine.
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    ca_file: Option<PathBuf>,
    #[command(flatten)]
    state: State,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KindWord {
    /// The webhook format of Prometheus' Alertmanager, version 4.
    Alertmanager,
    /// Tickets: create, update, resolve; by a key that is the same for one alert.
    Ticket,
}

impl NotifyVerb {
    pub(super) async fn run(self) -> Result<(), Fault> {
        match self {
            Self::Add(add) => {
                let body = WantedTarget {
                    name: add.name,
                    kind: match add.kind {
                        KindWord::Alertmanager => TargetKind::Alertmanager,
                        KindWord::Ticket => TargetKind::Ticket,
                    },
                    url: add.url,
                    url_file: add.url_file,
                    token_file: add.token_file,
                    ca_file: add.ca_file,
                };
                let dir = &add.state.state_dir;
                admin::ask(dir, Method::POST, "/notify", &body).await?;
                let name = &body.name;
                put(None, &format!("{name} gets alerts; see notify list\n"))
            }
            Self::List { list } => {
                let columns = [
                    "name",
                    "project",
                    "kind",
                    "url",
                    "urlFile",
                    "arrivedAt",
                    "waiting",
                    "givenUp",
                    "refused",
                    "refusedWhy",
                    "failing",
                ];
                super::show(&list, "/notify", &columns).await
            }
            Self::Remove {
                name,
                project,
                state,
            } => {
                // Both are part of the path: what is invalid cannot exist.
                let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
                let project = project.unwrap_or_default();
                let id = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
                let known = !name.is_empty() && name.bytes().all(plain) && project.bytes().all(id);
                let removed = match known {
                    true => {
                        let whose = match project.as_str() {
                            "" => String::new(),
                            project => format!("?project={project}"),
                        };
                        let path = format!("/notify/{name}{whose}");
                        let done =
                            admin::ask(&state.state_dir, Method::DELETE, &path, &Value::Null);
                        done.await?["removed"] == true
                    }
                    false => false,
                };
                put(
                    None,
                    &match removed {
                        true => format!("{name} gets no more alerts\n"),
                        false => format!("there is no {name}; see notify list\n"),
                    },
                )
            }
        }
    }
}
