//! The plane goes back a version under a fleet that runs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pf9_hostagent::identity::{self, Owners};
use pf9_hostagent::local::{Client, Method};
use pf9_plane::{ServeConfig, Server, testing};
use serde_json::{Value, json};

use crate::comms::{Comms, get};
use crate::planes::cluster::free;
use crate::support::{PATIENCE, enrolled, tunnel_is_up, within};

const SPEC: &str = "/v1/hosts/self/spec?after=0";

async fn admin(dir: &Path, method: Method, path: &str, body: &Value) -> Value {
    let client = Client::unix(dir.join("admin.sock")).expect("client");
    let answer = client.send(method, path, body, PATIENCE).await;
    answer.expect("admin").unwrap_or_default()
}

/// A newer plane ran here and left a newer store: this one says so and starts on nothing. With the copy from before the
/// upgrade it has what was acknowledged then, and the host comes back to it by itself, with the identity and the spec it had.
#[tokio::test]
async fn a_plane_goes_back_a_version_and_its_fleet_comes_back_by_itself() {
    pf9_hostagent::tls::install();
    let dir = tempfile::tempdir().expect("tempdir");
    let listen = free();
    let start = async || within(Server::start(ServeConfig::new(dir.path(), listen))).await;
    let plane = start().await.expect("plane");
    let made = admin(dir.path(), Method::POST, "/tokens", &json!({"ttl_s": 600})).await;
    let (_root, fs, identity) = enrolled(plane.public_url(), &made).await;
    identity::save(&fs, &identity, &Owners::current_user()).expect("save");
    let comms = Comms::start(&fs).await;
    comms.until(tunnel_is_up).await;
    let silence = json!({"who": "a test", "why": "acknowledged", "forSeconds": 3600});
    admin(dir.path(), Method::POST, "/silences", &silence).await;
    let spec = within(get(&fs, SPEC)).await.expect("through the tunnel");
    within(plane.stop()).await;

    testing::step_ahead(dir.path());
    let refused = match start().await {
        Ok(_) => panic!("it started on a newer store"),
        Err(fault) => fault.to_string(),
    };
    assert!(
        refused.contains("this program knows up to") && refused.contains("pf9-plane put-back"),
        "{refused}"
    );
    let back = Command::new(env!("CARGO_BIN_EXE_pf9-plane"))
        .args(["put-back", "--state-dir"])
        .arg(dir.path())
        .output()
        .expect("pf9-plane");
    let why = String::from_utf8_lossy(&back.stderr);
    assert!(back.status.success(), "{why}");

    let plane = start().await.expect("with the store of before");
    within(async {
        while get(&fs, SPEC).await.ok().as_ref() != Some(&spec) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let listed = admin(dir.path(), Method::GET, "/silences", &Value::Null).await;
    assert_eq!(listed[0]["why"], "acknowledged", "{listed}");
    comms.stop().await;
    within(plane.stop()).await;
}
