//! `openstack`, the operators' command line, works with this plane as it does with Keystone.

use std::path::PathBuf;
use std::process::{Command, Output};

use pf9_plane::{ServeConfig, Server};
use serde_json::Value;

/// The caller, as environment variables.
type Env = Vec<(&'static str, String)>;

const ALICE_JOINS_BLUE: [&str; 7] = [
    "role",
    "add",
    "--project",
    "blue",
    "--user",
    "alice",
    "member",
];

struct World {
    program: PathBuf,
    dir: tempfile::TempDir,
    url: String,
    _server: Server,
}

fn program() -> PathBuf {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../scripts/lib/openstack.py"
    );
    let said = Command::new("python3").args([script, "--made"]).output();
    let said = said.expect("python3 runs");
    let why = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{why}");
    let dir = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    PathBuf::from(dir).join("openstack")
}

impl World {
    async fn new() -> Self {
        pf9_hostagent::tls::install();
        let dir = tempfile::tempdir().expect("tempdir");
        let listen = "127.0.0.1:0".parse().expect("address");
        let server = Server::start(ServeConfig::new(dir.path(), listen)).await;
        let server = server.expect("the plane starts");
        Self {
            program: program(),
            url: server.public_url().to_owned(),
            dir,
            _server: server,
        }
    }

    fn password(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("admin-password"));
        text.expect("password").trim().to_owned()
    }

    fn user(&self, name: &str, password: &str, project: &str) -> Env {
        vec![
            ("OS_USERNAME", name.to_owned()),
            ("OS_PASSWORD", password.to_owned()),
            ("OS_USER_DOMAIN_NAME", "Default".to_owned()),
            ("OS_PROJECT_NAME", project.to_owned()),
            ("OS_PROJECT_DOMAIN_NAME", "Default".to_owned()),
        ]
    }

    fn run(&self, env: &Env, words: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.env_clear().envs(env.iter().cloned());
        command
            .env("HOME", self.dir.path())
            .env("PATH", "/usr/bin:/bin")
            .env("OS_AUTH_URL", format!("{}/keystone/v3", self.url))
            .env("OS_CACERT", self.dir.path().join("ca.pem"))
            .env("OS_IDENTITY_API_VERSION", "3");
        command.args(words).output().expect("openstack runs")
    }

    /// It succeeds.
    fn does(&self, env: &Env, words: &[&str]) {
        let done = self.run(env, words);
        assert!(
            done.status.success(),
            "openstack {words:?}: {}",
            said(&done)
        );
    }

    /// It succeeds, and prints this.
    fn says(&self, env: &Env, words: &[&str]) -> Value {
        let done = self.run(env, &[words, &["-f", "json"]].concat());
        assert!(
            done.status.success(),
            "openstack {words:?}: {}",
            said(&done)
        );
        serde_json::from_slice(&done.stdout).expect("json")
    }

    /// A user changes their own password, by keystoneauth and keystoneclient: `openstack user password set` of this release
    /// calls its library wrongly.
    fn changes_password(&self, env: &Env, new: &str) {
        let python = self.program.with_file_name("python3");
        let mut command = Command::new(python);
        command.env_clear().envs(env.iter().cloned());
        command
            .env("OS_AUTH_URL", format!("{}/keystone/v3", self.url))
            .env("OS_CACERT", self.dir.path().join("ca.pem"))
            .env("NEW_PASSWORD", new)
            .args(["-c", CHANGE_PASSWORD]);
        let done = command.output().expect("python3 runs");
        assert!(done.status.success(), "{}", said(&done));
    }

    /// It fails, and its message contains this.
    fn fails(&self, env: &Env, words: &[&str], with: &str) {
        let done = self.run(env, words);
        let text = said(&done);
        assert!(
            !done.status.success() && text.contains(with),
            "openstack {words:?}: {text}"
        );
    }
}

fn said(done: &Output) -> String {
    let text = [&done.stdout[..], &done.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

fn text(value: &Value, field: &str) -> String {
    let text = value[field].as_str();
    text.unwrap_or_else(|| panic!("no {field}: {value}"))
        .to_owned()
}

/// Values of a column of a list.
fn column(list: &Value, name: &str) -> Vec<String> {
    let rows = list.as_array().expect("a list").iter();
    rows.map(|row| text(row, name)).collect()
}

const PASSWORD: &str = "correct horse battery";
const CHANGE_PASSWORD: &str = r#"
import os
from keystoneauth1 import session
from keystoneauth1.identity import v3
from keystoneclient.v3 import client
of = {name.lower()[3:]: value for name, value in os.environ.items() if name.startswith("OS_")}
verify = of.pop("cacert")
people = client.Client(session=session.Session(auth=v3.Password(**of), verify=verify)).users
people.update_password(of["password"], os.environ["NEW_PASSWORD"])
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_client_makes_people_gives_roles_and_logs_in_as_them() {
    let world = World::new().await;
    tokio::task::block_in_place(|| {
        let admin = world.user("admin@pf9.local", &world.password(), "service");
        projects_users_and_roles(&world, &admin);
        groups_and_domains(&world, &admin);
        credentials_and_tokens(&world, &admin);
    });
}

fn projects_users_and_roles(world: &World, admin: &Env) {
    let token = world.says(admin, &["token", "issue"]);
    assert!(
        !text(&token, "id").is_empty() && text(&token, "user_id") == "admin",
        "{token}"
    );
    let services = column(&world.says(admin, &["catalog", "list"]), "Name");
    assert_eq!(services, ["keystone", "resmgr", "qbert"]);
    let shown = world.says(admin, &["catalog", "show", "keystone"]);
    assert!(
        shown
            .to_string()
            .contains(&format!("{}/keystone/v3", world.url)),
        "{shown}"
    );
    assert_eq!(
        column(&world.says(admin, &["region", "list"]), "Region"),
        ["pf9"]
    );
    assert_eq!(
        column(&world.says(admin, &["service", "list"]), "Name").len(),
        3
    );
    assert_eq!(
        column(&world.says(admin, &["endpoint", "list"]), "ID").len(),
        9
    );

    let blue = world.says(
        admin,
        &[
            "project",
            "create",
            "--domain",
            "default",
            "--description",
            "x",
            "blue",
        ],
    );
    world.does(
        admin,
        &["project", "set", "--description", "the blue one", "blue"],
    );
    let shown = world.says(admin, &["project", "show", "blue"]);
    assert_eq!(
        (text(&shown, "id"), text(&shown, "description")),
        (text(&blue, "id"), "the blue one".into())
    );
    let mut names = column(&world.says(admin, &["project", "list"]), "Name");
    names.sort();
    assert_eq!(names, ["blue", "service"]);

    let create = [
        "user",
        "create",
        "--domain",
        "default",
        "--email",
        "a@example.com",
        "--password",
        PASSWORD,
        "alice",
    ];
    world.does(admin, &create);
    world.fails(admin, &create, "409");
    world.fails(
        admin,
        &["user", "create", "--password", "short", "bob"],
        "8 to 256",
    );
    let alice = world.says(admin, &["user", "show", "alice"]);
    assert_eq!(text(&alice, "email"), "a@example.com");
    world.does(
        admin,
        &["user", "set", "--description", "of the blue team", "alice"],
    );

    world.does(admin, &["role", "create", "auditor"]);
    let mut roles = column(&world.says(admin, &["role", "list"]), "Name");
    roles.sort();
    assert_eq!(roles, ["admin", "auditor", "member", "reader"]);
    world.does(admin, &["role", "set", "--name", "accountant", "auditor"]);
    world.does(admin, &["role", "show", "accountant"]);
    world.does(admin, &["role", "delete", "accountant"]);
    world.fails(admin, &["role", "delete", "admin"], "cannot be changed");

    let as_alice = world.user("alice", PASSWORD, "blue");
    world.fails(&as_alice, &["token", "issue"], "401");
    world.does(admin, &ALICE_JOINS_BLUE);
    let given = world.says(
        admin,
        &[
            "role",
            "assignment",
            "list",
            "--user",
            "alice",
            "--project",
            "blue",
            "--names",
        ],
    );
    assert_eq!(column(&given, "Role"), ["member"]);
    assert_eq!(column(&given, "User"), ["alice@Default"]);
    assert_eq!(column(&given, "Project"), ["blue@Default"]);
    let token = world.says(&as_alice, &["token", "issue"]);
    assert_eq!(text(&token, "project_id"), text(&blue, "id"));
    // What is not alice's is not found, or is refused.
    world.fails(&as_alice, &["project", "show", "service"], "No project");
    world.fails(&as_alice, &["project", "create", "red"], "403");
    world.fails(&as_alice, &["user", "create", "mallory"], "403");
    world.fails(
        &as_alice,
        &[
            "role",
            "add",
            "--project",
            "blue",
            "--user",
            "alice",
            "admin",
        ],
        "40",
    );
    assert_eq!(
        column(&world.says(&as_alice, &["project", "list"]), "Name"),
        ["blue"]
    );
}

fn groups_and_domains(world: &World, admin: &Env) {
    world.does(
        admin,
        &["group", "create", "--domain", "default", "readers"],
    );
    world.does(admin, &["group", "add", "user", "readers", "alice"]);
    world.does(admin, &["group", "contains", "user", "readers", "alice"]);
    assert_eq!(
        column(&world.says(admin, &["group", "list"]), "Name"),
        ["readers"]
    );
    let members = world.says(admin, &["user", "list", "--group", "readers"]);
    assert_eq!(column(&members, "Name"), ["alice"]);
    world.does(
        admin,
        &[
            "role",
            "add",
            "--project",
            "service",
            "--group",
            "readers",
            "reader",
        ],
    );
    world.does(
        &world.user("alice", PASSWORD, "service"),
        &["token", "issue"],
    );
    world.does(admin, &["group", "remove", "user", "readers", "alice"]);
    world.fails(
        &world.user("alice", PASSWORD, "service"),
        &["token", "issue"],
        "401",
    );
    world.does(admin, &["group", "delete", "readers"]);

    world.does(admin, &["domain", "create", "acme"]);
    world.does(
        admin,
        &[
            "user",
            "create",
            "--domain",
            "acme",
            "--password",
            PASSWORD,
            "alice",
        ],
    );
    world.does(
        admin,
        &[
            "role",
            "add",
            "--domain",
            "acme",
            "--user",
            "alice",
            "--user-domain",
            "acme",
            "admin",
        ],
    );
    let of_acme: Env = vec![
        ("OS_USERNAME", "alice".into()),
        ("OS_PASSWORD", PASSWORD.into()),
        ("OS_USER_DOMAIN_NAME", "acme".into()),
        ("OS_DOMAIN_NAME", "acme".into()),
    ];
    world.does(&of_acme, &["project", "create", "rockets"]);
    assert_eq!(
        column(&world.says(&of_acme, &["user", "list"]), "Name"),
        ["alice"]
    );
    world.fails(&of_acme, &["domain", "delete", "default"], "No domain");
    world.fails(admin, &["domain", "delete", "acme"], "disable it first");
    world.does(admin, &["domain", "set", "--disable", "acme"]);
    world.fails(&of_acme, &["token", "issue"], "401");
    world.does(admin, &["domain", "delete", "acme"]);

    let mut system = world.user("admin@pf9.local", &world.password(), "");
    system.retain(|(name, _)| !name.starts_with("OS_PROJECT"));
    system.push(("OS_SYSTEM_SCOPE", "all".into()));
    let given = world.says(
        &system,
        &["role", "assignment", "list", "--system", "all", "--names"],
    );
    assert_eq!(column(&given, "User"), ["admin@pf9.local@Default"]);
}

fn credentials_and_tokens(world: &World, admin: &Env) {
    let alice = world.user("alice", PASSWORD, "blue");
    let made = world.says(
        &alice,
        &[
            "application",
            "credential",
            "create",
            "--role",
            "member",
            "robot",
        ],
    );
    let as_robot = |secret: &str| -> Env {
        vec![
            ("OS_AUTH_TYPE", "v3applicationcredential".into()),
            ("OS_APPLICATION_CREDENTIAL_ID", made_id(&made)),
            ("OS_APPLICATION_CREDENTIAL_SECRET", secret.to_owned()),
        ]
    };
    let secret = made
        .get("Secret")
        .or(made.get("secret"))
        .and_then(Value::as_str);
    let robot = as_robot(secret.expect("a secret"));
    let token = text(&world.says(&robot, &["token", "issue"]), "id");
    world.fails(&as_robot("wrong"), &["token", "issue"], "401");
    world.fails(
        &robot,
        &["application", "credential", "create", "another"],
        "403",
    );
    world.fails(
        &alice,
        &[
            "application",
            "credential",
            "create",
            "--role",
            "admin",
            "greedy",
        ],
        "403",
    );
    let with_token = |token: &str| -> Env {
        vec![
            ("OS_AUTH_TYPE", "v3token".into()),
            ("OS_TOKEN", token.to_owned()),
        ]
    };
    // A token from a credential gets no other one.
    world.fails(&with_token(&token), &["project", "list"], "403");

    // A token by a token, and its revocation.
    let own = text(&world.says(&alice, &["token", "issue"]), "id");
    world.does(&with_token(&own), &["token", "issue"]);
    world.does(&alice, &["token", "revoke", &own]);
    world.fails(&with_token(&own), &["token", "issue"], "401");

    // The role is revoked, and with it what the credential was good for.
    world.does(
        admin,
        &[
            "role",
            "remove",
            "--project",
            "blue",
            "--user",
            "alice",
            "member",
        ],
    );
    world.fails(&robot, &["token", "issue"], "401");
    world.does(admin, &ALICE_JOINS_BLUE);
    world.does(&robot, &["token", "issue"]);
    world.does(&alice, &["application", "credential", "delete", "robot"]);
    world.fails(&robot, &["token", "issue"], "401");

    // Her password, changed by alice and by the administrator; disabled; deleted.
    let own = text(&world.says(&alice, &["token", "issue"]), "id");
    world.changes_password(&alice, "another horse");
    world.fails(&alice, &["token", "issue"], "401");
    world.fails(&with_token(&own), &["token", "issue"], "401");
    let alice = world.user("alice", "another horse", "blue");
    world.does(&alice, &["token", "issue"]);
    world.does(admin, &["user", "set", "--password", PASSWORD, "alice"]);
    world.fails(&alice, &["token", "issue"], "401");
    let alice = world.user("alice", PASSWORD, "blue");
    world.does(admin, &["user", "set", "--disable", "alice"]);
    world.fails(&alice, &["token", "issue"], "401");
    world.does(admin, &["user", "set", "--enable", "alice"]);
    world.does(admin, &["project", "set", "--disable", "blue"]);
    world.fails(&alice, &["token", "issue"], "401");
    world.does(admin, &["user", "delete", "alice"]);
    world.does(admin, &["project", "delete", "blue"]);
    assert_eq!(
        column(&world.says(admin, &["project", "list"]), "Name"),
        ["service"]
    );
}

fn made_id(made: &Value) -> String {
    let id = made.get("ID").or(made.get("id")).and_then(Value::as_str);
    id.expect("an id").to_owned()
}
