//! Against members on real sockets that answer as etcd 3.4 was seen to: status, words and numbers.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::host::tls::ClientIdentity;

#[test]
fn both_generations_of_answers_are_understood() {
    assert!(health(200, br#"{"health":"true"}"#).is_ok());
    assert!(health(200, br#"{"health":"true","reason":""}"#).is_ok());
    let no = health(503, br#"{"health":"false","reason":"RAFT NO LEADER"}"#);
    assert!(no.expect_err("unhealthy").to_string().contains("NO LEADER"));
    let full = health(503, br#"{"health":"false","reason":"ALARM NOSPACE"}"#);
    assert!(
        full.expect_err("full")
            .to_string()
            .contains("pf9ctl etcd alarm")
    );
    assert!(health(503, br#"{"health":"false"}"#).is_err());
    assert!(health(200, b"<html>").is_err());
}

/// Members that count each other; the nth is called `m<n>` and has the number 100 + n.
struct Cluster {
    members: Mutex<Vec<usize>>,
    /// Those that have no vote yet, and how often they are behind before they are not.
    learners: Mutex<Vec<(usize, u32)>>,
    /// Removals that are refused before one is taken.
    unhealthy: Mutex<u32>,
    /// They count each other and elect nobody.
    leaderless: Mutex<bool>,
    /// Where each answers clients.
    bases: Mutex<Vec<String>>,
}

struct Rig {
    cluster: Arc<Cluster>,
    endpoints: Vec<Etcd>,
    tasks: Vec<JoinSet<()>>,
}

impl Rig {
    async fn new(count: usize) -> Self {
        let cluster = Arc::new(Cluster {
            members: Mutex::new((0..count).collect()),
            learners: Mutex::default(),
            unhealthy: Mutex::new(0),
            leaderless: Mutex::default(),
            bases: Mutex::default(),
        });
        let key = rcgen::KeyPair::generate().expect("key");
        let params = rcgen::CertificateParams::new(vec!["etcd".into()]).expect("params");
        let certificate = params.self_signed(&key).expect("certificate").pem();
        crate::tls::install();
        let mut rig = Self {
            cluster,
            endpoints: Vec::new(),
            tasks: Vec::new(),
        };
        for number in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let base = format!("http://{}", listener.local_addr().expect("address"));
            rig.cluster.bases.lock().expect("lock").push(base.clone());
            let identity = ClientIdentity {
                authority: certificate.as_bytes(),
                certificate: certificate.as_bytes(),
                key: key.serialize_pem().into_bytes().leak(),
            };
            rig.endpoints
                .push(Etcd::new(&base, identity).expect("client"));
            let mut tasks = JoinSet::new();
            tasks.spawn(member(listener, Arc::clone(&rig.cluster), number));
            rig.tasks.push(tasks);
        }
        rig
    }

    /// The process of a member ends.
    async fn kill(&mut self, number: usize) {
        self.tasks[number].shutdown().await;
    }

    fn members(&self) -> Vec<usize> {
        self.cluster.members.lock().expect("lock").clone()
    }

    async fn leave(&self, number: usize) -> Result<(), EtcdError> {
        leave(&self.endpoints, &who(number), false).await
    }
}

fn who(number: usize) -> Who {
    Who {
        id: None,
        name: format!("m{number}"),
        ip: format!("10.0.0.{number}").parse().expect("address"),
    }
}

async fn member(listener: TcpListener, cluster: Arc<Cluster>, number: usize) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let cluster = Arc::clone(&cluster);
        connections.spawn(async move {
            let service = service_fn(move |r| answer(r, Arc::clone(&cluster), number));
            let http = hyper::server::conn::http1::Builder::new();
            drop(http.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    cluster: Arc<Cluster>,
    number: usize,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/health" {
        if *cluster.leaderless.lock().expect("lock") {
            let said = r#"{"health":"false","reason":"RAFT NO LEADER"}"#;
            let mut response = Response::new(Full::new(said.into()));
            *response.status_mut() = hyper::StatusCode::SERVICE_UNAVAILABLE;
            return Ok(response);
        }
        // Its database is full: it takes part anyway, and has its vote.
        let said = match request.uri().query() {
            Some("exclude=NOSPACE") => r#"{"health":"true"}"#,
            _ => r#"{"health":"false","reason":"ALARM NOSPACE"}"#,
        };
        return Ok(Response::new(Full::new(said.into())));
    }
    assert_eq!(request.method(), "POST");
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.expect("body");
    let body: Value = serde_json::from_slice(&body.to_bytes()).expect("JSON");
    let mut members = cluster.members.lock().expect("lock");
    let mut learners = cluster.learners.lock().expect("lock");
    let mut unhealthy = cluster.unhealthy.lock().expect("lock");
    let bases = cluster.bases.lock().expect("lock").clone();
    let no = |status: u16, code: u32, words: &str| {
        (
            status,
            json!({"error": words, "message": words, "code": code}),
        )
    };
    let (status, said) = match path.as_str() {
        "/v3/cluster/member/list" => (200, list(&members, &learners, &bases)),
        "/v3/cluster/member/add" => {
            assert_eq!(body["isLearner"], true, "it would count before it runs");
            let url = body["peerURLs"][0].as_str().expect("a URL");
            let host = url.strip_prefix("https://10.0.0.").expect("address");
            let host = host.strip_suffix(":2380").expect("port");
            learners.push((host.parse().expect("a number"), 2));
            (200, list(&members, &learners, &bases))
        }
        "/v3/cluster/member/promote" => {
            let id = body["ID"].as_str().expect("a number as text");
            let wanted = id.parse::<usize>().expect("a number") - 100;
            match learners.iter_mut().find(|(n, _)| *n == wanted) {
                Some((_, behind)) if *behind > 0 => {
                    *behind -= 1;
                    let words = "etcdserver: can only promote a learner member which is in sync \
                                 with leader";
                    no(412, 9, words)
                }
                Some(_) => {
                    learners.retain(|(n, _)| *n != wanted);
                    members.push(wanted);
                    (200, list(&members, &learners, &bases))
                }
                None => no(404, 5, "etcdserver: member not found"),
            }
        }
        "/v3/cluster/member/remove" => {
            let id = body["ID"].as_str().expect("a number as text");
            let wanted = id.parse::<usize>().expect("a number") - 100;
            if *unhealthy > 0 {
                *unhealthy -= 1;
                no(503, 14, "etcdserver: unhealthy cluster")
            } else if !members.contains(&wanted) {
                no(404, 5, "etcdserver: member not found")
            } else {
                members.retain(|m| *m != wanted);
                if wanted == number {
                    no(503, 14, "etcdserver: server stopped")
                } else {
                    (200, list(&members, &learners, &bases))
                }
            }
        }
        other => panic!("{other} was asked"),
    };
    let mut response = Response::new(Full::new(said.to_string().into()));
    *response.status_mut() = status.try_into().expect("status");
    Ok(response)
}

fn list(members: &[usize], learners: &[(usize, u32)], bases: &[String]) -> Value {
    let voter = |m: &usize| {
        json!({"ID": (100 + m).to_string(), "name": format!("m{m}"),
               "peerURLs": [format!("https://10.0.0.{m}:2380")],
               "clientURLs": bases.get(*m).into_iter().collect::<Vec<_>>()})
    };
    // As etcd says it of one that was added and not started.
    let learner = |(m, _): &(usize, u32)| {
        json!({"ID": (100 + m).to_string(), "isLearner": true,
               "peerURLs": [format!("https://10.0.0.{m}:2380")]})
    };
    let members: Vec<Value> = members
        .iter()
        .map(voter)
        .chain(learners.iter().map(learner))
        .collect();
    json!({"header": {"cluster_id": "17032330802997689198"}, "members": members})
}

/// A list that nobody can change tells nothing: where this member is what the quorum lacks, it is started first. (These
/// members have no room, which is no matter.)
#[tokio::test]
async fn only_one_with_a_quorum_says_that_a_member_is_expected_elsewhere() {
    let rig = Rig::new(3).await;
    let at_home = Who {
        id: Some(hex("102")),
        ..who(2)
    };
    let moved = Who {
        ip: "10.0.0.99".parse().expect("address"),
        ..at_home.clone()
    };
    let expected = |who: &Who| {
        let (endpoints, who) = (rig.endpoints.clone(), who.clone());
        async move { expected_elsewhere(&endpoints, &who).await }
    };
    let told = expected(&moved).await.expect("told");
    assert_eq!(told.as_deref(), Some("https://10.0.0.2:2380"));
    *rig.cluster.leaderless.lock().expect("lock") = true;
    let no = expected(&moved).await.expect_err("nobody has a quorum");
    assert!(no.to_string().contains("NO LEADER"), "{no}");
    // That it is expected here each of them may say.
    assert_eq!(expected(&at_home).await.expect("told"), None);
}

#[tokio::test]
async fn one_of_several_leaves_and_leaving_again_is_fine() {
    let rig = Rig::new(3).await;
    rig.leave(0).await.expect("left");
    assert_eq!(rig.members(), [1, 2]);
    rig.leave(0).await.expect("again is fine");
    assert_eq!(rig.members(), [1, 2]);
    let told = standing(&rig.endpoints, &who(0)).await.expect("told");
    assert_eq!(told, Standing::Free);
}

#[tokio::test]
async fn the_only_member_stays() {
    let rig = Rig::new(1).await;
    rig.leave(0).await.expect("nobody misses it");
    assert_eq!(rig.members(), [0]);
}

#[tokio::test]
async fn a_member_that_stops_while_it_removes_itself_has_left() {
    // Its own endpoint comes first here: it cannot tell how it ended, the next one can.
    let rig = Rig::new(2).await;
    rig.leave(0).await.expect("left");
    assert_eq!(rig.members(), [1]);
}

#[tokio::test]
async fn the_others_can_remove_one_that_is_down() {
    let mut rig = Rig::new(3).await;
    rig.kill(0).await;
    rig.leave(0).await.expect("left");
    assert_eq!(rig.members(), [1, 2]);
}

#[tokio::test]
async fn who_would_take_the_quorum_along_stays_and_hears_who_is_missing() {
    let mut rig = Rig::new(3).await;
    rig.kill(2).await;
    let no = rig.leave(0).await.expect_err("refused");
    assert!(matches!(no, EtcdError::Quorum(_)), "{no:?}");
    let said = no.to_string();
    assert!(
        said.contains("no answer from m2") && said.contains("bring a silent master back"),
        "{said}"
    );
    let asked = may_leave(&rig.endpoints, &who(0))
        .await
        .expect_err("refused");
    assert_eq!(asked.to_string(), said, "the same before anything is done");
    assert_eq!(rig.members(), [0, 1, 2]);
    // The dead one may go; then this one may.
    rig.leave(2).await.expect("left");
    rig.leave(0).await.expect("left");
    assert_eq!(rig.members(), [1]);
}

#[tokio::test]
async fn who_insists_leaves_whatever_the_others_lose() {
    let mut rig = Rig::new(3).await;
    rig.kill(2).await;
    leave(&rig.endpoints, &who(0), true).await.expect("left");
    assert_eq!(rig.members(), [1, 2]);
}

#[tokio::test]
async fn etcds_own_no_is_passed_on_in_its_words() {
    let mut rig = Rig::new(3).await;
    *rig.cluster.unhealthy.lock().expect("lock") = u32::MAX;
    let no = rig.leave(0).await.expect_err("refused");
    assert!(
        no.to_string().contains("etcdserver: unhealthy cluster"),
        "the words of who answered, not the silence of the dead: {no}"
    );
    assert_eq!(rig.members(), [0, 1, 2]);
    for dead in 0..3 {
        rig.kill(dead).await;
    }
    let silence = rig.leave(0).await.expect_err("nobody answers");
    assert!(matches!(silence, EtcdError::Unreachable { .. }));
    assert!(matches!(
        leave(&[], &who(0), false).await,
        Err(EtcdError::Nobody)
    ));
}

#[tokio::test]
async fn a_no_is_asked_again_and_not_for_ever() {
    let rig = Rig::new(3).await;
    let (budget, pause) = (Duration::from_secs(60), Duration::from_millis(5));
    *rig.cluster.unhealthy.lock().expect("lock") = 7;
    leave_within(&rig.endpoints, &who(0), false, budget, pause)
        .await
        .expect("left in the end");
    assert_eq!(rig.members(), [1, 2]);
    *rig.cluster.unhealthy.lock().expect("lock") = u32::MAX;
    let budget = Duration::from_millis(100);
    let no = leave_within(&rig.endpoints, &who(1), false, budget, pause).await;
    assert!(matches!(no, Err(EtcdError::Refused { .. })), "{no:?}");
}

fn names(members: &[Member]) -> Vec<(String, bool)> {
    let mut all: Vec<_> = members
        .iter()
        .map(|m| (m.peer_urls.join(","), m.is_learner))
        .collect();
    all.sort_unstable();
    all
}

#[tokio::test]
async fn a_newcomer_is_counted_without_a_vote_until_it_has_caught_up() {
    let rig = Rig::new(2).await;
    let ask = async || {
        let told = counted(&rig.endpoints, &who(7)).await.expect("told");
        told.map(|m| (m.is_learner, m.was_started()))
    };
    assert_eq!(ask().await, None);
    let all = join(&rig.endpoints, &who(7), false).await;
    let url = |n: usize| format!("https://10.0.0.{n}:2380");
    let expected = [(url(0), false), (url(1), false), (url(7), true)];
    assert_eq!(names(&all.expect("joined").members), expected);
    assert_eq!(ask().await, Some((true, false)));
    // Killed before it was started: it asks again and is not counted twice.
    let again = join(&rig.endpoints, &who(7), false).await;
    assert_eq!(names(&again.expect("joined").members), expected);
    let (budget, pause) = (Duration::from_secs(60), Duration::from_millis(5));
    promote_within(&rig.endpoints, &who(7), budget, pause)
        .await
        .expect("in the end");
    assert_eq!(rig.members(), [0, 1, 7]);
    promote_within(&rig.endpoints, &who(7), budget, pause)
        .await
        .expect("again is fine");
}

#[tokio::test]
async fn one_that_lost_its_data_comes_as_a_new_one() {
    let rig = Rig::new(3).await;
    let others = &rig.endpoints[..2];
    let kept = join(others, &who(2), true).await.expect("told");
    assert!(names(&kept.members).iter().all(|(_, learner)| !learner));
    assert_eq!(rig.members(), [0, 1, 2]);
    let anew = join(others, &who(2), false).await.expect("joined");
    assert_eq!(rig.members(), [0, 1]);
    assert_eq!(
        names(&anew.members).last().map(|(_, learner)| *learner),
        Some(true)
    );
    assert_eq!(anew.cluster_id, hex("17032330802997689198"));
}

/// Its data are of a member that the others took out: etcd would end at its start, again and again.
#[tokio::test]
async fn one_that_was_taken_out_is_told_so_and_is_not_added_behind_its_back() {
    let rig = Rig::new(3).await;
    rig.leave(2).await.expect("out");
    let no = join(&rig.endpoints[..2], &who(2), true).await;
    let no = no.expect_err("its data are stale").to_string();
    assert!(no.contains("pf9ctl etcd rejoin"), "{no}");
    assert_eq!(rig.members(), [0, 1]);
}

#[tokio::test]
async fn who_cannot_join_is_told_why() {
    let mut rig = Rig::new(3).await;
    *rig.cluster.unhealthy.lock().expect("lock") = u32::MAX;
    let no = join(&rig.endpoints[..2], &who(2), false).await;
    let no = no.expect_err("refused").to_string();
    assert!(no.contains("etcdserver: unhealthy cluster"), "{no}");
    assert!(matches!(
        join(&[], &who(2), false).await,
        Err(EtcdError::Nobody)
    ));
    // Its own data is lost, and another member is dead: with its old member removed two would be left, one of them
    // alive.
    *rig.cluster.unhealthy.lock().expect("lock") = 0;
    rig.kill(1).await;
    rig.kill(2).await;
    let no = join(&rig.endpoints[..2], &who(2), false).await;
    assert!(matches!(no, Err(EtcdError::Quorum(_))), "{no:?}");
    assert_eq!(rig.members(), [0, 1, 2]);
}
