//! `bundle`: nothing that is secret on a machine is in it, and what is looked for there is found when it is.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{chown, symlink};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::Value;

use super::*;
use crate::backup::seal;
use crate::cli::bundle::testing::{Made, archive_of};
use crate::model::{Secret, paths};

/// A private key as it lies on a node, and everything else that must stay secret.
struct Planted {
    secrets: Vec<(&'static str, String)>,
}

fn key(seed: u8) -> (String, String) {
    // Random, and the same with each run.
    let mut random = fastrand::Rng::with_seed(u64::from(seed));
    let der: Vec<u8> = (0..138).map(|_| random.u8(..)).collect();
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = body
        .as_bytes()
        .chunks(64)
        .filter_map(|c| std::str::from_utf8(c).ok())
        .collect();
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        lines.join("\n")
    );
    (pem, body)
}

fn random(seed: u64, len: usize) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.alphanumeric()).collect()
}

impl Planted {
    /// Puts a secret into every place of a node that has some, and each of them into logs in many dresses.
    fn on(rig: &Rig) -> Self {
        let mut secrets: Vec<(&'static str, String)> = Vec::new();
        let mut put = |name: &'static str, path: &str, text: &str, secret: &str| {
            rig.file(path, text);
            secrets.push((name, secret.to_owned()));
        };
        let places = [
            ("host key", paths::HOST_KEY),
            ("next key", paths::HOST_NEXT),
            ("service account key", paths::SERVICE_ACCOUNT_KEY),
            (
                "etcd peer key",
                "/etc/pf9/kube.d/certs/etcd/peer/request.key",
            ),
            (
                "kubelet key",
                "/etc/pf9/kube.d/certs/kubelet/server/request.key",
            ),
        ];
        for (n, (name, path)) in places.into_iter().enumerate() {
            let (pem, body) = key(u8::try_from(n).expect("few") + 1);
            put(name, path, &pem, &body);
        }
        let order = random(11, 43);
        let text = format!(
            "{{\"schema\":1,\"host_id\":\"6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11\",\"key\":\"{order}\"}}"
        );
        put("order key", paths::ORDER_KEY, &text, &order);
        let offered = random(24, 43);
        let text = text.replace(&order, &offered);
        let path = format!("{}/x.json", paths::ORDER_KEYS_OFFERED);
        put("offered order key", &path, &text, &offered);
        put(
            "proxy password",
            paths::PROXY_CREDENTIALS,
            "node:correct-horse\n",
            "correct-horse",
        );
        let archive = random(12, 40);
        let text = format!("aws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = {archive}\n");
        put(
            "archive key",
            paths::ETCD_ARCHIVE_CREDENTIALS,
            &text,
            &archive,
        );
        let ticket = random(13, 80);
        put(
            "ticket",
            paths::TICKETS,
            &format!("{{\"a\": \"{ticket}\"}}"),
            &ticket,
        );
        let (pem, _) = key(20);
        let data = STANDARD.encode(&pem);
        let text = format!("users:\n- name: admin\n  user:\n    client-key-data: {data}\n");
        put(
            "kubeconfig",
            "/etc/pf9/kube.d/kubeconfigs/admin.yaml",
            &text,
            &data,
        );
        let pod = format!("{}.{}.{}", random(14, 36), random(15, 120), random(16, 86));
        put(
            "pod token",
            "/var/lib/pf9/kubelet/pods/x/volumes/token",
            &pod,
            &pod,
        );
        let recovery = format!("AGE-SECRET-KEY-1{}", random(17, 58).to_uppercase());
        put("recovery key", "/root/recovery.key", &recovery, &recovery);
        // In the wrong place, as people do.
        let mine = random(18, 40);
        put(
            "in the configuration",
            paths::CONFIG,
            &format!("# my password is {mine}\n[log]\nlevel = \"info\"\n"),
            &mine,
        );
        let other = random(19, 40);
        put(
            "in another file of it",
            "/etc/pf9/conf.d/70-mine.toml",
            &format!("[mine]\napi = \"{other}\"\n{other} = 1\n"),
            &other,
        );
        let broken = random(21, 40);
        put(
            "in a broken one",
            "/etc/pf9/conf.d/80-broken.toml",
            &format!("password {broken}"),
            &broken,
        );
        let service = random(22, 40);
        put(
            "in the allow-list",
            "/etc/pf9/services.d/mine.toml",
            &format!(
                "[[service]]\nname = \"x\"\nconnect = \"http://u:{service}@127.0.0.1:1\"\nkey = \"{service}\"\n"
            ),
            &service,
        );
        for (path, text) in [
            (
                paths::KUBE_STATUS,
                "{\"nodeState\": \"ok\", \"token\": \"@\"}",
            ),
            (paths::ENDPOINTS, "[\"wss://user:@@plane.example\"]"),
        ] {
            let secret = random(23, 40);
            rig.file(path, &text.replacen('@', &secret, 1));
            secrets.push(("in a document", secret));
        }
        let planted = Self { secrets };
        planted.log(rig);
        planted
    }

    /// Every secret in every dress that a program may log it in.
    fn log(&self, rig: &Rig) {
        let now = crate::seam::clock::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string();
        let mut text = String::new();
        let add = |text: &mut String, words: String| {
            text.push_str(&format!("{now}  INFO kept {words}\n"));
        };
        for (_, secret) in &self.secrets {
            add(&mut text, format!("password={secret} kept"));
            add(
                &mut text,
                format!("env HTTPS_PROXY=http://user:{secret}@proxy:3128"),
            );
            add(&mut text, format!("Authorization: Bearer {secret}"));
            add(&mut text, format!("{{\"token\":\"{secret}\"}}"));
            add(&mut text, format!("--password {secret}"));
            add(&mut text, format!("as it is {secret}"));
            add(&mut text, format!("base64 {}", STANDARD.encode(secret)));
            add(
                &mut text,
                format!("within {}", STANDARD.encode(format!("a{secret}"))),
            );
            add(
                &mut text,
                format!("url {}", URL_SAFE.encode(format!("ab{secret}"))),
            );
        }
        for seed in [1, 2, 3, 4, 5, 20] {
            let (pem, body) = key(seed);
            text.push_str(&format!("{now} key follows\n{pem}{now} kept\n"));
            add(
                &mut text,
                format!("on one line {}", pem.replace('\n', "\\n")),
            );
            add(&mut text, format!("in base64 {}", STANDARD.encode(&pem)));
            // Broken in another way than it lies there.
            for part in body.as_bytes().chunks(40) {
                text.push_str(&format!("{}\n", String::from_utf8_lossy(part)));
            }
        }
        for path in [
            "comms/comms.log",
            "comms/audit.log",
            "hostagent/hostagent.log",
            "nodelet/nodelet.log",
            "kube/kube.log",
            "comms/comms.log.1",
        ] {
            rig.file(&format!("{}/{path}", paths::LOG_DIR), &text);
        }
        let journal = format!("#!/bin/sh\ncat <<'END'\n{text}END\n");
        rig.program("/usr/bin/journalctl", &journal);
    }

    /// What of them is in these bytes: whole, in part, in base64 wherever it begins, in hex.
    fn found_in(&self, bytes: &[u8]) -> Vec<String> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let mut found = Vec::new();
        for (name, secret) in &self.secrets {
            let mut dresses = vec![secret.clone(), hex(secret.as_bytes())];
            if secret.len() > 24 {
                // A part is as good as the whole to who knows where it is from.
                dresses.extend([
                    secret[4..24].to_owned(),
                    secret[secret.len() - 22..].to_owned(),
                ]);
            }
            for skip in 0..3 {
                let part = &secret.as_bytes()[skip..];
                let part = &part[..part.len() / 3 * 3];
                dresses.push(STANDARD.encode(part));
                dresses.push(URL_SAFE.encode(part));
            }
            let seen = dresses
                .iter()
                .find(|d| d.len() >= 8 && text.contains(d.as_str()));
            found.extend(seen.map(|d| format!("{name}: {d}")));
        }
        found
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Entries of an archive, by their names without the directory.
fn entries(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries().expect("entries") {
        let mut entry = entry.expect("entry");
        let path = entry.path().expect("path").display().to_string();
        let (_, name) = path.split_once('/').expect("in a directory");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("content");
        assert!(all.insert(name.to_owned(), bytes).is_none(), "{name} twice");
    }
    all
}

fn manifest(entries: &BTreeMap<String, Vec<u8>>) -> Value {
    let bytes = entries.get("MANIFEST.json").expect("manifest");
    let value = serde_json::from_slice(bytes).expect("json");
    schema::check("bundle-manifest.json", &value);
    value
}

impl Rig {
    async fn bundle(&self, more: &[&str]) -> (Ran, Vec<u8>) {
        let out = self.dir.path().join("out");
        drop(std::fs::remove_file(&out));
        let path = out.display().to_string();
        let ran = self.run(&[&["bundle", "-o", &path], more].concat()).await;
        let bytes = std::fs::read(&out).unwrap_or_default();
        (ran, bytes)
    }
}

#[tokio::test]
async fn no_secret_of_a_node_is_in_it_in_any_dress() {
    let rig = Rig::new();
    let planted = Planted::on(&rig);
    let (ran, bytes) = rig.bundle(&[]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    let tar = zstd::decode_all(bytes.as_slice()).expect("zstd");
    assert_eq!(planted.found_in(&tar), Vec::<String>::new());
    let entries = entries(&tar);
    let manifest = manifest(&entries);
    let files = manifest["files"].as_array().expect("files");
    let mut redactions = 0;
    for file in files {
        let name = file["name"].as_str().expect("name");
        redactions += file["redactions"].as_u64().expect("number");
        if file["error"].is_null() {
            let bytes = &entries[name];
            assert_eq!(file["bytes"].as_u64(), Some(bytes.len() as u64), "{name}");
            let digest = crate::model::Digest::of(bytes).to_string();
            assert_eq!(file["sha256"].as_str(), Some(digest.as_str()), "{name}");
        }
    }
    assert!(redactions > 100, "{redactions}");
    // It is of use anyway.
    let text = |name: &str| String::from_utf8_lossy(&entries[name]).into_owned();
    assert!(text("logs/comms/comms.log").matches(" INFO kept ").count() > 50);
    assert!(text("config/hostagent.toml").contains("level = \"info\""));
    assert!(text("state/kube_status.json").contains("\"nodeState\": \"ok\""));
    for own in ["check.json", "status.json", "version.json"] {
        serde_json::from_str::<Value>(&text(own)).expect(own);
    }
    let broken = files
        .iter()
        .find(|f| f["name"] == "config/conf.d/80-broken.toml");
    assert!(
        broken.expect("named")["error"].as_str().is_some(),
        "{manifest:#}"
    );
    assert!(!text("system/files.txt").is_empty());
}

/// The proof finds what is there: the same machine, without redaction.
#[tokio::test]
async fn the_proof_finds_a_leak() {
    let rig = Rig::new();
    let planted = Planted::on(&rig);
    let log = std::fs::read_to_string(rig.host.at("/var/log/pf9/comms/comms.log")).expect("log");
    let Made { tar, .. } = archive_of(&rig.host, &[("leak.log", &log)], false);
    let found = planted.found_in(&tar);
    assert_eq!(found.len(), planted.secrets.len(), "{found:#?}");
}

/// What was overlooked by everybody before does not leave the machine.
#[tokio::test]
async fn a_leak_is_kept_back_and_said() {
    let rig = Rig::new();
    let planted = Planted::on(&rig);
    for (name, secret) in planted
        .secrets
        .iter()
        .filter(|(n, _)| !n.starts_with("in ") && *n != "recovery key")
    {
        let text = format!("overlooked: {secret}\n");
        let Made { tar, .. } = archive_of(
            &rig.host,
            &[("leak.log", &text), ("good.log", "good\n")],
            true,
        );
        assert_eq!(planted.found_in(&tar), Vec::<String>::new(), "{name}");
        let entries = entries(&tar);
        assert!(
            !entries.contains_key("leak.log") && entries.contains_key("good.log"),
            "{name}"
        );
        let said = manifest(&entries)["files"][0]["error"].to_string();
        assert!(said.contains("left out"), "{name}: {said}");
    }
}

#[tokio::test]
async fn what_another_user_planted_leads_to_nothing_of_roots() {
    let rig = Rig::new();
    rig.file("/root/mine", "root's own words\n");
    let dir = format!("{}/comms", paths::LOG_DIR);
    rig.file(&format!("{dir}/comms.log"), "2999-01-01T00:00:00Z good\n");
    let at = |name: &str| rig.host.at(format!("{dir}/{name}"));
    symlink(rig.host.at("/root/mine"), at("link.log")).expect("link");
    std::fs::hard_link(rig.host.at("/root/mine"), at("second.log")).expect("hard link");
    nix::unistd::mkfifo(&at("pipe.log"), nix::sys::stat::Mode::S_IRUSR).expect("pipe");
    std::fs::create_dir(at("dir.log")).expect("dir");
    if nix::unistd::geteuid().is_root() {
        chown(rig.host.at(&dir), Some(4242), Some(4242)).expect("chown");
        chown(at("comms.log"), Some(4242), Some(4242)).expect("chown");
    }
    let (ran, bytes) = rig.bundle(&[]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    let tar = zstd::decode_all(bytes.as_slice()).expect("zstd");
    assert!(!String::from_utf8_lossy(&tar).contains("root's own words"));
    let entries = entries(&tar);
    assert!(entries.contains_key("logs/comms/comms.log"));
    let manifest = manifest(&entries);
    let error = |name: &str| {
        let files = manifest["files"].as_array().expect("files");
        let file = files
            .iter()
            .find(|f| f["name"] == format!("logs/comms/{name}"));
        file.expect(name)["error"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert!(
        error("link.log").contains("a link"),
        "{}",
        error("link.log")
    );
    assert!(error("pipe.log").contains("not a regular file"));
    assert!(error("dir.log").contains("not a regular file"));
    if nix::unistd::geteuid().is_root() {
        assert!(error("second.log").contains("second name"));
    }
}

#[tokio::test]
async fn it_can_be_opened_by_the_holder_of_the_key_alone() {
    let rig = Rig::new();
    let (private, public) = seal::new_key();
    let (ran, bytes) = rig.bundle(&["--encrypt-to", &public]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert!(
        ran.text.contains("only with the private key"),
        "{}",
        ran.text
    );
    assert!(zstd::decode_all(bytes.as_slice()).is_err());
    let open = |key: &Secret<String>| {
        let keys = seal::keys(key).expect("keys");
        let opened = age::Decryptor::new(bytes.as_slice()).expect("age");
        let mut plain = Vec::new();
        let reader = opened.decrypt(keys.iter().map(|k| &**k as &dyn age::Identity));
        reader.ok()?.read_to_end(&mut plain).ok()?;
        Some(plain)
    };
    let tar = zstd::decode_all(open(&private).expect("opened").as_slice()).expect("zstd");
    assert_eq!(manifest(&entries(&tar))["encrypted"], true);
    assert!(open(&seal::new_key().0).is_none());
    let (ran, bytes) = rig.bundle(&["--encrypt-to", "age1wrong"]).await;
    assert_eq!((ran.exit, bytes.len()), (Exit::Usage, 0), "{}", ran.text);
}

#[tokio::test]
async fn it_is_never_larger_than_was_asked_for_and_says_what_is_missing() {
    let rig = Rig::new();
    let mut noise = fastrand::Rng::with_seed(7);
    for part in ["comms", "hostagent", "nodelet"] {
        // Words that are not redacted and do not compress well.
        let text: String = (0..120_000)
            .map(|_| {
                let word: String = (0..12).map(|_| noise.alphanumeric()).collect();
                format!("2999-01-01T00:00:00Z {word} {}\n", noise.u32(..))
            })
            .collect();
        rig.file(&format!("{}/{part}/{part}.log", paths::LOG_DIR), &text);
    }
    let (ran, bytes) = rig.bundle(&["--max-size", "1M"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert!(bytes.len() <= 1 << 20, "{}", bytes.len());
    let entries = entries(&zstd::decode_all(bytes.as_slice()).expect("zstd"));
    let manifest = manifest(&entries);
    assert!(
        manifest.to_string().contains("reached its size limit"),
        "{manifest:#}"
    );
    assert!(ran.text.contains("reached its size limit"), "{}", ran.text);
    // The newest lines stay.
    let cut = entries.iter().filter(|(n, _)| n.starts_with("logs/"));
    assert!(cut.into_iter().all(|(_, b)| b.ends_with(b"\n")));
}

#[tokio::test]
async fn nothing_that_is_there_is_written_over() {
    let rig = Rig::new();
    rig.file("/mine", "mine");
    let path = rig.host.at("/mine").display().to_string();
    let ran = rig.run(&["bundle", "-o", &path]).await;
    assert_eq!(ran.exit, Exit::Failed, "{}", ran.text);
    symlink(rig.host.at("/made"), rig.host.at("/link")).expect("link");
    let path = rig.host.at("/link").display().to_string();
    assert_eq!(rig.run(&["bundle", "-o", &path]).await.exit, Exit::Failed);
    assert!(!rig.host.at("/made").exists());
    assert_eq!(
        std::fs::read_to_string(rig.host.at("/mine")).expect("read"),
        "mine"
    );
}

#[tokio::test]
async fn who_is_not_root_makes_none_and_anybody_may_see_what_would_be_in_it() {
    let mut rig = Rig::new();
    rig.uid = 1000;
    let (ran, bytes) = rig.bundle(&[]).await;
    assert_eq!((ran.exit, bytes.len()), (Exit::Refused, 0));
    let ran = rig.run(&["bundle", "--list"]).await;
    assert_eq!(ran.exit, Exit::Ok);
    golden("bundle-list.txt", &ran.text);
}

/// A file system that has room for the beginning only.
#[test]
fn a_full_disk_is_said_and_left_as_it_was() {
    let before = "mount --make-rprivate / && mount -t tmpfs none \"$1\" && mkdir \"$1/full\" && \
                  mount -t tmpfs -o size=16k none \"$1/full\"";
    let test = "cli::tests::bundle::a_full_disk_is_said_and_left_as_it_was";
    let Some(dir) = crate::host::testing::in_namespaces(test, &["--mount"], before) else {
        return;
    };
    let rig = Rig::new();
    let text: String = (0..20_000_u64)
        .map(|n| format!("2999-01-01T00:00:00Z {}\n", random(n, 12)))
        .collect();
    rig.file("/var/log/pf9/comms/comms.log", &text);
    let out = std::path::Path::new(&dir).join("full");
    let path = out.display().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    let ran = runtime.block_on(rig.run(&["bundle", "-o", &path]));
    assert_eq!(ran.exit, Exit::DiskFull, "{}", ran.text);
    assert!(ran.text.contains("-o -"), "{}", ran.text);
    assert_eq!(std::fs::read_dir(&out).expect("list").count(), 0);
}

#[tokio::test]
async fn logs_alone_are_what_components_logged_within_a_time_and_so_many_lines() {
    let rig = Rig::new();
    let planted = Planted::on(&rig);
    let ago = |s: i64| {
        let at = crate::seam::clock::now() - jiff::SignedDuration::from_secs(s);
        at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    };
    let line = |s: i64, words: &str| format!("{} {words}\n", ago(s));
    let log: String = [
        line(8000, "long ago"),
        line(7000, "first"),
        line(5000, "second"),
        line(4000, "third"),
        line(60, "just now"),
    ]
    .concat();
    rig.file(&format!("{}/nodelet/nodelet.log", paths::LOG_DIR), &log);
    // The output of containers and the API server's audit lie beside it, and must not be collected.
    for path in [
        "/var/log/pods/a_b_c/x/0.log",
        "/var/log/containers/x.log",
        "/var/log/pf9/containers/x.log",
        "/var/log/pf9/kube/audit/audit.log",
    ] {
        rig.file(path, &line(4000, "a pod's own words"));
    }
    let told = rig.host.at("/told").display().to_string();
    // What stands in kubelet's after every good start, and a fault of it.
    let mirror = "E1128 11:00:01.0 7 x.go:1] \"x\" err=\"no PriorityClass with name system-node-critical was found\"";
    let fault = "E1128 11:00:02.0 7 x.go:1] \"command failed\" err=\"no swap\"";
    let journal = format!(
        "#!/bin/sh\necho \"$@\" >> {told}\necho of the journal\ncase \"$*\" in *kubelet*) cat <<'END'\n\
         2026-11-28T11:00:01+0000 n kubelet[7]: {mirror}\n2026-11-28T11:00:02+0000 n kubelet[7]: {fault}\nEND\nesac\n"
    );
    rig.program("/usr/bin/journalctl", &journal);
    let span = ["--only", "logs", "--since", "2h", "--until", "1h"];
    let (ran, bytes) = rig.bundle(&span).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    let tar = zstd::decode_all(bytes.as_slice()).expect("zstd");
    assert_eq!(planted.found_in(&tar), Vec::<String>::new());
    let all = entries(&tar);
    for name in all.keys() {
        let is_log = name.starts_with("logs/") || name.starts_with("journal/");
        assert!(is_log || name == "MANIFEST.json", "{name}");
    }
    for component in ["pf9-etcd", "pf9-kubelet", "pf9-containerd", "pf9-comms"] {
        assert!(
            all.contains_key(&format!("journal/{component}.log")),
            "{all:#?}"
        );
    }
    assert!(!String::from_utf8_lossy(&tar).contains("a pod's own words"));
    let complaints = String::from_utf8_lossy(&all["journal/complaints.txt"]).into_owned();
    assert!(
        complaints.starts_with(
            "pf9-kubelet.service: 1 kinds of errors that matter; left out: 1 of every start"
        ) && complaints.contains("1 x  \"command failed\" err=\"no swap\"")
            && !complaints.contains("PriorityClass"),
        "{complaints}"
    );
    let text = |all: &BTreeMap<String, Vec<u8>>| {
        String::from_utf8_lossy(&all["logs/nodelet/nodelet.log"]).into_owned()
    };
    let said = text(&all);
    let words: Vec<&str> = said.lines().filter_map(|l| l.split(' ').nth(1)).collect();
    assert_eq!(words, ["first", "second", "third"], "{said}");
    assert!(manifest(&all)["until"].is_string());
    let asked = std::fs::read_to_string(rig.host.at("/told")).expect("journalctl");
    assert!(
        asked.contains("--since=@") && asked.contains("--until=@"),
        "{asked}"
    );
    let (ran, bytes) = rig.bundle(&[&span[..], &["--lines", "2"]].concat()).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    let all = entries(&zstd::decode_all(bytes.as_slice()).expect("zstd"));
    assert!(text(&all).contains("third") && !text(&all).contains("first"));
    assert_eq!(text(&all).lines().count(), 2);
    assert_eq!(manifest(&all)["lines"], 2);
    let asked = std::fs::read_to_string(rig.host.at("/told")).expect("journalctl");
    assert!(asked.contains("--lines=2 "), "{asked}");
    let (ran, _) = rig.bundle(&["--since", "1h", "--until", "2h"]).await;
    assert_eq!(ran.exit, Exit::Usage, "{}", ran.text);
}
