//! Orders, retention, and who can open a bundle.

use std::convert::Infallible;

use axum::body::Body;
use futures_util::{StreamExt, stream};

use super::*;
use crate::compute::tests::{host, host_row, now};
use crate::people::ProjectId;
use crate::records::tables;
use crate::store::Store;
use pf9_hostagent::model::DocumentKind;
use pf9_hostagent::model::Operation;
use pf9_hostagent::model::TrustStore;

struct World {
    store: Store,
    key: SigningKey,
    _dir: tempfile::TempDir,
}

fn wanted() -> Wanted {
    serde_json::from_str("{}").expect("all has a default")
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&dir.path().join("s"), &tables()).expect("store");
        let done: Answer<()> = store.write(|w| {
            for n in [1, 2] {
                w.put(&HOSTS, &host(n).to_string(), &host_row(n, None))?;
            }
            Ok(())
        });
        done.expect("hosts");
        let (key, _) = SigningKey::generate().expect("key");
        Self {
            store,
            key,
            _dir: dir,
        }
    }

    fn at<T>(&self, s: i64, work: impl FnOnce(&mut Change<'_>) -> Answer<T>) -> Answer<T> {
        let now = now() + SignedDuration::from_secs(s);
        self.store.write(|w| work(&mut Change::new(w, now)))
    }

    fn order(&self, s: i64, of: u8, wanted: &Wanted) -> Answer<Row> {
        self.at(s, |c| order(c, &self.key, host(of), wanted, "somebody"))
    }

    fn rows(&self) -> Vec<Row> {
        rows_of(&self.store.read().expect("read"), host(1)).expect("rows")
    }

    fn kinds(&self) -> Vec<String> {
        let rows = self.store.read().expect("read");
        let told = events::list(&rows, host(1)).expect("events");
        let all = told.as_array().expect("list").iter();
        all.map(|e| e["event"]["kind"].as_str().expect("kind").to_owned())
            .collect()
    }
}

#[test]
fn the_signed_order_carries_the_public_key_and_the_private_one_stays() {
    let world = World::new();
    let row = world.order(0, 1, &wanted()).expect("asked for");
    let rows = world.store.read().expect("read");
    let pending = rows
        .with_prefix(&operations::OPERATIONS, &format!("{}/", host(1)))
        .expect("rows");
    let trust = TrustStore::new([world.key.trusted()]).expect("trust");
    let signed: Operation = pending[0]
        .1
        .envelope
        .open(DocumentKind::Operation, &trust)
        .expect("signed");
    let OperationKind::Bundle { seal_for, .. } = &signed.what else {
        panic!("{}", signed.what);
    };
    assert_eq!(signed.id, row.id);
    let key = row.key.as_ref().expect("a key of its own").expose();
    let key: age::x25519::Identity = key.parse().expect("key");
    assert_eq!(key.to_public().to_string(), *seal_for);
    let shown = row.shown(now()).to_string();
    assert!(!shown.contains("AGE-SECRET"), "{shown}");
    // Each row keeps its own key.
    assert_eq!(world.rows()[0].key, row.key);
    let other = world.order(1, 1, &wanted()).expect("another one");
    assert_ne!(other.key, row.key);
    // A bundle sealed for the caller's own key is opened by the caller alone.
    let own = age::x25519::Identity::generate().to_public().to_string();
    let mine = Wanted {
        seal_for: Some(own),
        ..wanted()
    };
    assert_eq!(world.order(2, 1, &mine).expect("asked for").key, None);
    for wrong in ["", "age1qqq", "ssh-ed25519 AAAA"] {
        let wrong = Wanted {
            seal_for: Some(wrong.to_owned()),
            ..wanted()
        };
        world.order(3, 1, &wrong).expect_err("no key");
    }
}

#[test]
fn number_size_and_retention_are_bounded() {
    let world = World::new();
    for n in 0..OF_A_HOST_MAX {
        world
            .order(i64::try_from(n).expect("few"), 1, &wanted())
            .expect("asked for");
    }
    let fault = world.order(9, 1, &wanted()).expect_err("too many").fault;
    assert_eq!(fault.code, FaultCode::TooMany);
    world.order(9, 2, &wanted()).expect("another host's");
    // Those that did not arrive no longer count.
    world.order(3 * 3600, 1, &wanted()).expect("asked for");
    let large = |keep_seconds, max_bytes| Wanted {
        keep_seconds,
        max_bytes,
        ..wanted()
    };
    for (keep, bytes) in [
        (0, BYTES),
        (KEEP_MAX + 1, BYTES),
        (1, 0),
        (1, BUNDLE_BYTES_MAX + 1),
    ] {
        world
            .order(4 * 3600, 2, &large(keep, bytes))
            .expect_err("no such bound");
    }
}

#[test]
fn a_project_cannot_use_up_anothers_quota() {
    let world = World::new();
    let filled = |s, of, bytes| {
        let done = world.at(s, |c| {
            let mut row = order(c, &world.key, host(of), &wanted(), "x")?;
            row.arrived = Some(Arrived {
                at: c.now,
                bytes,
                sha256: Digest::of(b""),
            });
            Ok(c.put(&BUNDLES, &at(host(of), row.id), &row)?)
        });
        done.expect("filled");
    };
    let moved = world.at(0, |c| {
        let mut row = state::host(&**c, host(2))?;
        row.project = ProjectId::of("q").expect("an id");
        Ok(c.put(&HOSTS, &host(2).to_string(), &row)?)
    });
    moved.expect("another project's");
    filled(0, 1, BYTES_MAX / 2 - BYTES);
    world.order(1, 1, &wanted()).expect("its half, to the byte");
    let fault = world.order(2, 1, &wanted()).expect_err("more").fault;
    assert_eq!(fault.code, FaultCode::TooMany);
    assert!(fault.why.contains("this project's bundles"), "{fault}");
    // The other one does not learn of that, and gets half of the rest.
    filled(3, 2, BYTES_MAX / 4 - BYTES);
    world.order(4, 2, &wanted()).expect("its own half");
    let fault = world.order(5, 2, &wanted()).expect_err("more").fault;
    let mine = (BYTES_MAX / 4).to_string();
    assert!(fault.why.contains(&mine), "{fault}");
}

/// A disk of the plane, with the directory for bundles, and one that is awaited.
fn disk() -> (tempfile::TempDir, HostFs, Row) {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::create_dir(dir.path().join("bundles")).expect("directory");
    let files = HostFs::new(dir.path());
    let row = World::new().order(0, 1, &wanted()).expect("asked for");
    (dir, files, row)
}

fn kept(dir: &tempfile::TempDir) -> usize {
    let all = std::fs::read_dir(dir.path().join("bundles"));
    all.expect("directory").count()
}

#[tokio::test]
async fn uploads_leave_the_store_its_space() {
    let (dir, files, mut row) = disk();
    // The test's disk has room, so the content is checked next.
    let sent = || Body::from("not sealed");
    let refusal = files::receive(&files, &row, sent()).await;
    let fault = refusal.expect_err("not sealed").fault;
    assert_eq!(fault.code, FaultCode::BodyBroken, "{fault}");
    // No disk has that much.
    row.max_bytes = u64::MAX / 2;
    let refusal = files::receive(&files, &row, sent()).await;
    let fault = refusal.expect_err("no room").fault;
    assert_eq!(fault.code, FaultCode::DiskFull, "{fault}");
    assert_eq!(kept(&dir), 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_or_endless_upload_is_cut() {
    let (dir, files, row) = disk();
    let silent = Body::from_stream(stream::pending::<Result<Vec<u8>, Infallible>>());
    let refusal = files::receive(&files, &row, silent).await;
    let fault = refusal.expect_err("silent").fault;
    assert_eq!(fault.code, FaultCode::BodySlow, "{fault}");
    assert!(fault.why.contains("no data for"), "{fault}");
    // A byte a minute, for a day.
    let drips = stream::iter(0..24 * 60).then(|_| async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Ok::<_, Infallible>(vec![7])
    });
    let refusal = files::receive(&files, &row, Body::from_stream(drips)).await;
    let fault = refusal.expect_err("endless").fault;
    assert_eq!(fault.code, FaultCode::BodySlow, "{fault}");
    assert!(fault.why.contains("it took longer"), "{fault}");
    assert_eq!(kept(&dir), 0);
}

#[test]
fn a_bundle_expires_together_with_its_key() {
    let world = World::new();
    let short = Wanted {
        keep_seconds: 3600,
        ..wanted()
    };
    let (here, missed) = (
        world.order(0, 1, &short).expect("asked for"),
        world.order(0, 1, &wanted()).expect("asked for"),
    );
    let stage = |row: &Row, s: i64| row.stage(now() + SignedDuration::from_secs(s));
    assert_eq!(stage(&here, 10), Stage::Awaited);
    world
        .at(60, |c| arrived(c, host(1), here.id, 7, Digest::of(b"x")))
        .expect("arrived");
    let here = world
        .rows()
        .into_iter()
        .find(|r| r.id == here.id)
        .expect("row");
    assert_eq!(stage(&here, 3599), Stage::Here);
    assert_eq!(stage(&here, 3600), Stage::Over);
    assert_eq!(
        stage(&here, -i64::from(KEEP_MAX)),
        Stage::Over,
        "the clock was set back"
    );
    assert_eq!(stage(&missed, i64::from(operations::LIFE)), Stage::Awaited);
    assert_eq!(
        stage(&missed, i64::from(operations::LIFE) + 2400),
        Stage::Over
    );
    world.at(2 * 3600, end_those).expect("ended");
    assert!(world.rows().is_empty());
    let kinds = world.kinds();
    for kind in ["bundle-arrived", "bundle-over", "bundle-missed"] {
        assert!(kinds.iter().any(|k| k == kind), "{kinds:?}");
    }
}

#[test]
fn one_upload_per_bundle_at_a_time() {
    let receiving = Receiving::default();
    let id = Uuid::from_u128(1);
    let place = receiving.begin(id).expect("free");
    assert!(receiving.begin(id).is_none());
    assert!(receiving.has(id));
    receiving.begin(Uuid::from_u128(2)).expect("another one");
    drop(place);
    receiving.begin(id).expect("free again");
}

#[test]
fn logs_alone_are_an_operation_of_their_own_with_a_time_and_lines() {
    let world = World::new();
    let logs = Wanted {
        only: Some(Only::Logs),
        until_seconds: Some(60),
        lines: Some(7),
        ..wanted()
    };
    let row = world.order(0, 1, &logs).expect("asked for");
    assert_eq!(row.shown(now())["only"], "logs");
    let rows = world.store.read().expect("read");
    let pending = rows
        .with_prefix(&operations::OPERATIONS, &format!("{}/", host(1)))
        .expect("rows");
    let OperationKind::Logs {
        since_s,
        until_s,
        lines,
        ..
    } = &pending[0].1.operation.what
    else {
        panic!("{}", pending[0].1.operation.what);
    };
    assert_eq!((*since_s, *until_s, *lines), (SINCE, 60, 7));
    for (until, lines) in [(Some(60), None), (None, Some(7))] {
        let wrong = Wanted {
            only: None,
            until_seconds: until,
            lines,
            ..wanted()
        };
        let fault = world.order(1, 1, &wrong).expect_err("of logs").fault;
        assert!(fault.why.contains("\"logs\""), "{fault}");
    }
    let over = Wanted {
        lines: Some(LOG_LINES_MAX + 1),
        ..logs
    };
    world.order(2, 1, &over).expect_err("so many lines");
    // A row written before `only` existed is a whole bundle.
    let mut row = serde_json::to_value(world.rows().first().expect("row")).expect("json");
    row.as_object_mut().expect("object").remove("only");
    assert_eq!(serde_json::from_value::<Row>(row).expect("row").only, None);
}
