//! `/v1/log-level`: how much a daemon logs, for a time; the same call on the socket of each.
//!
//! | call | answer |
//! |---|---|
//! | `GET`                           | [`LogLevelStatus`] |
//! | `POST` a [`LogLevelRequest`]    | 200 likewise, from now on; 403 not root; 422 no such level or time |
//! | `DELETE`                        | 200 likewise: as configured again; 403 not root |
//!
//! Every admitted caller may read it; only root changes it, because a verbose log may say more than its readers should
//! know.

use std::time::Duration;

use nix::unistd::geteuid;

use super::{Method, Peer, Reply, Request, StatusCode};
use crate::model::{Fault, FaultCode, LogLevelRequest, LogLevelStatus, document};
use crate::telemetry;

/// Where it is.
pub const LOG_LEVEL: &str = "/v1/log-level";
const WHAT: &str = "the log level is unchanged";

/// Answers one call. Who changed it is in the log itself, as a warning: every level lets that through.
pub fn log_level(request: &Request) -> Reply {
    let wanted = match request.method {
        Method::GET => return shown(),
        Method::POST => match parse(&request.body) {
            Ok(wanted) => Some(wanted),
            Err(fault) => return Reply::fault(StatusCode::UNPROCESSABLE_ENTITY, &fault),
        },
        Method::DELETE => None,
        _ => return Reply::not_found(&request.path),
    };
    let peer = request.peer;
    if !may_change(peer) {
        let why = "only root of this host may change the log level";
        let fault = Fault::new(FaultCode::NotAllowed, WHAT, why);
        return Reply::fault(StatusCode::FORBIDDEN, &fault);
    }
    let done = match &wanted {
        Some(wanted) => {
            let time = Duration::from_secs(wanted.for_s.into());
            telemetry::level_for(wanted.level.as_str(), time)
        }
        None => telemetry::usual_level(),
    };
    if let Err(why) = done {
        let fault = Fault::new(FaultCode::Log, WHAT, why);
        return Reply::fault(StatusCode::INTERNAL_SERVER_ERROR, &fault);
    }
    let level = wanted
        .as_ref()
        .map_or("as configured", |w| w.level.as_str());
    let for_s = wanted.as_ref().map(|w| w.for_s);
    tracing::warn!(
        level,
        for_s,
        uid = peer.uid,
        pid = peer.pid,
        "the log level was changed on this machine"
    );
    shown()
}

fn parse(body: &[u8]) -> Result<LogLevelRequest, Fault> {
    let wanted: LogLevelRequest = document::read(body)
        .map_err(|e| Fault::new(FaultCode::DocumentMalformed, WHAT, e.to_string()))?;
    match wanted.fault() {
        Some(why) => Err(Fault::new(FaultCode::OperationInvalid, WHAT, why)),
        None => Ok(wanted),
    }
}

fn shown() -> Reply {
    let Some(now) = telemetry::level_now() else {
        let fault = Fault::new(
            FaultCode::Log,
            "no level is known",
            "logging was not started",
        );
        return Reply::fault(StatusCode::INTERNAL_SERVER_ERROR, &fault);
    };
    let until = now.left.and_then(|left| {
        let left = jiff::SignedDuration::try_from(left).ok()?;
        crate::seam::clock::now().checked_add(left).ok()
    });
    let status = LogLevelStatus {
        level: now.level,
        usual: now.usual,
        until,
    };
    Reply::json(StatusCode::OK, &status)
}

/// Root, or the user of this process.
fn may_change(peer: Peer) -> bool {
    peer.is_root() || peer.uid == geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method, uid: u32, body: &str) -> u16 {
        let request = Request {
            method,
            path: LOG_LEVEL.to_owned(),
            query: Default::default(),
            body: body.to_owned().into(),
            peer: Peer {
                uid,
                gid: 0,
                pid: None,
            },
        };
        log_level(&request).status().as_u16()
    }

    /// What a daemon really does then is in `tests/it/loud.rs`: a process has one log.
    #[test]
    fn others_change_nothing_and_every_time_has_an_end() {
        let stranger = geteuid().as_raw() + 12_345;
        let good = r#"{"level": "debug", "for_s": 60}"#;
        assert_eq!(asked(Method::POST, stranger, good), 403);
        assert_eq!(asked(Method::DELETE, stranger, ""), 403);
        for wrong in [
            r#"{"level": "debug", "for_s": 0}"#,
            r#"{"level": "debug", "for_s": 86401}"#,
            r#"{"level": "debug"}"#,
            r#"{"level": "info,hyper=trace", "for_s": 60}"#,
            "",
        ] {
            assert_eq!(asked(Method::POST, 0, wrong), 422, "{wrong}");
        }
        assert_eq!(asked(Method::PUT, 0, good), 404);
        // Trusted, but this process writes no log.
        assert_eq!(asked(Method::POST, 0, good), 500);
    }
}
