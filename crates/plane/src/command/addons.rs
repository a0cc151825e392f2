//! `cluster addons`.

use clap::Args;
use http::Method;
use serde_json::Value;

use super::cluster::{list, one};
use super::{Listing, align, cell};
use crate::addons::catalogue::Switch;
use crate::admin;
use pf9_hostagent::model::Fault;

#[derive(Debug, Args)]
pub(super) struct Addons {
    /// Name or id of the cluster.
    name: String,
    /// Turn this one on.
    #[arg(long, value_name = "ADDON", conflicts_with = "off")]
    on: Option<String>,
    /// Turn this one off: what it made in the cluster goes. Refused while something uses it.
    #[arg(long, value_name = "ADDON")]
    off: Option<String>,
    /// Turn it off, also where something uses it.
    #[arg(long, requires = "off")]
    force: bool,
    /// Addresses that the load balancer gives to services: a range, a network or one; can be repeated.
    #[arg(long, value_name = "RANGE", requires = "on")]
    address: Vec<String>,
    #[command(flatten)]
    list: Listing,
}

impl Addons {
    pub(super) async fn run(self) -> Result<(), Fault> {
        let addons = format!("/clusters/{}/addons", self.name);
        if let Some(which) = self.on.as_ref().or(self.off.as_ref()) {
            let body = Switch {
                on: self.on.is_some(),
                addresses: self.address,
                force: self.force,
            };
            let path = format!("{addons}/{which}");
            admin::ask(&self.list.state.state_dir, Method::PUT, &path, &body).await?;
        }
        one(&self.list, &addons, screen).await
    }
}

fn screen(answer: &Value) -> String {
    let head = ["ADD-ON", "STATE", "VERSION", "SETTING", "WHY"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for addon in list(answer, "addons") {
        let row = ["name", "state", "version", "setting", "why"];
        rows.push(row.map(|field| cell(addon, field)).to_vec());
    }
    align(&rows)
}
