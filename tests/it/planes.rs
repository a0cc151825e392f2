//! Planes whose rows are in a real etcd of three members: the store's contract, the writer, and what remains when
//! planes, members or the network between them fail.
//!
//! Needs etcd's programs (`python3 scripts/lib/parts.py etcd` builds them); without them these tests fail, and are not
//! skipped.

pub(crate) mod cluster;
mod door;
mod generations;
pub(crate) mod killed;
mod moved;

use std::path::Path;
use std::time::Duration;

use pf9_hostagent::host::tls;
use pf9_hostagent::identity::{self, Owners};
use pf9_hostagent::local::{Client, Method};
use pf9_hostagent::model::TunnelStatus;
use pf9_plane::testing::{self, Numbers};
use pf9_plane::{EtcdPlace, ServeConfig, Server};
use serde_json::{Value, json};

use crate::comms::{Comms, get};
use crate::support::{PATIENCE, enrolled, tunnel_is_up, within};
use cluster::{Cluster, Mode, free};

/// Longer than the lease of a seat, an election, and a client that is not answered, on a machine that does more beside it.
const LONG: Duration = Duration::from_secs(180);

async fn soon<T>(work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(LONG, work).await;
    done.expect("it takes too long")
}

/// The rows in this place, with the seat.
async fn open(place: &EtcdPlace, dir: &Path) -> Numbers {
    soon(Numbers::open(place, dir)).await.expect("open")
}

#[tokio::test]
async fn the_store_in_etcd_keeps_the_contract() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().expect("tempdir");
    let (place, path) = (cluster.place(), dir.path().to_path_buf());
    let kept = tokio::task::spawn_blocking(move || testing::contract_in_etcd(&place, &path));
    kept.await.expect("the contract");
}

/// A long write is made with its last part; the next holder of the seat completes it, and parts of one that was never
/// made do not become rows.
#[tokio::test]
async fn a_long_write_is_completed_by_the_next_holder() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().expect("tempdir");
    let rows = open(&cluster.place(), dir.path()).await;
    rows.set("before", 1).await.expect("set");
    rows.leave().await;
    let id = "0190163d-8694-739b-aea5-966c26f8ad90";
    let put = |name: &str, value: &Value| {
        cluster.ctl(&["put", &Cluster::key(name), &value.to_string()]);
    };
    let row = |key: &str, row: Value| json!([{"rows": "numbers", "key": key, "row": row}]);
    put(&format!("redo/{id}/000000"), &row("made", json!(7)));
    put(&format!("redo/{id}/000001"), &row("before", Value::Null));
    let rows = open(&cluster.place(), dir.path()).await;
    assert_eq!((rows.get("made"), rows.get("before")), (None, Some(1)));
    rows.leave().await;
    assert_eq!(
        cluster.ctl(&["get", "--prefix", &Cluster::key("redo/")]),
        ""
    );

    put(&format!("redo/{id}/000000"), &row("made", json!(7)));
    put(&format!("redo/{id}/000001"), &row("before", Value::Null));
    put("apply", &json!({"id": id, "parts": 2}));
    let rows = open(&cluster.place(), dir.path()).await;
    assert_eq!((rows.get("made"), rows.get("before")), (Some(7), None));
    rows.set("after", 2).await.expect("set");
    rows.leave().await;
    for gone in ["redo/", "apply"] {
        assert_eq!(cluster.ctl(&["get", "--prefix", &Cluster::key(gone)]), "");
    }
}

/// A waiting plane gets the seat when the first cannot reach etcd for longer than its lease; the first, connected
/// again, writes nothing, and names the new holder.
#[tokio::test]
async fn a_plane_without_the_seat_writes_nothing_however_late() {
    let cluster = Cluster::start();
    let (ways, by) = cluster.ways().await;
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("tempdir"));
    let first = open(&cluster.place_by(&by), dirs[0].path()).await;
    first.set("a", 1).await.expect("set");
    for way in &ways {
        way.set(Mode::Cut);
    }
    // In flight when the network is cut: it arrives when the seat is another's.
    let late = first.set("a", 2);
    let other = async {
        let second = open(&cluster.place(), dirs[1].path()).await;
        assert_eq!(second.get("a"), Some(1), "what was acknowledged");
        second.set("b", 1).await.expect("set");
        for way in &ways {
            way.set(Mode::Open);
        }
        second
    };
    let (late, second) = soon(Box::pin(async { tokio::join!(late, other) })).await;
    let said = late.expect_err("it has not the seat");
    assert!(said.contains("another plane has the store"), "{said}");
    assert!(first.set("a", 3).await.is_err(), "nor later");
    assert_eq!(first.get("b"), None, "it has not seen what the other wrote");
    second.set("b", 2).await.expect("set");
    second.leave().await;
    let third = open(&cluster.place(), dirs[0].path()).await;
    assert_eq!((third.get("a"), third.get("b")), (Some(1), Some(2)));
    third.leave().await;
}

/// Another plane has taken the seat and written nothing yet: what it is about to read stays as it is.
#[tokio::test]
async fn a_plane_that_has_just_taken_the_seat_is_the_only_one_that_writes() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().expect("tempdir");
    let rows = open(&cluster.place(), dir.path()).await;
    rows.set("a", 1).await.expect("set");
    let seat = Cluster::key("seat");
    let life = "0190163d-8694-739b-aea5-966c26f8ad90";
    let other = json!({"life": life, "at": "https://10.0.0.2"}).to_string();
    loop {
        cluster.ctl(&["del", &seat]);
        cluster.ctl(&["put", &seat, &other]);
        let found = cluster.ctl(&["get", "--write-out=json", &seat]);
        let found: Value = serde_json::from_str(&found).expect("JSON");
        // Else the first one has taken it again between the two.
        if found["kvs"][0]["version"] == 1 {
            break;
        }
    }
    let said = soon(rows.set("a", 2)).await.expect_err("it is another's");
    assert!(said.contains("https://10.0.0.2"), "{said}");
    let kept = cluster.ctl(&["get", "--print-value-only", &Cluster::key("rows/numbers/a")]);
    assert_eq!(kept.trim(), "1");
}

/// Somebody writes below the prefix without the seat: the copy here is no longer what etcd has, and nothing is built on it.
#[tokio::test]
async fn a_writer_without_the_seat_is_noticed_and_not_written_over() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().expect("tempdir");
    let rows = open(&cluster.place(), dir.path()).await;
    rows.set("a", 1).await.expect("set");
    cluster.ctl(&["put", &Cluster::key("head"), "somebody's"]);
    let said = soon(rows.set("a", 2))
        .await
        .expect_err("it is not the last");
    assert!(said.contains("a writer without the seat"), "{said}");
    let kept = cluster.ctl(&["get", "--print-value-only", &Cluster::key("rows/numbers/a")]);
    assert_eq!(kept.trim(), "1");
    assert!(rows.set("a", 3).await.is_err(), "nor later");
}

/// The seat expired, another plane had it, wrote, and left: it is free again, and what the first one has in memory is old.
#[tokio::test]
async fn a_seat_that_was_anothers_meanwhile_is_not_taken_again() {
    let cluster = Cluster::start();
    let (ways, by) = cluster.ways().await;
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("tempdir"));
    let first = open(&cluster.place_by(&by), dirs[0].path()).await;
    first.set("a", 1).await.expect("set");
    for way in &ways {
        way.set(Mode::Cut);
    }
    let second = open(&cluster.place(), dirs[1].path()).await;
    second.set("a", 2).await.expect("set");
    second.leave().await;
    for way in &ways {
        way.set(Mode::Open);
    }
    let said = soon(async {
        loop {
            // Away until its keeper has looked again.
            let said = first.set("b", 1).await.expect_err("its copy is old");
            if said.contains("another plane has the store") {
                break said;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(said.contains("wrote and left"), "{said}");
    assert_eq!(
        first.get("a"),
        Some(1),
        "it has not seen what the other wrote"
    );
    assert_eq!(cluster.ctl(&["get", &Cluster::key("rows/numbers/b")]), "");
}

/// etcd makes a write, and its answer is lost: the write is looked up, and made once.
#[tokio::test]
async fn a_write_whose_answer_is_lost_is_made_once() {
    let cluster = Cluster::start();
    let (ways, by) = cluster.ways().await;
    let set = |mode| ways.iter().for_each(|way| way.set(mode));
    let dir = tempfile::tempdir().expect("tempdir");
    let rows = open(&cluster.place_by(&by), dir.path()).await;
    let in_etcd = || cluster.ctl(&["get", "--print-value-only", &Cluster::key("rows/numbers/n")]);
    let mut lost = 0;
    while lost < 2 {
        let before = rows.add("n").await.expect("counted");
        set(Mode::Deaf);
        let adding = rows.add("n");
        let looking = async {
            // The connection may be another request's: then the write did not arrive, and this attempt does not count.
            let arrived = tokio::time::timeout(Duration::from_secs(2), async {
                while in_etcd().trim() != (before + 1).to_string() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
            let arrived = arrived.await.is_ok();
            set(Mode::Open);
            arrived
        };
        let (added, arrived) = soon(async { tokio::join!(adding, looking) }).await;
        assert_eq!(added, Ok(before + 1), "once");
        assert_eq!(in_etcd().trim(), (before + 1).to_string());
        lost += u32::from(arrived);
    }
    rows.leave().await;
}

/// Members die one after the other, the contacted one and the leader among them: writes wait for the election, no
/// acknowledged one is lost, and none is made twice.
#[tokio::test]
async fn dying_etcd_members_lose_no_acknowledged_write() {
    let mut cluster = Cluster::start();
    let dir = tempfile::tempdir().expect("tempdir");
    let rows = open(&cluster.place(), dir.path()).await;
    let mut counted = 0;
    for n in 0..3 {
        for _ in 0..5 {
            counted = rows.add("n").await.expect("counted");
        }
        cluster.kill(n);
        for _ in 0..5 {
            let before = counted;
            counted = soon(async {
                loop {
                    // It is away while there is no leader; what is refused then is not made.
                    if let Ok(counted) = rows.add("n").await {
                        break counted;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
            .await;
            assert_eq!(counted, before + 1, "each once");
        }
        cluster.begin(n);
    }
    assert_eq!(counted, 30);
    rows.leave().await;
    let again = open(&cluster.place(), dir.path()).await;
    assert_eq!(again.get("n"), Some(30));
    again.leave().await;
}

async fn admin(dir: &Path, method: Method, path: &str, body: &Value) -> Result<Value, String> {
    let client = Client::unix(dir.join("admin.sock")).expect("client");
    let answer = client.send(method, path, body, PATIENCE).await;
    answer
        .map(Option::unwrap_or_default)
        .map_err(|e| format!("{:?}", e))
}

fn silence(why: &str) -> Value {
    json!({"who": "a test", "why": why, "forSeconds": 3600})
}

/// Its etcd is away for longer than its lease, and comes back: meanwhile it reports that, refuses changes, answers
/// reads and keeps the tunnel and its streams; then it continues on its own.
#[tokio::test]
async fn a_plane_whose_store_is_away_says_so_and_keeps_its_tunnels() {
    let cluster = Cluster::start();
    let (ways, by) = cluster.ways().await;
    let dir = tempfile::tempdir().expect("tempdir");
    let listen = free();
    let config = ServeConfig {
        etcd: Some(cluster.place_by(&by)),
        ..ServeConfig::new(dir.path(), listen)
    };
    let plane = soon(Server::start(config)).await.expect("plane");
    let made = admin(dir.path(), Method::POST, "/tokens", &json!({"ttl_s": 600})).await;
    let made = made.expect("a token");
    let (_root, fs, identity) = enrolled(plane.public_url(), &made).await;
    identity::save(&fs, &identity, &Owners::current_user()).expect("save");
    let comms = Comms::start(&fs).await;
    // Since when each is up, which of them, and after how many others.
    let sessions = |status: &TunnelStatus| {
        let all = status.sessions.iter();
        let all = all.map(|s| format!("{} {:?} {}", s.slot, s.state, s.reconnects));
        all.collect::<Vec<_>>()
    };
    let before = sessions(&comms.until(tunnel_is_up).await);
    admin(dir.path(), Method::POST, "/silences", &silence("before"))
        .await
        .expect("a change");

    let authority = std::fs::read(dir.path().join("ca.pem")).expect("authority");
    let https = tls::outside(Some(&authority), |b| b).expect("client");
    let ready = async || {
        let answer = https.get(format!("https://{listen}/ready")).send().await;
        let answer = answer.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    };
    assert_eq!(ready().await, (200, "ok\n".into()));
    for way in &ways {
        way.set(Mode::Cut);
    }
    let becomes = async |wanted: u16| {
        soon(async {
            loop {
                let (status, text) = ready().await;
                if status == wanted {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await
    };
    let said = becomes(503).await;
    assert!(said.contains("the store has not answered since"), "{said}");
    let refused = admin(dir.path(), Method::POST, "/silences", &silence("away")).await;
    let refused = refused.expect_err("it is away");
    assert!(refused.contains("has not answered since"), "{refused}");
    // The seat's lease expires: etcd forgets this plane.
    soon(async {
        while !cluster.ctl(&["get", &Cluster::key("seat")]).is_empty() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    let listed = admin(dir.path(), Method::GET, "/silences", &Value::Null).await;
    assert_eq!(whys(&listed.expect("reads")), ["before"]);
    let spec = within(get(&fs, "/v1/hosts/self/spec?after=0")).await;
    assert!(spec.expect("through the tunnel").starts_with(b"{"));

    for way in &ways {
        way.set(Mode::Open);
    }
    assert_eq!(becomes(200).await, "ok\n");
    admin(dir.path(), Method::POST, "/silences", &silence("after"))
        .await
        .expect("a change");
    assert_eq!(sessions(&comms.status().await), before, "the same tunnels");
    comms.stop().await;
    within(plane.stop()).await;
}

/// Reasons of silences, in order.
fn whys(listed: &Value) -> Vec<String> {
    let all = listed.as_array().expect("a list").iter();
    let mut all: Vec<_> = all
        .map(|s| s["why"].as_str().expect("text").to_owned())
        .collect();
    all.sort();
    all
}
