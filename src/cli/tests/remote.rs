//! Many hosts: what a person sees, and what a program reads. The way to them is tests/it/remote.rs.

use super::super::output::Show;
use super::super::remote::Everybody;
use super::super::remote::answer::{HostAnswer, answer_of};
use super::super::remote::call::target;
use super::*;
use crate::host::exec::{ProgramEnd, ProgramOutput};

fn answer(host: &str, code: i32, stdout: &str, stderr: &str) -> HostAnswer {
    let said = ProgramOutput {
        ended: ProgramEnd::Code(code),
        stdout: stdout.into(),
        stderr: stderr.into(),
    };
    answer_of(&target(host).expect("host"), Ok(said), 1200)
}

#[test]
fn many_hosts_are_one_screen_and_one_document() {
    let good = r#"{"checks":[{"id":"swap","outcome":"ok","found":"off"}]}"#;
    let bad = r#"{"checks":[{"id":"swap","outcome":"fail","found":"swap is on: /dev/sda2"}]}"#;
    let hosts = vec![
        answer("10.0.0.5", 0, good, ""),
        answer("10.0.0.6", 75, bad, ""),
        answer("node-7", 255, "", "Host key verification failed."),
        answer(
            "node-8",
            255,
            "",
            "ssh: connect to host node-8 port 22: Connection refused",
        ),
    ];
    let some = Everybody::of("node check", hosts.clone());
    golden("many-hosts.txt", &some.screen(100).text(false));
    schema::check("hosts.json", &serde_json::to_value(&some).expect("json"));
    let all = Everybody::of("node check", hosts[..1].to_vec());
    golden("many-hosts-all.txt", &all.screen(100).text(false));
}

/// Before anybody is gone to.
#[tokio::test]
async fn what_cannot_be_meant_is_refused_here() {
    let rig = Rig::new();
    let plane = ["--plane", "https://plane.example"];
    let prep = |more: &[&'static str]| [&["prep-node", "--ip", "a,b"], &plane[..], more].concat();
    for (line, words) in [
        (
            vec!["check-node", "--ip", "a,b", "--ip", "a"],
            "named twice",
        ),
        (
            vec!["check-node", "--ip", "a", "--ssh-key", "/nowhere"],
            "/nowhere",
        ),
        (
            prep(&[
                "--dry-run",
                "--host-id",
                "6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11",
            ]),
            "--host-id is for one host",
        ),
        (prep(&["--token-file", "/dev/null"]), "2 hosts and 0 tokens"),
        (
            prep(&["--dry-run", "--skip", "no-such-check=x"]),
            "no-such-check",
        ),
    ] {
        rig.file("/usr/bin/ssh", "#!/bin/sh\n");
        let ran = rig.run(&line).await;
        assert_eq!(ran.exit, Exit::Usage, "{line:?}: {}", ran.text);
        assert!(ran.text.contains(words), "{line:?}: {}", ran.text);
    }
    std::fs::remove_file(rig.host.at("/usr/bin/ssh")).expect("remove");
    let ran = rig.run(&["check-node", "--ip", "a"]).await;
    assert!(ran.text.contains("openssh-client"), "{}", ran.text);
}
