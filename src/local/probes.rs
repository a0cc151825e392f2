//! What each daemon answers to probes: `/healthz` whether it works, `/ready` whether it is of use now.

use super::{Reply, StatusCode};

/// What a program is not ready for, as text; `None`: it is.
pub type NotReady = Option<String>;

/// `GET /healthz`: nothing that it does hangs. As the watchdog of its unit judges.
pub fn healthz(late: &[String]) -> Reply {
    match late {
        [] => plain(StatusCode::OK, "ok\n".to_owned()),
        late => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("no progress: {}\n", late.join(", ")),
        ),
    }
}

/// `GET /ready`.
pub fn ready(not: NotReady) -> Reply {
    match not {
        None => plain(StatusCode::OK, "ready\n".to_owned()),
        Some(why) => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {why}\n"),
        ),
    }
}

fn plain(status: StatusCode, text: String) -> Reply {
    Reply::text(status, "text/plain; charset=utf-8", text)
}
