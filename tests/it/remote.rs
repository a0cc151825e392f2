//! `--ip`: many hosts through the system's own ssh. Here each host is a real sshd with a key of its own, on a port of
//! its own; behind it runs this build's pf9ctl, or a script in its place. Run as root, as all of scripts/test is: only
//! root's sshd can log somebody in.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::program;

const FIT: &str =
    r#"{"schema":2,"verdict":"ok","checks":[{"id":"swap","outcome":"ok","found":"off"}]}"#;
/// Whatever a person's configuration says about unknown keys.
const CARELESS: &str =
    "Host *\n  StrictHostKeyChecking no\n  GlobalKnownHostsFile /dev/null\n  LogLevel ERROR\n";

/// Hosts on the loopback, each behind an sshd.
struct Hosts(tempfile::TempDir);

impl Hosts {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        // sshd needs an empty directory owned by root: its package creates it at boot.
        fs::create_dir_all("/run/sshd").expect("directory");
        let this = Self(dir);
        this.key("me");
        let public = fs::read(this.at("me.pub")).expect("key");
        fs::write(this.at("authorized"), public).expect("write");
        this
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn add(&self, file: &str, text: &str) {
        let old = fs::read_to_string(self.at(file)).unwrap_or_default();
        fs::write(self.at(file), old + text).expect("write");
    }

    fn key(&self, name: &str) -> String {
        let args = ["-q", "-t", "ed25519", "-N", "", "-f"];
        let made = Command::new("ssh-keygen")
            .args(args)
            .arg(self.at(name))
            .status();
        assert!(made.expect("ssh-keygen").success());
        fs::read_to_string(self.at(&format!("{name}.pub"))).expect("key")
    }

    /// A host with a known key.
    fn host(&self, name: &str) {
        let key = self.stranger(name);
        self.add("known", &format!("{name} {key}"));
    }

    /// One with an unknown key; returns its key.
    fn stranger(&self, name: &str) -> String {
        let key = self.key(&format!("{name}.key"));
        let bin = self.at(&format!("{name}.bin"));
        fs::create_dir_all(&bin).expect("directory");
        let conf = self.at(&format!("{name}.sshd"));
        let text = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             PermitRootLogin prohibit-password\nPidFile none\nLogLevel ERROR\nSetEnv PATH={bin}:/usr/bin:/bin\n",
            self.at(&format!("{name}.key")),
            self.at("authorized")
        );
        fs::write(&conf, text).expect("write");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        self.alias(name, port);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.expect("connection"), &conf);
            }
        });
        key
    }

    fn alias(&self, name: &str, port: u16) {
        let text = format!(
            "Host {name}\n  HostName 127.0.0.1\n  Port {port}\n  HostKeyAlias {name}\n  UserKnownHostsFile {}\n",
            self.at("known")
        );
        self.add("config", &text);
    }

    /// The program called pf9ctl there.
    fn runs(&self, name: &str, script: &str) {
        let path = self.at(&format!("{name}.bin/pf9ctl"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
    }

    fn said(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.at(name)).ok()
    }

    fn pf9ctl(&self, args: &[&str], stdin: &str) -> Output {
        self.add("config", CARELESS);
        let input = self.at("stdin");
        fs::write(&input, stdin).expect("write");
        Command::new(program("pf9ctl"))
            .args(args)
            .args([
                "--ssh-key",
                &self.at("me"),
                "--ssh-config",
                &self.at("config"),
            ])
            .current_dir(self.0.path())
            .env_remove("SSH_AUTH_SOCK")
            .stdin(fs::File::open(input).expect("open"))
            .output()
            .expect("pf9ctl")
    }
}

/// One connection: sshd as inetd starts it.
fn serve(stream: TcpStream, conf: &str) {
    let out: OwnedFd = stream.try_clone().expect("clone").into();
    let mut child = Command::new("/usr/sbin/sshd")
        .args(["-i", "-e", "-f", conf])
        .stdin(Stdio::from(OwnedFd::from(stream)))
        .stdout(Stdio::from(out))
        .stderr(Stdio::null())
        .spawn()
        .expect("sshd");
    std::thread::spawn(move || drop(child.wait()));
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

fn of<'a>(report: &'a Value, host: &str) -> &'a Value {
    let hosts = report["hosts"].as_array().expect("hosts");
    hosts.iter().find(|h| h["host"] == host).expect("this host")
}

#[test]
fn hosts_are_checked_side_by_side_and_each_has_its_result() {
    let hosts = Hosts::new();
    for name in ["real", "one", "two", "away", "bare"] {
        match name {
            "away" => {
                // Nobody listens there any more.
                let port = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr();
                hosts.alias(name, port.expect("address").port());
            }
            _ => hosts.host(name),
        }
    }
    let real = Path::new(&hosts.at("real.bin")).join("pf9ctl");
    std::os::unix::fs::symlink(program("pf9ctl"), real).expect("link");
    // Each waits for the other: run one by one they would never end.
    let fifo = hosts.at("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .expect("mkfifo")
            .success()
    );
    let args = hosts.at("args");
    hosts.runs(
        "one",
        &format!("for a; do echo \"$a\"; done > {args}; echo x > {fifo}; echo '{FIT}'"),
    );
    hosts.runs("two", &format!("read x < {fifo}; echo '{FIT}'"));
    let reason = "it's $(reboot); `x` \"y\"";
    let skip = format!("swap={reason}");
    let words = [
        "node",
        "check",
        "--ip",
        "one,two,real",
        "--ip",
        "away,bare",
        "--parallel",
        "2",
    ];
    let output = hosts.pf9ctl(&[&words[..], &["--json", "--skip", &skip]].concat(), "");
    let report = json(&output);
    assert_eq!(output.status.code(), Some(8), "{report:#}");
    let order: Vec<&str> = report["hosts"]
        .as_array()
        .expect("hosts")
        .iter()
        .filter_map(|h| h["host"].as_str())
        .collect();
    assert_eq!(order, ["one", "two", "real", "away", "bare"]);
    for name in ["one", "two"] {
        assert_eq!(of(&report, name)["stand"], "done", "{report:#}");
        assert_eq!(of(&report, name)["answer"]["verdict"], "ok");
    }
    // The findings depend on this machine; that the report is complete does not.
    let real = of(&report, "real");
    assert!(
        real["answer"]["checks"]
            .as_array()
            .is_some_and(|c| c.len() > 40),
        "{real:#}"
    );
    assert!(
        matches!(real["stand"].as_str(), Some("done" | "failed")),
        "{real:#}"
    );
    let skipped = real["answer"]["checks"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["id"] == "swap");
    assert_eq!(
        skipped.map(|c| &c["why"]),
        Some(&format!("by --skip: {reason}").into()),
        "as it was given"
    );
    assert_eq!(
        (&of(&report, "away")["stand"], &of(&report, "away")["exit"]),
        (&"unreachable".into(), &69.into())
    );
    assert_eq!(of(&report, "bare")["stand"], "silent");
    let words = hosts.said("args").expect("it was run");
    assert_eq!(
        words.lines().collect::<Vec<_>>(),
        [
            "node",
            "check",
            "--output",
            "json",
            &format!("--skip={skip}")
        ]
    );
}

#[test]
fn a_host_with_an_untrusted_key_gets_no_command_and_no_token() {
    let hosts = Hosts::new();
    hosts.host("one");
    let key = hosts.stranger("new");
    drop(key);
    hosts.stranger("swapped");
    let other = hosts.key("other.key");
    hosts.add("known", &format!("swapped {other}"));
    for name in ["one", "new", "swapped"] {
        let heard = hosts.at(&format!("{name}.heard"));
        hosts.runs(
            name,
            &format!("echo \"$@\" > {heard}; cat >> {heard}; echo '{{\"host_id\":\"x\"}}'"),
        );
    }
    let ca = "a".repeat(64);
    let token = |n: usize| format!("pf9t1.{ca}.{}", format!("{n}").repeat(43));
    let tokens: Vec<String> = (1..4).map(token).collect();
    let words = [
        "node",
        "prep",
        "--ip",
        "one,new,swapped",
        "--plane",
        "https://plane.example",
    ];
    let both = [&words[..], &["--token-file", "-"]].concat();
    let output = hosts.pf9ctl(&both, &tokens.join("\n"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        output.status.code(),
        Some(8),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let heard = hosts.said("one.heard").expect("it was run");
    let (args, stdin) = heard.split_once('\n').expect("arguments");
    assert_eq!(stdin, format!("{}\n", tokens[0]), "its own, and no other");
    assert!(
        args.ends_with("--token-file=-") && !args.contains("pf9t1"),
        "{args}"
    );
    for name in ["new", "swapped"] {
        assert_eq!(hosts.said(&format!("{name}.heard")), None, "{name}");
        assert!(
            text.contains(&format!("{name}: ssh does not trust its host key")),
            "{text}"
        );
    }
    // As many tokens as hosts, before any host is contacted.
    fs::remove_file(hosts.at("one.heard")).expect("remove");
    let output = hosts.pf9ctl(&both, &tokens[..2].join("\n"));
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert_eq!(hosts.said("one.heard"), None);
}

#[test]
fn no_more_hosts_than_requested_are_contacted_at_a_time() {
    let hosts = Hosts::new();
    let names: Vec<String> = (0..6).map(|n| format!("h{n}")).collect();
    let log = hosts.at("log");
    for name in &names {
        hosts.host(name);
        // An appended line is a single write.
        hosts.runs(
            name,
            &format!(
                "echo + >> {log}; cat /proc/self/environ > /dev/null; echo - >> {log}; echo '{FIT}'"
            ),
        );
    }
    let all = names.join(",");
    let output = hosts.pf9ctl(
        &[
            "check-node",
            "--ip",
            &all,
            "--parallel",
            "2",
            "--output",
            "json-stream",
        ],
        "",
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let lines: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).expect("json"))
        .collect();
    assert_eq!(lines.len(), names.len() + 1);
    assert_eq!(lines.last().map(|l| &l["done"]), Some(&6.into()), "{text}");
    let (mut now, mut most) = (0i32, 0);
    for line in hosts.said("log").expect("log").lines() {
        now += if line == "+" { 1 } else { -1 };
        most = most.max(now);
    }
    assert!(most <= 2, "{most} at a time");
}
