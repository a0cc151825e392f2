//! Which of the members is the one of this host. Pure.
//!
//! By the id that this host noted; else by its name *and* its address. One of the two alone is no proof: a
//! machine with a wrong address, or a copy of one, would have another's member, which is alive, taken out.
//! One that was added and never started has no name and no data: the first etcd to start at its address becomes it.

use std::net::IpAddr;

use super::{EtcdError, Member, peer_url};

/// A host, as members know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Its member's id in hexadecimal digits, where it knows it.
    pub id: Option<String>,
    /// Its member's name: the host id.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
}

impl Who {
    /// This host's member.
    pub fn among<'a>(&self, members: &'a [Member]) -> Result<Option<&'a Member>, EtcdError> {
        let by_id = |m: &&Member| self.id.as_deref().is_some_and(|id| hex(&m.id) == id);
        if let Some(own) = members.iter().find(by_id) {
            return Ok(Some(own));
        }
        let url = peer_url(self.ip);
        let at_home = |m: &Member| m.peer_urls.contains(&url);
        let own = |m: &&Member| at_home(m) && (m.name == self.name || !m.was_started());
        if let Some(own) = members.iter().find(own) {
            return Ok(Some(own));
        }
        match members.iter().find(|m| m.name == self.name || at_home(m)) {
            None => Ok(None),
            Some(doubtful) => Err(self.doubt(doubtful)),
        }
    }

    fn doubt(&self, member: &Member) -> EtcdError {
        let id = hex(&member.id);
        let (name, at) = (&member.name, member.peer_urls.join(", "));
        EtcdError::Doubtful(format!(
            "etcd counts member {id} with name {name:?} at {at}, and this host is {:?} at {}: only one of \
             the two is the same, so it may be another master's; if no running master has it, \
             remove it (etcdctl member remove {id})",
            self.name,
            peer_url(self.ip)
        ))
    }
}

/// An id in hexadecimal digits, as etcd prints it, from the decimal ones of its gateway; what is no number
/// stays as it is.
pub fn hex(decimal: &str) -> String {
    decimal
        .parse::<u64>()
        .map_or_else(|_| decimal.to_owned(), |id| format!("{id:x}"))
}

impl Member {
    /// Its name is empty until then.
    pub fn was_started(&self) -> bool {
        !self.name.is_empty()
    }

    /// It had started and published its client address: it has data, or had.
    pub fn has_begun(&self) -> bool {
        !self.client_urls.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, name: &str, ip: &str) -> Member {
        Member {
            id: id.into(),
            name: name.into(),
            peer_urls: vec![format!("https://{ip}:2380")],
            client_urls: Vec::new(),
            is_learner: false,
        }
    }

    fn me(id: Option<&str>, ip: &str) -> Who {
        Who {
            id: id.map(str::to_owned),
            name: "me".into(),
            ip: ip.parse().expect("address"),
        }
    }

    #[test]
    fn a_host_is_known_by_its_id_or_by_name_and_address() {
        let others = [
            member("10", "a", "10.0.0.2"),
            member("11", "b", "[fd00::2]"),
        ];
        let with = |m: Member| [&others[..], &[m]].concat();
        let found = |who: &Who, all: &[Member]| match who.among(all) {
            Ok(found) => Ok(found.map(|m| m.id.clone())),
            Err(e) => Err(e.to_string()),
        };
        let here = me(None, "10.0.0.1");
        assert_eq!(found(&here, &others), Ok(None));
        assert_eq!(
            found(&here, &with(member("31", "me", "10.0.0.1"))),
            Ok(Some("31".into()))
        );
        // Its address was another one once: the id says whose it is.
        let moved = with(member("31", "me", "10.0.0.9"));
        assert_eq!(
            found(&me(Some("1f"), "10.0.0.1"), &moved),
            Ok(Some("31".into()))
        );
        let why = found(&here, &moved).expect_err("its name alone");
        assert!(
            why.contains("member 1f") && why.contains("10.0.0.9"),
            "{why}"
        );
        // The address of one that has another name is not ours to remove.
        found(&me(None, "fd00::2"), &others).expect_err("its address alone");
        // Added and never started.
        let added = with(member("31", "", "[fd00::1]"));
        assert_eq!(found(&me(None, "fd00::1"), &added), Ok(Some("31".into())));
    }

    #[test]
    fn ids_are_read() {
        assert_eq!(hex("10276657743932975437"), "8e9e05c52164694d");
        assert_eq!(hex("x"), "x");
    }
}
