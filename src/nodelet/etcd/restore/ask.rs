//! What root asks of a restore, on nodelet's socket. It is noted here; the loop does it.
//!
//! | call | answer |
//! |---|---|
//! | `GET /v1/etcd/restore`                | [`RestoreView`]: what is under way, and how the last one ended |
//! | `POST /v1/etcd/restore` (root only)   | 202 and the same; 409 while one is under way |
//! | `POST /v1/etcd/rejoin` (root only)    | likewise |
//! | `DELETE /v1/etcd/restore` (root only) | 202; it ends, unless data were moved already |

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{By, Last, RestoreGoal, RestoreRun, Restores, Source};
use crate::backup::shelf;
use crate::host::fs::HostFs;
use crate::local::{Method, Reply, Request, StatusCode};
use crate::model::{Fault, FaultCode, Role, Timestamp, document};
use crate::nodelet::job::Job;
use crate::telemetry::chain;

/// Where a restore is asked for.
pub const PATH: &str = "/v1/etcd/restore";
/// Where joining a restored master is.
pub const REJOIN_PATH: &str = "/v1/etcd/rejoin";
/// Longest path of a file: the kernel's own bound.
const PATH_MAX: usize = 4096;

/// What is under way, and how the last one ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RestoreView {
    /// Under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RestoreRun>,
    /// Ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Last>,
}

/// True for the calls that are answered here.
pub fn is_one(path: &str) -> bool {
    path == PATH || path == REJOIN_PATH
}

/// Answers one. `true` beside it: the loop has something to do.
pub fn answer(fs: &HostFs, job: &Job, request: &Request, now: Timestamp) -> (Reply, bool) {
    let restores = Restores::of(fs);
    let goal = match (&request.method, request.path.as_str()) {
        (&Method::GET, PATH) => return (view(&restores, StatusCode::OK), false),
        (&Method::POST, PATH) => match document::read::<Source>(&request.body) {
            Ok(source) => Some(RestoreGoal::Restored(source)),
            Err(e) => {
                let fault = Fault::new(FaultCode::DocumentMalformed, NOT_DONE, e.to_string());
                return (
                    Reply::fault(StatusCode::UNPROCESSABLE_ENTITY, &fault),
                    false,
                );
            }
        },
        (&Method::POST, REJOIN_PATH) => Some(RestoreGoal::Rejoined),
        (&Method::DELETE, PATH) => None,
        _ => return (Reply::not_found(&request.path), false),
    };
    let uid = request.peer.uid;
    if uid != 0 && uid != geteuid().as_raw() {
        let fault = Fault::new(FaultCode::NotAllowed, NOT_DONE, "only root may ask for it");
        return (Reply::fault(StatusCode::FORBIDDEN, &fault), false);
    }
    let noted = match goal {
        Some(goal) => ask(&restores, job, goal, now),
        None => restores.ask_to_end(now),
    };
    match noted {
        Ok(()) => (view(&restores, StatusCode::ACCEPTED), true),
        Err(fault) => (Reply::fault(StatusCode::CONFLICT, &fault), false),
    }
}

fn ask(restores: &Restores, job: &Job, goal: RestoreGoal, now: Timestamp) -> Result<(), Fault> {
    let job = job.clone();
    let Some(work) = job.work().filter(|work| work.role == Role::Master) else {
        let why = "this host is not a master";
        return Err(Fault::new(FaultCode::NoMaster, NOT_DONE, why)
            .fix("restore on a master: pf9-plane cluster show names them"));
    };
    if let Some(run) = restores.run().value {
        let why = format!("restore {} is under way since {}", run.id, run.asked_at);
        return Err(Fault::new(FaultCode::Busy, NOT_DONE, why)
            .fix("pf9ctl etcd restore --show shows its progress, --withdraw cancels it"));
    }
    if let RestoreGoal::Restored(source) = &goal {
        let file = Some(&source.file).filter(|file| !shelf::is_name(file));
        for path in [file, source.recovery_key.as_ref(), source.signers.as_ref()] {
            path.map_or(Ok(()), |path| absolute(path))?;
        }
    }
    let run = RestoreRun::asked(Uuid::new_v4(), By::Root, work.node.cluster_id, goal, now);
    tracing::warn!(id = %run.id, goal = ?run.goal, "root requested a restore of etcd");
    restores
        .save(&run)
        .map_err(|e| Fault::new(FaultCode::EtcdRestore, NOT_DONE, chain(&e)).fix("check the disk"))
}

fn absolute(path: &str) -> Result<(), Fault> {
    if path.starts_with('/') && path.len() <= PATH_MAX {
        return Ok(());
    }
    let why = format!("{path:.200?} is neither the name of a backup nor an absolute path");
    Err(Fault::new(FaultCode::DocumentMalformed, NOT_DONE, why))
}

fn view(restores: &Restores, status: StatusCode) -> Reply {
    let view = RestoreView {
        run: restores.run().value,
        last: restores.last(),
    };
    Reply::json(status, &view)
}

const NOT_DONE: &str = "nothing was started";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::host::fs::HostFs;
    use crate::local::Peer;
    use crate::model::Generation;
    use crate::nodelet::job::Work;
    use crate::nodelet::testing::{Cas, node};

    fn call(method: Method, path: &str, body: &str, uid: u32) -> Request {
        Request {
            method,
            path: path.into(),
            query: BTreeMap::new(),
            body: body.to_owned().into(),
            peer: Peer {
                uid,
                gid: 0,
                pid: None,
            },
        }
    }

    fn master() -> Job {
        Job::Node(Work {
            role: Role::Master,
            generation: Generation(1),
            node: node(Cas::new().authorities).into(),
        })
    }

    #[test]
    fn root_of_a_master_asks_once_and_nobody_else_does() {
        let dir = tempfile::tempdir().expect("directory");
        let fs = HostFs::new(dir.path());
        let (job, now) = (master(), Timestamp::UNIX_EPOCH);
        let said = |job: &Job, request: Request| {
            let (reply, wakes) = answer(&fs, job, &request, now);
            (reply.status(), wakes)
        };
        let body = r#"{"file": "/root/s.db"}"#;
        let other = geteuid().as_raw() + 12345;
        let post = |uid| call(Method::POST, PATH, body, uid);
        assert_eq!(said(&job, post(other)), (StatusCode::FORBIDDEN, false));
        let none = Job::Nothing(Generation(1));
        assert_eq!(said(&none, post(0)), (StatusCode::CONFLICT, false));
        for wrong in [
            r#"{"file": "s.db"}"#,
            r#"{"file": "/a", "recovery_key": "k"}"#,
        ] {
            let request = call(Method::POST, PATH, wrong, 0);
            assert_eq!(
                said(&job, request),
                (StatusCode::CONFLICT, false),
                "{wrong}"
            );
        }
        let malformed = call(Method::POST, PATH, "{}", 0);
        let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
        assert_eq!(said(&job, malformed), (unprocessable, false));
        assert_eq!(said(&job, post(0)), (StatusCode::ACCEPTED, true));
        let rejoin = call(Method::POST, REJOIN_PATH, "", 0);
        assert_eq!(
            said(&job, rejoin),
            (StatusCode::CONFLICT, false),
            "one at a time"
        );
        let look = call(Method::GET, PATH, "", other);
        assert_eq!(said(&job, look), (StatusCode::OK, false));
        let end = call(Method::DELETE, PATH, "", 0);
        assert_eq!(said(&job, end), (StatusCode::ACCEPTED, true));
        let run = Restores::of(&fs).run().value.expect("the loop ends it");
        assert!(Restores::of(&fs).is_to_end(&run));
    }
}
