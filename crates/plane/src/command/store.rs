//! `serve --store …`, `store show`, `store copy`: where the plane's rows are.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::Value;

use super::output::{align, cell};
use super::{State, put};
use crate::bootstrap;
use crate::refusal::chain;
use crate::store::{EtcdPlace, StoreError};
use pf9_hostagent::model::{Fault, FaultCode};

/// Kinds of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// In a file of the state directory.
    Embedded,
    /// In an etcd that several planes share.
    Etcd,
}

#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// Where the plane's rows are. With etcd, several planes can be started with the same prefix: one has the seat, the
    /// others forward their clients to it, and one of them takes over within seconds when it ends.
    #[arg(long, value_enum, default_value_t = Kind::Embedded)]
    store: Kind,
    #[command(flatten)]
    etcd: EtcdArgs,
}

#[derive(Debug, Args)]
pub(super) struct EtcdArgs {
    /// A member of etcd; can be repeated.
    #[arg(long = "etcd-endpoint", value_name = "https://HOST:PORT")]
    members: Vec<String>,
    /// Certificate of the authority that etcd's certificates are of, PEM.
    #[arg(long = "etcd-ca", value_name = "FILE", value_parser = super::absolute)]
    authority: Option<PathBuf>,
    /// The plane's client certificate for etcd, PEM. It is read again when etcd does not answer.
    #[arg(long = "etcd-cert", value_name = "FILE", value_parser = super::absolute)]
    certificate: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long = "etcd-key", value_name = "FILE", value_parser = super::absolute)]
    key: Option<PathBuf>,
    /// Keys in etcd begin with it. Planes of one fleet have the same.
    #[arg(
        long = "etcd-prefix",
        value_name = "TEXT",
        default_value = "/pf9-plane/"
    )]
    prefix: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum StoreVerb {
    /// Show where the running plane's rows are, whether the store answers, and which plane has the seat.
    Show {
        #[command(flatten)]
        state: State,
    },
    /// Copy all rows to a place that has none, and check them there. No plane may run meanwhile. Afterwards a plane
    /// does not start with what was copied from.
    Copy {
        #[command(flatten)]
        state: State,
        /// To where: etcd (from the file in the state directory), or back.
        #[arg(long, value_enum)]
        to: Kind,
        #[command(flatten)]
        etcd: EtcdArgs,
    },
}

impl StoreArgs {
    /// The configured etcd; `None`: the embedded store.
    pub(super) fn place(self) -> Result<Option<EtcdPlace>, Fault> {
        match self.store {
            Kind::Embedded if self.etcd.members.is_empty() => Ok(None),
            Kind::Embedded => Err(usage("--etcd-endpoint is given without --store etcd")),
            Kind::Etcd => self.etcd.place().map(Some),
        }
    }
}

impl EtcdArgs {
    fn place(self) -> Result<EtcdPlace, Fault> {
        let Self {
            members: endpoints,
            authority: Some(authority),
            certificate: Some(certificate),
            key: Some(key),
            prefix,
        } = self
        else {
            return Err(usage("etcd needs --etcd-ca, --etcd-cert and --etcd-key"));
        };
        if endpoints.is_empty() {
            return Err(usage("etcd needs at least one --etcd-endpoint"));
        }
        let named = prefix.trim_end_matches('/');
        if named.is_empty() {
            return Err(usage("--etcd-prefix must not be empty"));
        }
        Ok(EtcdPlace {
            endpoints,
            authority,
            certificate,
            key,
            prefix: format!("{named}/"),
        })
    }
}

pub(super) async fn run(verb: StoreVerb) -> Result<(), Fault> {
    match verb {
        StoreVerb::Show { state } => {
            let answer =
                crate::admin::ask(&state.state_dir, Method::GET, "/store", &Value::Null).await?;
            let rows = ["store", "answers", "since", "why", "at", "prefix", "seat"];
            let rows = rows.map(|name| vec![name.to_owned(), cell(&answer, name)]);
            put(None, &align(&rows))
        }
        StoreVerb::Copy { state, to, etcd } => {
            let place = etcd.place()?;
            let dir = state.state_dir;
            match to {
                Kind::Etcd => {
                    let done = bootstrap::to_etcd(&dir, &place).await;
                    let (rows, kept) = done.map_err(|e| not_copied(&e))?;
                    put(
                        None,
                        &format!(
                            "{rows} rows are in etcd; the embedded store is kept at {}\nstart the plane with --store \
                             etcd\n",
                            kept.display()
                        ),
                    )
                }
                Kind::Embedded => {
                    let done = bootstrap::to_embedded(&dir, &place).await;
                    let rows = done.map_err(|e| not_copied(&e))?;
                    put(
                        None,
                        &format!(
                            "{rows} rows are in the embedded store; those in etcd are marked as moved\nstart the plane \
                             without --store etcd\n"
                        ),
                    )
                }
            }
        }
    }
}

fn not_copied(e: &StoreError) -> Fault {
    let fault = Fault::new(FaultCode::PlaneStart, "the store is not copied", chain(e));
    match e.fix() {
        Some(fix) => fault.fix(fix),
        None => fault.fix("stop the plane first, if it runs"),
    }
}

fn usage(why: &str) -> Fault {
    Fault::new(FaultCode::Usage, "cannot use the store", why).fix("see pf9-plane serve --help")
}
