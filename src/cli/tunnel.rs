//! `tunnel`: the connection to the plane, as comms sees it.
//!
//! | file | holds |
//! |---|---|
//! | `sessions` | `tunnel status`: every session and what the kernel knows of it |
//! | `ping`     | `tunnel ping`: round trips of the protocol's own PING frames |
//! | `top`      | `tunnel top`: the open streams and their rates |

pub(super) mod ping;
pub(super) mod sessions;
pub(super) mod top;

use super::args::TunnelVerb;
use super::context::CommandContext;
use crate::app::Exit;
use crate::local::LocalError;
use crate::model::Fault;

pub(super) async fn run(ctx: &CommandContext, verb: &TunnelVerb) -> Result<Exit, Fault> {
    match verb {
        TunnelVerb::Status(_) => sessions::run(ctx).await,
        TunnelVerb::Ping(args) => ping::run(ctx, args).await,
        TunnelVerb::Top(args) => top::run(ctx, args).await,
    }
}

/// comms did not answer.
fn silent(ctx: &CommandContext, what: &str, error: &LocalError) -> Fault {
    let fault = error.fault(what);
    if ctx.uid == 0 {
        return fault.fix("systemctl status pf9-comms; journalctl -n 30 -u pf9-comms");
    }
    fault.fix("only root and the group pf9 may ask: use sudo")
}

/// An endpoint for people: the path is the same everywhere.
fn place(endpoint: &str) -> &str {
    endpoint.trim_end_matches("/v1/tunnel")
}
