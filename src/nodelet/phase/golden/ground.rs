//! What is written stands on ground that others use too: another container runtime of the machine, and the machine's own
//! systemd.

use std::process::Command;

use super::{cases, flat, layout};
use crate::model::paths;
use crate::nodelet::phase::all;
use crate::nodelet::step::Step;

/// Where another containerd, and what people install beside it, has its own: no part of ours reads or writes there.
const THEIRS: [&str; 6] = [
    "/run/containerd",
    "/etc/containerd",
    "/var/lib/containerd",
    "/etc/crictl.yaml",
    "/opt/containerd",
    "/run/docker",
];

fn files() -> Vec<(&'static str, String, String)> {
    let mut files = Vec::new();
    for (name, ctx) in cases() {
        for step in flat(&all(&ctx)) {
            if let Step::File(file) = step {
                files.push((name, file.path.clone(), file.content.clone()));
            }
        }
    }
    assert!(files.len() > 50, "{}", files.len());
    files
}

/// Every word that begins at the root, as far as it is a path.
fn paths_in(text: &str) -> impl Iterator<Item = &str> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "/_.-".contains(c);
    text.split(move |c| !is_path(c)).filter_map(|word| {
        let at = word.find('/')?;
        word.get(at..)
    })
}

#[test]
fn another_runtime_of_the_machine_is_neither_used_nor_disturbed() {
    let mut sockets = 0;
    for (name, path, text) in files() {
        let named = std::iter::once(path.as_str()).chain(paths_in(&text));
        for word in named {
            let theirs = THEIRS.iter().find(|t| word.starts_with(**t));
            assert_eq!(theirs, None, "{name}: {path} names {word}");
        }
        sockets += text.matches(paths::CONTAINERD_SOCKET).count();
        // Its own address is said where this schema has it, or it would listen at everybody's.
        if path == layout::CONTAINERD_CONFIG {
            let config: toml::Table = text.parse().expect("TOML");
            let at = |path: &[&str]| {
                let mut value = config.get(path[0])?;
                for part in &path[1..] {
                    value = value.get(part)?;
                }
                value.as_str()
            };
            let said = at(&["grpc", "address"])
                .or_else(|| at(&["plugins", "io.containerd.server.v1.grpc", "address"]));
            assert_eq!(said, Some(paths::CONTAINERD_SOCKET), "{name}");
            for place in ["root", "state"] {
                let own = at(&[place]).unwrap_or_default();
                assert!(own.contains("pf9"), "{name}: {place} is {own:?}");
            }
        }
    }
    assert!(sockets > 0, "somebody has to be told where ours is");
}

/// By the `systemd-analyze` of the machine that tests; what a newer one says is in the matrix.
#[test]
fn every_unit_is_read_by_systemd_without_a_complaint() {
    let dir = tempfile::tempdir().expect("tempdir");
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let shipped = std::fs::read_dir(shipped).expect("units").map(|entry| {
        let path = entry.expect("entry").path();
        let text = std::fs::read_to_string(&path).expect("unit");
        (path.display().to_string(), text)
    });
    let rendered = files().into_iter().map(|(_, path, text)| (path, text));
    let units = rendered
        .filter(|(path, _)| path.starts_with(layout::UNIT_DIR))
        .chain(shipped)
        .filter(|(path, _)| path.ends_with(".service") || path.ends_with(".socket"));
    let mut names = Vec::new();
    for (path, text) in units {
        let name = path.rsplit('/').next().expect("a name").to_owned();
        // The programs are not there, nor the users: this is about what units say.
        let joined = text.replace("\\\n", " ");
        let lines = joined.lines().map(|line| match line.split_once('=') {
            Some((key, _)) if key.starts_with("Exec") => format!("{key}=/bin/true"),
            Some(("User" | "Group" | "SupplementaryGroups" | "SocketUser" | "SocketGroup", _)) => {
                String::new()
            }
            Some(_) | None => line.to_owned(),
        });
        let text: Vec<String> = lines.collect();
        std::fs::write(dir.path().join(&name), text.join("\n") + "\n").expect("write");
        names.push(name);
    }
    names.sort();
    names.dedup();
    assert!(names.len() >= 10, "{names:?}");
    let said = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(names.iter().map(|name| dir.path().join(name)))
        .env("SYSTEMD_UNIT_PATH", format!("{}:", dir.path().display()))
        .output()
        .expect("systemd-analyze");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("pf9-")).collect();
    assert!(ours.is_empty(), "{}", ours.join("\n"));
}
