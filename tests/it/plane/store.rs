//! Where a plane's rows are and how that store is, as its operators see it: numbers, a verb, the page.

use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::model::{EnrolToken, HostId};
use serde_json::{Value, json};

use super::access::{PASSWORD, World};
use super::bed::{Bed, until};
use super::browser::Browser;
use super::page::signed_in;
use crate::planes::cluster::{Cluster, Mode, free};
use crate::support::enrol;

/// What `pf9-plane store show` prints.
async fn shown(bed: &Bed) -> String {
    let mut show = tokio::process::Command::new(env!("CARGO_BIN_EXE_pf9-plane"));
    show.args(["store", "show", "--state-dir"])
        .arg(bed.dir.path());
    let done = show.output().await.expect("pf9-plane");
    assert!(done.status.success(), "{done:?}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// The words of one of its lines.
fn line<'a>(shown: &'a str, name: &str) -> &'a str {
    let mut lines = shown.lines().filter_map(|l| l.split_once("  "));
    let found = lines.find(|(is, _)| *is == name);
    found.unwrap_or_else(|| panic!("{name}: {shown}")).1.trim()
}

/// What Prometheus reads.
async fn number(bed: &Bed) -> String {
    let (status, text) = bed.bytes("/metrics/plane").await;
    assert_eq!(status, 200);
    let text = String::from_utf8(text).expect("text");
    assert!(
        text.contains("# TYPE pf9_plane_store_answers gauge"),
        "{text}"
    );
    let mut rows = text.lines().filter(|l| !l.starts_with('#'));
    let row = rows.next().expect("a row").to_owned();
    assert_eq!(rows.next(), None);
    row
}

/// What a machine that enrols is told, which has no better than this token.
async fn refused(bed: &Bed, token: &EnrolToken, machine: &HostFs) -> String {
    let enrolled = enrol(&bed.url, token, HostId::random(), machine).await;
    let Err(fault) = enrolled else {
        panic!("it is let in");
    };
    fault.to_string()
}

#[tokio::test]
async fn an_embedded_store_is_shown_as_one_and_only_to_who_runs_the_plane() {
    let world = World::of(Bed::new().await).await;
    let bed = &world.bed;
    assert_eq!(number(bed).await, "pf9_plane_store_answers 1");
    let said = shown(bed).await;
    let words = ["store", "answers", "since", "why", "at", "seat"].map(|name| line(&said, name));
    assert_eq!(words, ["embedded", "yes", "-", "-", "-", "-"]);
    let rita = world.user("default", "rita").await;
    let asked = world.ask(&world.plane, "GET", "/keystone/v3/projects", None);
    let (status, said) = asked.await;
    assert_eq!(status, 200, "{said}");
    let mut all = said["projects"].as_array().expect("list").iter();
    let project = all.find(|p| p["name"] == "service").expect("the plane's");
    let project = project["id"].as_str().expect("id").to_owned();
    world
        .grant(&format!("projects/{project}"), &rita, "admin")
        .await;
    let rita = world
        .log_in(&rita, PASSWORD, json!({"project": {"id": project}}))
        .await;
    for (token, wanted) in [(&rita, 403), (&world.plane, 200)] {
        for path in ["/v1/store", "/metrics/plane"] {
            let url = format!("{}{path}", bed.url);
            let asked = bed.http.get(url).header("X-Auth-Token", token).send();
            let status = asked.await.expect("answer").status();
            assert_eq!(status.as_u16(), wanted, "{path}");
        }
    }
    let browser = Browser::new().await;
    signed_in(bed, &browser).await;
    browser.press("Plane").await;
    browser.sees("in a file of this plane's machine").await;
    browser.picture("plane").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
}

/// etcd goes away and comes back. The page is touched by nobody meanwhile.
#[tokio::test]
async fn a_store_in_etcd_is_shown_with_the_seat_and_while_it_is_away() {
    let cluster = Cluster::start();
    let (ways, by) = cluster.ways().await;
    let (place, listen) = (cluster.place_by(&by), free());
    let bed = Bed::with(|config| {
        config.etcd = Some(place);
        config.listen = listen;
    })
    .await;
    let root = tempfile::tempdir().expect("tempdir");
    let machine = HostFs::new(root.path());
    std::os::unix::fs::symlink("/proc", machine.at("/proc")).expect("proc");
    let (used, good) = (bed.new_token().await, bed.new_token().await);
    let first = enrol(&bed.url, &used, HostId::random(), &machine).await;
    first.expect("enrolled");
    let seat = listen.to_string();
    assert_eq!(number(&bed).await, "pf9_plane_store_answers 1");
    let said = shown(&bed).await;
    let words = ["store", "answers", "prefix", "seat"].map(|name| line(&said, name));
    assert_eq!(words, ["etcd", "yes", "/fleet/", seat.as_str()]);
    let members: Vec<_> = by.iter().map(|m| format!("https://{m}")).collect();
    assert_eq!(line(&said, "at"), members.join(" / "));
    let browser = Browser::new().await;
    signed_in(&bed, &browser).await;
    browser.press("Plane").await;
    browser.sees("One plane has the seat").await;
    browser.sees(&seat).await;
    browser.sees("✓ answers").await;
    browser.picture("plane-etcd").await;

    for way in &ways {
        way.set(Mode::Cut);
    }
    browser.sees("does not answer").await;
    browser.sees("changes are refused").await;
    browser.picture("plane-etcd-away").await;
    assert_eq!(number(&bed).await, "pf9_plane_store_answers 0");
    let said = shown(&bed).await;
    assert_eq!(line(&said, "answers"), "no");
    let since: jiff::Timestamp = line(&said, "since").parse().expect("a moment");
    let ago = jiff::Timestamp::now().duration_since(since);
    assert!((0..60).contains(&ago.as_secs()), "{said}");
    assert!(line(&said, "why").contains("https://127.0.0.1:"), "{said}");
    let (status, said) = bed.ask(http::Method::GET, "/v1/store", Value::Null).await;
    assert_eq!((status, &said["answers"]), (200, &json!("no")), "{said}");
    // Who has no good token is told so without a write; who has one waits for the store.
    let said = refused(&bed, &used, &machine).await;
    assert!(said.contains("the token was used"), "{said}");
    let said = refused(&bed, &good, &machine).await;
    assert!(said.contains("has not answered since"), "{said}");

    for way in &ways {
        way.set(Mode::Open);
    }
    browser.sees("✓ answers").await;
    until(|| async { (number(&bed).await == "pf9_plane_store_answers 1").then_some(()) }).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
}
