//! Issuers of OpenID Connect that the API server trusts about users.
//!
//! A user in a cluster is a text, and some texts have a meaning of their own: `system:` names are Kubernetes' own,
//! `pf9:` names are those of this software's certificates. A token must not be able to claim one of them, whatever its
//! issuer writes into it. So each issuer has a prefix that goes before everything it says, and a prefix is refused if
//! such a name could begin with it: neither one that extends it (`system:x`), nor one that it extends (`s`, with a user
//! called `ystem:masters`). By the same rule the users of two issuers are never the same.
//!
//! Rejected: expressions (CEL) instead of names of claims. What an expression can make of a token nobody
//! judges from outside. And an issuer without its authority: the API server's image holds the API server
//! and nothing else, so there is no list of public authorities that it could fall back to; and any of
//! those could speak for the issuer.

use std::collections::{BTreeMap, BTreeSet};

use http::Uri;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::pem_bytes;
use crate::model::certificates;

/// Beginnings of names that mean something by themselves.
const RESERVED: [&str; 2] = ["system:", "pf9:"];
/// Most issuers of a cluster: people come from few places, and every token is shown to each of them.
const ISSUERS_MAX: usize = 8;
/// Most audiences, required claims, certificates of one issuer: a person wrote them.
const LIST_MAX: usize = 16;
/// Longest address, audience, claim or value.
const TEXT_MAX: usize = 512;
/// Longest prefix: it is part of every name.
const PREFIX_MAX: usize = 64;
/// Longest text of an issuer's authorities: a spec with all issuers stays small.
const AUTHORITY_MAX: usize = 16 * 1024;

/// An issuer whose tokens name users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OidcIssuer {
    /// As tokens say it, and where its keys are found: `https://…`.
    pub url: String,
    /// A token must be for one of these.
    pub audiences: Vec<String>,
    /// Authorities of its own certificate, in PEM.
    pub authority: String,
    /// The user's name.
    pub username: ClaimSpec,
    /// The user's groups; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<ClaimSpec>,
    /// Claims that a token must have, with just this text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub required_claims: BTreeMap<String, String>,
}

/// A claim of a token that becomes a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimSpec {
    /// Its name, e.g. `sub`.
    pub claim: String,
    /// What goes before its text.
    pub prefix: String,
}

/// The issuer of the cluster's own service accounts.
pub fn service_account_issuer(cluster_domain: &str) -> String {
    format!("https://kubernetes.default.svc.{cluster_domain}")
}

/// What is wrong with a list of issuers: where (from `[0].url` on), and why.
pub fn oidc_fault(issuers: &[OidcIssuer], own_issuer: &str) -> Option<(String, String)> {
    if issuers.len() > ISSUERS_MAX {
        let why = format!("{} issuers, at most {ISSUERS_MAX}", issuers.len());
        return Some((String::new(), why));
    }
    issuers.iter().enumerate().find_map(|(at, issuer)| {
        let (field, why) = issuer
            .fault()
            .or_else(|| issuer.meets(&issuers[..at], own_issuer))?;
        Some((format!("[{at}].{field}"), why))
    })
}

// === impl OidcIssuer ===

impl OidcIssuer {
    /// What is wrong with it alone.
    fn fault(&self) -> Option<(String, String)> {
        let named = |field: &str, why: String| Some((field.to_owned(), why));
        if let Some(why) = url_fault(&self.url) {
            return named("url", why);
        }
        if let Some(why) = audiences_fault(&self.audiences) {
            return named("audiences", why);
        }
        if let Some(why) = authority_fault(&self.authority) {
            return named("authority", why);
        }
        let claims = [
            ("username", Some(&self.username)),
            ("groups", self.groups.as_ref()),
        ];
        for (field, claim) in claims {
            let Some(claim) = claim else { continue };
            if let Some(why) = text_fault(&claim.claim) {
                return named(&format!("{field}.claim"), why);
            }
            if let Some(why) = prefix_fault(&claim.prefix) {
                return named(&format!("{field}.prefix"), why);
            }
        }
        if self.required_claims.len() > LIST_MAX {
            let why = format!("{} claims, at most {LIST_MAX}", self.required_claims.len());
            return named("required_claims", why);
        }
        let mut texts = self
            .required_claims
            .iter()
            .flat_map(|(name, text)| [name, text]);
        named("required_claims", texts.find_map(|text| text_fault(text))?)
    }

    /// What is wrong with it beside those before it.
    fn meets(&self, before: &[Self], own_issuer: &str) -> Option<(String, String)> {
        let url = &self.url;
        if url == own_issuer {
            let why = format!("{url} is the issuer of the cluster's own service accounts");
            return Some(("url".into(), why));
        }
        if before.iter().any(|other| other.url == *url) {
            return Some(("url".into(), format!("{url} occurs twice")));
        }
        let both = |field: &str, own: &ClaimSpec, other: &ClaimSpec| {
            may_meet(&own.prefix, &other.prefix).then(|| {
                let why = format!(
                    "{:?} and {:?} of another issuer share a beginning, so each could produce the \
                     other's names",
                    own.prefix, other.prefix
                );
                (format!("{field}.prefix"), why)
            })
        };
        before.iter().find_map(|other| {
            both("username", &self.username, &other.username)
                .or_else(|| both("groups", self.groups.as_ref()?, other.groups.as_ref()?))
        })
    }
}

/// Whether a text with one beginning can be one with the other.
fn may_meet(a: &str, b: &str) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

fn prefix_fault(prefix: &str) -> Option<String> {
    if prefix.is_empty() {
        return Some(
            "is missing: without one a token could claim any name, including Kubernetes' own; use \
             one like \"oidc:\""
                .into(),
        );
    }
    if prefix.len() > PREFIX_MAX || !prefix.bytes().all(|b| b.is_ascii_graphic()) {
        let shown: String = prefix.chars().take(PREFIX_MAX).collect();
        return Some(format!(
            "{shown:?} is longer than {PREFIX_MAX} bytes, or has characters other than letters, \
             digits and punctuation"
        ));
    }
    let reserved = RESERVED.iter().find(|r| may_meet(prefix, r))?;
    Some(format!(
        "{prefix:?}: a name with it could begin with {reserved:?}, which no token may claim"
    ))
}

fn url_fault(url: &str) -> Option<String> {
    // Looked at first: a password is not said again.
    if url.contains('@') {
        return Some("must hold no user and no password".into());
    }
    if let Some(why) = text_fault(url) {
        return Some(why);
    }
    let parsed = url.parse::<Uri>().ok();
    let host = parsed.as_ref().and_then(Uri::host).unwrap_or_default();
    if !url.starts_with("https://") || host.is_empty() {
        return Some(format!("{url:?} is not an https:// address"));
    }
    url.contains(['?', '#'])
        .then(|| format!("{url:?} has more than a host and a path"))
}

fn audiences_fault(audiences: &[String]) -> Option<String> {
    let count = audiences.len();
    if count == 0 || count > LIST_MAX {
        return Some(format!("{count} entries; 1 to {LIST_MAX} are wanted"));
    }
    let distinct: BTreeSet<&String> = audiences.iter().collect();
    if distinct.len() < count {
        return Some("one of them occurs twice".into());
    }
    audiences.iter().find_map(|text| text_fault(text))
}

fn authority_fault(pem: &str) -> Option<String> {
    if pem.trim().is_empty() {
        return Some(
            "is missing: the API server knows no public authorities; give the certificate (PEM) \
             of the one that signed the issuer's"
                .into(),
        );
    }
    if pem.len() > AUTHORITY_MAX {
        return Some(format!("{} bytes, at most {AUTHORITY_MAX}", pem.len()));
    }
    let all = certificates(pem);
    let good = |one: &&str| {
        pem_bytes(one, "CERTIFICATE").is_some_and(|der| {
            X509Certificate::from_der(&der).is_ok_and(|(rest, _)| rest.is_empty())
        })
    };
    if all.is_empty() || all.len() > LIST_MAX || !all.iter().all(good) {
        return Some(format!("is not 1 to {LIST_MAX} certificates in PEM"));
    }
    None
}

/// Texts that go into a file and are compared byte for byte.
fn text_fault(text: &str) -> Option<String> {
    let good = !text.is_empty()
        && text.len() <= TEXT_MAX
        && text.chars().all(|c| !c.is_control())
        && text.trim() == text;
    let shown: String = text.chars().take(TEXT_MAX).collect();
    (!good).then(|| {
        format!("{shown:?} is empty, longer than {TEXT_MAX} bytes, or has spaces around it")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: &str = "https://kubernetes.default.svc.cluster.local";
    /// A certificate that signs itself, good for a hundred years.
    const AUTHORITY: &str = include_str!("../../../tests/support/issuer.pem");

    fn issuer() -> OidcIssuer {
        OidcIssuer {
            url: "https://login.example.com/realms/ops".into(),
            audiences: vec!["kubernetes".into()],
            authority: AUTHORITY.into(),
            username: ClaimSpec {
                claim: "sub".into(),
                prefix: "oidc:".into(),
            },
            groups: Some(ClaimSpec {
                claim: "groups".into(),
                prefix: "oidc:".into(),
            }),
            required_claims: [("hd".to_owned(), "example.com".to_owned())].into(),
        }
    }

    fn field(change: impl FnOnce(&mut OidcIssuer)) -> Option<String> {
        let mut issuer = issuer();
        change(&mut issuer);
        oidc_fault(&[issuer], OWN).map(|(field, _)| field)
    }

    #[test]
    fn what_no_api_server_may_believe_is_named() {
        assert_eq!(field(|_| {}), None);
        for url in [
            "",
            "http://login.example.com",
            "https://",
            "https:///path",
            "https://a b",
            "https://me:hunter2@login.example.com",
            "https://login.example.com?x=1",
            "https://login.example.com#x",
            "HTTPS://login.example.com",
            OWN,
        ] {
            let said = field(|i| i.url = url.into());
            assert_eq!(said.as_deref(), Some("[0].url"), "{url}");
        }
        let long = "x".repeat(TEXT_MAX + 1);
        for audiences in [&[][..], &[""], &["a", "a"], &["a\n"], &[&long], &["a"; 17]] {
            let audiences = audiences.iter().map(|a| (*a).to_owned()).collect();
            let said = field(|i| i.audiences = audiences);
            assert_eq!(said.as_deref(), Some("[0].audiences"));
        }
        let cut = &AUTHORITY[..AUTHORITY.len() / 2];
        let wrong = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for pem in ["", " \n", "x", cut, wrong, &AUTHORITY.repeat(40)] {
            let said = field(|i| i.authority = pem.into());
            assert_eq!(said.as_deref(), Some("[0].authority"), "{pem}");
        }
        let said = field(|i| i.username.claim = String::new());
        assert_eq!(said.as_deref(), Some("[0].username.claim"));
        let said = field(|i| i.required_claims = [("a".into(), String::new())].into());
        assert_eq!(said.as_deref(), Some("[0].required_claims"));
    }

    #[test]
    fn a_password_is_not_said_again() {
        let mut issuer = issuer();
        issuer.url = "https://me:hunter2@login.example.com".into();
        let (_, why) = oidc_fault(&[issuer], OWN).expect("refused");
        assert!(!why.contains("hunter2"), "{why}");
    }

    #[test]
    fn prefixes_lead_to_no_name_that_means_something() {
        for bad in [
            "",
            "system:",
            "system:node:",
            "s",
            "system",
            "pf9:",
            "p",
            "pf9",
            "pf9:plane",
            "a b",
            "ä:",
            &"x".repeat(PREFIX_MAX + 1),
        ] {
            let said = field(|i| i.username.prefix = bad.into());
            assert_eq!(said.as_deref(), Some("[0].username.prefix"), "{bad:?}");
            let said = field(|i| i.groups.as_mut().expect("groups").prefix = bad.into());
            assert_eq!(said.as_deref(), Some("[0].groups.prefix"), "{bad:?}");
        }
        for good in [
            "oidc:",
            "sys:",
            "systems:",
            "P",
            "https://login.example.com#",
        ] {
            assert_eq!(field(|i| i.username.prefix = good.into()), None, "{good}");
        }
    }

    #[test]
    fn two_issuers_name_different_people() {
        let two = |change: &dyn Fn(&mut OidcIssuer)| {
            let mut other = issuer();
            other.url = "https://other.example.com".into();
            other.username.prefix = "other:".into();
            other.groups.as_mut().expect("groups").prefix = "other:".into();
            change(&mut other);
            oidc_fault(&[issuer(), other], OWN).map(|(field, _)| field)
        };
        assert_eq!(two(&|_| {}), None);
        let said = two(&|o| o.url = issuer().url);
        assert_eq!(said.as_deref(), Some("[1].url"));
        let said = two(&|o| o.username.prefix = "oidc:other:".into());
        assert_eq!(said.as_deref(), Some("[1].username.prefix"));
        let said = two(&|o| o.groups.as_mut().expect("groups").prefix = "oidc".into());
        assert_eq!(said.as_deref(), Some("[1].groups.prefix"));
        let many = vec![issuer(); ISSUERS_MAX + 1];
        assert_eq!(oidc_fault(&many, OWN).map(|(f, _)| f), Some(String::new()));
    }

    proptest! {
        /// Whatever an issuer writes into a claim.
        #[test]
        fn no_token_says_a_name_of_ours(prefix in "[a-z:p9fsytem]{0,9}", text in "[a-z:0-9]{0,12}") {
            let taken = field(|i| i.username.prefix.clone_from(&prefix)).is_none();
            let name = format!("{prefix}{text}");
            let ours = RESERVED.iter().any(|r| name.starts_with(r));
            prop_assert!(!(taken && ours), "{name}");
        }

        /// And none says a name that another issuer may say.
        #[test]
        fn no_two_issuers_say_the_same_name(a in "[ab:]{1,4}", b in "[ab:]{1,4}", text in "[ab:]{0,4}") {
            let mut other = issuer();
            other.url = "https://other.example.com".into();
            other.groups = None;
            other.username.prefix.clone_from(&b);
            let mut one = issuer();
            one.username.prefix.clone_from(&a);
            let taken = oidc_fault(&[one, other], OWN).is_none();
            let name = format!("{a}{text}");
            prop_assert!(!(taken && name.starts_with(&b)), "{name}");
        }
    }
}
