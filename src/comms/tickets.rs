//! Session tickets on disk: what the plane handed out last, per endpoint.
//!
//! Only what is stored is ever shown. So a disk that is full shows the same ticket again, which the
//! plane takes as it takes a crash between being handed one and storing it; a ticket that is in
//! memory alone would be lost with the process, and the one on the disk would be too old by then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::host::fs::{Attrs, HostFs};
use crate::host::work::brief;
use crate::model::{Digest, Secret, paths};
use crate::mux;
use crate::telemetry::chain;

/// Version of the file.
const SCHEMA: u32 = 1;
/// Endpoints whose tickets are kept; as many as the plane keeps of a host.
const CHAINS_MAX: usize = 8;
/// Longest ticket that is kept.
const TICKET_MAX: usize = 160;
/// Largest file.
const FILE_MAX: u64 = 16 * 1024;
/// How long a disk may take for one; a tunnel does not wait longer for a disk that hangs.
const STORED_WITHIN: Duration = Duration::from_secs(10);
/// Hex digits of a chain's name.
const NAME: usize = 16;

/// The tickets. Cheap to clone.
#[derive(Clone)]
pub(super) struct Tickets {
    fs: HostFs,
    all: Arc<Mutex<File>>,
    /// Held by the writer. Not [`Tickets::all`]: a dial that needs headers does not wait for the disk.
    writes: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct File {
    schema: u32,
    /// Ticket by chain.
    #[serde(serialize_with = "expose")]
    tickets: BTreeMap<String, Secret<String>>,
}

// === impl Tickets ===

impl Tickets {
    /// Those of the last run. A file that cannot be read counts as none: the plane decides.
    pub(super) fn load(fs: HostFs) -> Self {
        let read = match fs.read(paths::TICKETS, FILE_MAX) {
            Ok(None) => Ok(File::default()),
            Ok(Some(bytes)) => serde_json::from_slice(&bytes).map_err(|e| e.to_string()),
            Err(e) => Err(chain(&e)),
        };
        let file = read.unwrap_or_else(|why| {
            tracing::warn!(path = paths::TICKETS, why, "session tickets cannot be read");
            File::default()
        });
        Self {
            fs,
            all: Arc::new(Mutex::new(file)),
            writes: Arc::default(),
        }
    }

    /// Headers of a handshake with `endpoint`.
    pub(super) fn headers(&self, endpoint: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut set = |name, text: &str| {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        set(mux::CHAIN_HEADER, &chain_of(endpoint));
        let shown: Vec<String> = {
            let file = locked(&self.all);
            let one = |(chain, ticket): (&String, &Secret<String>)| {
                format!("{chain}:{}", ticket.expose())
            };
            file.tickets.iter().map(one).collect()
        };
        if !shown.is_empty() {
            set(mux::TICKETS_HEADER, &shown.join(","));
        }
        headers
    }

    /// Stores the ticket that the plane handed out, before it is shown to anybody.
    pub(super) async fn take(&self, endpoint: &str, answer: &HeaderMap) {
        let ticket = answer.get(mux::TICKET_HEADER).and_then(|v| v.to_str().ok());
        let Some(ticket) = ticket.filter(|t| t.len() <= TICKET_MAX) else {
            return;
        };
        let (name, ticket) = (chain_of(endpoint), Secret::new(ticket.to_owned()));
        let (fs, all) = (self.fs.clone(), Arc::clone(&self.all));
        // The disk is waited for on another thread: this one moves bytes.
        let stored = async {
            let turn = Arc::clone(&self.writes).lock_owned().await;
            let work = move || {
                let _turn = turn;
                let next = locked(&all).with(&name, ticket);
                let bytes = serde_json::to_vec(&next).map_err(|e| e.to_string())?;
                fs.write(paths::TICKETS, &bytes, &Attrs::mode(0o600))
                    .map_err(|e| chain(&e))?;
                *locked(&all) = next;
                Ok::<_, String>(())
            };
            brief(work).await
        };
        let failed = match tokio::time::timeout(STORED_WITHIN, stored).await {
            Ok(Ok(Ok(()))) => return,
            Ok(Ok(Err(why))) => why,
            Ok(Err(e)) => e.to_string(),
            Err(_) => format!(
                "the disk did not store it within {} s",
                STORED_WITHIN.as_secs()
            ),
        };
        tracing::warn!(
            why = failed,
            "session ticket not stored; the previous one is used again"
        );
    }
}

fn locked(all: &Mutex<File>) -> MutexGuard<'_, File> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

impl File {
    /// The same with this ticket; of too many chains one that is not this goes.
    fn with(&self, name: &str, ticket: Secret<String>) -> Self {
        let mut tickets = self.tickets.clone();
        tickets.insert(name.to_owned(), ticket);
        while tickets.len() > CHAINS_MAX {
            let Some(other) = tickets.keys().find(|k| *k != name).cloned() else {
                break;
            };
            tickets.remove(&other);
        }
        Self {
            schema: SCHEMA,
            tickets,
        }
    }
}

/// The name of an endpoint's chain.
fn chain_of(endpoint: &str) -> String {
    let digest = Digest::of(endpoint.as_bytes()).to_string();
    digest.chars().take(NAME).collect()
}

fn expose<S: serde::Serializer>(
    tickets: &BTreeMap<String, Secret<String>>,
    s: S,
) -> Result<S::Ok, S::Error> {
    s.collect_map(tickets.iter().map(|(chain, t)| (chain, t.expose())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(ticket: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(mux::TICKET_HEADER, ticket.parse().expect("value"));
        headers
    }

    fn shown(tickets: &Tickets, endpoint: &str) -> Option<String> {
        let headers = tickets.headers(endpoint);
        let all = headers.get(mux::TICKETS_HEADER)?.to_str().expect("text");
        let chain = headers[mux::CHAIN_HEADER]
            .to_str()
            .expect("text")
            .to_owned();
        all.split(',')
            .find_map(|one| Some(one.strip_prefix(&chain)?.strip_prefix(':')?.to_owned()))
    }

    #[tokio::test]
    async fn what_is_stored_is_shown_also_by_the_next_run() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let tickets = Tickets::load(fs.clone());
        assert_eq!(shown(&tickets, "wss://a"), None);
        tickets.take("wss://a", &answer("1.x.y")).await;
        tickets.take("wss://b", &answer("1.z.y")).await;
        tickets.take("wss://a", &answer("2.x.y")).await;
        tickets
            .take("wss://a", &answer(&"9".repeat(TICKET_MAX + 1)))
            .await;
        let again = Tickets::load(fs.clone());
        for tickets in [&tickets, &again] {
            assert_eq!(shown(tickets, "wss://a").as_deref(), Some("2.x.y"));
            assert_eq!(shown(tickets, "wss://b").as_deref(), Some("1.z.y"));
        }
        for n in 0..20 {
            tickets.take(&format!("wss://{n}"), &answer("1.x.y")).await;
        }
        assert_eq!(shown(&tickets, "wss://19").as_deref(), Some("1.x.y"));
        fs.write(paths::TICKETS, b"{", &Attrs::mode(0o600))
            .expect("break");
        assert_eq!(shown(&Tickets::load(fs), "wss://a"), None);
    }

    #[tokio::test]
    async fn what_cannot_be_stored_is_not_shown() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let tickets = Tickets::load(fs.clone());
        tickets.take("wss://a", &answer("1.x.y")).await;
        // A directory in the file's place: a write fails as on a full disk, also for root.
        fs.remove_file(paths::TICKETS).expect("remove");
        std::fs::create_dir_all(fs.at(paths::TICKETS).join("x")).expect("directory");
        tickets.take("wss://a", &answer("2.x.y")).await;
        assert_eq!(shown(&tickets, "wss://a").as_deref(), Some("1.x.y"));
    }

    /// A ticket that comes, broken at every point: see [`crate::seam::walk`].
    #[cfg(feature = "fault")]
    pub(crate) mod walk {
        use std::collections::BTreeMap;

        use super::*;
        use crate::host::ours::paths::WRITTEN_BY_COMMS;
        use crate::host::temps;
        use crate::seam::walk::{Scenario, files, walk};

        pub(crate) struct Ticket;

        impl Scenario for Ticket {
            const NAME: &'static str = "ticket";
            type World = (tempfile::TempDir, HostFs);

            async fn begin(&self) -> Self::World {
                let dir = tempfile::tempdir().expect("tempdir");
                let fs = HostFs::new(dir.path());
                Tickets::load(fs.clone())
                    .take("wss://a", &answer("1.x.y"))
                    .await;
                (dir, fs)
            }

            async fn life(&self, (_, fs): &mut Self::World, starts: bool) -> bool {
                if starts {
                    temps::collect(fs, WRITTEN_BY_COMMS);
                }
                let tickets = Tickets::load(fs.clone());
                let before = shown(&tickets, "wss://a");
                assert!(before.is_some(), "there is one at every instant");
                tickets.take("wss://a", &answer("2.x.y")).await;
                shown(&tickets, "wss://a").as_deref() == Some("2.x.y")
            }

            async fn end(&self, (_, fs): &mut Self::World) -> BTreeMap<String, String> {
                // The next start removes that of a write that never returned.
                temps::collect(fs, WRITTEN_BY_COMMS);
                files(fs, |_| false)
            }
        }

        #[tokio::test]
        async fn a_ticket_broken_anywhere_is_the_old_one_or_the_new() {
            walk(&Ticket, 60).await;
        }
    }
}
