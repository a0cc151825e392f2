//! The page's terminal on a real cluster, by the request that the page makes: the stack's kubectl in its jail, as the person
//! who is signed in, and nothing else than that person may do.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::demo::{NODES, Outcome, eventually, kubectl, shell, state};
use crate::network::PATIENCE;

/// Somebody who may read.
const NAME: &str = "reads-at-a-terminal";
const PASSWORD: &str = "reads and changes nothing";
const POD: &str = "hello-worker-1";
/// Where a master's API server notes who asked it for what.
const API_AUDIT: &str = "/var/log/pf9/kube/audit";
/// A Secret that is made and read, and what is in it.
const SECRET: &str = "audited";
const WORD: &str = "a-word-that-no-audit-may-have";

/// A plane, by HTTP.
struct Plane {
    url: String,
    cluster: String,
}

struct Answer {
    status: u16,
    token: Option<String>,
    body: String,
}

/// What a command says, what it complains of, and whether it was done.
struct Ran {
    out: String,
    err: String,
    done: bool,
}

pub(crate) fn is_who_is_signed_in() -> Outcome {
    let plane = Plane::of_the_demo()?;
    let path = state().join("plane/admin-password");
    let password = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let (admin, project) = plane.log_in("admin@pf9.local", password.trim())?;
    plane.without_them(&admin)?;
    let body = json!({"user": {"name": NAME, "password": PASSWORD}});
    let made = plane.ask("POST", "/keystone/v3/users", &admin, &body)?;
    let made = made.json(201)?;
    let id = made["user"]["id"].as_str().ok_or("no id")?;
    let role = format!("/keystone/v3/projects/{project}/users/{id}/roles/reader");
    plane.ask("PUT", &role, &admin, &Value::Null)?.is(204)?;
    let (reader, _) = plane.log_in(NAME, PASSWORD)?;

    let run = |token: &str, line: &str| plane.run(&project, token, line);
    let own = run(&reader, "auth whoami")?;
    let person = format!("Default/{NAME}");
    assert!(own.done && own.out.contains(&person), "{}", own.err);
    let groups = own.out.contains("pf9:role:reader") && !own.out.contains("system:masters");
    assert!(groups, "{}", own.out);
    let nodes = run(&reader, "kubectl get nodes -o name")?;
    let mut names: Vec<&str> = nodes.out.lines().collect();
    names.sort_unstable();
    let all = NODES.map(|name| format!("node/{name}"));
    assert_eq!(names, all, "{}", nodes.err);
    let deleted = format!("delete pod {POD} --wait=false");
    let refused = run(&reader, &deleted)?;
    let why = format!("User \"{person}\" cannot delete");
    assert!(
        !refused.done && refused.err.contains(&why),
        "{}",
        refused.err
    );
    // The same command, as somebody who may; tried only, because other tests use the pod.
    let tried = run(&admin, &format!("{deleted} --dry-run=server"))?;
    assert!(tried.done && tried.out.contains("deleted"), "{}", tried.err);
    kubectl(&["get", "pod", POD, "-o", "name"])?;

    let audit = plane.ask("GET", "/audit/v1/entries", &admin, &Value::Null)?;
    let audit = audit.json(200)?;
    let entries = audit["entries"].as_array().ok_or("no entries")?;
    let ran = |e: &&Value| e["method"] == "RUN" && e["who"] == person.as_str();
    let newest = entries.iter().find(ran).ok_or("nothing of them")?;
    let did = newest["path"].as_str().unwrap_or_default();
    assert!(
        did.ends_with(&format!("kubectl delete --wait=false pod {POD}")),
        "{newest}"
    );
    assert_eq!(newest["outcome"], "failed", "{newest}");
    let audited = format!("grep -qF '{person}' /var/log/pf9/comms/audit.log");
    eventually("the machine's own audit names them", PATIENCE, || {
        shell(NODES[0], &audited).map(drop)
    })?;
    the_api_servers_audit_names(&person)?;

    plane.without_them(&admin)?;
    let path = plane.path(&project);
    let line = json!({"line": "get pods"});
    plane.ask("POST", &path, &reader, &line)?.is(401).map(drop)
}

/// On the master, for root alone: who was behind the plane's certificate and what was answered, and nothing of a body.
fn the_api_servers_audit_names(person: &str) -> Outcome {
    kubectl(&["delete", "secret", SECRET, "--ignore-not-found"])?;
    let word = format!("--from-literal=word={WORD}");
    kubectl(&["create", "secret", "generic", SECRET, &word])?;
    kubectl(&["get", "secret", SECRET, "-o", "name"])?;
    kubectl(&["delete", "secret", SECRET])?;
    let about = format!(
        "grep -hF -e '\"username\":\"{person}\"' -e '\"name\":\"{SECRET}\"' {API_AUDIT}/audit*.log || :"
    );
    eventually("the API server's audit names them", PATIENCE, || {
        let lines = shell(NODES[0], &about)?;
        let entries: Result<Vec<Value>, _> = lines.lines().map(serde_json::from_str).collect();
        let entries = entries.map_err(|e| format!("{e}: {lines}"))?;
        let of = |entry: &Value, verb: &str, resource: &str, name: &str| {
            let object = &entry["objectRef"];
            let of_it = object["resource"] == resource && object["name"] == name;
            of_it && entry["verb"] == verb && entry["user"]["username"] == "pf9:plane"
        };
        let refused = entries.iter().any(|e| {
            let who = &e["impersonatedUser"];
            let mut groups = who["groups"].as_array().into_iter().flatten();
            of(e, "delete", "pods", POD)
                && who["username"] == person
                && groups.any(|group| group == "pf9:role:reader")
                && e["responseStatus"]["code"] == 403
        });
        let read = entries.iter().any(|e| {
            let who = e["impersonatedUser"]["username"].as_str();
            of(e, "get", "secrets", SECRET) && who.is_some_and(|who| who != person)
        });
        match refused && read {
            true => Ok(()),
            false => Err(format!("refused {refused}, read {read}: {lines}")),
        }
    })?;
    let bodies = format!(
        "! grep -qF -e {WORD} -e \"$(printf %s {WORD} | base64 -w0)\" -e requestObject -e responseObject \
         {API_AUDIT}/audit*.log && stat -c '%a %U:%G' {API_AUDIT} {API_AUDIT}/audit.log"
    );
    let modes = shell(NODES[0], &bodies)?;
    assert_eq!(modes.trim(), "700 root:root\n600 root:root", "{API_AUDIT}");
    Ok(())
}

impl Plane {
    fn of_the_demo() -> Outcome<Self> {
        let server = "jsonpath={.clusters[0].cluster.server}";
        let server = kubectl(&["config", "view", "-o", server])?;
        let (url, cluster) = server
            .trim()
            .split_once("/k8s/clusters/")
            .ok_or_else(|| format!("no cluster's address: {server:?}"))?;
        Ok(Self {
            url: url.to_owned(),
            cluster: cluster.to_owned(),
        })
    }

    fn path(&self, project: &str) -> String {
        format!("/qbert/v4/{project}/clusters/{}/kubectl", self.cluster)
    }

    fn ask(&self, method: &str, path: &str, token: &str, body: &Value) -> Outcome<Answer> {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-i", "--http1.1", "--noproxy", "*"])
            .args(["--max-time", "90", "-X", method])
            .args(["-H", "Content-Type: application/json"])
            .arg("--cacert")
            .arg(state().join("plane/ca.pem"));
        if !token.is_empty() {
            curl.arg("-H").arg(format!("X-Auth-Token: {token}"));
        }
        if !body.is_null() {
            curl.arg("--data-binary").arg(body.to_string());
        }
        let said = curl.arg(format!("{}{path}", self.url)).output();
        let said = said.map_err(|e| format!("curl: {e}"))?;
        let text = String::from_utf8_lossy(&said.stdout);
        let why = String::from_utf8_lossy(&said.stderr);
        let none = || format!("{method} {path}: {text:?} {why}");
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(none)?;
        let status = head.split(' ').nth(1).and_then(|n| n.parse().ok());
        let token = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is = name.eq_ignore_ascii_case("x-subject-token");
            is.then(|| value.trim().to_owned())
        });
        Ok(Answer {
            status: status.ok_or_else(none)?,
            token,
            body: body.to_owned(),
        })
    }

    /// A token, and the project that it is for.
    fn log_in(&self, name: &str, password: &str) -> Outcome<(String, String)> {
        let domain = json!({"id": "default"});
        let user = json!({"name": name, "domain": domain, "password": password});
        let identity = json!({"methods": ["password"], "password": {"user": user}});
        let scope = json!({"project": {"name": "service", "domain": domain}});
        let body = json!({"auth": {"identity": identity, "scope": scope}});
        let answer = self.ask("POST", "/keystone/v3/auth/tokens", "", &body)?;
        let said = answer.json(201)?;
        let project = said.pointer("/token/project/id").and_then(Value::as_str);
        let project = project.ok_or("no project")?.to_owned();
        Ok((answer.token.ok_or("no token")?, project))
    }

    /// Of an earlier run, too.
    fn without_them(&self, admin: &str) -> Outcome {
        let users = self.ask("GET", "/keystone/v3/users", admin, &Value::Null)?;
        let users = users.json(200)?;
        let users = users["users"].as_array().ok_or("no users")?;
        for user in users.iter().filter(|user| user["name"] == NAME) {
            let id = user["id"].as_str().ok_or("no id")?;
            let path = format!("/keystone/v3/users/{id}");
            self.ask("DELETE", &path, admin, &Value::Null)?.is(204)?;
        }
        Ok(())
    }

    fn run(&self, project: &str, token: &str, line: &str) -> Outcome<Ran> {
        let body = json!({"line": line});
        let answer = self.ask("POST", &self.path(project), token, &body)?;
        let answer = answer.is(200)?;
        let mut ran = Ran {
            out: String::new(),
            err: String::new(),
            done: false,
        };
        let events = answer.body.split("\n\n");
        for event in events.filter_map(|event| event.strip_prefix("data: ")) {
            let event: Value = serde_json::from_str(event).map_err(|e| e.to_string())?;
            let text = |name: &str| event[name].as_str().unwrap_or_default();
            ran.out.push_str(text("out"));
            ran.err.push_str(text("err"));
            ran.done |= event["end"]["done"] == true;
        }
        Ok(ran)
    }
}

impl Answer {
    fn is(self, status: u16) -> Outcome<Self> {
        match self.status == status {
            true => Ok(self),
            false => Err(format!("{} and not {status}: {}", self.status, self.body)),
        }
    }

    fn json(&self, status: u16) -> Outcome<Value> {
        if self.status != status {
            return Err(format!("{} and not {status}: {}", self.status, self.body));
        }
        serde_json::from_str(&self.body).map_err(|e| format!("{e}: {}", self.body))
    }
}
