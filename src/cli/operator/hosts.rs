//! `host list`: hosts part by part, shown as they come. What is held is one part, whatever the fleet.

use http::Method;
use serde::Deserialize;
use serde_json::Value;

use super::{Plane, garbage, table};
use crate::cli::context::CommandContext;
use crate::cli::output::Screen;
use crate::model::Fault;

/// Hosts of one answer: a few at a time would be many round trips, and all of ten thousand are hundreds of megabytes.
pub(super) const PART: usize = 100;
/// Most parts: three times the hosts that a plane is built for. A list that never ends is none.
const PARTS_MAX: usize = 300;

/// One part, as the plane answers it.
#[derive(Deserialize)]
struct Part {
    hosts: Vec<Value>,
    /// Where the next one begins.
    #[serde(rename = "continue")]
    next: Option<String>,
}

pub(super) async fn list(ctx: &CommandContext, plane: &Plane) -> Result<(), Fault> {
    // One for all parts: with an application credential each would be a login.
    let token = plane.token().await?;
    let limit = PART.to_string();
    let (mut mark, mut widths) = (None::<String>, None);
    let mut all = ctx.out.list();
    for _ in 0..PARTS_MAX {
        let mut query = vec![("limit", limit.as_str())];
        query.extend(mark.as_deref().map(|mark| ("continue", mark)));
        let asked = plane.ask_with(&token, Method::GET, "/resmgr/v1/hosts", &query, None);
        let answer = tokio::select! {
            // cancel-safe: it is a question
            answer = asked => answer?,
            () = ctx.stop.cancelled() => return Err(ctx.interrupted("the list did not end")),
        };
        let part: Part = serde_json::from_value(answer)
            .map_err(|_| garbage("its answer is not a page of a list of hosts"))?;
        // The widths of the first part: those that follow stand below it.
        let (mut screen, widths) = match &widths {
            Some(widths) => (Screen::default(), widths),
            None => {
                let of_first = widths.insert(table::widths(&table::HOSTS, &part.hosts));
                (table::head(&table::HOSTS, of_first), &*of_first)
            }
        };
        table::lines(&mut screen, &table::HOSTS, widths, &part.hosts);
        all.more(&part.hosts, &screen);
        match part.next {
            None => return Ok(()),
            Some(next) if part.hosts.is_empty() || mark.as_ref() == Some(&next) => {
                return Err(garbage(&format!(
                    "its list of hosts does not continue at {next:?}"
                )));
            }
            Some(next) => mark = Some(next),
        }
    }
    Err(garbage(&format!(
        "its list of hosts has over {PARTS_MAX} parts"
    )))
}
