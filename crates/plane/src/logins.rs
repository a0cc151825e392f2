//! Tokens of users: made, looked up, counted, forgotten. Their rights are looked up whenever they are presented.
//!
//! A token is a random secret of which only the digest is stored. Each user has a limited number of each kind; the ones
//! that expire first make room, and never those of another user.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::people::{CredentialId, DomainId, ProjectId, UserId};
use super::refusal::Answer;
use super::secrets;
use super::state::Change;
use super::store::{Read, Rows};
use pf9_hostagent::model::{ClusterId, Secret};

/// Tokens by digest of the secret.
pub(super) const LOGINS: Rows<Login> = Rows::new("logins");
/// Tokens of a user, by `<user>/<digest>`.
pub(super) const OF_USER: Rows<()> = Rows::new("logins-of");

/// Lifetime of a token.
pub(super) const LIFE: SignedDuration = SignedDuration::from_hours(24);
/// Lifetime of a token for an exec credential plugin: a stolen one expires soon.
pub(super) const KUBE_LIFE: SignedDuration = SignedDuration::from_mins(15);
/// Longest lifetime of a long-lived kubeconfig.
pub(super) const KUBECONFIG_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Tokens per user; a program that logs in for each call has as many as it makes in a day.
pub(super) const EACH_MAX: usize = 200;

/// A token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Login {
    pub(super) user: UserId,
    pub(super) scope: Scope,
    pub(super) created_at: Timestamp,
    pub(super) expires_at: Timestamp,
    /// The application credential it was obtained with.
    #[serde(default)]
    pub(super) credential: Option<CredentialId>,
    /// The authentication methods, in Keystone's words.
    #[serde(default)]
    pub(super) methods: Vec<String>,
    /// Name of the long-lived kubeconfig that holds it.
    #[serde(default)]
    pub(super) kept_as: Option<String>,
}

/// Where a token is valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Scope {
    /// Nowhere: to ask for possible scopes.
    Nothing,
    Project(ProjectId),
    Domain(DomainId),
    Plane,
    /// The Kubernetes API of one cluster.
    Cluster(ClusterId),
}

/// The key of [`OF_USER`].
pub(super) fn index(user: &str, digest: &str) -> String {
    format!("{user}/{digest}")
}

/// Makes a token. Expired ones are removed, and beyond the limit those that expire first.
pub(super) fn add(change: &mut Change<'_>, login: &Login) -> Answer<Secret<String>> {
    let mine = of_user(&**change, &login.user)?;
    let (ended, good): (Vec<_>, Vec<_>) = mine
        .into_iter()
        .partition(|(_, l)| l.expires_at <= change.now);
    for (digest, old) in &ended {
        remove(change, digest, old)?;
    }
    let is_like = |l: &Login| l.kept_as.is_some() == login.kept_as.is_some();
    let mut alike: Vec<_> = good.iter().filter(|(_, l)| is_like(l)).collect();
    alike.sort_by_key(|(_, l)| l.expires_at);
    let surplus = (alike.len() + 1).saturating_sub(EACH_MAX);
    for (digest, old) in alike.into_iter().take(surplus) {
        remove(change, digest, old)?;
    }
    let secret = secrets::fresh()?;
    let digest = secrets::kept(secret.expose());
    change.put(&LOGINS, &digest, login)?;
    change.put(&OF_USER, &index(login.user.as_str(), &digest), &())?;
    Ok(secret)
}

/// All tokens of a user.
pub(super) fn of_user(rows: &impl Read, user: &UserId) -> Answer<Vec<(String, Login)>> {
    let mut all = Vec::new();
    for (key, ()) in rows.with_prefix(&OF_USER, &format!("{user}/"))? {
        let digest = key.rsplit('/').next().unwrap_or_default();
        if let Some(login) = rows.get(&LOGINS, digest)? {
            all.push((digest.to_owned(), login));
        }
    }
    Ok(all)
}

/// Forgets one.
pub(super) fn remove(change: &mut Change<'_>, digest: &str, login: &Login) -> Answer<()> {
    change.remove(&LOGINS, digest)?;
    change.remove(&OF_USER, &index(login.user.as_str(), digest))?;
    Ok(())
}

/// Forgets a user's tokens that match.
pub(super) fn forget(
    change: &mut Change<'_>,
    user: &UserId,
    which: impl Fn(&Login) -> bool,
) -> Answer<()> {
    for (digest, login) in of_user(&**change, user)? {
        if which(&login) {
            remove(change, &digest, &login)?;
        }
    }
    Ok(())
}

/// Forgets those valid for one cluster.
pub(super) fn forget_cluster(change: &mut Change<'_>, cluster: ClusterId) -> Answer<()> {
    for (digest, login) in change.all(&LOGINS)? {
        if login.scope == Scope::Cluster(cluster) {
            remove(change, &digest, &login)?;
        }
    }
    Ok(())
}
