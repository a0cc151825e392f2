//! What a test brought to Ready, compared with the support matrix: this is why a row is called tested.

use std::path::Path;

use serde_json::Value;
use toml::Table;

use crate::demo::{NODES, Outcome, kubectl, shell};

/// Which test brings which stack of the matrix to Ready.
const BRINGS: &[(&str, &str)] = &[
    ("a_up_makes_ready_nodes_and_twice_is_harmless", "1.37.2"),
    ("g_each_minor_before_comes_up_and_works", "1.36.3"),
    (
        "ga_machines_of_the_next_debian_become_nodes_and_are_as_before",
        "1.37.2",
    ),
];

const MATRIX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/stack/matrix.toml");

/// The nodes are Ready: what runs on them is in the matrix, literally. `PF9_BLESS=1` writes it there. A machine that is
/// not in it (another systemd, another cgroup version) is printed and is no failure: the tests may run anywhere.
pub(crate) fn ran(test: &str, node: &str) -> Outcome {
    let row = seen(test, node)?;
    let kubernetes = text(&row, "kubernetes");
    if !BRINGS.contains(&(test, kubernetes)) {
        return Err(format!(
            "{test} brought up Kubernetes {kubernetes}, which BRINGS does not say"
        ));
    }
    let data = std::fs::read_to_string(MATRIX).map_err(|e| format!("{MATRIX}: {e}"))?;
    let matrix: Table = data.parse().map_err(|e| format!("{MATRIX}: {e}"))?;
    let rows = matrix
        .get("ran")
        .and_then(|r| r.as_array())
        .cloned()
        .unwrap_or_default();
    let rows: Vec<Table> = rows
        .into_iter()
        .filter_map(|r| r.as_table().cloned())
        .collect();
    if rows.contains(&row) {
        return Ok(());
    }
    if std::env::var_os("PF9_BLESS").is_some() {
        let of_this = |r: &Table| r.get("test") == row.get("test") && same_machine(r, &row);
        if rows.iter().any(of_this) {
            return Err(format!(
                "{MATRIX} has another row of {test}: take it out first\n{row}"
            ));
        }
        let table = format!("{}\n[[ran]]\n{row}", data);
        return std::fs::write(Path::new(MATRIX), table).map_err(|e| format!("{MATRIX}: {e}"));
    }
    let stack_is_known = rows.iter().any(|r| {
        let machine = ["systemd", "cgroup"];
        let parts = row
            .iter()
            .filter(|(key, _)| !machine.contains(&key.as_str()));
        parts
            .into_iter()
            .all(|(key, value)| r.get(key) == Some(value))
    });
    if stack_is_known {
        println!("the matrix does not have this machine:\n{row}");
        return Ok(());
    }
    Err(format!(
        "the matrix does not have what ran; PF9_BLESS=1 writes it:\n{row}"
    ))
}

/// The programs themselves are asked, not the manifest.
fn seen(test: &str, node: &str) -> Outcome<Table> {
    let object = kubectl(&["get", "node", node, "-o", "json"])?;
    let object: Value = serde_json::from_str(&object).map_err(|e| e.to_string())?;
    let info = |field: &str| {
        let value = object["status"]["nodeInfo"][field]
            .as_str()
            .unwrap_or_default();
        value
            .trim_start_matches("containerd://")
            .trim_start_matches('v')
            .to_owned()
    };
    let bin = "/opt/pf9/stacks/current";
    let asked = shell(
        node,
        &format!(
            "systemctl --version | head -n 1; {bin}/bin/etcd --version | head -n 1; \
             {bin}/bin/runc --version | head -n 1; {bin}/cni/bridge 2>&1 | head -n 1; \
             test -e /sys/fs/cgroup/cgroup.controllers && echo 2 || echo 1"
        ),
    )?;
    let lines: Vec<&str> = asked.lines().collect();
    let [systemd, etcd, runc, cni, cgroup] = lines[..] else {
        return Err(format!("the programs say {asked:?}"));
    };
    let word = |line: &str, at: usize| {
        let word = line.split_whitespace().nth(at).unwrap_or_default();
        word.trim_start_matches('v').to_owned()
    };
    let mut row = Table::new();
    let mut put = |key: &str, value: String| row.insert(key.to_owned(), value.into());
    put("test", test.to_owned());
    put("kubernetes", info("kubeletVersion"));
    put("containerd", info("containerRuntimeVersion"));
    put("etcd", word(etcd, 2));
    put("runc", word(runc, 2));
    put("cni_plugins", word(cni, 3));
    put("systemd", word(systemd, 1));
    let version: i64 = cgroup
        .trim()
        .parse()
        .map_err(|e| format!("{cgroup:?}: {e}"))?;
    row.insert("cgroup".to_owned(), version.into());
    Ok(row)
}

fn text<'a>(row: &'a Table, key: &str) -> &'a str {
    row.get(key).and_then(|v| v.as_str()).unwrap_or_default()
}

fn same_machine(a: &Table, b: &Table) -> bool {
    ["systemd", "cgroup"]
        .iter()
        .all(|key| a.get(*key) == b.get(*key))
}

/// The nodes of every test are alike.
pub(crate) fn all_ran(test: &str) -> Outcome {
    NODES.into_iter().try_for_each(|node| ran(test, node))
}
