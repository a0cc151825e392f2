//! Decides whose turn it is to join. etcd takes one newcomer at a time, and none while a listed member does not answer:
//! it refuses without naming one. So a joining master looks first, and waits for a member that it can name.

use super::{Etcd, EtcdError, Member, Who, hex};
use crate::model::EtcdGone;
use crate::model::etcd::quorum::same_id;

/// What a host finds that is to become a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is one already.
    Counted(Member),
    /// It waits for this.
    Waits(String),
    /// It may join now.
    Free,
}

/// What the first of these endpoints that answers says to this host.
pub async fn turn(endpoints: &[Etcd], who: &Who, gone: &[EtcdGone]) -> Result<Turn, EtcdError> {
    let mut why = EtcdError::Nobody;
    for etcd in endpoints {
        match etcd.members().await {
            Ok(members) => return turn_in(members, who, gone),
            Err(e) => why = e.or_after(why),
        }
    }
    Err(why)
}

fn turn_in(members: Vec<Member>, who: &Who, gone: &[EtcdGone]) -> Result<Turn, EtcdError> {
    let is_gone = |m: &&Member| gone.iter().any(|g| is_of(m, g));
    let leaver = members.iter().find(is_gone);
    match who.among(&members) {
        Ok(Some(own)) => return Ok(Turn::Counted(own.clone())),
        // A substitute at the address of the one that it replaces: the doubt goes with that one.
        Ok(None) | Err(_) if leaver.is_some() => {}
        Ok(None) => {}
        Err(doubt) => return Err(doubt),
    }
    if let Some(leaver) = leaver {
        let what = format!(
            "member {} to be removed from etcd: its host is gone",
            shown(leaver)
        );
        return Ok(Turn::Waits(what));
    }
    Ok(match members.iter().find(|m| m.is_learner) {
        Some(first) => Turn::Waits(format!(
            "member {}, which is joining etcd: one at a time",
            shown(first)
        )),
        None => Turn::Free,
    })
}

fn is_of(member: &Member, gone: &EtcdGone) -> bool {
    match &gone.member_id {
        Some(id) => same_id(id, &hex(&member.id)),
        None => member.name == gone.host_id.to_string(),
    }
}

/// Its host; before its first start, where it will be.
fn shown(member: &Member) -> String {
    match member.name.is_empty() {
        true => format!("{} at {}", hex(&member.id), member.peer_urls.join(", ")),
        false => member.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HostId;

    fn member(n: u8, is_learner: bool) -> Member {
        Member {
            id: (u64::from(n) + 0xa0).to_string(),
            name: host(n).to_string(),
            peer_urls: vec![format!("https://10.0.0.{n}:2380")],
            client_urls: Vec::new(),
            is_learner,
        }
    }

    fn host(n: u8) -> HostId {
        HostId(uuid::Uuid::from_u128(n.into()))
    }

    fn asks(members: Vec<Member>, gone: &[EtcdGone]) -> Turn {
        let who = Who {
            id: None,
            name: host(7).to_string(),
            ip: [10, 0, 0, 7].into(),
        };
        turn_in(members, &who, gone).expect("no doubt")
    }

    #[test]
    fn one_joins_at_a_time_and_not_before_who_is_gone_is_out() {
        let two = || vec![member(1, false), member(2, false)];
        assert_eq!(asks(two(), &[]), Turn::Free);
        let mut joining = two();
        joining.push(member(3, true));
        let Turn::Waits(what) = asks(joining.clone(), &[]) else {
            panic!("it is somebody else's turn");
        };
        assert!(
            what.starts_with(&format!("member {}, which is joining", host(3))),
            "{what}"
        );
        // By its number in hexadecimal, or by its name.
        for member_id in [Some("a2".to_owned()), None] {
            let gone = [EtcdGone {
                host_id: host(2),
                member_id,
            }];
            let Turn::Waits(what) = asks(joining.clone(), &gone) else {
                panic!("nobody joins before that");
            };
            assert!(
                what.starts_with(&format!("member {} to be removed", host(2))),
                "{what}"
            );
        }
        // At the address of the one that is to go, as its substitute.
        let who = Who {
            id: None,
            name: host(7).to_string(),
            ip: [10, 0, 0, 2].into(),
        };
        let gone = [EtcdGone {
            host_id: host(2),
            member_id: Some("a2".into()),
        }];
        let Ok(Turn::Waits(what)) = turn_in(two(), &who, &gone) else {
            panic!("it waits for the one whose place it has");
        };
        assert!(what.contains("to be removed"), "{what}");
        turn_in(two(), &who, &[]).expect_err("whose member is that?");
        let past = [EtcdGone {
            host_id: host(2),
            member_id: Some("ff".into()),
        }];
        assert_eq!(asks(two(), &past), Turn::Free, "that member is out already");
        // A listed member waits for no other, started or not.
        joining.push(member(7, false));
        assert_eq!(asks(joining.clone(), &[]), Turn::Counted(member(7, false)));
        joining[2].name = String::new();
        joining.pop();
        let Turn::Waits(what) = asks(joining, &[]) else {
            panic!("it is somebody else's turn");
        };
        assert!(
            what.starts_with("member a3 at https://10.0.0.3:2380, which"),
            "{what}"
        );
    }
}
