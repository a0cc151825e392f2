//! comms as a program of its own, broken at every point and started again: see [`crate::whole`].
//!
//! ```text
//! first life:  the tunnel ─► a certificate that is due is renewed ─► the plane ends the session, the next one shows the
//!              new certificate ─► a service, the plane, its own socket ─► stop
//! second one:  the allow-list is another ─► the same, and what is new on it
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use pf9_hostagent::host::fs::{Attrs, Found, HostFs};
use pf9_hostagent::host::ours::paths::WRITTEN_BY_ROOT;
use pf9_hostagent::host::temps;
use pf9_hostagent::identity::{self, TlsPolicy};
use pf9_hostagent::local::Client;
use pf9_hostagent::model::{Digest, TunnelStatus, paths};
use pf9_hostagent::seam::walk::files;
use tokio::task::JoinSet;

use super::get;
use super::peer::{Peer, World, due};
use super::renewal::shows;
use super::services::{ask, echo};
use crate::whole::{Place, Whole, walk};

/// Cases of a quick run: of each most is waiting, for about a minute together.
const FEW: usize = 8;
/// A program that ended in the middle of a question does not answer it.
const ANSWERED: Duration = Duration::from_secs(5);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const SERVICES: &str = "/etc/pf9/services.d/test.toml";

struct Tunnel;

struct Host {
    world: World,
    peer: Peer,
    /// What it enrolled with.
    first: Digest,
    /// Entries of the allow-list, by name; each life knows one more of them.
    entries: [(&'static str, String); 2],
    known: usize,
    /// Sessions as this life began, and as the newest was told to leave.
    sessions: usize,
    left: usize,
    _tasks: JoinSet<()>,
    place: Place,
}

impl Host {
    /// The new certificate, once there is nothing but that.
    fn renewed(&self) -> Option<Digest> {
        let fs = &self.world.fs;
        let identity = identity::load(fs, &TlsPolicy::default()).ok()??;
        let alone = matches!(fs.found(paths::HOST_NEXT), Ok(Found::Nothing));
        let new = identity.certificate;
        (alone && new != self.first).then_some(new)
    }

    /// Everything that it is there for, and nothing that it does not know.
    async fn works(&self) -> bool {
        let newest = self.peer.state().sessions.pop().expect("a session");
        for (n, (name, _)) in self.entries.iter().enumerate() {
            let answer = ask(&newest.handle, name, "somebody").await;
            if answer.is_ok() != (n < self.known) {
                return false;
            }
        }
        let asked = get(&self.world.fs, "/hello").await;
        let socket = self.world.fs.at(paths::COMMS_SOCKET);
        let own = Client::unix(socket).expect("client");
        let status = own.get::<TunnelStatus>("/v1/status", ANSWERED).await;
        asked.as_deref() == Ok(b"hello".as_slice()) && status.is_ok()
    }
}

impl Whole for Tunnel {
    const NAME: &'static str = "comms";
    const PROGRAM: &'static str = "pf9-comms";
    type World = Host;

    async fn begin(&self) -> Host {
        let place = Place::new();
        let world = World::on(HostFs::new(place.root()));
        std::os::unix::fs::symlink("/proc", world.fs.at("/proc")).expect("proc");
        std::fs::create_dir_all(world.fs.at(paths::COMMS_STATE)).expect("directory");
        let peer = Peer::start(&world).await;
        world.enrol_with(&[&peer], due);
        peer.renew_by(&world.ca);
        peer.renew_for(YEAR);
        let mut tasks = JoinSet::new();
        let entries = [
            ("one", echo(&mut tasks, "one", "").await),
            ("two", echo(&mut tasks, "two", "").await),
        ];
        Host {
            first: shows(&world),
            world,
            peer,
            entries,
            known: 0,
            sessions: 0,
            left: 0,
            _tasks: tasks,
            place,
        }
    }

    fn place(host: &Host) -> &Place {
        &host.place
    }

    fn starts(&self, host: &mut Host, life: usize) {
        host.known = host.entries.len().min(life + 1);
        let list: String = host
            .entries
            .iter()
            .take(host.known)
            .map(|(_, e)| e.as_str())
            .collect();
        let written = host
            .world
            .fs
            .write(SERVICES, list.as_bytes(), &Attrs::mode(0o644));
        written.expect("the allow-list");
        host.sessions = host.peer.state().sessions.len();
    }

    async fn turn(&self, host: &mut Host) -> bool {
        let sessions = host.peer.state().sessions;
        let newest = sessions.get(host.sessions..).and_then(<[_]>::last);
        let (Some(newest), Some(new)) = (newest, host.renewed()) else {
            return false;
        };
        if newest.certificate != Some(new) {
            if host.left < sessions.len() {
                host.left = sessions.len();
                host.peer.leave(Duration::ZERO);
            }
            return false;
        }
        let works = tokio::time::timeout(ANSWERED, host.works()).await;
        works.unwrap_or(false)
    }

    async fn end(&self, host: &mut Host) -> BTreeMap<String, String> {
        let fs = &host.world.fs;
        // As nodelet does when it starts.
        temps::collect(fs, WRITTEN_BY_ROOT);
        let mut end = files(fs, |_| true);
        end.retain(|path, _| !path.starts_with("/var/log/"));
        let is_renewed = host.renewed().is_some();
        end.insert("the new certificate alone".into(), is_renewed.to_string());
        end
    }
}

#[tokio::test]
async fn comms_broken_anywhere_has_its_tunnel_again_and_leaves_nothing() {
    walk(&Tunnel, FEW).await;
}
