use jiff::SignedDuration;
use tokio::sync::watch;
use uuid::Uuid;

use super::super::etcd;
use super::super::inbox::Inbox;
use super::super::job::Job;
use super::super::maintenance;
use super::super::status::NodeBoard;
use super::super::testing::{enrolled, host_id};
use super::*;
use crate::host::Host;
use crate::host::fs::Attrs;
use crate::host::ours::units;
use crate::model::Timestamp;
use crate::model::{
    Generation, HostId, LogLevel, LogOf, MaintenanceRequest, OperationKind, OurUnit, SigningKey,
    paths,
};

/// A host with the desk, as one life of nodelet has it.
struct Bed {
    host: Host,
    key: SigningKey,
    inbox: std::sync::Arc<Inbox>,
    etcd: etcd::EtcdHandle,
    rests: maintenance::MaintenanceHandle,
    wake: watch::Sender<u64>,
    desk: OperationsHandle,
    _dir: std::sync::Arc<tempfile::TempDir>,
}

impl Bed {
    fn new() -> Self {
        let dir = std::sync::Arc::new(tempfile::tempdir().expect("tempdir"));
        let fs = HostFs::new(dir.path());
        std::fs::create_dir_all(fs.at("/var/log/pf9/kube")).expect("log dir");
        let attrs = Attrs::mode(0o755);
        fs.write(
            "/usr/bin/systemctl",
            crate::nodelet::rig::SYSTEMCTL.as_bytes(),
            &attrs,
        )
        .expect("systemctl");
        let key = enrolled(&fs);
        Self::of(dir, key)
    }

    fn of(dir: std::sync::Arc<tempfile::TempDir>, key: SigningKey) -> Self {
        let host = Host::new(HostFs::new(dir.path()));
        let (inbox, _) = Inbox::open(host.fs.clone(), Timestamp::UNIX_EPOCH);
        let (board, _) = NodeBoard::new(&host.fs);
        Self {
            desk: OperationsHandle::open(host.fs.clone(), board.log_line()),
            rests: maintenance::MaintenanceHandle::open(host.clone()),
            etcd: etcd::desk().0,
            wake: watch::Sender::new(0),
            inbox,
            host,
            key,
            _dir: dir,
        }
    }

    /// nodelet is killed and restarts.
    fn again(self) -> Self {
        Self::of(self._dir, self.key)
    }

    fn operation(&self, number: u64, what: OperationKind) -> Operation {
        let now = crate::seam::clock::now();
        Operation {
            schema: OPERATION_SCHEMA,
            id: Uuid::from_u128(number.into()),
            host_id: host_id(),
            number,
            issued_at: now,
            expires_at: now + SignedDuration::from_secs(600),
            what,
        }
    }

    async fn take(&self, operation: &Operation) -> Result<OperationResult, Fault> {
        let bytes = serde_json::to_vec(operation).expect("json");
        self.brought(&self.key.sign(DocumentKind::Operation, &bytes))
            .await
    }

    async fn brought(&self, envelope: &Envelope) -> Result<OperationResult, Fault> {
        let hands = OperationContext {
            host: &self.host,
            inbox: &self.inbox,
            job: Job::Nothing(Generation(0)),
            etcd: &self.etcd,
            desk: &self.rests,
            wake: &self.wake,
        };
        self.desk.take(envelope, &hands).await
    }

    fn allow(&self, text: &str) {
        let attrs = Attrs::mode(0o644);
        let path = paths::OPERATIONS_ALLOWED;
        self.host
            .fs
            .write(path, text.as_bytes(), &attrs)
            .expect("allow");
    }
}

fn refused(result: &OperationResult) -> FaultCode {
    match &result.outcome {
        Outcome::Refused { fault } => fault.code,
        other => panic!("not refused: {other}"),
    }
}

fn restart() -> OperationKind {
    OperationKind::Restart {
        unit: OurUnit::Kubelet,
    }
}

#[tokio::test]
async fn it_is_done_once_however_often_it_comes_also_after_a_restart() {
    let bed = Bed::new();
    let ping = bed.operation(7, OperationKind::ResendStatus);
    let first = bed.take(&ping).await.expect("believed");
    assert_eq!(first.outcome.word(), "done");
    assert_eq!(*bed.wake.borrow(), 1);
    assert_eq!(
        bed.take(&ping).await.expect("again"),
        first,
        "its answer was lost"
    );
    assert_eq!(*bed.wake.borrow(), 1, "and nothing is done again");
    let bed = bed.again();
    assert_eq!(bed.take(&ping).await.expect("again"), first);
    assert_eq!(*bed.wake.borrow(), 0);
    // Another one with a number that was seen, or an older one.
    for number in [7, 3] {
        let mut old = bed.operation(number, OperationKind::Ping);
        old.id = Uuid::from_u128(1000 + u128::from(number));
        let result = bed.take(&old).await.expect("believed");
        assert_eq!(refused(&result), FaultCode::OperationReplayed);
    }
    let log = bed.host.fs.read_text(paths::KUBE_LOG, 1 << 20);
    let log = log.expect("read").expect("log");
    assert_eq!(log.matches("resend-status: done").count(), 1, "{log}");
}

#[tokio::test]
async fn one_that_was_cut_off_is_said_and_never_begun_again() {
    let bed = Bed::new();
    let begun = bed.operation(1, OperationKind::Ping);
    let mut book = Book::of(&bed.host.fs);
    book.note(&begun, None).expect("noted as begun");
    let bed = bed.again();
    let result = bed.take(&begun).await.expect("believed");
    assert_eq!(result.outcome.word(), "failed");
    assert!(
        result.outcome.to_string().contains("interrupted"),
        "{}",
        result.outcome
    );
}

#[tokio::test]
async fn what_nobody_who_is_believed_signed_is_no_operation() {
    let bed = Bed::new();
    let bytes = serde_json::to_vec(&bed.operation(1, OperationKind::Ping)).expect("json");
    let (stranger, _) = SigningKey::generate().expect("key");
    let foreign = stranger.sign(DocumentKind::Operation, &bytes);
    let other_kind = bed.key.sign(DocumentKind::Spec, &bytes);
    let mut changed = bed.key.sign(DocumentKind::Operation, &bytes);
    changed.payload = other_kind.payload.replace('a', "b");
    for envelope in [foreign, other_kind, changed] {
        bed.brought(&envelope).await.expect_err("not believed");
    }
    assert!(
        !bed.host.fs.at(paths::OPERATIONS).exists(),
        "and nothing is noted"
    );
}

#[tokio::test]
async fn foreign_late_and_timeless_ones_are_refused() {
    let bed = Bed::new();
    let mut foreign = bed.operation(1, OperationKind::Ping);
    foreign.host_id = HostId::random();
    let mut late = bed.operation(2, OperationKind::Ping);
    late.expires_at = crate::seam::clock::now() - SignedDuration::from_secs(1);
    let mut timeless = bed.operation(3, OperationKind::Ping);
    timeless.expires_at = crate::seam::clock::now() + SignedDuration::from_hours(2);
    let endless = bed.operation(
        4,
        OperationKind::LogLevel {
            program: LogOf::Nodelet,
            level: LogLevel::Debug,
            for_s: u32::MAX,
        },
    );
    for (operation, code) in [
        (foreign, FaultCode::OperationForeign),
        (late, FaultCode::OperationExpired),
        (timeless, FaultCode::OperationExpired),
        (endless, FaultCode::OperationInvalid),
    ] {
        let result = bed.take(&operation).await.expect("believed");
        assert_eq!(refused(&result), code);
    }
}

#[tokio::test]
async fn root_allows_and_maintenance_keeps_what_changes_the_node() {
    let bed = Bed::new();
    let result = bed
        .take(&bed.operation(1, restart()))
        .await
        .expect("believed");
    assert_eq!(refused(&result), FaultCode::OperationNotAllowed);
    bed.allow("allow = [\"restart\"]");
    let result = bed
        .take(&bed.operation(2, OperationKind::Ping))
        .await
        .expect("believed");
    assert_eq!(
        refused(&result),
        FaultCode::OperationNotAllowed,
        "root's list is the list"
    );
    let wanted = MaintenanceRequest {
        for_s: 600,
        reason: "a disk is replaced".into(),
    };
    bed.rests.begin(&wanted).expect("it begins");
    let result = bed
        .take(&bed.operation(3, restart()))
        .await
        .expect("believed");
    assert_eq!(refused(&result), FaultCode::Maintenance);
    bed.rests.end().expect("it ends");
    let result = bed
        .take(&bed.operation(4, restart()))
        .await
        .expect("believed");
    assert!(
        result
            .outcome
            .to_string()
            .contains("has no pf9-kubelet.service"),
        "{}",
        result.outcome
    );
    let attrs = Attrs::mode(0o644);
    let unit = "/etc/systemd/system/pf9-kubelet.service";
    bed.host.fs.write(unit, b"", &attrs).expect("unit");
    std::fs::create_dir_all(bed.host.fs.at("/var/opt/pf9/nodelet")).expect("state");
    bed.host
        .fs
        .write("/var/opt/pf9/nodelet/journal.jsonl", b"", &attrs)
        .expect("journal");
    let result = bed
        .take(&bed.operation(5, restart()))
        .await
        .expect("believed");
    assert_eq!(
        result.outcome,
        Outcome::done("pf9-kubelet.service was restarted")
    );
}

#[tokio::test(start_paused = true)]
async fn they_are_bounded_in_rate_and_what_is_kept_of_them_in_number() {
    let bed = Bed::new();
    let mut number = 0;
    let mut ping = async || {
        number += 1;
        bed.take(&bed.operation(number, OperationKind::Ping))
            .await
            .expect("believed")
    };
    for _ in 0..BURST {
        assert_eq!(ping().await.outcome.word(), "done");
    }
    assert_eq!(refused(&ping().await), FaultCode::TooOften);
    for _ in 0..100 {
        tokio::time::advance(EVERY).await;
        assert_eq!(ping().await.outcome.word(), "done");
    }
    let text = bed.host.fs.read_text(paths::OPERATIONS, 1 << 20);
    let text = text.expect("read").expect("record");
    assert_eq!(
        text.matches("\"number\"").count(),
        crate::model::OPERATIONS_PENDING_MAX * 2
    );
}

/// Stands for systemd-run: prints its arguments, then `says`, and ends with `code`.
fn systemd_run(bed: &Bed, says: &str, code: u8) {
    let told = bed.host.fs.at("/told");
    let script = format!(
        "#!/bin/sh\nfor word; do echo \"$word\"; done >> {}\ncat <<'END'\n{says}\nEND\nexit {code}\n",
        told.display()
    );
    let attrs = Attrs::mode(0o755);
    let fs = &bed.host.fs;
    fs.write("/usr/bin/systemd-run", script.as_bytes(), &attrs)
        .expect("systemd-run");
}

fn bundle() -> OperationKind {
    OperationKind::Bundle {
        since_s: 90,
        max_bytes: 2 << 20,
        seal_for: "age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq".to_owned(),
    }
}

#[tokio::test]
async fn a_bundle_is_sent_where_the_operator_agreed_and_asked_for_are_its_bounds_and_its_key_alone()
{
    let bed = Bed::new();
    systemd_run(
        &bed,
        "{\"path\": \"the plane\", \"bytes\": 9, \"encrypted\": true, \"files\": 3, \"redactions\": 4, \"left_out\": [\"x\"]}",
        0,
    );
    let told = || std::fs::read_to_string(bed.host.fs.at("/told")).unwrap_or_default();
    let first = bed
        .take(&bed.operation(1, bundle()))
        .await
        .expect("believed");
    assert_eq!(refused(&first), FaultCode::OperationNotAllowed);
    let words = first.outcome.to_string();
    assert!(words.contains("has not agreed"), "{words}");
    assert!(words.contains("support.bundle_on_request true"), "{words}");
    assert_eq!(told(), "", "nothing was started");

    let yes = b"[support]\nbundle_on_request = true\n";
    let attrs = Attrs::mode(0o644);
    bed.host
        .fs
        .write(paths::CONFIG, yes, &attrs)
        .expect("agreed");
    // Root's list of operations counts as well.
    bed.allow("allow = [\"ping\"]");
    let listed = bed
        .take(&bed.operation(2, bundle()))
        .await
        .expect("believed");
    assert_eq!(refused(&listed), FaultCode::OperationNotAllowed);
    bed.allow("allow = [\"bundle\"]");
    let operation = bed.operation(3, bundle());
    let sent = bed.take(&operation).await.expect("believed");
    assert_eq!(
        sent.outcome,
        Outcome::done(
            "a support bundle of 9 bytes was sent to the plane: 3 files, 1 left out or truncated, 4 places redacted"
        )
    );
    let told = told();
    let words: Vec<&str> = told.lines().collect();
    let at = words.iter().position(|w| *w == "--").expect("a program");
    let program = bed.host.fs.at("/opt/pf9/agent/current/bin/pf9ctl");
    assert_eq!(words[at + 1], program.display().to_string());
    let id = format!("--to-plane={}", operation.id);
    let OperationKind::Bundle { seal_for, .. } = bundle() else {
        unreachable!()
    };
    let key = format!("--encrypt-to={seal_for}");
    let expected = [
        "bundle",
        "--json",
        &id,
        &key,
        "--since=90s",
        "--max-size=2048K",
    ];
    assert_eq!(&words[at + 2..], &expected);
    assert!(words[..at].contains(&"MemoryMax=64M"), "{told}");
}

#[tokio::test]
async fn why_no_bundle_came_is_said_in_the_words_of_the_program() {
    let bed = Bed::new();
    let yes = b"[support]\nbundle_on_request = true\n";
    let attrs = Attrs::mode(0o644);
    bed.host
        .fs
        .write(paths::CONFIG, yes, &attrs)
        .expect("agreed");
    let fault = Fault::new(
        FaultCode::LocalUnreachable,
        "no support bundle was sent",
        "nobody answers",
    );
    let said = serde_json::json!({"fault": fault, "exit": 1}).to_string();
    for (says, words) in [
        (said.as_str(), "nobody answers"),
        ("no JSON", "ended with code 1"),
    ] {
        systemd_run(&bed, says, 1);
        let number = if words.starts_with("nobody") { 1 } else { 2 };
        let failed = bed
            .take(&bed.operation(number, bundle()))
            .await
            .expect("believed");
        assert_eq!(failed.outcome.word(), "failed");
        let said = failed.outcome.to_string();
        assert!(said.contains(words), "{said}");
    }
}

/// As when the one before takes longer than its order was waited for.
#[tokio::test]
async fn while_one_is_made_the_next_order_is_told_so_and_what_to_do() {
    let bed = Bed::new();
    let fs = &bed.host.fs;
    let attrs = Attrs::mode(0o644);
    let unit = format!("/run/fake-systemd/{}.up", units::BUNDLE);
    std::fs::create_dir_all(fs.at("/run/fake-systemd")).expect("directory");
    let told = || std::fs::read_to_string(fs.at("/told")).unwrap_or_default();
    let take = async |number, what| {
        let took = bed.take(&bed.operation(number, what)).await;
        took.expect("believed").outcome
    };
    let is_ours = |outcome: Outcome| {
        let said = outcome.to_string();
        for part in [
            "no support bundle was sent",
            "is being made",
            "order it again when",
        ] {
            assert!(said.contains(part), "{said}");
        }
        assert!(!said.contains("transient"), "{said}");
    };
    let made = "{\"path\": \"the plane\", \"bytes\": 9, \"encrypted\": true, \"files\": 3, \"redactions\": 4, \"left_out\": []}";
    systemd_run(&bed, made, 0);
    let once = Once::new(crate::seam::clock::now(), Duration::from_secs(60));
    once.save(fs).expect("agreed");
    fs.write(&unit, b"1", &attrs).expect("runs");
    is_ours(take(1, logs()).await);
    assert_eq!(told(), "", "nothing was started");
    fs.remove_file(&unit).expect("ended");
    // What was agreed to once is not used up by that.
    assert_eq!(take(2, logs()).await.word(), "done");

    let yes = b"[support]\nbundle_on_request = true\n";
    fs.write(paths::CONFIG, yes, &attrs).expect("agreed");
    fs.write(&unit, b"1", &attrs).expect("runs");
    is_ours(take(3, bundle()).await);
    // It began after the look: systemd refuses, in its own words.
    fs.remove_file(&unit).expect("ended");
    let begins = format!(
        "#!/bin/sh\necho 1 > {}\necho 'Failed to start transient service unit: already loaded' >&2\nexit 1\n",
        fs.at(&unit).display()
    );
    fs.write(
        "/usr/bin/systemd-run",
        begins.as_bytes(),
        &Attrs::mode(0o755),
    )
    .expect("systemd-run");
    is_ours(take(4, bundle()).await);
}

fn logs() -> OperationKind {
    OperationKind::Logs {
        since_s: 7200,
        until_s: 3600,
        lines: 500,
        max_bytes: 2 << 20,
        seal_for: "age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq".to_owned(),
    }
}

#[tokio::test]
async fn logs_are_sent_once_where_root_agreed_once_and_as_often_as_he_agreed_for_good() {
    let bed = Bed::new();
    systemd_run(
        &bed,
        "{\"path\": \"the plane\", \"bytes\": 9, \"encrypted\": true, \"files\": 3, \"redactions\": 4, \"left_out\": []}",
        0,
    );
    let fs = &bed.host.fs;
    let told = || std::fs::read_to_string(fs.at("/told")).unwrap_or_default();
    let take = async |number, what| {
        let operation = bed.operation(number, what);
        bed.take(&operation).await.expect("believed")
    };
    let first = take(1, logs()).await;
    assert_eq!(refused(&first), FaultCode::OperationNotAllowed);
    let words = first.outcome.to_string();
    assert!(words.contains("has not agreed"), "{words}");
    assert!(words.contains("pf9ctl support allow"), "{words}");

    let agree = || {
        let once = Once::new(crate::seam::clock::now(), Duration::from_secs(60));
        once.save(fs).expect("agreed");
    };
    agree();
    // It is for logs, and what is refused for another reason does not use it up.
    assert_eq!(
        refused(&take(2, bundle()).await),
        FaultCode::OperationNotAllowed
    );
    bed.allow("allow = [\"ping\"]");
    assert_eq!(
        refused(&take(3, logs()).await),
        FaultCode::OperationNotAllowed
    );
    assert_eq!(told(), "", "nothing was begun");
    bed.allow("allow = [\"logs\"]");
    assert_eq!(take(4, logs()).await.outcome.word(), "done");
    let words = told();
    for word in [
        "--only=logs",
        "--since=7200s",
        "--until=3600s",
        "--lines=500",
        "--max-size=2048K",
    ] {
        assert!(words.lines().any(|w| w == word), "{word}: {words}");
    }
    // Once.
    assert_eq!(
        refused(&take(5, logs()).await),
        FaultCode::OperationNotAllowed
    );
    assert_eq!(told(), words, "nothing more was begun");

    let bed = bed.again();
    let yes = b"[support]\nlogs = true\n";
    let attrs = Attrs::mode(0o644);
    bed.host
        .fs
        .write(paths::CONFIG, yes, &attrs)
        .expect("agreed");
    for number in [6, 7] {
        let operation = bed.operation(number, logs());
        let sent = bed.take(&operation).await.expect("believed");
        assert_eq!(sent.outcome.word(), "done", "{}", sent.outcome);
    }
}
