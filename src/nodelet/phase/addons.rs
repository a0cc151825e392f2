//! Manifests of the stack, kept applied, and the last question to a master (order 206). Masters only.
//!
//! What a manifest cannot know when the stack is made stands in it as a placeholder; see
//! [`ADDON_DNS_SERVER`] and [`ADDON_DNS_DOMAIN`]. Texts of the parsed object are filled in, so no
//! value can change its structure.

use serde_json::Value;

use crate::model::{ADDON_DNS_DOMAIN, ADDON_DNS_SERVER};
use crate::nodelet::step::Step;

use super::{Context, Steps, Wait, services};

pub(super) fn steps(ctx: &Context) -> Steps {
    let mut steps = ctx
        .addons
        .iter()
        .map(|object| {
            Ok(Step::Object {
                object: filled(object, ctx)?,
            })
        })
        .collect::<Result<Vec<Step>, Wait>>()?;
    steps.extend(services::ready_at_the_end(ctx));
    steps.push(services::api_server_current(ctx)?);
    Ok(steps)
}

fn filled(value: &Value, ctx: &Context) -> Result<Value, Wait> {
    Ok(match value {
        Value::String(text) => Value::String(text_of(text, ctx)?),
        Value::Array(list) => {
            let list: Result<_, Wait> = list.iter().map(|v| filled(v, ctx)).collect();
            Value::Array(list?)
        }
        Value::Object(map) => {
            let map: Result<_, Wait> = map
                .iter()
                .map(|(key, v)| Ok((key.clone(), filled(v, ctx)?)))
                .collect();
            Value::Object(map?)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    })
}

fn text_of(text: &str, ctx: &Context) -> Result<String, Wait> {
    let network = &ctx.node.network;
    let text = text.replace(ADDON_DNS_DOMAIN, &network.cluster_domain);
    if !text.contains(ADDON_DNS_SERVER) {
        return Ok(text);
    }
    // A spec without it is refused before this; here it is said once more, not assumed.
    let server = ctx.node.dns_service_ip().ok_or_else(|| {
        Wait::for_what(format!(
            "a services network with a tenth address for the cluster's DNS: {} has none",
            network.services_cidr
        ))
    })?;
    Ok(text.replace(ADDON_DNS_SERVER, &server.to_string()))
}
