//! A cluster goes to the next minor of Kubernetes and back, while one of its services is called all the time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::demo::{Outcome, agent_is_ok, cluster, demo, eventually, kubectl, plane, shell};
use crate::{again, cut, masters};

pub(crate) const FROM: &str = "1.36";
pub(crate) const TO: &str = "1.37";
const MACHINES: [&str; 3] = ["master-1", "worker-1", "worker-2"];
/// A kubelet that starts with changed static pods can wait two minutes for volumes of pods that are gone (seen with
/// 1.36.3).
pub(crate) const PROVE_S: &str = "180";
/// Three machines that unpack a stack, and one after the other drain their pods, restart everything and prove that they
/// are healthy.
const A_ROLL: Duration = Duration::from_secs(900);
const SOON: Duration = Duration::from_secs(180);
/// The service's address, at the master: its own programs are restarted as well.
const ASKED_AT: ([u8; 4], u16) = ([10, 99, 0, 11], 30080);
/// The lone master's own address.
const MASTER_AT: &str = "10.99.0.11";
/// Longest time that its API is down: a master that takes longer is rolled back ([`PROVE_S`]).
const API_DOWN: Duration = Duration::from_secs(180);
const KUBELET: Spoilt = Spoilt {
    unit: "pf9-kubelet",
    link: "current",
};
const ETCD: Spoilt = Spoilt {
    unit: "pf9-etcd",
    link: "etcd-current",
};

/// Two of them, never on one node, one of which has to be up. A terminating one keeps answering while others learn of
/// it. `@IMAGE@` is the stack's CoreDNS, for the HTTP server of its plugin `health`: it takes as many waiting connections
/// as the kernel lets it. busybox' httpd takes nine (`xlisten(n, 9)`), and the kernel drops the next request for a
/// connection whenever that program did not run for a fifth of a second: one of 31 758 was answered a second late by that.
const SERVICE: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: asked}
data: {Corefile: ".:5353 {\n  health :8080\n}\n"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: asked}
spec:
  replicas: 2
  selector: {matchLabels: {app: asked}}
  template:
    metadata: {labels: {app: asked}}
    spec:
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: asked}}}
      containers:
      - name: web
        image: @IMAGE@
        imagePullPolicy: Never
        args: [-conf, /etc/coredns/Corefile]
        readinessProbe: {periodSeconds: 1, httpGet: {path: /health, port: 8080}}
        lifecycle: {preStop: {sleep: {seconds: 8}}}
        volumeMounts: [{name: config, mountPath: /etc/coredns, readOnly: true}]
      volumes: [{name: config, configMap: {name: asked}}]
---
apiVersion: v1
kind: Service
metadata: {name: asked}
spec:
  type: NodePort
  selector: {app: asked}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: asked}
spec: {minAvailable: 1, selector: {matchLabels: {app: asked}}}
"#;

/// A unit of ours with a person's drop-in, with which its program does not start from the newer stack.
struct Spoilt {
    unit: &'static str,
    /// The link to its programs.
    link: &'static str,
}

impl Spoilt {
    fn at(&self) -> String {
        format!("/etc/systemd/system/{}.service.d/10-person.conf", self.unit)
    }

    fn put(&self, node: &str) -> Outcome {
        let (at, link) = (self.at(), self.link);
        let words = format!(
            "mkdir -p \"$(dirname {at})\" && printf '[Service]\\nExecStartPre=/bin/sh -c \"readlink \
             /opt/pf9/stacks/{link} | grep -q 1.36\"\\n' > {at} && systemctl daemon-reload"
        );
        shell(node, &words).map(drop)
    }

    fn remove(&self, node: &str) -> Outcome {
        let words = format!("rm {} && systemctl daemon-reload", self.at());
        shell(node, &words).map(drop)
    }
}

/// A cluster of the older minor with a service that is called, the stack of the newer one, and the callers.
struct Begun {
    cluster: String,
    to: String,
    before: std::collections::BTreeMap<String, String>,
    /// The node whose turn is last.
    last: String,
    asked: Asked,
}

impl Begun {
    /// `newer`: brings the stack of the newer minor.
    fn new(newer: fn(&str) -> Outcome<String>) -> Outcome<Self> {
        demo(&["down"])?;
        let up = [
            "up",
            "--kubernetes",
            FROM,
            "--masters",
            "1",
            "--workers",
            "2",
        ];
        demo(&up)?;
        let before = versions()?;
        let to = newer(TO)?;
        let cluster = cluster()?;
        let path = "jsonpath={.spec.template.spec.containers[0].image}";
        let image = kubectl(&[
            "-n",
            "kube-system",
            "get",
            "deployment",
            "coredns",
            "-o",
            path,
        ])?;
        cut::apply(&SERVICE.replace("@IMAGE@", image.trim()))?;
        kubectl(&["rollout", "status", "deployment/asked", "--timeout=120s"])?;
        eventually("the service answers", SOON, ask)?;
        let asked = Asked::begin();
        nobody_makes_them_again(&cluster, &to)?;
        let last = turns(&cluster, &to)?.pop().ok_or("no node")?;
        Ok(Self {
            cluster,
            to,
            before,
            last,
            asked,
        })
    }

    fn start(&self) -> Outcome {
        let (cluster, to) = (self.cluster.as_str(), self.to.as_str());
        let how = ["--prove", PROVE_S, "--drain-timeout", "180", "--probe"];
        let start = [&["cluster", "upgrade", cluster, "--to", to], &how[..]].concat();
        plane(&start).map(drop)
    }

    /// The upgrade stops with this node, which is healthy again on its old stack; no caller noticed.
    fn is_put_back(&self, node: &str, when: &str) -> Outcome {
        let what = format!("{node} is rolled back, and the upgrade stops");
        eventually(&what, A_ROLL, || {
            let said = plane(&["cluster", "upgrade", &self.cluster, "status"])?;
            match said.contains("stopped") && said.contains(node) {
                true => Ok(()),
                false => Err(said),
            }
        })?;
        eventually("it is well again on what it had", SOON, || {
            let now = versions()?;
            match now.get(node) == self.before.get(node) && agent_is_ok(node).is_ok() {
                true => Ok(()),
                false => Err(format!("{now:?}")),
            }
        })?;
        self.asked.saw_nothing(when)
    }

    fn goes(&self, verb: &str) -> Outcome {
        plane(&["cluster", "upgrade", &self.cluster, verb]).map(drop)
    }
}

#[test]
fn k_a_cluster_goes_to_the_next_minor_and_back_and_who_asks_it_sees_nothing() -> Outcome {
    let begun = Begun::new(again::imported)?;
    let images = again::contents(&MACHINES)?;
    kubectl(&["create", "configmap", "kept", "--from-literal=word=kept"])?;
    cut::apply(cut::STAYS)?;
    kubectl(&["rollout", "status", "daemonset/stays", "--timeout=120s"])?;
    let stay = cut::that_stay()?;
    assert_eq!(stay.len(), 2, "{stay:?}");
    let last = begun.last.as_str();
    KUBELET.put(last)?;
    // Its API is down while it is restarted: how long is reported. Only `ok` is an answer.
    masters::asks("worker-1", MASTER_AT, "0.5")?;
    begun.start()?;
    begun.is_put_back(last, "with a node that was put back")?;
    for node in MACHINES.iter().filter(|node| **node != last) {
        assert!(
            versions()?[*node].starts_with("v1.37."),
            "{node}: {:?}",
            versions()?
        );
    }
    for ((node, before), now) in MACHINES
        .iter()
        .zip(&images)
        .zip(again::contents(&MACHINES)?)
    {
        assert_eq!(now == *before, *node == last, "{node}: {now}");
    }

    assert_eq!(cut::that_stay()?, stay, "pods that nobody moved, put back");

    KUBELET.remove(last)?;
    begun.goes("resume")?;
    over(&begun.cluster, "v1.37.", &MACHINES)?;
    assert_eq!(cut::that_stay()?, stay, "upgraded");
    begun.asked.saw_nothing("upgraded")?;
    for (now, before) in again::contents(&MACHINES)?.iter().zip(&images) {
        assert_ne!(now, before, "built again, and it did not come");
    }

    begun.goes("back")?;
    over(&begun.cluster, "v1.36.", &MACHINES)?;
    assert_eq!(versions()?, begun.before);
    assert_eq!(cut::that_stay()?, stay, "and back");
    assert_eq!(again::contents(&MACHINES)?, images, "and back");
    begun.asked.saw_nothing("and back")?;
    begun.asked.end();
    let (down, said) = masters::told("worker-1")?;
    println!("the lone master's API, there and back: {said}");
    assert!(down <= API_DOWN, "the API of a lone master: {said}");
    let kept = kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.word}"])?;
    assert_eq!(kept, "kept");
    demo(&["down"]).map(drop)
}

/// The steps of the master that roll back automatically: etcd, and all the rest. While they fail its API is down.
#[test]
fn kb_a_step_of_the_master_that_fails_goes_back_and_who_asks_the_service_sees_nothing() -> Outcome {
    let begun = Begun::new(imported)?;
    let master = MACHINES[0];
    ETCD.put(master)?;
    begun.start()?;
    begun.is_put_back(master, "with an etcd that was put back")?;
    ETCD.remove(master)?;
    KUBELET.put(master)?;
    begun.goes("resume")?;
    begun.is_put_back(master, "with a master that was put back")?;
    KUBELET.remove(master)?;
    begun.goes("back")?;
    over(&begun.cluster, "v1.36.", &MACHINES)?;
    assert_eq!(versions()?, begun.before);
    begun.asked.saw_nothing("and back")?;
    begun.asked.end();
    demo(&["down"]).map(drop)
}

/// The stack of a minor, imported; returns its version.
pub(crate) fn imported(minor: &str) -> Outcome<String> {
    let (made, manifest) = built(minor)?;
    plane(&["stack", "import", &made.to_string_lossy()])?;
    manifest["version"]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| "no version".into())
}

/// The stack of a minor: its directory, and its manifest.
pub(crate) fn built(minor: &str) -> Outcome<(PathBuf, Value)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/stack");
    let output = Command::new(script)
        .args(["build", "--kubernetes", minor])
        .output();
    let output = output.map_err(|e| format!("{script}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let made = PathBuf::from(text.lines().last().unwrap_or_default());
    let manifest = std::fs::read_to_string(made.join("manifest.json"));
    let manifest = manifest.map_err(|e| format!("{}: {e}: {output:?}", made.display()))?;
    let manifest = serde_json::from_str(&manifest).map_err(|e| e.to_string())?;
    Ok((made, manifest))
}

/// The demo's own pods have no controller: a drain would end them, so the upgrade does not start.
fn nobody_makes_them_again(cluster: &str, to: &str) -> Outcome {
    let said = match plane(&["cluster", "upgrade", cluster, "--to", to]) {
        Ok(said) => return Err(format!("it began: {said}")),
        Err(said) => said,
    };
    assert!(
        said.contains("pods-without-controller") && said.contains("hello-worker-1"),
        "{said}"
    );
    kubectl(&["delete", "pod", "hello-worker-1", "hello-worker-2", "--now"]).map(drop)
}

/// Nothing blocks it; returns the nodes in the order of their turns.
pub(crate) fn turns(cluster: &str, to: &str) -> Outcome<Vec<String>> {
    println!(
        "{}",
        plane(&["cluster", "upgrade", cluster, "--to", to, "--plan"])?
    );
    let said = plane(&[
        "cluster", "upgrade", cluster, "--to", to, "--plan", "--json",
    ])?;
    let plan: Value = serde_json::from_str(&said).map_err(|e| e.to_string())?;
    assert_eq!(plan["begins"], true, "{said}");
    let mut nodes = plan["nodes"].as_array().cloned().unwrap_or_default();
    nodes.sort_by_key(|node| node["turn"].as_u64());
    let names = nodes
        .iter()
        .map(|node| node["node"].as_str().map(str::to_owned));
    names.collect::<Option<_>>().ok_or(said)
}

/// Every node runs it and is healthy, and the plane says so.
pub(crate) fn over(cluster: &str, version: &str, nodes: &[&str]) -> Outcome {
    let done = format!("{0} of {0} nodes done", nodes.len());
    eventually(&format!("every node is of {version}"), A_ROLL, || {
        let said = plane(&["cluster", "upgrade", cluster, "status"])?;
        let all = versions()?.values().all(|v| v.starts_with(version));
        match all && said.contains(&done) && said.contains(": done;") {
            true => Ok(()),
            false => Err(said),
        }
    })?;
    println!("{}", plane(&["cluster", "upgrade", cluster, "status"])?);
    for node in nodes {
        eventually(&format!("{node} is ok"), SOON, || agent_is_ok(node))?;
        let schedulable = kubectl(&["get", "node", node, "-o", "jsonpath={.spec.unschedulable}"])?;
        assert_eq!(schedulable, "", "{node} is not left cordoned");
    }
    Ok(())
}

/// Versions of kubelet, by node.
fn versions() -> Outcome<std::collections::BTreeMap<String, String>> {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.status.nodeInfo.kubeletVersion}{\"\\n\"}{end}";
    let said = kubectl(&["get", "nodes", "-o", path, "--request-timeout=10s"])?;
    let lines = said.lines().filter_map(|line| line.split_once(' '));
    Ok(lines
        .map(|(node, version)| (node.to_owned(), version.to_owned()))
        .collect())
}

/// One request of its own connection, answered within a second, without a retry.
fn ask() -> Outcome {
    const LIMIT: Duration = Duration::from_secs(1);
    let began = Instant::now();
    let at = SocketAddr::from(ASKED_AT);
    let failed = |what: &str, e: std::io::Error| format!("{what} after {:?}: {e}", began.elapsed());
    let mut stream = TcpStream::connect_timeout(&at, LIMIT).map_err(|e| failed("connect", e))?;
    let left = LIMIT
        .saturating_sub(began.elapsed())
        .max(Duration::from_millis(1));
    stream
        .set_read_timeout(Some(left))
        .map_err(|e| e.to_string())?;
    stream
        .write_all(b"GET /health HTTP/1.0\r\n\r\n")
        .map_err(|e| failed("write", e))?;
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .map_err(|e| failed("read", e))?;
    match text.ends_with("\r\n\r\nOK") && began.elapsed() <= LIMIT {
        true => Ok(()),
        false => Err(format!("after {:?}: {text:?}", began.elapsed())),
    }
}

/// The service is called 50 times a second, each time on a new connection, without a retry.
struct Asked {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU32>,
    failed: Arc<Mutex<Vec<String>>>,
    began: Instant,
    threads: Vec<JoinHandle<()>>,
}

impl Asked {
    const THREADS: u32 = 10;
    const EVERY: Duration = Duration::from_millis(200);

    fn begin() -> Self {
        let mut asked = Self {
            stop: Arc::default(),
            count: Arc::default(),
            failed: Arc::default(),
            began: Instant::now(),
            threads: Vec::new(),
        };
        for number in 0..Self::THREADS {
            let (stop, count, failed) = (
                asked.stop.clone(),
                asked.count.clone(),
                asked.failed.clone(),
            );
            let began = asked.began;
            asked.threads.push(std::thread::spawn(move || {
                let mut next = began + Self::EVERY * number / Self::THREADS;
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                    next += Self::EVERY;
                    count.fetch_add(1, Ordering::Relaxed);
                    if let Err(why) = ask() {
                        let line = format!("{:.1} s: {why}", began.elapsed().as_secs_f32());
                        failed.lock().expect("lock").push(line);
                    }
                }
            }));
        }
        asked
    }

    /// No failure so far; and it was called as often as it should be.
    fn saw_nothing(&self, when: &str) -> Outcome {
        let (count, seconds) = (
            self.count.load(Ordering::Relaxed),
            self.began.elapsed().as_secs_f32(),
        );
        let failed = self.failed.lock().expect("lock");
        println!(
            "{when}: {} of {count} requests failed in {seconds:.0} s",
            failed.len()
        );
        if !failed.is_empty() {
            return Err(format!(
                "{when}: {} of {count} failed:\n{}",
                failed.len(),
                failed.join("\n")
            ));
        }
        match f64::from(count) >= 45.0 * f64::from(seconds) {
            true => Ok(()),
            false => Err(format!("{when}: asked only {count} times in {seconds} s")),
        }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            drop(thread.join());
        }
    }
}
