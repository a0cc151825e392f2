//! The endpoints that nodes use: pure.

use http::Uri;

use pf9_hostagent::model::{Fault, FaultCode};
use pf9_hostagent::mux;

/// The planes a node knows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endpoints {
    /// `wss://host:port/v1/tunnel`, best first, without duplicates.
    pub(super) urls: Vec<String>,
    /// Their names and addresses.
    pub(super) hosts: Vec<String>,
}

/// Most planes given to a node: it keeps [`mux::SLOTS_MAX`] sessions and has no use for many more; it refuses an
/// enrolment with more than 32.
const ENDPOINTS_MAX: usize = 8;

/// The endpoints the operator named; without any: the plane itself at its public URL.
pub(super) fn all(named: &[String], public_url: &str) -> Result<Endpoints, Fault> {
    let own = public_url.replacen("https://", "wss://", 1);
    let named = match named {
        [] => std::slice::from_ref(&own),
        named => named,
    };
    if named.len() > ENDPOINTS_MAX {
        return Err(bad(&format!("at most {ENDPOINTS_MAX} can be named")));
    }
    let mut all = Endpoints {
        urls: Vec::new(),
        hosts: Vec::new(),
    };
    for text in named {
        let (url, host) = one(text).map_err(|why| bad(&format!("{text:?} {why}")))?;
        if !all.urls.contains(&url) {
            all.urls.push(url);
            all.hosts.push(host);
        }
    }
    Ok(all)
}

fn one(text: &str) -> Result<(String, String), &'static str> {
    let uri: Uri = text.parse().map_err(|_| "is not a URL")?;
    if uri.scheme_str() != Some("wss") || uri.query().is_some() {
        return Err("is not wss://HOST:PORT");
    }
    let path = match uri.path() {
        "" | "/" => mux::TUNNEL_PATH,
        path => path,
    };
    let authority = uri.authority().ok_or("names no host")?;
    if authority.as_str().contains('@') {
        return Err("must not hold a user name");
    }
    let host = authority.host().trim_matches(['[', ']']);
    Ok((format!("wss://{authority}{path}"), host.to_owned()))
}

fn bad(why: &str) -> Fault {
    let why = format!("--endpoint: {why}");
    Fault::new(FaultCode::Usage, "cannot start the plane", why).fix("give it as wss://HOST:PORT")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(named: &[&str]) -> Result<Endpoints, Fault> {
        let named: Vec<String> = named.iter().map(|&n| n.to_owned()).collect();
        all(&named, "https://plane.example:8443")
    }

    #[test]
    fn without_named_endpoints_it_is_the_plane_itself() {
        let own = of(&[]).expect("own");
        assert_eq!(own.urls, ["wss://plane.example:8443/v1/tunnel"]);
        let two = of(&["wss://a:1", "wss://[fd00::1]:2/", "wss://a:1/"]).expect("two");
        let urls = ["wss://a:1/v1/tunnel", "wss://[fd00::1]:2/v1/tunnel"];
        assert_eq!(two.urls, urls);
        assert_eq!(two.hosts, ["a", "fd00::1"]);
    }

    #[test]
    fn what_no_node_could_dial_is_refused() {
        for wrong in [
            "",
            "a:1",
            "https://a:1",
            "wss://",
            "wss://u@a:1",
            "wss://a:1/?x",
        ] {
            let fault = of(&[wrong]).expect_err(wrong);
            assert!(fault.why.contains("--endpoint"), "{fault}");
        }
        let many: Vec<String> = (0..=ENDPOINTS_MAX)
            .map(|n| format!("wss://a:{n}"))
            .collect();
        all(&many, "https://a").expect_err("too many");
    }
}
