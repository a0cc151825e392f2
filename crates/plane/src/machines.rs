//! Which machine is the host, and which is a copy of it.
//!
//! ```text
//! handshake ─► Hello (marks, tickets) ─► decide (pure) ─┬─► session starts, with the next ticket
//!                                                       └─► a copy: refused, ordered to hold
//! ```
//!
//! Of two machines with one identity the copy is the one whose marks differ from those of the machine that enrolled;
//! where marks do not tell, the one whose ticket is old; where tickets agree too, the one that connects while the other
//! is connected. It is refused before it can take the original's place: the original's sessions continue.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::events;
use super::refusal::{Answer, Refusal};
use super::secrets;
use super::state::{self, Change, Plane};
use super::store::{Read, Rows};
use super::tickets::{self, Chain, Shown, Worth};
use super::trust;
use pf9_hostagent::model::{
    Digest, Event, EventBatch, Fault, FaultCode, HoldOrder, HostId, Likeness, MachineMarks, Secret,
    Timestamp, copied_by_marks, copied_by_ticket, copied_while_connected, copied_without_ticket,
};
use pf9_hostagent::mux;

/// What the plane knows about hosts' machines, by host id.
pub(super) const MACHINES: Rows<MachineRow> = Rows::new("machines");

/// Largest header with marks: thirty-two interfaces are 3 KiB.
const MARKS_MAX: usize = 8 * 1024;
/// Longest boot id; a UUID has 36.
const BOOT_MAX: usize = 64;
/// How long a connected machine may take to answer before one that booted since replaces it: a satellite's round trip,
/// twice. A host whose connection broke silently has to wait this long once.
const PROOF: Duration = Duration::from_secs(2);
/// How long a copy is reported after it was last seen.
const REMEMBERED: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// The row of one host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct MachineRow {
    /// The machine that is this host.
    pub(super) marks: Option<MachineMarks>,
    /// Increases with every change of `marks` that is sent to the host.
    pub(super) revision: u64,
    /// The machine with this boot id is accepted as this host, whatever it presents: once.
    #[serde(default)]
    pub(super) accept: Option<String>,
    /// The authority that issued the certificate it last presented.
    pub(super) authority: Option<Digest>,
    /// Boot id of the machine that last started a session.
    pub(super) boot_id: Option<String>,
    /// Its tickets; the most recently used last.
    pub(super) chains: Vec<Chain>,
    /// The last copy that was seen.
    pub(super) copy: Option<Copy>,
}

/// A copy that connected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Copy {
    pub(super) at: Timestamp,
    pub(super) boot_id: Option<String>,
    pub(super) fault: Fault,
}

/// What a machine presents at the start of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Hello {
    marks: Option<MachineMarks>,
    boot_id: Option<String>,
    /// The session's chain; none for an agent without tickets.
    chain: Option<String>,
    /// `chain:ticket`, as presented.
    tickets: Vec<(String, String)>,
}

/// The machine to accept as this host, by boot id: another holder of the certificate does not know it, because it is on
/// no disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Accept {
    pub(super) boot_id: String,
}

/// The decision about a session.
#[derive(Debug, PartialEq)]
enum Verdict {
    Begins,
    Copy(Fault),
}

// === impl Hello ===

impl Hello {
    /// From the handshake's headers.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, &'static str> {
        let text = |name, max: usize| match headers.get(name).map(HeaderValue::to_str) {
            None => Ok(None),
            Some(Ok(text)) if text.len() <= max => Ok(Some(text)),
            Some(_) => Err("a header of the machine is not UTF-8 text, or too long"),
        };
        let bad_marks = "the machine's identifying marks cannot be read";
        let marks = match text(mux::MACHINE_HEADER, MARKS_MAX)? {
            None => None,
            Some(text) => {
                let json = BASE64.decode(text).map_err(|_| bad_marks)?;
                let marks: MachineMarks = serde_json::from_slice(&json).map_err(|_| bad_marks)?;
                marks.validate().map_err(|_| bad_marks)?;
                Some(marks).filter(|m| !m.is_empty())
            }
        };
        let is_name = |chain: &str| {
            (1..=tickets::CHAIN_NAME_MAX).contains(&chain.len())
                && chain.bytes().all(|b| b.is_ascii_hexdigit())
        };
        let chain = text(mux::CHAIN_HEADER, tickets::CHAIN_NAME_MAX)?;
        if chain.is_some_and(|chain| !is_name(chain)) {
            return Err("the ticket's chain is not a valid name");
        }
        const ONE: usize = tickets::CHAIN_NAME_MAX + 1 + tickets::TICKET_MAX + 1;
        let shown = text(mux::TICKETS_HEADER, ONE * tickets::CHAINS_MAX)?;
        let shown = shown.into_iter().flat_map(|all| all.split(','));
        Ok(Self {
            marks,
            boot_id: text(mux::BOOT_HEADER, BOOT_MAX)?.map(str::to_owned),
            chain: chain.map(str::to_owned),
            tickets: shown
                .filter_map(|one| one.trim().split_once(':'))
                .filter(|(chain, _)| is_name(chain))
                .map(|(chain, ticket)| (chain.to_owned(), ticket.to_owned()))
                .take(tickets::CHAINS_MAX)
                .collect(),
        })
    }
}

/// Starts a session of this host, or checks whether it would start (`begins`). Returns the next ticket if it starts;
/// refuses a copy.
pub(super) async fn begin(
    plane: &Arc<Plane>,
    host: HostId,
    begins: bool,
    hello: Hello,
    certificate: Arc<[u8]>,
) -> Answer<Option<Secret<String>>> {
    let shared = Arc::clone(plane);
    let ring = plane.keys.ring();
    let authority = ring.issuer_of(&certificate);
    let row = plane.read()?.get(&MACHINES, &host.to_string())?;
    let known = row.unwrap_or_default();
    // An agent without tickets and marks, and nothing changed: nothing to write.
    if hello.chain.is_none()
        && hello.marks.is_none()
        && known.chains.is_empty()
        && known.authority == authority
        && known.boot_id == hello.boot_id
        && known.accept.is_none()
    {
        return Ok(None);
    }
    let boot_id = hello.boot_id.clone();
    // A machine that rebooted cannot still be connected from before: a session that answers belongs to another one.
    let booted_anew = known.boot_id.is_some() && boot_id.is_some() && known.boot_id != boot_id;
    let other_answers = booted_anew && answers(plane, host).await;
    let decided = plane
        .change(move |change| {
            let ring = shared.keys.ring();
            let key = host.to_string();
            let mut row = change.get(&MACHINES, &key)?.unwrap_or_default();
            row.authority = authority;
            let read =
                |(chain, text): &(String, String)| tickets::read(&ring.tickets, host, chain, text);
            let shown: Vec<Shown> = hello.tickets.iter().filter_map(read).collect();
            if let Verdict::Copy(fault) = decide(&row, host, &hello, &shown, other_answers) {
                note_copy(change, host, &mut row, &hello, &fault)?;
                change.put(&MACHINES, &key, &row)?;
                return Ok(Err(fault));
            }
            if !begins {
                change.put(&MACHINES, &key, &row)?;
                return Ok(Ok(None));
            }
            learn(&mut row, &hello);
            row.boot_id.clone_from(&hello.boot_id);
            let ticket = match &hello.chain {
                None => None,
                Some(chain) => {
                    let mine = shown.iter().find(|s| s.chain == *chain);
                    let number = tickets::next_number(&row.chains, chain, mine);
                    let random = secrets::fresh()?;
                    let fresh = tickets::make(&ring.tickets, host, chain, number, &random);
                    tickets::handed(&mut row.chains, chain, mine, &fresh);
                    Some(fresh.text)
                }
            };
            change.put(&MACHINES, &key, &row)?;
            Ok(Ok(ticket))
        })
        .await?;
    match decided {
        Ok(ticket) => Ok(ticket),
        Err(fault) => {
            tracing::error!(%host, code = fault.code.word(), "{fault}");
            let hold = boot_id.map(|boot_id| HoldOrder {
                boot_id,
                fault: fault.clone(),
            });
            let documents = match hold {
                Some(hold) => trust::documents(&plane.read()?, &ring, host, Some(hold))?,
                None => Vec::new(),
            };
            Err(Refusal::copied(fault, documents))
        }
    }
}

/// Whether a session of the host answers now.
async fn answers(plane: &Plane, host: HostId) -> bool {
    let mut asked = JoinSet::new();
    for way in plane.sessions.ways(host) {
        asked.spawn(async move {
            let answer = tokio::time::timeout(PROOF, way.tunnel.ping()).await;
            answer.ok().flatten().is_some()
        });
    }
    while let Some(answered) = asked.join_next().await {
        if answered.unwrap_or(false) {
            return true;
        }
    }
    false
}

/// Whether this is the host's machine: pure.
fn decide(
    row: &MachineRow,
    host: HostId,
    hello: &Hello,
    shown: &[Shown],
    other_answers: bool,
) -> Verdict {
    if is_accepted(row, hello) {
        return Verdict::Begins;
    }
    if let (Some(pinned), Some(seen)) = (&row.marks, &hello.marks) {
        match pinned.likeness(seen) {
            Likeness::Another(differs) => return Verdict::Copy(copied_by_marks(host, &differs)),
            Likeness::Same(_) | Likeness::Unknown => {}
        }
    }
    let worth = match &hello.chain {
        Some(chain) => tickets::worth(&row.chains, chain, shown),
        // An agent that was downgraded to one without tickets presents none.
        None if row.chains.is_empty() => Worth::Good,
        None => Worth::Missing,
    };
    match worth {
        Worth::Good | Worth::Newer if other_answers => Verdict::Copy(copied_while_connected(host)),
        Worth::Good | Worth::Newer => Verdict::Begins,
        Worth::Old => Verdict::Copy(copied_by_ticket(host)),
        Worth::Missing => Verdict::Copy(copied_without_ticket(host)),
    }
}

/// Whether a person accepted this very machine as the host.
fn is_accepted(row: &MachineRow, hello: &Hello) -> bool {
    row.accept.is_some() && row.accept == hello.boot_id
}

/// Updates the row from what the machine presented.
fn learn(row: &mut MachineRow, hello: &Hello) {
    if is_accepted(row, hello) {
        row.accept = None;
        row.chains.clear();
        row.copy = None;
        row.marks.clone_from(&hello.marks);
        row.revision += 1;
        return;
    }
    let Some(seen) = &hello.marks else {
        return;
    };
    let Some(pinned) = &row.marks else {
        row.marks = Some(seen.clone());
        row.revision += 1;
        return;
    };
    let merged = match pinned.likeness(seen) {
        Likeness::Same(_) => MachineMarks {
            schema: seen.schema,
            uuid: seen.uuid.or(pinned.uuid),
            serial: seen.serial.or(pinned.serial),
            interfaces: match seen.interfaces.is_empty() {
                true => pinned.interfaces.clone(),
                false => seen.interfaces.clone(),
            },
        },
        Likeness::Another(_) | Likeness::Unknown => return,
    };
    if merged != *pinned {
        row.marks = Some(merged);
        row.revision += 1;
    }
}

fn note_copy(
    change: &mut Change<'_>,
    host: HostId,
    row: &mut MachineRow,
    hello: &Hello,
    fault: &Fault,
) -> Answer<()> {
    let copy = Copy {
        at: change.now,
        boot_id: hello.boot_id.clone(),
        fault: fault.clone(),
    };
    let known = row.copy.replace(copy);
    // One that keeps trying is one event.
    let same = |known: &Copy| known.boot_id == hello.boot_id && known.fault == *fault;
    if known.is_some_and(|known| same(&known)) {
        return Ok(());
    }
    let event = Event {
        id: format!("copy-{}", change.now.as_millisecond()),
        seq: None,
        at: change.now,
        kind: "identity-copied".to_owned(),
        message: fault.to_string(),
        fault: Some(fault.clone()),
    };
    let batch = EventBatch {
        spool: None,
        events: vec![event],
    };
    events::take(change, host, batch).map(drop)
}

/// A host enrolled: this is its machine, and its tickets start over.
pub(super) fn enrolled(
    change: &mut Change<'_>,
    host: HostId,
    marks: Option<&MachineMarks>,
) -> Answer<()> {
    if let Some(marks) = marks {
        marks
            .validate()
            .map_err(|why| Refusal::bad(FaultCode::MachineInvalid, "enrolment refused", why))?;
    }
    let key = host.to_string();
    let before = change.get(&MACHINES, &key)?.unwrap_or_default();
    let row = MachineRow {
        marks: marks.cloned(),
        revision: before.revision + 1,
        ..MachineRow::default()
    };
    Ok(change.put(&MACHINES, &key, &row)?)
}

/// Raises the revision of the host's documents to at least this one.
pub(super) fn raise(change: &mut Change<'_>, host: HostId, revision: u64) -> Answer<()> {
    let key = host.to_string();
    let mut row = change.get(&MACHINES, &key)?.unwrap_or_default();
    if row.revision < revision {
        row.revision = revision;
        change.put(&MACHINES, &key, &row)?;
    }
    Ok(())
}

/// Accepts the machine with this boot id as this host, whatever it presents.
pub(super) async fn accept(plane: &Arc<Plane>, host: HostId, wanted: Accept) -> Answer<()> {
    let boot_id = wanted.boot_id.trim().to_owned();
    if !(1..=BOOT_MAX).contains(&boot_id.len()) {
        let what = format!("the machine of host {host} is unchanged");
        return Err(
            Refusal::bad(FaultCode::MachineInvalid, what, "this is not a boot id")
                .fix("read /proc/sys/kernel/random/boot_id on the machine that is the host"),
        );
    }
    if plane.sessions.is_connected(host) {
        let what = format!("the machine of host {host} is unchanged");
        return Err(
            Refusal::conflict(FaultCode::HostConnected, what, "it is connected now")
                .fix("stop the machine that is connected first"),
        );
    }
    let named = boot_id.clone();
    plane
        .change(move |change| {
            state::host(&**change, host)?;
            let key = host.to_string();
            let mut row = change.get(&MACHINES, &key)?.unwrap_or_default();
            row.accept = Some(named);
            Ok(change.put(&MACHINES, &key, &row)?)
        })
        .await?;
    tracing::warn!(%host, boot_id, "this machine is accepted as the host when it next connects");
    Ok(())
}

/// Notices for a person at the host.
pub(super) fn notices(rows: &impl Read, host: HostId) -> Answer<Vec<Fault>> {
    let row = rows.get(&MACHINES, &host.to_string())?.unwrap_or_default();
    let lately = |c: &Copy| pf9_hostagent::seam::clock::now().duration_since(c.at) < REMEMBERED;
    let copy = row.copy.filter(lately);
    Ok(copy.into_iter().map(|c| c.fault).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(n: u8) -> MachineMarks {
        MachineMarks {
            schema: 1,
            uuid: Some(Digest::of(&[n])),
            interfaces: [Digest::of(&[n, 1])].into(),
            ..MachineMarks::default()
        }
    }

    fn hello(n: u8) -> Hello {
        Hello {
            marks: Some(marks(n)),
            boot_id: Some("b".into()),
            ..Hello::default()
        }
    }

    #[test]
    fn another_machine_is_refused_until_it_is_accepted_once() {
        let host = HostId::random();
        let mut row = MachineRow {
            marks: Some(marks(1)),
            revision: 3,
            ..MachineRow::default()
        };
        assert_eq!(decide(&row, host, &hello(1), &[], false), Verdict::Begins);
        let Verdict::Copy(fault) = decide(&row, host, &hello(2), &[], false) else {
            panic!("not seen");
        };
        assert!(fault.why.contains("firmware UUID"), "{fault}");
        // As its own machine it may connect, but not beside itself.
        let beside = decide(&row, host, &hello(1), &[], true);
        assert!(matches!(beside, Verdict::Copy(_)));
        // A holder of the certificate may connect and claim anything: but the machine that a person named is another
        // one.
        row.accept = Some("b".into());
        for boot_id in [Some("thief".to_owned()), None] {
            let thief = Hello {
                boot_id,
                ..hello(2)
            };
            assert!(matches!(
                decide(&row, host, &thief, &[], false),
                Verdict::Copy(_)
            ));
            learn(&mut row, &thief);
            assert_eq!(row.accept.as_deref(), Some("b"), "it still waits");
            assert_eq!(row.marks, Some(marks(1)));
        }
        assert_eq!(decide(&row, host, &hello(2), &[], false), Verdict::Begins);
        learn(&mut row, &hello(2));
        assert_eq!((row.revision, row.accept.as_deref()), (4, None));
        assert_eq!(decide(&row, host, &hello(2), &[], false), Verdict::Begins);
        assert!(matches!(
            decide(&row, host, &hello(1), &[], false),
            Verdict::Copy(_)
        ));
    }

    #[test]
    fn new_parts_of_the_same_machine_are_recorded() {
        let mut row = MachineRow {
            marks: Some(marks(1)),
            ..MachineRow::default()
        };
        let mut changed = hello(1);
        let interfaces = [Digest::of(b"new card")].into();
        changed.marks.as_mut().expect("marks").interfaces = interfaces;
        learn(&mut row, &changed);
        assert_eq!((&row.marks, row.revision), (&changed.marks, 1));
        // A machine that can see fewer marks removes none.
        let mut less = changed.clone();
        less.marks.as_mut().expect("marks").uuid = None;
        learn(&mut row, &less);
        assert_eq!((&row.marks, row.revision), (&changed.marks, 1));
    }

    #[test]
    fn headers_are_bounded_and_read() {
        let of = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("value"));
            Hello::of(&headers)
        };
        let json = serde_json::to_vec(&marks(1)).expect("json");
        let good = of(mux::MACHINE_HEADER, &BASE64.encode(json)).expect("read");
        assert_eq!(good.marks, Some(marks(1)));
        assert!(of(mux::MACHINE_HEADER, "!").is_err());
        assert!(of(mux::MACHINE_HEADER, &"A".repeat(MARKS_MAX + 1)).is_err());
        assert!(of(mux::CHAIN_HEADER, "no name").is_err());
        assert!(of(mux::BOOT_HEADER, &"b".repeat(BOOT_MAX + 1)).is_err());
        let many: Vec<String> = (0..50).map(|n| format!("{n:x}:t")).collect();
        let many = of(mux::TICKETS_HEADER, &many.join(",")).expect("read");
        assert_eq!(many.tickets.len(), tickets::CHAINS_MAX);
    }
}
