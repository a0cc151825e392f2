//! Weeks of a tunnel, on a simulated clock: the plane leaves a few times a day and is gone to again, asks for streams,
//! and renews the certificate whenever that is due.
//!
//! TLS takes the machine's own clock, which stays. So each certificate is valid from now on, by both clocks, and for so
//! long that it is due a few simulated days after it was made.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use pf9_hostagent::app::Config;
use pf9_hostagent::host::fs::{Attrs, HostFs};
use pf9_hostagent::model::{Expiry, TunnelStatus};
use pf9_hostagent::wire;
use tokio::task::JoinSet;

use super::Comms;
use super::peer::{Peer, State, World, valid_for};
use super::services::{ask, echo};
use crate::soak::{Length, Simulated, Soak, alone, loud, simulated};
use crate::support::PATIENCE;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// The longest that there is: neither end takes the other for dead where two minutes pass at once.
const PING: Duration = Duration::from_secs(60);
/// So long a session lives before it is ended, which makes it a good one.
const LIVES: Duration = Duration::from_secs(61);
/// Turns of the loop, each with a question over a socket, within which what is on its way has come.
const TURNS: u32 = 10_000;
/// The first renewal is in the first week, as everything is that happens at all: what it takes for good is no growth.
const FIRST_RENEWED: u32 = 2;
/// Lines and bytes of the audit are history, up to its bound.
const AUDIT_MOST: u64 = 50 * 1024 * 1024;

struct Life {
    peer: Peer,
    comms: Comms,
    clock: Simulated,
    /// Days from one renewal to the next.
    renewed_every: u32,
}

impl Life {
    async fn goes(&mut self, by: Duration) {
        self.clock.goes(by);
        tokio::time::advance(by).await;
    }

    /// Until it is so; what waits for a second has it.
    async fn until(&mut self, what: &str, so: impl Fn(&State, &TunnelStatus) -> bool) {
        for turn in 1..=TURNS {
            // One that was idle for a day is closed: it is asked again.
            let status: Result<TunnelStatus, _> = self.comms.api.get("/v1/status", PATIENCE).await;
            if status.is_ok_and(|status| so(&self.peer.state(), &status)) {
                return;
            }
            if turn % 20 == 0 {
                self.goes(Duration::from_secs(1)).await;
            }
        }
        panic!("{what} never comes");
    }

    async fn another_session(&mut self, before: &State) {
        self.until("another session", |now, _| {
            now.ended > before.ended && now.sessions.len() > before.sessions.len()
        })
        .await;
        self.peer.forget_all_but_newest();
    }

    /// Nothing is heard for a day: both ends take the other for dead.
    async fn night(&mut self) {
        let before = self.peer.state();
        self.peer.renew_for(self.next_life());
        self.goes(DAY).await;
        self.another_session(&before).await;
    }

    /// A session with a stream, which the plane ends.
    async fn session(&mut self) {
        let before = self.peer.state();
        let newest = before.sessions.last().expect("a session");
        ask(&newest.handle, "echo", "somebody")
            .await
            .expect("an echo");
        self.goes(LIVES).await;
        self.peer.leave(Duration::ZERO);
        self.another_session(&before).await;
    }

    /// Of a certificate that is made on the next day: two thirds of it end the right number of simulated days later.
    fn next_life(&self) -> Duration {
        let due = self.clock.passed() + SignedDuration::from_hours(24) + days(self.renewed_every);
        Duration::try_from(due).expect("positive") * 3 / 2
    }

    /// Whatever is due is done.
    async fn renewed(&mut self) {
        let passed = self.clock.passed();
        self.until("the renewal", |_, status| {
            let due = host_of(status).renew_at.expect("it is renewed");
            due > Timestamp::now() + passed
        })
        .await;
    }
}

fn days(n: u32) -> SignedDuration {
    SignedDuration::try_from(DAY * n).expect("days")
}

fn host_of(status: &TunnelStatus) -> Expiry {
    let host = status.certificates.iter().find(|c| c.name == "host");
    host.expect("its own").clone()
}

async fn begin(world: &World, length: &Length, tasks: &mut JoinSet<()>) -> Life {
    let config = wire::Config {
        ping_interval: PING,
        ..wire::Config::default()
    };
    let peer = Peer::start_with(world, config).await;
    peer.renew_by(&world.ca);
    // Eight or so, however long it goes on.
    let renewed_every = (length.days / 8).max(2);
    world.enrol_with(&[&peer], |params| {
        valid_for(params, DAY * FIRST_RENEWED * 3 / 2);
    });
    let list = echo(tasks, "echo", "").await;
    let file = "/etc/pf9/services.d/test.toml";
    let written = world.fs.write(file, list.as_bytes(), &Attrs::mode(0o644));
    written.expect("services");
    let mut config = Config::default();
    config.comms.ping_s = PING.as_secs();
    let comms = Comms::start_with(&world.fs, config).await;
    Life {
        peer,
        comms,
        clock: Simulated::begin(),
        renewed_every,
    }
}

#[test]
fn a_tunnel_takes_after_weeks_what_a_week_takes() {
    if !alone("comms::soak::a_tunnel_takes_after_weeks_what_a_week_takes") {
        return;
    }
    let length = Length::told();
    simulated(async {
        let dir = tempfile::tempdir().expect("tempdir");
        let logs = loud(&HostFs::new(dir.path()), "pf9-comms");
        let world = World::at(dir);
        let mut tasks = JoinSet::new();
        let mut life = begin(&world, &length, &mut tasks).await;
        life.until("the first session", |now, _| !now.sessions.is_empty())
            .await;
        let mut soak = Soak::of("tunnel", &world.fs, logs + AUDIT_MOST);
        for _ in 0..length.days {
            soak.day_begins();
            life.night().await;
            for _ in 0..length.steps {
                life.session().await;
            }
            life.renewed().await;
            soak.look();
        }
        let State {
            ended, renewals, ..
        } = life.peer.state();
        println!("soak: tunnel: {ended} sessions, {renewals} renewals");
        assert!(renewals >= 3, "{renewals} renewals");
        life.comms.stop().await;
        soak.judge();
    });
}
