//! Rules and routes of the pod network, in the real packet filter and routing table of a namespace of its own: whatever
//! takes them away, the next sweep sees it and puts them back.

use std::process::Command;

use crate::host::fs::Attrs;
use crate::host::testing::in_namespaces;
use crate::model::{NetworkPeer, PhaseId};
use crate::nodelet::phase::{self, layout, samples};
use crate::nodelet::rig::{Rig, phase};
use crate::nodelet::run::RunEnd;
use crate::nodelet::step::Step;

/// As the product may be asked: by either back end.
const BACK_ENDS: [&str; 2] = ["iptables-nft", "iptables-legacy"];

fn sh(line: &str) -> String {
    let said = Command::new("sh").args(["-c", line]).output().expect("sh");
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let why = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{line}: {text}{why}");
    text
}

/// A machine whose network this is, with the pod network of a node that has two neighbours.
fn machine() -> (Rig, Vec<phase::PhaseSteps>) {
    let mut ctx = samples::ordinary(samples::worker("1.37.2"));
    let peer = |n: u8| NetworkPeer {
        pod_cidr: format!("10.96.{n}.0/24").parse().expect("network"),
        node_ip: format!("10.99.0.{n}").parse().expect("address"),
    };
    ctx.node.network.peers = [2, 3].map(peer).to_vec();
    let steps = phase::steps(PhaseId::Network, &ctx).expect("steps");
    let rig = Rig::new();
    rig.fs.link("/usr/sbin/ip", "/usr/sbin/ip").expect("link");
    // The kernel says when rules changed: what was found before counts until then, and not longer.
    rig.fs.link("/proc/net", "/proc/net").expect("link");
    let network = steps.iter().find(|s| matches!(s, Step::PodNetwork { .. }));
    (
        rig,
        vec![phase(
            PhaseId::Network,
            vec![network.expect("looked at").clone()],
        )],
    )
}

/// The script of the sample, with this back end.
fn put_script(rig: &Rig, back_end: &str) {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/phases/worker-1.34-cgroup-v1/files")
        .join(layout::NETWORK_SCRIPT.trim_start_matches('/'));
    let text = std::fs::read_to_string(golden).expect("script");
    let text = text.replacen("iptables=iptables\n", &format!("iptables={back_end}\n"), 1);
    let routes = text.find("<<'END'\n").expect("routes") + "<<'END'\n".len();
    let end = text.find("\nEND\n").map_or(routes, |at| at + 1);
    let text = format!(
        "{}route replace 10.96.2.0/24 via 10.99.0.2 proto 159\n\
         route replace 10.96.3.0/24 via 10.99.0.3 proto 159\n{}",
        &text[..routes],
        &text[end.max(routes)..]
    );
    rig.fs
        .write(layout::NETWORK_SCRIPT, text.as_bytes(), &Attrs::mode(0o755))
        .expect("script");
}

async fn comes_back(rig: &mut Rig, phases: &[phase::PhaseSteps], fault: &str, words: &str) {
    let plan = rig.plan(phases).await;
    let why: Vec<&str> = plan.todo.iter().map(|p| p.why.as_str()).collect();
    assert!(why.len() == 1 && why[0].contains(words), "{fault}: {why:?}");
    assert_eq!(rig.run(&plan).await, RunEnd::Done, "{fault}");
    let plan = rig.plan(phases).await;
    assert!(plan.is_settled(), "{fault}: {:?}", plan.words());
}

#[tokio::test]
async fn what_is_flushed_or_dropped_is_seen_and_comes_back() {
    const NAME: &str =
        "nodelet::tests::pod_network::what_is_flushed_or_dropped_is_seen_and_comes_back";
    if in_namespaces(NAME, &["--net"], ":").is_none() {
        return;
    }
    sh(
        "ip link set lo up && ip link add e0 type veth peer name e1 && ip link set e1 up \
        && ip addr add 10.99.0.1/24 dev e0 && ip link set e0 up",
    );
    let (mut rig, phases) = machine();
    let mut kept = String::new();
    for tool in BACK_ENDS {
        // The second one comes as a switch of the back end: all that was made is nowhere to be seen.
        put_script(&rig, tool);
        comes_back(&mut rig, &phases, tool, "PF9-POSTROUTING").await;
        for (fault, words) in [
            ("TOOL -F", "PF9-FORWARD are not there"),
            ("TOOL -t nat -F", "PF9-POSTROUTING are not there"),
            (
                "TOOL -F FORWARD",
                "chain FORWARD does not lead to PF9-FORWARD",
            ),
            (
                "TOOL -F && TOOL -X && TOOL -t nat -F && TOOL -t nat -X",
                "are not there",
            ),
            (
                "TOOL -t nat -D PF9-POSTROUTING 1",
                "PF9-POSTROUTING are not there",
            ),
            // A service of rules that is loaded again: what it has is all there is.
            (
                "printf '*filter\\n:FORWARD ACCEPT [0:0]\\n-A FORWARD -j REJECT\\nCOMMIT\\n' | TOOL-restore",
                "are not there",
            ),
            ("TOOL -I FORWARD 1 -j DROP", "refuses everything before"),
            // A comment is no condition.
            (
                "TOOL -D FORWARD -j DROP && TOOL -I FORWARD 1 -m comment --comment 'no \"more\" of it' -j DROP",
                "refuses everything before",
            ),
            (
                "TOOL -I FORWARD 1 -m comment --comment closed -j DROP",
                "refuses everything before",
            ),
            // As firewalld has it by iptables: every zone ends like that. And as ufw has it.
            (
                "TOOL -N PUBLIC && TOOL -A PUBLIC -p icmp -j ACCEPT && TOOL -A PUBLIC -j REJECT && TOOL -N ZONES && \
                 TOOL -A ZONES -s 10.1.0.0/16 -j ACCEPT && TOOL -A ZONES -g PUBLIC && TOOL -I FORWARD 1 -j ZONES",
                "refuses everything before",
            ),
            (
                "TOOL -N UFW && TOOL -A UFW -j LOG && TOOL -A UFW -j REJECT && \
                 TOOL -I FORWARD 1 -m comment --comment ufw -j UFW",
                "refuses everything before",
            ),
            ("ip route flush proto 159", "no route to 10.96.2.0/24"),
            ("ip route del 10.96.3.0/24", "no route to 10.96.3.0/24"),
            ("ip link set e0 down && ip link set e0 up", "no route to"),
        ] {
            sh(&fault.replace("TOOL", tool));
            comes_back(&mut rig, &phases, fault, words).await;
        }
        let rules = sh(&format!("{tool} -S FORWARD"));
        let at = |end: &str| rules.lines().position(|l| l.contains(end)).expect("there");
        assert!(at("-j PF9-FORWARD") < at("-j DROP"), "{rules}");
        assert!(
            at("-j DROP") < at("-j REJECT"),
            "what others wrote stays: {rules}"
        );
        assert_eq!(rules.matches("PF9-FORWARD").count(), 1, "{rules}");
        kept.push_str(&rules);
    }
    assert!(kept.contains("-j REJECT"));
}

/// Policies, and an operator's rules that refuse traffic, come before ours.
#[tokio::test]
async fn what_refuses_some_stays_before_ours() {
    const NAME: &str = "nodelet::tests::pod_network::what_refuses_some_stays_before_ours";
    if in_namespaces(NAME, &["--net"], ":").is_none() {
        return;
    }
    sh(
        "ip link set lo up && ip link add e0 type veth peer name e1 && ip link set e1 up \
        && ip addr add 10.99.0.1/24 dev e0 && ip link set e0 up \
        && iptables -N KUBE-ROUTER-FORWARD && iptables -A FORWARD -j KUBE-ROUTER-FORWARD \
        && iptables -A FORWARD -d 169.254.169.254 -j DROP && iptables -A FORWARD -i e9 -j REJECT \
        && iptables -N OPEN && iptables -A OPEN -s 10.3.0.0/16 -j DROP && iptables -A OPEN -j RETURN \
        && iptables -A OPEN -j DROP && iptables -N AWAY && iptables -A AWAY -g OPEN && iptables -A AWAY -j DROP \
        && iptables -A FORWARD -j AWAY \
        && iptables -A FORWARD -j REJECT && iptables -A FORWARD -s 10.1.1.1 -j ACCEPT",
    );
    let (mut rig, phases) = machine();
    put_script(&rig, "iptables");
    comes_back(&mut rig, &phases, "a machine with rules", "PF9-POSTROUTING").await;
    let rules = sh("iptables -S FORWARD");
    let places: Vec<usize> = [
        "KUBE-ROUTER-FORWARD",
        "169.254.169.254",
        "-i e9",
        "-j AWAY",
        "PF9-FORWARD",
        "-A FORWARD -j REJECT",
        "10.1.1.1",
    ]
    .iter()
    .map(|end| rules.lines().position(|l| l.contains(end)).expect("there"))
    .collect();
    assert!(places.is_sorted(), "{rules}");
}
