//! The distribution's own Prometheus (scripts/test installs it) scrapes a real plane with a connected host, and runs
//! every query of the dashboards and the rules: a dashboard with wrong metric names is empty, and nobody notices until
//! they need it.

use std::collections::BTreeSet;

use tokio::net::TcpListener;

use super::*;
use crate::support::full;

const DASHBOARDS: [(&str, &str); 3] = [
    (
        "fleet",
        include_str!("../../../packaging/grafana/pf9-fleet.json"),
    ),
    (
        "cluster",
        include_str!("../../../packaging/grafana/pf9-cluster.json"),
    ),
    (
        "host",
        include_str!("../../../packaging/grafana/pf9-host.json"),
    ),
];
const RULES: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../packaging/prometheus/*.rules.yml"
);
/// Metrics that do not exist in this setup, why, and who exports them: their names must start accordingly.
const ABSENT: [(&str, &str, &str); 3] = [
    (
        "pf9_agent_roll_hosts",
        "the fleet was never taken to another version of the agent",
        include_str!("../../../crates/plane/src/agents/numbers.rs"),
    ),
    (
        "pf9_upgrade_",
        "the cluster was never upgraded",
        include_str!("../../../crates/plane/src/rolls/numbers.rs"),
    ),
    (
        "pf9_comms_disconnects_total",
        "no session has ended",
        include_str!("../../../src/comms/metrics.rs"),
    ),
];

/// A Prometheus that scrapes this plane once a second.
struct Prometheus {
    _child: tokio::process::Child,
    url: String,
    http: reqwest::Client,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    async fn start(plane: &Plane, token: &str) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("token"), token).expect("write");
        let (ca, token) = (plane.dir.path().join("ca.pem"), at("token"));
        let (ca, token) = (ca.display(), token.display());
        let way = format!(
            "authorization: {{type: Bearer, credentials_file: {token}}}, tls_config: {{ca_file: {ca}}}"
        );
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{RULES}']\n\
             scrape_configs:\n- {{job_name: pf9, {way}, http_sd_configs: [{{url: '{}/metrics/targets', \
             refresh_interval: 1s, {way}}}]}}\n",
            plane.server.public_url()
        );
        std::fs::write(at("prometheus.yml"), config).expect("write");
        // A free one: it is not assigned again in between.
        let free = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = free.local_addr().expect("address");
        drop(free);
        let child = tokio::process::Command::new("prometheus")
            .arg(format!("--config.file={}", at("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", at("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus: install the distribution's package of that name");
        Self {
            _child: child,
            url: format!("http://{address}"),
            http: reqwest::Client::builder()
                .no_proxy()
                .build()
                .expect("client"),
            _dir: dir,
        }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let request = self.http.get(format!("{}{path}", self.url)).query(query);
        request.send().await.ok()?.json().await.ok()
    }

    /// The current result of a query; `None`: empty.
    async fn ask(&self, query: &str) -> Option<Value> {
        let answer = self.get("/api/v1/query", &[("query", query)]).await?;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let result = &answer["data"]["result"];
        let found = result.as_array().is_some_and(|rows| !rows.is_empty());
        found.then(|| result.clone())
    }
}

/// As Grafana sends it.
fn filled(query: &str, host: &str) -> String {
    query
        .replace("$cluster", "c")
        .replace("$host", host)
        .replace("$__rate_interval", "10s")
}

/// Every query of the dashboards, with its place.
fn queries(host: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (name, text) in DASHBOARDS {
        let board: Value = serde_json::from_str(text).expect("json");
        let panels = board["panels"].as_array().expect("panels");
        let mut ids = BTreeSet::new();
        for panel in panels {
            assert!(ids.insert(panel["id"].as_u64()), "{name}: {}", panel["id"]);
            let title = panel["title"].as_str().expect("title");
            for target in panel["targets"].as_array().expect("targets") {
                let query = target["expr"].as_str().expect("expr");
                all.push((format!("{name}: {title}"), filled(query, host)));
            }
        }
        // Sources of the lists at the top: label_values(QUERY, LABEL).
        for variable in board["templating"]["list"].as_array().expect("variables") {
            let Some(values) = variable["query"]["query"].as_str() else {
                continue;
            };
            let inner = values.strip_prefix("label_values(").expect("label_values");
            let (query, label) = inner.trim_end_matches(')').rsplit_once(", ").expect("two");
            let query = format!("count by ({label}) ({query})");
            all.push((format!("{name}: ${}", variable["name"]), query));
        }
    }
    all
}

/// Our metric names in a query.
fn names(query: &str) -> BTreeSet<&str> {
    let other = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    query
        .split(other)
        .filter(|word| word.starts_with("pf9_"))
        .collect()
}

/// Why a query has no result here, if it has none.
fn absent(query: &str) -> Option<&'static str> {
    let all = ABSENT.iter();
    let mut those = all.filter(|(name, ..)| query.contains(name));
    those.next().map(|(_, why, _)| *why)
}

#[tokio::test]
async fn every_query_of_the_dashboards_and_rules_has_data_in_a_real_prometheus() {
    pf9_hostagent::tls::install();
    for (name, _, source) in ABSENT {
        assert!(
            source.contains(name.trim_end_matches('_')),
            "{name}: nobody makes it"
        );
    }
    let plane = Plane::start().await;
    let host = HostId::random();
    let (_dir, fs) = host_root();
    plane.enrol_and_save(host, &fs).await;
    // What systemd and the kernel would provide: the tunnel's own metrics, and cgroups.
    let service = format!(
        "[[service]]\nname = \"agent-metrics\"\nconnect = \"unix:{}\"\n",
        fs.at("/run/pf9/comms.sock").display()
    );
    for (path, text) in [
        ("/etc/pf9/services.d/x.toml", service.as_str()),
        (
            "/sys/fs/cgroup/system.slice/pf9-comms.service/memory.stat",
            "anon 15000000\n",
        ),
        (
            "/sys/fs/cgroup/system.slice/pf9-comms.service/memory.max",
            "603979776\n",
        ),
        (
            "/sys/fs/cgroup/system.slice/systemd-timesyncd.service/memory.stat",
            "anon 1000000\n",
        ),
        ("/run/systemd/timesync/synchronized", ""),
    ] {
        let attrs = pf9_hostagent::host::fs::Attrs::mode(0o644);
        fs.write(path, text.as_bytes(), &attrs).expect(path);
    }
    let node = FakeNode::start(&fs, host);
    let daemons = Daemons::start(&fs).await;
    plane.until(host, |s| s.state == NodeState::Ok).await;
    let (cluster, _) = plane.cluster(1_000).await;
    let attach = format!("{CLUSTERS}/{cluster}/attach");
    let hosts = json!([{"uuid": host, "isMaster": true}]);
    plane.operator(Method::POST, &attach, Some(&hosts)).await;
    let id = cluster.parse().expect("id");
    node.say(|s| {
        full::status(s, id);
        s.certificate_requests.clear();
    });
    let told = |s: &HostStatus| s.node.as_ref().is_some_and(|n| n.etcd.is_some());
    plane.until(host, told).await;
    let (token, _) = plane.login().await;
    let prometheus = Prometheus::start(&plane, &token).await;
    let mine = format!("pf9_host_state{{host_id=\"{host}\"}}");
    let name = within(async {
        loop {
            if let Some(rows) = prometheus.ask(&mine).await {
                let name = rows[0]["metric"]["instance"].as_str().expect("name");
                break name.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    // Each is awaited: rates need two scrapes, round trips a ping.
    let queries = queries(&name);
    assert!(queries.len() > 60, "{}", queries.len());
    for (place, query) in queries.iter().filter(|(_, query)| absent(query).is_none()) {
        let mut tries = 0;
        while prometheus.ask(query).await.is_none() {
            tries += 1;
            assert!(tries < 300, "{place}: {query} has nothing");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    // The rules: each parses, and its metrics exist.
    let rules = within(async {
        loop {
            let answer = prometheus.get("/api/v1/rules", &[]).await;
            let groups = answer.and_then(|a| a["data"]["groups"].as_array().cloned());
            let all: Vec<Value> = groups
                .into_iter()
                .flatten()
                .flat_map(|g| g["rules"].as_array().cloned().unwrap_or_default())
                .collect();
            if !all.is_empty() && all.iter().all(|r| r["health"] != "unknown") {
                break all;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        let query = rule["query"].as_str().expect("query");
        for name in names(query) {
            assert!(prometheus.ask(name).await.is_some(), "{name} of {rule}");
        }
    }
    // What is listed as absent is: otherwise the list would never shrink.
    for (place, query) in queries.iter().filter(|(_, query)| absent(query).is_some()) {
        assert_eq!(prometheus.ask(query).await, None, "{place}: {query}");
    }
    daemons.stop().await;
    plane.server.stop().await;
}
