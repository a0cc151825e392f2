mod keys;

use super::plane::{Manner, Plane, foreign_token};
use super::*;
use crate::host::fs::Found;
use crate::model::{
    FaultCode, HostId, HostStatus, NodeState, Timestamp, TunnelState, TunnelStatus, paths,
};

fn tunnel(state: TunnelState, last_fault: Option<Fault>) -> TunnelStatus {
    TunnelStatus {
        schema: 1,
        orders: Vec::new(),
        state,
        endpoint: None,
        rtt_us: Some(4100),
        streams: 0,
        bytes_in: 0,
        bytes_out: 0,
        last_contact: None,
        last_fault,
        sessions: Vec::new(),
        certificates: Vec::new(),
    }
}

fn up() -> TunnelStatus {
    let since = crate::seam::clock::now();
    tunnel(TunnelState::Connected { since }, None)
}

fn down() -> TunnelStatus {
    let fault = Fault::new(
        FaultCode::PlaneRefused,
        "the tunnel cannot be made",
        "127.0.0.1:1 does not accept connections",
    )
    .fix("check that the plane runs");
    tunnel(TunnelState::Connecting, Some(fault))
}

fn host_status(acknowledged_at: Option<Timestamp>) -> HostStatus {
    HostStatus {
        acknowledged_at,
        ..super::status::host_status(NodeState::Ok, None)
    }
}

impl Rig {
    fn daemons(&self, tunnel: TunnelStatus) {
        self.serve(paths::COMMS_SOCKET, move |_| ok_json(&tunnel));
        self.serve(paths::HOSTAGENT_SOCKET, |_| {
            ok_json(&host_status(Some(Timestamp::MAX)))
        });
    }

    pub(super) fn daemons_are_up(&self) {
        self.daemons(up());
    }

    pub(super) fn token(&self, text: &str) -> String {
        self.file("/root/token", text);
        self.host.at("/root/token").display().to_string()
    }

    pub(super) async fn prep(&self, url: &str, token: &str, more: &[&str]) -> Ran {
        let token = self.token(token);
        // The disk is this machine's own.
        let line = [
            "prep-node",
            "--plane",
            url,
            "--token-file",
            &token,
            "--skip",
            "disk",
        ];
        let line: Vec<&str> = line.iter().chain(more).copied().collect();
        self.run(&line).await
    }
}

#[tokio::test]
async fn a_bare_machine_becomes_a_host_and_again_is_harmless() {
    let rig = Rig::new();
    let plane = Plane::start(Manner::Accept).await;
    rig.daemons(up());
    let ran = rig.prep(&plane.url, &plane.token, &[]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    for words in [
        "✓ enrolled as host",
        "✓ tunnel is up",
        "✓ the plane has accepted a status",
        " PREPARED ",
    ] {
        assert!(ran.text.contains(words), "{words}: {}", ran.text);
    }
    for unit in super::super::context::AGENT_UNITS {
        assert!(
            rig.unit_is(unit, "enabled") && rig.unit_is(unit, "active"),
            "{unit}"
        );
    }
    assert!(
        crate::identity::load(&rig.host, &crate::identity::TlsPolicy::default())
            .expect("identity")
            .is_some()
    );
    assert!(!rig.host.at("/etc/pf9/.before").exists());
    for (path, root_only) in [(paths::ROOT_DIR, 0o700), (paths::ORDER_KEY, 0o600)] {
        let (Found::Dir { mode, .. } | Found::File { mode, .. }) =
            rig.host.found(path).expect(path)
        else {
            panic!("{path} does not exist");
        };
        assert_eq!(mode, root_only, "{path}: {mode:o}");
    }

    let files = rig.files();
    let again = rig.prep(&plane.url, &plane.token, &[]).await;
    assert_eq!(again.exit, Exit::Ok, "{}", again.text);
    assert!(
        again.text.contains("the token is not used"),
        "{}",
        again.text
    );
    assert_eq!(rig.files(), files, "nothing is written the second time");
    let none = rig.prep(&plane.url, "hello", &["--skip-connected"]).await;
    assert!(none.text.contains("nothing was done"), "{}", none.text);
    let used = rig.prep(&plane.url, "hello", &[]).await;
    assert_eq!(used.exit, Exit::BadData);
    assert!(
        !used.text.contains("undone"),
        "nothing was done: {}",
        used.text
    );
    assert_eq!(rig.calls().matches("restart").count(), 3, "{}", rig.calls());
}

#[tokio::test]
async fn the_json_value_stands_alone() {
    let mut rig = Rig::new();
    rig.json = true;
    let plane = Plane::start(Manner::Accept).await;
    rig.daemons(up());
    let id = "6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11";
    let ran = rig
        .prep(&plane.url, &plane.token, &["--json", "--host-id", id])
        .await;
    let value: serde_json::Value = serde_json::from_str(&ran.text).expect("one JSON value");
    assert_eq!(value["host_id"], id);
    assert_eq!(
        (&value["enrolled"], &value["rtt_us"]),
        (&true.into(), &4100.into())
    );
}

#[tokio::test]
async fn another_plane_is_refused_unless_forced() {
    let rig = Rig::new();
    let (first, second) = (
        Plane::start(Manner::Accept).await,
        Plane::start(Manner::Accept).await,
    );
    rig.daemons(up());
    assert_eq!(rig.prep(&first.url, &first.token, &[]).await.exit, Exit::Ok);
    let id = crate::identity::host_id(&rig.host).expect("id");
    let files = rig.files();
    let key = |rig: &Rig| rig.host.read(paths::ORDER_KEY, 4096).expect("read");
    let had = key(&rig);
    let ran = rig.prep(&second.url, &second.token, &[]).await;
    assert_eq!(ran.exit, Exit::Failed);
    assert!(
        ran.text.contains("it is a host of the plane 127.0.0.1:"),
        "{}",
        ran.text
    );
    assert!(
        ran.text.contains("node decommission first, or --force"),
        "{}",
        ran.text
    );
    let mut now = rig.files();
    now.insert(
        "root/token".into(),
        files[std::path::Path::new("root/token")].clone(),
    );
    assert_eq!(now, files);
    let ran = rig.prep(&second.url, &second.token, &["--force"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert_eq!(
        crate::identity::host_id(&rig.host).expect("id"),
        id,
        "the id stays"
    );
    assert!(
        had.is_some() && key(&rig) == had,
        "and what root orders with"
    );
}

/// A bad input: what spoils the machine, URL and token, the exit code, and words of the one line.
struct Bad {
    name: &'static str,
    spoil: fn(&mut Rig),
    url: Option<&'static str>,
    token: Option<String>,
    manner: Manner,
    exit: Exit,
    words: &'static [&'static str],
}

fn bad(name: &'static str, exit: Exit, words: &'static [&'static str]) -> Bad {
    Bad {
        name,
        spoil: |_| {},
        url: None,
        token: None,
        manner: Manner::Accept,
        exit,
        words,
    }
}

fn refused_token(code: FaultCode, why: &str) -> Manner {
    Manner::Refuse(
        Fault::new(code, "cannot enrol this host", why).fix("make a new token on the plane"),
    )
}

type Words = &'static [&'static str];
type SpoiltMachine = (&'static str, fn(&mut Rig), Exit, Words);

fn bad_inputs() -> Vec<Bad> {
    let machine: Vec<SpoiltMachine> = vec![
        (
            "not root",
            |r| r.uid = 1000,
            Exit::Refused,
            &["it needs root", "sudo"],
        ),
        (
            "swap on",
            |r| r.file("/proc/swaps", "Filename\n/dev/sda2 partition 1 0 -2\n"),
            Exit::NotReady,
            &["swap: on (/dev/sda2), wanted off", "swapoff -a"],
        ),
        (
            "port taken",
            |r| {
                r.file(
                    "/proc/net/tcp",
                    "h\n0: 00000000:280A 0:0 0A 0:0 0:0 0 0 0 7 1\n",
                );
                r.file("/proc/812/comm", "nginx\n");
                r.host.link("/proc/812/fd/4", "socket:[7]").expect("link");
            },
            Exit::NotReady,
            &[
                "10250 (kubelet) is taken by nginx, process 812",
                "stop that program",
            ],
        ),
        (
            "unsupported distribution",
            |r| {
                r.file(
                    "/etc/os-release",
                    "ID=alpine\nPRETTY_NAME=\"Alpine Linux v3.20\"\n",
                )
            },
            Exit::Unsupported,
            &[
                "distribution: Alpine Linux v3.20",
                "use a supported distribution",
            ],
        ),
        (
            "unknown configuration keys",
            |r| {
                r.file("/etc/pf9/hostagent.toml", "[comms]\npong = 1\n");
                r.file("/etc/pf9/conf.d/a.toml", "[nodelet]\nsweeep = 2\n");
            },
            Exit::Config,
            &[
                "/etc/pf9/hostagent.toml: comms.pong",
                "/etc/pf9/conf.d/a.toml: nodelet.sweeep",
                "correct the named keys",
            ],
        ),
        (
            "a unit that does not start",
            |r| r.unit("pf9-hostagent.service", &["broken"]),
            Exit::Failed,
            &[
                "cannot start the agent",
                "pf9-hostagent.service is broken",
                "journalctl",
            ],
        ),
    ];
    let plane: Vec<(&'static str, Manner, Exit, Words)> = vec![
        (
            "wrong token",
            refused_token(
                FaultCode::TokenUnknown,
                "the plane does not know this token",
            ),
            Exit::Refused,
            &["does not know this token", "make a new token"],
        ),
        (
            "used token",
            refused_token(FaultCode::TokenUsed, "the token was used"),
            Exit::Refused,
            &["the token was used", "make a new token"],
        ),
        (
            "expired token",
            refused_token(FaultCode::TokenExpired, "the token expired an hour ago"),
            Exit::Refused,
            &["expired an hour ago"],
        ),
        (
            "garbage",
            Manner::Garbage,
            Exit::BadData,
            &[
                "does not answer like a management plane",
                "check host and port",
            ],
        ),
    ];
    let mut all: Vec<Bad> = machine
        .into_iter()
        .map(|(name, spoil, exit, words)| Bad {
            spoil,
            ..bad(name, exit, words)
        })
        .collect();
    all.extend(plane.into_iter().map(|(name, manner, exit, words)| Bad {
        manner,
        ..bad(name, exit, words)
    }));
    all.extend([
        Bad {
            token: Some("hello".into()),
            ..bad(
                "malformed token",
                Exit::BadData,
                &["cannot read the enrolment token", "copy the whole line"],
            )
        },
        Bad {
            token: Some(foreign_token()),
            ..bad(
                "foreign certificate",
                Exit::Untrusted,
                &[
                    "the certificate of 127.0.0.1 is not trusted",
                    "use a token of that plane",
                ],
            )
        },
        Bad {
            url: Some("https://no-such-plane.invalid"),
            ..bad(
                "a name that does not resolve",
                Exit::Unavailable,
                &["the name no-such-plane.invalid cannot be resolved", "DNS"],
            )
        },
        Bad {
            url: Some("https://127.0.0.1:1"),
            ..bad(
                "a port that refuses",
                Exit::Unavailable,
                &["127.0.0.1:1 does not accept connections", "firewalls"],
            )
        },
        Bad {
            url: Some("http://plane"),
            ..bad("no https", Exit::Usage, &["does not begin with https://"])
        },
    ]);
    all
}

/// Each is one line with what, why and what to do, has its exit code, and changes nothing.
#[tokio::test]
async fn every_bad_input_is_told_and_nothing_is_lost() {
    for case in bad_inputs() {
        let name = case.name;
        let mut rig = Rig::new();
        let plane = Plane::start(case.manner).await;
        rig.daemons(up());
        (case.spoil)(&mut rig);
        let token = case.token.as_deref().unwrap_or(&plane.token);
        rig.token(token);
        let before = rig.files();
        let ran = rig.prep(case.url.unwrap_or(&plane.url), token, &[]).await;
        assert_eq!(ran.exit, case.exit, "{name}: {}", ran.text);
        let line = ran.text.lines().last().unwrap_or_default();
        assert!(line.starts_with("pf9ctl: "), "{name}: {}", ran.text);
        for words in case.words {
            assert!(line.contains(words), "{name}: {words:?} not in {line}");
        }
        assert!(!ran.text.contains("s3cret"), "{name}: the secret is shown");
        let mut after = rig.files();
        let offered = paths::ORDER_KEYS_OFFERED.trim_start_matches('/');
        let had = after.len();
        after.retain(|path, _| !path.starts_with(offered));
        // Only where the answer cannot be read does the plane perhaps know the key that was made for it.
        assert_eq!(had - after.len(), usize::from(name == "garbage"), "{name}");
        assert_eq!(after, before, "{name}");
        for unit in super::super::context::AGENT_UNITS {
            assert!(!rig.unit_is(unit, "enabled"), "{name}: {unit} is enabled");
            assert!(!rig.unit_is(unit, "active"), "{name}: {unit} runs");
        }
    }
}

#[tokio::test]
async fn a_tunnel_that_does_not_come_up_says_why_and_the_old_identity_is_back() {
    let rig = Rig::new();
    let plane = Plane::start(Manner::Accept).await;
    let daemons = rig.serve(paths::COMMS_SOCKET, |_| ok_json(&up()));
    rig.serve(paths::HOSTAGENT_SOCKET, |_| {
        ok_json(&host_status(Some(Timestamp::MAX)))
    });
    assert_eq!(rig.prep(&plane.url, &plane.token, &[]).await.exit, Exit::Ok);
    let before = rig.files();
    daemons.abort();
    rig.serve(paths::COMMS_SOCKET, |_| ok_json(&down()));

    let ran = rig
        .prep(&plane.url, &plane.token, &["--force", "--wait", "1"])
        .await;
    assert_eq!(ran.exit, Exit::Unavailable, "{}", ran.text);
    for words in [
        "the tunnel to the plane did not come up within 1 s",
        "127.0.0.1:1 does not accept connections",
        "check that the plane runs; the next try needs a new token",
        "undone: everything is as it was before",
    ] {
        assert!(ran.text.contains(words), "{words}: {}", ran.text);
    }
    assert_eq!(rig.files(), before, "the old identity is back");
    for unit in super::super::context::AGENT_UNITS {
        assert!(
            rig.unit_is(unit, "enabled") && rig.unit_is(unit, "active"),
            "{unit}"
        );
    }
}

#[tokio::test]
async fn a_plane_that_takes_no_status_is_not_success() {
    let rig = Rig::new();
    let plane = Plane::start(Manner::Accept).await;
    rig.serve(paths::COMMS_SOCKET, |_| ok_json(&up()));
    // An acknowledgement from before this run does not count.
    rig.serve(paths::HOSTAGENT_SOCKET, |_| {
        ok_json(&host_status(Some(Timestamp::UNIX_EPOCH)))
    });
    let ran = rig.prep(&plane.url, &plane.token, &["--wait", "1"]).await;
    assert_eq!(ran.exit, Exit::Unavailable, "{}", ran.text);
    assert!(
        ran.text.contains("the plane has not accepted a status"),
        "{}",
        ran.text
    );
    assert_eq!(crate::identity::host_id(&rig.host).expect("id"), None);
}

#[tokio::test]
async fn a_host_of_before_need_not_wait_for_its_next_status() {
    let rig = Rig::new();
    let plane = Plane::start(Manner::Accept).await;
    rig.serve(paths::COMMS_SOCKET, |_| ok_json(&up()));
    let heard = Shared::new(Timestamp::MAX);
    let answer = heard.clone();
    rig.serve(paths::HOSTAGENT_SOCKET, move |_| {
        ok_json(&host_status(Some(answer.get())))
    });
    assert_eq!(rig.prep(&plane.url, &plane.token, &[]).await.exit, Exit::Ok);
    heard.set(crate::seam::clock::now() - jiff::SignedDuration::from_secs(50));
    let ran = rig.prep(&plane.url, &plane.token, &["--wait", "1"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    heard.set(crate::seam::clock::now() - jiff::SignedDuration::from_secs(500));
    let ran = rig.prep(&plane.url, &plane.token, &["--wait", "1"]).await;
    assert_eq!(ran.exit, Exit::Unavailable, "{}", ran.text);
    assert!(
        rig.unit_is("pf9-comms.service", "active"),
        "what ran is not disturbed"
    );
    assert!(!rig.calls().contains("stop "), "{}", rig.calls());
}

#[tokio::test]
async fn a_signal_undoes_what_was_begun() {
    let rig = Rig::new();
    let plane = Plane::start(Manner::Accept).await;
    let ctx = rig.context();
    let stop = ctx.stop.clone();
    // The first question to comms is the moment: everything is written and started by then.
    rig.serve(paths::COMMS_SOCKET, move |_| {
        stop.cancel();
        ok_json(&down())
    });
    let token = rig.token(&plane.token);
    let before = rig.files();
    let line = [
        "prep-node",
        "--plane",
        &plane.url,
        "--token-file",
        &token,
        "--skip",
        "disk",
    ];
    let ran = rig.run_in(&ctx, &line).await;
    assert_eq!(ran.exit, Exit::Interrupted, "{}", ran.text);
    assert_eq!(rig.files(), before);
    assert!(!rig.unit_is("pf9-comms.service", "active"));
}

#[tokio::test]
async fn two_runs_at_once_are_one_too_many() {
    let rig = Rig::new();
    let ctx = rig.context();
    let _held = ctx.lock("test").expect("lock");
    let ran = rig.prep("https://127.0.0.1:1", "x", &[]).await;
    assert_eq!(ran.exit, Exit::Failed);
    assert!(
        ran.text
            .contains("wait until the other pf9ctl has finished"),
        "{}",
        ran.text
    );
}
