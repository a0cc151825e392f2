//! Keystone v3, as `python-openstackclient` and `keystoneauth` speak it.
//!
//! | file | holds |
//! |---|---|
//! | here          | how a token is presented |
//! | `login`       | authentication: password, token, application credential; and the requested scope |
//! | `tokens`      | tokens: issue, show, revoke; the catalogue; possible scopes |
//! | `discovery`   | version documents; services, endpoints, regions |
//! | `page`        | lists, links, filters |
//! | `directory`   | domains and projects |
//! | `users`       | users, their passwords, groups |
//! | `roles`       | roles and role assignments |
//! | `credentials` | application credentials |
//!
//! Authorisation is in `guard`; what a body names is checked by the handlers. For what we do not have (trusts,
//! federation, inherited roles) the answers are those of a Keystone without these extensions: `404`.

pub(super) mod credentials;
pub(super) mod directory;
pub(super) mod discovery;
pub(super) mod login;
pub(super) mod page;
pub(super) mod roles;
pub(super) mod tokens;
pub(super) mod users;

use http::{HeaderMap, HeaderName, header};

use super::refusal::{Answer, Refusal};

pub(super) const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
pub(super) const SUBJECT_TOKEN: HeaderName = HeaderName::from_static("x-subject-token");

/// The token of a request: in Keystone's header, or in `Authorization` for clients that cannot set headers of their own
/// (kubectl, Prometheus). Two different ones are refused.
pub(super) fn shown(headers: &HeaderMap) -> Answer<&str> {
    let all = |name: &HeaderName| {
        let values = headers.get_all(name).iter();
        values.filter_map(|v| v.to_str().ok()).collect::<Vec<_>>()
    };
    let bearer = all(&header::AUTHORIZATION);
    let bearer = bearer.iter().filter_map(|v| v.strip_prefix("Bearer "));
    let all: Vec<&str> = bearer.chain(all(&AUTH_TOKEN)).map(str::trim).collect();
    match all[..] {
        [] => Err(Refusal::unauthenticated("there is no bearer token")),
        [one, ref others @ ..] if others.iter().all(|other| *other == one) => Ok(one),
        [..] => Err(Refusal::unauthenticated("there are two tokens")),
    }
}
