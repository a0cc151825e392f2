//! Hosts page by page: thousands are filtered and sorted here, and only those on the page are read in full. Pure except
//! for [`lines`].
//!
//! What filters and sorts is in memory already (each host's last report, as kept for alerts) or in its small row: host
//! documents are read only for the page that is shown.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::Rights;
use super::alerts::Brief;
use super::fleet;
use super::people::ProjectId;
use super::records::{CLUSTERS, HOSTS};
use super::refusal::{Answer, Refusal};
use super::state::Plane;
use super::store::{Read, Rows};
use super::view;
use pf9_hostagent::model::{ClusterId, FaultCode, HostId};

/// Largest page.
const LIMIT_MAX: usize = 500;
/// Longest search text and page mark, in bytes: a name has 253.
const SEARCH_MAX: usize = 256;
const MARK_MAX: usize = 400;

/// The query.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// None: all of them, for tools without paging.
    limit: Option<usize>,
    /// As given by the previous page.
    #[serde(rename = "continue", default)]
    mark: Option<String>,
    /// Words, each of which is in its name, id, state, cluster or reason.
    #[serde(default)]
    search: String,
    /// Only hosts in no cluster.
    #[serde(default)]
    free: bool,
    /// Only hosts that may be attached.
    #[serde(default)]
    authorised: bool,
}

/// The fields of a row that are needed here: the rest is skipped.
#[derive(Deserialize)]
struct Short {
    id: HostId,
    project: ProjectId,
    hostname: String,
    cluster: Option<ClusterId>,
    authorised: bool,
}

const SHORT: Rows<Short> = HOSTS.as_type();

/// One host, as it is searched and sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    /// Unhealthy hosts come first.
    is_well: bool,
    name: String,
    id: HostId,
    /// The searched text, in lower case.
    text: String,
}

impl Line {
    fn key(&self) -> (bool, &str, String) {
        (self.is_well, &self.name, self.id.to_string())
    }

    fn mark(&self) -> String {
        format!("{}/{}/{}", u8::from(self.is_well), self.id, self.name)
    }
}

/// A page.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    ids: Vec<HostId>,
    next: Option<String>,
    found: usize,
}

/// The page after a mark, in order. A host whose state changes meanwhile may be seen twice or not at all; it never
/// makes another one disappear.
fn part(mut lines: Vec<Line>, which: &Which, limit: usize) -> Answer<Part> {
    let words = which.search.to_lowercase();
    lines.retain(|line| {
        words
            .split_whitespace()
            .all(|word| line.text.contains(word))
    });
    let found = lines.len();
    if let Some(mark) = &which.mark {
        let (is_well, name, id) = read_mark(mark)?;
        let after = (is_well, name, id.to_string());
        lines.retain(|line| {
            let (well, name, id) = line.key();
            (well, name, id.as_str()).cmp(&(after.0, after.1, after.2.as_str()))
                == Ordering::Greater
        });
    }
    let order = |a: &Line, b: &Line| a.key().cmp(&b.key());
    // Of ten thousand, fifty are sorted.
    if lines.len() > limit {
        lines.select_nth_unstable_by(limit, order);
    }
    let more = lines.len() > limit;
    lines.truncate(limit);
    lines.sort_unstable_by(order);
    Ok(Part {
        next: lines.last().filter(|_| more).map(Line::mark),
        ids: lines.into_iter().map(|line| line.id).collect(),
        found,
    })
}

fn read_mark(mark: &str) -> Answer<(bool, &str, HostId)> {
    let wrong = || {
        let why = "continue is not a value from an earlier answer";
        Refusal::bad(FaultCode::QueryInvalid, "list refused", why)
    };
    let mut parts = mark.splitn(3, '/');
    let is_well = match parts.next() {
        Some("0") => false,
        Some("1") => true,
        Some(_) | None => return Err(wrong()),
    };
    let id = parts
        .next()
        .and_then(|id| id.parse().ok())
        .ok_or_else(wrong)?;
    Ok((is_well, parts.next().ok_or_else(wrong)?, id))
}

impl Which {
    /// The page size, if paging is requested.
    fn checked(&self) -> Answer<Option<usize>> {
        let bad = |why: String| Err(Refusal::bad(FaultCode::QueryInvalid, "list refused", why));
        if self.search.len() > SEARCH_MAX {
            return bad(format!("search has over {SEARCH_MAX} bytes"));
        }
        if self.mark.as_ref().is_some_and(|mark| mark.len() > MARK_MAX) {
            return bad(format!("continue has over {MARK_MAX} bytes"));
        }
        match self.limit {
            Some(limit) if !(1..=LIMIT_MAX).contains(&limit) => {
                bad(format!("limit is {limit}, 1 to {LIMIT_MAX} are allowed"))
            }
            None if self.mark.is_some()
                || self.free
                || self.authorised
                || !self.search.is_empty() =>
            {
                bad("continue, search, free and authorised need limit".to_owned())
            }
            limit => Ok(limit),
        }
    }
}

/// Hosts that the caller may see: one page if requested, otherwise all.
pub(super) fn list(
    plane: &Plane,
    rows: &impl Read,
    rights: &Rights,
    which: &Which,
) -> Answer<Value> {
    let Some(limit) = which.checked()? else {
        let all = fleet::of(plane, rows, |h| rights.sees(&h.project))?;
        return Ok(all.iter().map(view::Known::host_json).collect());
    };
    let lines = lines(plane, rows, rights, which)?;
    let total = lines.len();
    let part = part(lines, which, limit)?;
    let mut hosts = Vec::new();
    for id in part.ids {
        if let Some(host) = rows.get(&HOSTS, &id.to_string())? {
            hosts.push(fleet::known(plane, rows, host)?.host_json());
        }
    }
    Ok(json!({"hosts": hosts, "continue": part.next, "found": part.found, "total": total}))
}

fn lines(plane: &Plane, rows: &impl Read, rights: &Rights, which: &Which) -> Answer<Vec<Line>> {
    let clusters: BTreeMap<ClusterId, String> = rows
        .all(&CLUSTERS)?
        .into_iter()
        .map(|(_, c)| (c.id, c.name))
        .collect();
    let now = pf9_hostagent::seam::clock::now();
    let mut said = plane.alerts.briefs();
    let hosts = rows.all(&SHORT)?.into_iter().map(|(_, host)| host);
    let seen = hosts.filter(|h| {
        let free = !which.free || h.cluster.is_none();
        rights.sees(&h.project) && free && (!which.authorised || h.authorised)
    });
    Ok(seen
        .map(|host| {
            let cluster = host.cluster.and_then(|id| clusters.get(&id));
            line(
                &host,
                cluster.map(String::as_str),
                said.remove(&host.id),
                now,
            )
        })
        .collect())
}

fn line(host: &Short, cluster: Option<&str>, said: Option<Brief>, now: Timestamp) -> Line {
    let word = match &said {
        Some(said) if !view::is_heard(said.state, said.heard_at, now) => "disconnected",
        Some(said) => said.state.as_str(),
        None => "converging",
    };
    let (name, why) = match said {
        Some(said) => (said.hostname, said.reason),
        None => (host.hostname.clone(), String::new()),
    };
    let cluster = cluster.unwrap_or_default();
    Line {
        is_well: word == "ok",
        id: host.id,
        text: format!("{name} {} {word} {cluster} {why}", host.id).to_lowercase(),
        name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::tests::host;

    fn line(n: u8, is_well: bool, name: &str, more: &str) -> Line {
        Line {
            is_well,
            name: name.to_owned(),
            id: host(n),
            text: format!("{name} {more}").to_lowercase(),
        }
    }

    fn fleet() -> Vec<Line> {
        let mut all: Vec<Line> = (0..200)
            .map(|n| {
                line(
                    n,
                    n % 10 != 0,
                    &format!("n{:03}", 255 - u32::from(n)),
                    "ok c1",
                )
            })
            .collect();
        // Two of one name.
        all.push(line(201, true, "n200", "ok c2"));
        all
    }

    #[test]
    fn every_host_is_in_one_part_and_who_needs_a_look_comes_first() {
        for limit in [1, 7, 50, 201, 500] {
            let mut which = Which::default();
            let mut seen = Vec::new();
            loop {
                let part = part(fleet(), &which, limit).expect("part");
                assert!(part.ids.len() <= limit);
                assert_eq!(part.found, 201);
                seen.extend(part.ids);
                which.mark = part.next;
                if which.mark.is_none() {
                    break;
                }
            }
            let mut expected = fleet();
            expected.sort_by(|a, b| a.key().cmp(&b.key()));
            let expected: Vec<HostId> = expected.into_iter().map(|l| l.id).collect();
            assert_eq!(seen, expected, "{limit}");
        }
        let first = part(fleet(), &Which::default(), 20).expect("part").ids;
        assert!(first.contains(&host(0)) && first.contains(&host(190)));
    }

    #[test]
    fn all_words_are_looked_for_whatever_their_letters() {
        let which = |search: &str| Which {
            search: search.to_owned(),
            ..Which::default()
        };
        let found = |search| part(fleet(), &which(search), 50).expect("part").found;
        assert_eq!(found("n200"), 2);
        assert_eq!(found(" C2  N200 "), 1);
        assert_eq!(found("n200 c3"), 0);
        assert_eq!(found(""), 201);
    }

    #[test]
    fn what_is_asked_for_is_bounded() {
        let good = Which {
            limit: Some(LIMIT_MAX),
            ..Which::default()
        };
        assert_eq!(good.checked().expect("good"), Some(LIMIT_MAX));
        assert_eq!(Which::default().checked().expect("all"), None);
        let wrong = [
            Which {
                limit: Some(0),
                ..Which::default()
            },
            Which {
                limit: Some(LIMIT_MAX + 1),
                ..Which::default()
            },
            Which {
                search: "x".repeat(SEARCH_MAX + 1),
                ..good.clone()
            },
            Which {
                mark: Some("0/".repeat(MARK_MAX)),
                ..good.clone()
            },
            Which {
                free: true,
                ..Which::default()
            },
        ];
        for which in wrong {
            which.checked().expect_err("refused");
        }
        for mark in ["", "2", "0", "0/x/n", "0/", "1//"] {
            let which = Which {
                mark: Some(mark.to_owned()),
                ..good.clone()
            };
            part(fleet(), &which, 1).expect_err(mark);
        }
    }
}
