//! Certificates of a cluster's authorities: who signs, and who is trusted beside it.
//!
//! Each of the three is one PEM text of one or more certificates. The first one signs; a node
//! trusts all of them. So one authority can take over from another: while both are trusted, a
//! certificate of either is good.

use serde::{Deserialize, Serialize};

use super::Authority;

/// Most certificates of one authority: the one that signs and the one it takes over from, and room
/// for what an operator's own rotation left.
pub const BELIEVED_MAX: usize = 4;
/// Longest text of one authority: certificates of RSA-4096 have 2 KiB.
pub const AUTHORITY_MAX: usize = 32 * 1024;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Certificates of the cluster's authorities, PEM; in each the first one signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorities {
    /// Signs API server, kubelet and user certificates.
    pub cluster: String,
    /// Signs etcd servers, peers and clients; its own, so that a kubelet certificate is no etcd
    /// client.
    pub etcd: String,
    /// Signs the aggregator's client certificate.
    pub front_proxy: String,
}

// === impl Authorities ===

impl Authorities {
    /// The certificates of one authority.
    pub fn of(&self, which: Authority) -> &str {
        match which {
            Authority::Cluster => &self.cluster,
            Authority::Etcd => &self.etcd,
            Authority::FrontProxy => &self.front_proxy,
        }
    }

    /// The certificates of one authority, to be changed.
    pub fn of_mut(&mut self, which: Authority) -> &mut String {
        match which {
            Authority::Cluster => &mut self.cluster,
            Authority::Etcd => &mut self.etcd,
            Authority::FrontProxy => &mut self.front_proxy,
        }
    }

    /// What programs are given to trust: each certificate once, in an order of its own. Which of them signs changes
    /// neither this text nor its digest, so nothing is restarted for that.
    pub fn believed(&self, which: Authority) -> String {
        let mut all = certificates(self.of(which));
        if all.len() < 2 {
            return self.of(which).to_owned();
        }
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(|c| format!("{c}\n")).collect()
    }

    /// What is wrong with one of them, as text.
    pub(super) fn fault(&self, which: Authority) -> Option<String> {
        let text = self.of(which);
        if text.len() > AUTHORITY_MAX {
            return Some(format!("{} bytes, at most {AUTHORITY_MAX}", text.len()));
        }
        if !text.starts_with(BEGIN) {
            return Some("is not a PEM certificate".into());
        }
        let count = certificates(text).len();
        (count > BELIEVED_MAX).then(|| format!("{count} certificates, at most {BELIEVED_MAX}"))
    }
}

/// The certificates in a text, each from its first line to its last.
pub fn certificates(pem: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = pem;
    while let Some(begin) = rest.find(BEGIN) {
        let from = &rest[begin..];
        let Some(end) = from.find(END) else { break };
        let (one, after) = from.split_at(end + END.len());
        out.push(one);
        rest = after;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(word: &str) -> String {
        format!("{BEGIN}\n{word}\n{END}\n")
    }

    fn of(cluster: String) -> Authorities {
        Authorities {
            etcd: pem("e"),
            front_proxy: pem("f"),
            cluster,
        }
    }

    #[test]
    fn who_signs_does_not_change_what_is_believed() {
        let (old, new) = (pem("old"), pem("new"));
        let before = of(format!("{old}{new}")).believed(Authority::Cluster);
        assert_eq!(
            of(format!("{new}{old}")).believed(Authority::Cluster),
            before
        );
        assert_eq!(
            of(format!("{new}{old}{new}")).believed(Authority::Cluster),
            before
        );
        assert_eq!(certificates(&before).len(), 2);
        assert_eq!(of(old.clone()).believed(Authority::Cluster), old);
    }

    #[test]
    fn the_first_certificate_signs_and_rubbish_between_is_passed_over() {
        let text = format!("{}# a note\n{}", pem("one"), pem("two"));
        assert_eq!(certificates(&text), [pem("one").trim(), pem("two").trim()]);
        assert!(certificates("-----BEGIN CERTIFICATE-----\nno end").is_empty());
    }

    #[test]
    fn too_many_or_too_long_is_refused() {
        assert_eq!(of(pem("a")).fault(Authority::Cluster), None);
        assert!(of("x".into()).fault(Authority::Cluster).is_some());
        let many = (0..5).map(|n| pem(&n.to_string())).collect();
        assert_eq!(
            of(many).fault(Authority::Cluster),
            Some("5 certificates, at most 4".into())
        );
        let long = pem(&"a".repeat(AUTHORITY_MAX));
        assert!(of(long).fault(Authority::Cluster).is_some());
    }
}
