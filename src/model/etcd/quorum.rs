//! Whether members may leave etcd without costing it its quorum, and which is taken out next. Pure: asked by the plane
//! before it lets a master go, by a master before it goes, and by the leader's master before it takes one out.
//!
//! A change of membership is agreed on by those who are members before it, and those who are left go on. etcd itself
//! looks too (`--strict-reconfig-check`), and by the same rule where a member that runs leaves; its refusal then names
//! no member. So the members at fault and the remedy are named here, before anything is touched.

use super::EtcdGone;
use crate::model::HostId;

/// A member with a vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// What people call it.
    pub name: String,
    /// It is to leave.
    pub leaves: bool,
    /// It answered just now that it is well.
    pub answers: bool,
}

/// Votes, and how many of them answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Members with a vote.
    pub votes: usize,
    /// Those of them that answer.
    pub answer: usize,
}

/// The quorum would be lost, or is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.why())]
pub struct Loss {
    /// As it is.
    pub now: Tally,
    /// With those gone that can leave.
    pub then: Tally,
    /// Members that do not answer.
    pub silent: Vec<String>,
}

/// A member, as etcd lists it and as it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id in hexadecimal digits.
    pub id: String,
    /// Its name: a host id; empty until it was started once.
    pub name: String,
    /// It has no vote.
    pub learner: bool,
    /// It answered just now that it is well.
    pub answers: bool,
}

/// What to do about the members to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Out {
    /// None of them is a member.
    Nobody,
    /// This one is taken out now.
    Take(Listed),
    /// None can be before something changes.
    Waits(Listed, Loss),
}

/// Whether all who are to leave can, one after the other and in any order: in the worst one those that
/// answer go first, while those that do not are still counted.
pub fn may_leave(votes: &[Vote]) -> Result<(), Loss> {
    let loss = Loss {
        now: Tally::of(votes.iter()),
        then: Tally::of(votes.iter().filter(|v| !v.leaves || !v.answers)),
        silent: votes
            .iter()
            .filter(|v| !v.answers)
            .map(|v| v.name.clone())
            .collect(),
    };
    let nobody = !votes.iter().any(|v| v.leaves);
    match nobody || loss.now.is_enough() && loss.then.is_enough() {
        true => Ok(()),
        false => Err(loss),
    }
}

/// Whether this member may be removed. One without a vote costs no quorum, but the others have to agree on it.
pub fn may_remove(listed: &[Listed], id: &str) -> Result<(), Loss> {
    let votes: Vec<Vote> = listed
        .iter()
        .filter(|m| !m.learner)
        .map(|m| Vote {
            name: m.shown().to_owned(),
            leaves: m.id == id,
            answers: m.answers,
        })
        .collect();
    may_leave(&votes)?;
    let now = Tally::of(votes.iter());
    if now.is_enough() {
        return Ok(());
    }
    Err(Loss {
        now,
        then: now,
        silent: votes
            .into_iter()
            .filter(|v| !v.answers)
            .map(|v| v.name)
            .collect(),
    })
}

/// Whose member is taken out next. One at a time: the next call sees what became of it. Members
/// without a vote go first, then those that do not answer: both only make the rest stronger. `masters` are
/// those who are to be members: an order that names one of them, and not by the id of a member of its past,
/// is not followed. Nobody takes out itself (`own`, in
/// hexadecimal digits).
pub fn next_out(listed: &[Listed], gone: &[EtcdGone], masters: &[HostId], own: &str) -> Out {
    let mut wanted: Vec<&Listed> = listed
        .iter()
        .filter(|m| m.id != own)
        .filter(|m| is_gone(m, gone, masters))
        .collect();
    wanted.sort_by_key(|m| (!m.learner, m.answers, m.id.clone()));
    let mut waits = None;
    for member in wanted {
        match may_remove(listed, &member.id) {
            Ok(()) => return Out::Take(member.clone()),
            Err(loss) => drop(waits.get_or_insert((member, loss))),
        }
    }
    waits.map_or(Out::Nobody, |(member, loss)| {
        Out::Waits(member.clone(), loss)
    })
}

/// Whether the others continue while this member restarts: those of them that answer now are a majority of all votes.
/// Of two members either is needed, and neither could ever be restarted: there the other one has to be healthy, so that
/// the two never pause at the same time.
pub fn may_pause(listed: &[Listed], own: &str) -> Result<(), Loss> {
    let votes = || listed.iter().filter(|m| !m.learner);
    let others = || votes().filter(|m| m.id != own);
    if others().count() == votes().count() {
        // It has no vote: no quorum counts on it.
        return Ok(());
    }
    let now = Tally {
        votes: votes().count(),
        answer: votes().filter(|m| m.answers).count(),
    };
    let then = Tally {
        votes: now.votes,
        answer: others().filter(|m| m.answers).count(),
    };
    let all = then.answer + 1 == then.votes;
    match then.is_enough() || then.votes <= 2 && all {
        true => Ok(()),
        false => Err(Loss {
            now,
            then,
            silent: others()
                .filter(|m| !m.answers)
                .map(|m| m.shown().to_owned())
                .collect(),
        }),
    }
}

/// Whose master removes the leaving members: the one whose member leads, so that no two do it. If the leader itself is
/// leaving, its master may be the very one that gets no specs any longer: then it is the first, in the order of their
/// ids, of those that stay and answer.
pub fn who_acts<'a>(
    listed: &'a [Listed],
    gone: &[EtcdGone],
    masters: &[HostId],
    leader: &str,
) -> Option<&'a Listed> {
    let goes = |m: &&Listed| is_gone(m, gone, masters);
    match listed.iter().find(|m| m.id == leader) {
        Some(leader) if !goes(&leader) => Some(leader),
        Some(_) | None => {
            let stay = listed
                .iter()
                .filter(|m| !m.learner && m.answers && !goes(m));
            stay.min_by_key(|m| u64::from_str_radix(&m.id, 16).unwrap_or(u64::MAX))
        }
    }
}

/// The plane named this member as one that is to go.
pub fn is_gone(member: &Listed, gone: &[EtcdGone], masters: &[HostId]) -> bool {
    gone.iter().any(|g| is_of(member, g, masters))
}

/// By its id where that is known; otherwise by its name, which is a unique host id, and not where that host is a master
/// again.
fn is_of(member: &Listed, gone: &EtcdGone, masters: &[HostId]) -> bool {
    match &gone.member_id {
        Some(id) => same_id(id, &member.id),
        None => member.name == gone.host_id.to_string() && !masters.contains(&gone.host_id),
    }
}

/// Two ids in hexadecimal digits are the same number.
pub fn same_id(a: &str, b: &str) -> bool {
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    matches!((number(a), number(b)), (Some(a), Some(b)) if a == b)
}

// === impl Tally ===

impl Tally {
    fn of<'a>(votes: impl Iterator<Item = &'a Vote>) -> Self {
        votes.fold(
            Self {
                votes: 0,
                answer: 0,
            },
            |sum, vote| Self {
                votes: sum.votes + 1,
                answer: sum.answer + usize::from(vote.answers),
            },
        )
    }

    /// How many have to answer.
    pub fn needs(self) -> usize {
        self.votes / 2 + 1
    }

    /// They are. Zero of zero is not a quorum.
    pub fn is_enough(self) -> bool {
        self.answer >= self.needs()
    }
}

// === impl Loss ===

impl Loss {
    /// What is so, as text.
    pub fn why(&self) -> String {
        let (now, then) = (self.now, self.then);
        let members = match now.votes {
            1 => "1 member".to_owned(),
            n => format!("{n} members"),
        };
        let verb = if now.answer == 1 { "answers" } else { "answer" };
        let silent = self.silent.join(", ");
        let rest = match () {
            () if !now.is_enough() => format!(
                "{} must for any member to be removed; no answer from {silent}",
                now.needs()
            ),
            () if then.votes == 0 => "no other one has a vote yet".to_owned(),
            () => format!(
                "of the {} left {} would and {} must; no answer from {silent}",
                then.votes,
                then.answer,
                then.needs()
            ),
        };
        format!(
            "etcd has {members} with a vote, {} of them {verb}; {rest}",
            now.answer
        )
    }

    /// What would make it possible.
    pub fn fix(&self) -> &'static str {
        match () {
            () if !self.now.is_enough() => {
                "bring a silent master back until a majority answers, or restore a backup"
            }
            () if self.then.votes == 0 => "wait until another master has its vote",
            () => {
                "bring a silent master back, or remove its host first: this is possible when the \
                 others have removed its member"
            }
        }
    }
}

impl Listed {
    /// What people call it.
    pub fn shown(&self) -> &str {
        if self.name.is_empty() {
            &self.id
        } else {
            &self.name
        }
    }
}

#[cfg(test)]
mod tests;
