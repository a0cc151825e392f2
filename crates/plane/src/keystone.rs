//! Keystone v3, as `python-openstackclient` and `keystoneauth` speak it.
//!
//! | file | holds |
//! |---|---|
//! | here          | how a token is shown |
//! | `login`       | who somebody is: password, token, application credential; and the scope they ask for |
//! | `tokens`      | tokens issued, looked at, taken back; the catalogue; where one could count |
//! | `discovery`   | documents that say what is spoken here; services, endpoints, regions |
//! | `page`        | lists, links, filters |
//! | `directory`   | domains and projects |
//! | `users`       | users, their passwords, groups |
//! | `roles`       | roles, and who has which where |
//! | `credentials` | application credentials |
//!
//! Who may is `guard`'s; what a body names, handlers judge themselves. Keystone's answers to what we do not have
//! (trusts, federation, inherited roles) are those of a Keystone without these extensions: `404`.

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

/// The token of a request: as Keystone's clients show it, or as those that cannot name headers of
/// their own do (kubectl, Prometheus). Two that differ are nobody's.
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
