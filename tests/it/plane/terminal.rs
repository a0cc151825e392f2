//! kubectl on the page: the real one, out of a stack, in its jail, against an API server that says who asked it.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use http::StatusCode;
use pf9_hostagent::model::Digest;
use serde_json::{Value, json};

use super::bed::{Bed, until, within};
use super::browser::Browser;
use super::desk::{Desk, LATER, jail, kubectl};
use super::page::{AXE_RUNS, axe, signed_in};

/// Processes that are called as this, other than the jail around one.
fn processes(called: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc").expect("/proc");
    let all = all.map(|entry| entry.expect("entry").path());
    let is = |path: &PathBuf| {
        let said = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        said.starts_with("/kubectl\0") && said.contains(called)
    };
    all.filter(is).collect()
}

#[tokio::test]
async fn a_command_runs_as_who_typed_it_and_is_in_the_audit() {
    let desk = Desk::new().await;
    let (out, err, end) = desk
        .run(&desk.admin, "kubectl get pods -o name", None)
        .await;
    // Never a group of Kubernetes' own.
    assert_eq!(out, "pod/Default.alice-pf9.role.admin\n", "{err} {end}");
    assert_eq!(end["done"], true, "{err}");
    let (out, _, _) = desk.run(&desk.reader, "get pods -oname", None).await;
    assert_eq!(out, "pod/Default.rita-pf9.role.reader\n");
    // What the API server says no to is no.
    let (_, err, end) = desk
        .run(&desk.reader, "delete pod x --wait=false", None)
        .await;
    assert!(err.contains("rita may not"), "{err}");
    assert_eq!(end["done"], false);
    let (out, err, _) = desk
        .run(&desk.admin, "delete pod x --wait=false", None)
        .await;
    assert!(out.contains("deleted"), "{out} {err}");
    // What would move or hide something on the page is a sign.
    let line = "get pods -o 'jsonpath={.items[0].metadata.annotations.x}'";
    let (out, err, _) = desk.run(&desk.admin, line, None).await;
    assert_eq!(out, "a␛[31mb\u{fffd}c", "{err}");
    let audit = desk.audit().await;
    let said = |n: usize| {
        (
            audit[n].0.as_str(),
            audit[n].1.as_str(),
            audit[n].2.as_str(),
        )
    };
    assert_eq!(
        said(1),
        (
            "Default/alice",
            "c: kubectl delete --wait=false pod x",
            "done"
        )
    );
    assert_eq!(
        said(2),
        (
            "Default/rita",
            "c: kubectl delete --wait=false pod x",
            "failed"
        )
    );
    assert_eq!(
        said(4),
        ("Default/alice", "c: kubectl get --output=name pods", "done")
    );
    assert_eq!(desk.left(), 0, "nothing of a command stays");

    // What is no command here is refused, and what somebody typed is not kept: it may be a password.
    for line in [
        "get pods --token=hush",
        "exec x -- sh",
        "get pods; id",
        "get pods\n--server=x",
        "-s http://x get pods",
    ] {
        let answer = desk.begin(&desk.admin, line, None).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{line}");
        let said: Value = answer.json().await.expect("json");
        assert!(
            said.to_string().contains("the command was not run"),
            "{said}"
        );
    }
    let audit = desk.audit().await;
    assert_eq!(audit[0].1, "c: a line that is no command here");
    assert!(
        !audit.iter().any(|(_, path, _)| path.contains("hush")),
        "{audit:?}"
    );
    // Nobody without a role runs anything.
    let answer = desk.begin("no-such-token", "get pods", None).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn one_that_follows_ends_with_its_page_and_places_are_bounded() {
    let desk = Desk::new().await;
    let first = desk.begin(&desk.admin, "get pods -w", None).await;
    assert_eq!(first.status(), StatusCode::OK);
    let mut first = first.bytes_stream();
    // As it comes: the head of the table may be an event of its own.
    let mut said = String::new();
    while !said.contains("Default.alice") {
        let event = within(first.next()).await;
        let event = event.unwrap_or_else(|| panic!("it ended: {said}"));
        said += &String::from_utf8_lossy(&event.expect("bytes"));
    }
    let second = desk
        .begin(&desk.admin, "get pods -w -l of=places", None)
        .await;
    let seen = until(|| async { processes("--selector=of=places").pop() }).await;
    what_a_thief_would_find(&seen, desk.world.bed.dir.path());
    assert_eq!(second.status(), StatusCode::OK);
    let third = desk.begin(&desk.admin, "get pods", None).await;
    assert_eq!(third.status(), StatusCode::TOO_MANY_REQUESTS);
    let (out, _, _) = desk.run(&desk.reader, "get pods -o name", None).await;
    assert!(
        out.contains("rita"),
        "another's places are another's: {out}"
    );
    drop((first, second));
    until(|| async { (desk.left() == 0).then_some(()) }).await;
    let ended = || async { processes("--selector=of=places").is_empty().then_some(()) };
    until(ended).await;
    let (_, _, end) = desk.run(&desk.admin, "get pods", None).await;
    assert_eq!(end["done"], true, "the places are free again");
    let audit = desk.audit().await;
    assert!(
        audit
            .iter()
            .any(|(_, path, how)| path == "c: kubectl get --watch=true pods" && how == "cut off"),
        "{audit:?}"
    );
    let _cluster = desk.cluster;
}

/// kubectl while it runs: what it sees, what it holds, what it may.
fn what_a_thief_would_find(process: &Path, plane: &Path) {
    let names = |dir: PathBuf| {
        let all = std::fs::read_dir(dir).expect("list");
        let mut all: Vec<_> = all.map(|e| e.expect("entry").path()).collect();
        all.sort();
        all
    };
    let root = process.join("root");
    assert_eq!(
        names(root.clone()),
        [root.join("api.sock"), root.join("kubectl")]
    );
    for open in names(process.join("fd")) {
        // One may be closed meanwhile.
        let to = std::fs::read_link(open).unwrap_or_default();
        assert!(!to.starts_with(plane), "{}", to.display());
    }
    let status = std::fs::read_to_string(process.join("status")).expect("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name));
        line.expect(name).trim().to_owned()
    };
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("CapPrm:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("NSpid:").split_whitespace().last(), Some("1"));
    let stat = std::fs::read_to_string(process.join("stat")).expect("stat");
    // The nineteenth, counted from behind the name.
    let (_, behind) = stat.rsplit_once(") ").expect("a name");
    assert_eq!(behind.split(' ').nth(16), Some("19"), "nice: {stat}");
    let score = std::fs::read_to_string(process.join("oom_score_adj")).expect("score");
    assert_eq!(score.trim(), "1000");
    let environment = std::fs::read(process.join("environ")).expect("environ");
    assert_eq!(
        String::from_utf8_lossy(&environment),
        "GOMEMLIMIT=512MiB\0HOME=/\0"
    );
}

#[tokio::test]
async fn a_text_is_applied_as_the_person_and_the_audit_says_which() {
    let desk = Desk::new().await;
    let text = |name: &str| {
        // Longer than what a pipe takes at once.
        let comment = "# a comment\n".repeat(8 * 1024);
        format!("{comment}apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n")
    };
    let line = "apply --server-side --validate=false";
    let web = text("web");
    let (out, err, end) = desk.run(&desk.admin, line, Some(&web)).await;
    assert_eq!(out, "pod/web serverside-applied\n", "{err}");
    assert_eq!(end["done"], true);
    let new = text("new");
    let (out, err, _) = desk
        .run(&desk.admin, "apply --validate=false", Some(&new))
        .await;
    assert_eq!(out, "pod/new created\n", "{err}");
    let (out, err, end) = desk.run(&desk.reader, line, Some(&web)).await;
    assert!(err.contains("rita may not"), "{out} {err}");
    assert_eq!((out.as_str(), &end["done"]), ("", &json!(false)));
    let audit = desk.audit().await;
    let did = |flags: &str, text: &str| {
        let (len, digest) = (text.len(), Digest::of(text.as_bytes()));
        format!("c: kubectl apply {flags} --filename=- (a text of {len} bytes, sha256 {digest})")
    };
    let ours = "--server-side=true --validate=false";
    let expected = [
        ("Default/rita", did(ours, &web), "failed"),
        ("Default/alice", did("--validate=false", &new), "done"),
        ("Default/alice", did(ours, &web), "done"),
    ];
    let expected = expected.map(|(who, did, how)| (who.to_owned(), did, how.to_owned()));
    assert_eq!(audit, expected);
}

#[tokio::test]
async fn a_command_ends_when_its_time_is_over() {
    let (time, time_long) = (Duration::from_secs(1), Duration::from_secs(3));
    let desk = Desk::with(|terminal| {
        terminal.time = time;
        terminal.time_long = time_long;
    })
    .await;
    let (_, _, end) = desk.run(&desk.admin, "get pods hangs", None).await;
    assert_eq!(end["why"], "it was ended after 1 s");
    assert_eq!((&end["done"], desk.left()), (&json!(false), 0));
    // What is watched has more of it, and no end of its own.
    let (_, _, end) = desk.run(&desk.admin, "get pods -w -l of=time", None).await;
    assert_eq!(end["why"], "it was ended after 3 s");
    assert!(end["seconds"].as_f64() >= Some(3.0), "{end}");
    let is_left = || !processes("--selector=of=time").is_empty() || !processes("hangs").is_empty();
    until(|| async { (!is_left()).then_some(()) }).await;
    let audit = desk.audit().await;
    assert_eq!(audit.len(), 2);
    assert!(audit.iter().all(|(_, _, how)| how == "failed"), "{audit:?}");
}

#[tokio::test]
async fn a_command_that_says_too_much_is_ended() {
    const MOST: usize = 1024 * 1024;
    let desk = Desk::new().await;
    let (out, err, end) = desk
        .run(&desk.admin, "get pod it -n big -o json", None)
        .await;
    assert_eq!(
        end["why"], "it said more than 1048576 bytes, and was ended",
        "{err}"
    );
    assert_eq!(end["done"], false);
    // What came with the piece that was one too many is shown.
    assert!(
        (MOST..MOST + 64 * 1024).contains(&out.len()),
        "{}",
        out.len()
    );
    assert_eq!(desk.left(), 0);
    // The same pod in few words.
    let (out, _, end) = desk
        .run(&desk.admin, "get pod it -n big -o name", None)
        .await;
    assert_eq!((out.as_str(), &end["done"]), ("pod/it\n", &json!(true)));
}

/// kubectl asks again; the login that it was typed with is over meanwhile.
#[tokio::test]
async fn a_command_ends_with_the_login_it_was_typed_with() {
    let desk = Desk::new().await;
    let begun = desk.begin(&desk.admin, "get pod later", None).await;
    assert_eq!(begun.status(), StatusCode::OK);
    until(|| async { (LATER.load(Ordering::SeqCst) > 0).then_some(()) }).await;
    let signed_out = desk
        .world
        .bed
        .http
        .delete(format!("{}/keystone/v3/auth/tokens", desk.world.bed.url))
        .header("X-Auth-Token", &desk.admin)
        .header("X-Subject-Token", &desk.admin)
        .send();
    assert_eq!(
        within(signed_out).await.expect("answer").status(),
        StatusCode::NO_CONTENT
    );
    let said = within(begun.text()).await.expect("text");
    assert!(said.contains("the token is unknown"), "{said}");
}

#[tokio::test]
async fn what_a_killed_plane_left_of_commands_goes_when_it_starts() {
    let bed = Bed::new().await;
    let left = bed.file("terminal/0badcafe/root");
    std::fs::create_dir_all(&left).expect("mkdir");
    let bed = bed.restart().await;
    assert!(!left.exists());
    drop(bed);
}

/// The jail by itself, as a plane of this user has it.
struct Cage {
    dir: tempfile::TempDir,
    jail: PathBuf,
    user: Option<u32>,
    /// The plane's socket, at which nobody answers.
    _socket: tokio::net::UnixListener,
}

impl Cage {
    /// `user`: whom it is run as where these tests are root.
    fn new(user: u32) -> Self {
        use std::os::unix::fs::chown;
        let user = Some(user).filter(|_| nix::unistd::geteuid().is_root());
        let dir = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("root")).expect("mkdir");
        let socket = tokio::net::UnixListener::bind(at("api.sock")).expect("bind");
        std::fs::copy(kubectl(), at("kubectl")).expect("copy");
        let mut program = jail();
        if let Some(user) = user.filter(|user| *user != 0) {
            // Where it is built that user may not go.
            program = at("jail");
            std::fs::copy(jail(), &program).expect("copy");
            for of in ["", "root", "api.sock", "kubectl", "jail"] {
                chown(at(of), Some(user), Some(user)).expect("chown");
            }
        }
        Self {
            dir,
            jail: program,
            user,
            _socket: socket,
        }
    }

    fn command(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.jail);
        command
            .arg("kubectl-jail")
            .arg(self.dir.path())
            .arg(self.dir.path().join("kubectl"))
            .arg("--")
            .args(args)
            .stdin(std::process::Stdio::null())
            .process_group(0);
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    async fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let done = within(self.command(args).output()).await.expect("runs");
        let said = [done.stdout, done.stderr].concat();
        (
            done.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    /// Whether this user may have namespaces at all: some distributions forbid it to all but root.
    async fn may_have_namespaces(&self) -> bool {
        let mut probe = tokio::process::Command::new("unshare");
        probe.args(["--user", "--mount", "--net", "true"]);
        if let Some(user) = self.user {
            probe.uid(user).gid(user);
        }
        within(probe.output())
            .await
            .expect("unshare")
            .status
            .success()
    }
}

/// With a program that would: nothing of the machine is there, and no way out but the socket.
async fn nothing_is_there(cage: &Cage) {
    let outside = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind");
    let address = outside.local_addr().expect("address");
    let (code, said) = cage.run(&["version", "--client=true"]).await;
    assert_eq!(code, Some(0), "{said}");
    // Its own flags, which the plane lets nobody give, reach nobody.
    let server = format!("--server=http://{address}");
    let (code, said) = cage.run(&[&server, "get", "--raw=/"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("refused"), "{said}");
    let reached = tokio::time::timeout(std::time::Duration::from_millis(1), outside.accept()).await;
    assert!(reached.is_err(), "somebody came out");
    let store = cage.dir.path().join("store.redb");
    std::fs::write(&store, "{}").expect("write");
    let store = store.to_str().expect("text");
    for file in [
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/null",
        "/root",
        store,
    ] {
        let line = ["create", "--dry-run=client", "--validate=false", "-f", file];
        let (_, said) = cage.run(&line).await;
        assert!(said.contains("does not exist"), "{file}: {said}");
    }
}

#[tokio::test]
async fn in_the_jail_nothing_is_there_and_nobody_can_be_reached() {
    nothing_is_there(&Cage::new(0)).await;
}

/// A plane that is not root has the same jail by a namespace of users, or none, and says so: never kubectl without one.
#[tokio::test]
async fn the_jail_of_a_plane_that_is_not_root_is_no_weaker() {
    const USER: u32 = 12_345;
    let cage = Cage::new(USER);
    if !cage.may_have_namespaces().await {
        let (code, said) = cage.run(&["version", "--client=true"]).await;
        assert_ne!(code, Some(0), "{said}");
        assert!(said.contains("cannot have namespaces of its own"), "{said}");
        assert!(!said.contains("Client Version"), "{said}");
        return;
    }
    nothing_is_there(&cage).await;
    // Nobody answers it: it is there to be looked at.
    let mut asks = cage.command(&["get", "--raw=/of-a-plane-that-is-not-root"]);
    let mut asks = asks.kill_on_drop(true).spawn().expect("runs");
    let group = asks.id().and_then(|id| i32::try_from(id).ok());
    let group = nix::unistd::Pid::from_raw(group.expect("it runs"));
    let seen = until(|| async { processes("of-a-plane-that-is-not-root").pop() }).await;
    what_a_thief_would_find(&seen, cage.dir.path());
    let status = std::fs::read_to_string(seen.join("status")).expect("status");
    let outside = nix::unistd::geteuid().as_raw();
    let outside = if outside == 0 { USER } else { outside };
    for field in ["Uid:", "Gid:"] {
        let line = status.lines().find_map(|l| l.strip_prefix(field));
        let all: Vec<&str> = line.expect(field).split_whitespace().collect();
        assert_ne!(all, ["0"; 4]);
        let is_planes = all.iter().all(|id| *id == outside.to_string());
        assert!(field == "Gid:" || is_planes, "{all:?}");
    }
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).expect("killed");
    within(asks.wait()).await.expect("it ends");
    let ended = || async {
        processes("of-a-plane-that-is-not-root")
            .is_empty()
            .then_some(())
    };
    until(ended).await;
}

#[tokio::test]
async fn a_command_is_typed_watched_and_cancelled_by_clicking() {
    let desk = Desk::new().await;
    let browser = Browser::new().await;
    signed_in(&desk.world.bed, &browser).await;
    browser
        .run(&format!("location.hash = '#/clusters/{}'", desk.cluster))
        .await;
    browser.press("kubectl").await;
    browser.sees("There is no shell").await;
    browser.fill("Command", "get pods -o name").await;
    browser.press("Run").await;
    browser
        .sees("pod/Default.admin@pf9.local-pf9.role.admin")
        .await;
    browser.sees("done (").await;
    browser.picture("kubectl").await;
    // A script in a name is text here, and so is what moves a terminal's cursor.
    browser
        .fill(
            "Command",
            "get pods -o 'jsonpath={.items[0].metadata.annotations.x}'",
        )
        .await;
    browser.press("Run").await;
    browser.sees("a␛[31mb").await;
    browser.fill("Command", "get pods; id").await;
    browser.press("Run").await;
    browser.sees("is for a shell").await;
    browser.fill("Command", "get pods -w").await;
    browser.press("Run").await;
    browser.sees("running").await;
    until(|| async { (desk.left() == 1).then_some(()) }).await;
    browser.press("Cancel").await;
    browser.sees("cancelled").await;
    until(|| async { (desk.left() == 0).then_some(()) }).await;
    keeps_nobody_out(&browser).await;
    browser.picture("kubectl-errors").await;
    // Who signs out leaves nothing that runs.
    browser.press("Run").await;
    until(|| async { (desk.left() == 1).then_some(()) }).await;
    browser.press("Sign out").await;
    browser.sees("Sign in").await;
    until(|| async { (desk.left() == 0).then_some(()) }).await;
    // What the plane refuses a browser notes by itself.
    let mut complaints = browser.complaints().await;
    complaints.retain(|c| !c.contains("status of 400"));
    assert_eq!(complaints, Vec::<String>::new());
    browser.close().await;
}

async fn keeps_nobody_out(browser: &Browser) {
    browser.run(&axe()).await;
    let found = browser.run_later(AXE_RUNS).await;
    let bad = |v: &&Value| matches!(v[0].as_str(), Some("serious" | "critical"));
    let bad: Vec<_> = found.as_array().expect("list").iter().filter(bad).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

/// On a phone, in the dark, with a text to be applied and with what does not work.
#[tokio::test]
async fn a_text_is_applied_on_a_phone() {
    let desk = Desk::new().await;
    let browser = Browser::phone().await;
    signed_in(&desk.world.bed, &browser).await;
    let at = format!("location.hash = '#/clusters/{}/kubectl'", desk.cluster);
    browser.run(&at).await;
    browser.sees("There is no shell").await;
    // The field for its text opens by itself.
    browser
        .fill("Command", "apply --server-side --validate=false")
        .await;
    browser.sees("objects as YAML or JSON").await;
    let text = "kind: Pod\napiVersion: v1\nmetadata:\n  name: web\n";
    browser.fill("Text", text).await;
    browser.picture("phone-kubectl-apply").await;
    browser.press("Run").await;
    browser.sees("pod/web serverside-applied").await;
    browser.sees("done (1 line,").await;
    // It stays, and goes with no other command.
    browser.fill("Command", "get pods -o name").await;
    browser.press("Run").await;
    browser.sees("pod/Default.admin").await;
    browser
        .fill("Command", "get pods -n default -o wide --token=x")
        .await;
    browser.press("Run").await;
    browser.sees("is the page's to say").await;
    browser.picture("phone-kubectl-refused").await;
    let wide = browser
        .run("return document.documentElement.scrollWidth - innerWidth")
        .await;
    assert!(wide.as_i64().is_some_and(|w| w <= 0), "{wide} px too wide");
    keeps_nobody_out(&browser).await;
    browser.close().await;
}
