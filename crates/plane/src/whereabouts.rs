//! Where this plane is: the addresses in its URLs, and those that the names in them have. Every node has to reach them, so
//! no cluster may have them among its own.
//!
//! Names are looked up in the background, never for a request: a hanging resolver holds one thread, and no request.
//! What is not known here a node finds out: it knows where its tunnel goes.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use pf9_hostagent::host::looking::Looking;
use pf9_hostagent::model::{Ground, addresses_of, names_of};

/// Between two lookups: a plane's name moves less often, and hosts take longer to follow.
const AGAIN: Duration = Duration::from_secs(60);
/// Longest wait for a lookup. It continues, and the next caller has its answer.
const LOOK: Duration = Duration::from_secs(2);
/// Most addresses of all names together; a name of a plane has a few.
const ADDRESSES_MAX: usize = 64;

/// What is known of it.
#[derive(Debug)]
pub(super) struct Whereabouts {
    stated: Vec<IpAddr>,
    names: Vec<String>,
    found: Mutex<Vec<(String, IpAddr)>>,
}

impl Whereabouts {
    /// For a plane that is reached by these URLs.
    pub(super) fn new(urls: &[String]) -> Self {
        let mut names = names_of(urls);
        names.sort_unstable();
        names.dedup();
        Self {
            stated: addresses_of(urls),
            names,
            found: Mutex::default(),
        }
    }

    /// What nodes have to reach.
    pub(super) fn grounds(&self) -> Vec<Ground> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let named = found.iter().map(|(name, ip)| {
            let what = format!("where this plane is ({name})");
            Ground::address(*ip, what)
        });
        let stated = self.stated.iter();
        let stated = stated.map(|ip| Ground::address(*ip, "where this plane is"));
        named.chain(stated).collect()
    }

    /// Keeps looking the names up.
    pub(super) async fn keep(&self, shutdown: CancellationToken) {
        if self.names.is_empty() {
            return;
        }
        let mut looking = Looking::default();
        loop {
            let names = self.names.clone();
            let answer = tokio::select! {
                // cancel-safe: a look that is left continues by itself
                () = shutdown.cancelled() => return,
                answer = looking.at("names", LOOK, move || addresses(&names)) => answer,
            };
            match answer {
                Ok(Some(answer)) => self.learn(answer),
                // It goes on, and the next look has its answer.
                Ok(None) => {}
                Err(e) => tracing::debug!(why = %e, "the plane's names were not looked up"),
            }
            tokio::select! {
                // cancel-safe: both only wait
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// A name that has no address now keeps those that it had: it is where hosts were told to come.
    fn learn(&self, answer: Vec<(String, IpAddr)>) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.retain(|(name, _)| !answer.iter().any(|(other, _)| other == name));
        found.extend(answer);
        found.truncate(ADDRESSES_MAX);
    }
}

/// The addresses of each name.
fn addresses(names: &[String]) -> Vec<(String, IpAddr)> {
    let mut all = Vec::new();
    for name in names {
        match (name.as_str(), 0).to_socket_addrs() {
            Ok(found) => all.extend(found.map(|at| (name.clone(), at.ip()))),
            Err(e) => tracing::debug!(name, why = %e, "no address of this plane's name"),
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use pf9_hostagent::model::clash;

    fn plane() -> Whereabouts {
        let urls = [
            "https://192.0.2.1:8443",
            "wss://plane.example:8443/v1/tunnel",
            "wss://other.example/",
        ];
        Whereabouts::new(&urls.map(str::to_owned))
    }

    fn met(plane: &Whereabouts, pods: &str) -> Option<String> {
        let services = "10.96.0.0/16".parse().expect("net");
        clash(pods.parse().expect("net"), services, &plane.grounds())
    }

    fn at(name: &str, ip: &str) -> (String, IpAddr) {
        (name.to_owned(), ip.parse().expect("ip"))
    }

    #[test]
    fn addresses_and_those_of_names_are_kept_free_and_a_name_that_is_silent_keeps_its_own() {
        let plane = plane();
        let why = met(&plane, "192.0.2.0/24").expect("met");
        assert!(why.ends_with("where this plane is"), "{why}");
        assert_eq!(met(&plane, "198.51.100.0/24"), None);
        plane.learn(vec![
            at("other.example", "203.0.113.9"),
            at("plane.example", "198.51.100.7"),
        ]);
        let why = met(&plane, "198.51.100.0/24").expect("met");
        assert!(
            why.ends_with("198.51.100.7, where this plane is (plane.example)"),
            "{why}"
        );
        // It moved; the other one was not answered for.
        plane.learn(vec![at("plane.example", "198.51.200.7")]);
        assert_eq!(met(&plane, "198.51.100.0/24"), None);
        assert!(met(&plane, "198.51.200.0/24").is_some());
        assert!(met(&plane, "203.0.113.0/24").is_some());
        let many = (0..200u8).map(|n| ("plane.example".to_owned(), IpAddr::from([10, 1, 0, n])));
        plane.learn(many.collect());
        assert_eq!(plane.grounds().len(), 1 + ADDRESSES_MAX);
    }

    #[test]
    fn a_name_without_an_address_is_no_error() {
        // Longer than a name can be: no resolver is asked.
        let names = ["localhost".to_owned(), "x".repeat(300)];
        let found = addresses(&names);
        let own = |(name, ip): &(String, IpAddr)| name == "localhost" && ip.is_loopback();
        assert!(!found.is_empty() && found.iter().all(own), "{found:?}");
    }
}
