//! hostagent between a fake plane and a fake nodelet, both over real Unix sockets.

mod beside;
mod coming;
mod delta;
mod exhausted;
mod fixture;
mod life;
mod once;
mod operations;
mod plane;
mod published;
mod said_by_root;
mod soak;
mod version;
mod versions;
mod whole;
mod words;

use std::os::unix::fs::MetadataExt;

use fixture::Bed;
use pf9_hostagent::host::fs::Attrs;
use pf9_hostagent::model::{
    Assignment, Digest, DocumentKind, Fault, FaultCode, Generation, HostId, NodeState, Role,
    SigningKey, paths,
};
use pf9_hostagent::stack;

use crate::support::{PATIENCE, within};

#[tokio::test]
async fn a_spec_goes_down_and_the_nodes_state_comes_up() {
    let bed = Bed::new();
    let _agent = bed.start().await;
    let first = bed.plane.until(|p| p.statuses.last().cloned()).await;
    assert_eq!(
        (first.state, first.accepted_generation.0),
        (NodeState::Ok, 0)
    );
    assert!(
        !first.inventory.hostname.is_empty(),
        "the inventory is in it"
    );

    bed.plane.offer(bed.sign(7, bed.worker(&bed.no_stack())));
    let got = bed.node.until(|n| n.specs.last().cloned()).await;
    assert_eq!(
        got,
        bed.sign(7, bed.worker(&bed.no_stack())),
        "byte for byte"
    );
    bed.node.say(|s| {
        s.generation = Generation(7);
        s.role = Role::Worker;
        s.state = NodeState::Ok;
    });
    let status = bed
        .plane
        .until(|p| {
            p.statuses
                .last()
                .filter(|s| s.observed_generation.0 == 7)
                .cloned()
        })
        .await;
    assert_eq!(status.state, NodeState::Ok);
    assert_eq!(status.accepted_generation.0, 7);
    bed.plane
        .until(|p| p.event("spec-accepted").map(drop))
        .await;
}

#[tokio::test]
async fn bad_specs_are_refused_in_words_and_the_last_good_one_stays() {
    let bed = Bed::new();
    let _agent = bed.start().await;
    bed.plane.offer(bed.sign(5, bed.worker(&bed.no_stack())));
    bed.node.until(|n| n.specs.last().cloned()).await;

    let stranger = SigningKey::generate().expect("key").0;
    let unsigned = stranger.sign(DocumentKind::Spec, &bed.spec_bytes(6, Assignment::None));
    let mut for_another = bed.spec(6, Assignment::None);
    for_another.host_id = HostId::random();
    let bytes = serde_json::to_vec(&for_another).expect("json");
    let malformed = br#"{"schema":1,"generation":9,"assignment":{"role":"wat"}}"#;
    let newer = br#"{"schema":7,"generation":9,"needs_agent":"0.5"}"#;
    for (envelope, code, words) in [
        (unsigned, "document-untrusted", "does not trust"),
        (bed.sign(4, Assignment::None), "spec-older", "generation 5"),
        (
            bed.key.sign(DocumentKind::Spec, &bytes),
            "spec-invalid",
            "host_id",
        ),
        (
            bed.key.sign(DocumentKind::Spec, malformed),
            "document-malformed",
            "wat",
        ),
        (
            bed.key.sign(DocumentKind::Spec, newer),
            "document-newer",
            "it needs agent 0.5 or newer (this is ",
        ),
    ] {
        // Whatever the host asks for: a plane may be wrong, too.
        bed.plane.force(envelope);
        let status = bed
            .plane
            .until(|p| {
                let last = p.statuses.last()?;
                let code_now = last.refused.as_ref().map(|f| f.code.word());
                (code_now == Some(code)).then(|| last.clone())
            })
            .await;
        let fault = status.refused.expect("refused");
        assert!(fault.to_string().contains(words), "{fault}");
        assert_eq!(status.accepted_generation.0, 5);
        let event = bed
            .plane
            .until(|p| {
                p.events
                    .iter()
                    .find(|e| e.fault.as_ref() == Some(&fault))
                    .cloned()
            })
            .await;
        assert_eq!(
            (event.kind, event.message),
            ("spec-refused".into(), fault.to_string())
        );
    }
    assert_eq!(
        bed.node.read(|n| n.specs.len()),
        1,
        "nodelet saw only the good one"
    );

    bed.plane.offer(bed.sign(10, bed.worker(&bed.no_stack())));
    let status = bed
        .plane
        .until(|p| {
            p.statuses
                .last()
                .filter(|s| s.accepted_generation.0 == 10)
                .cloned()
        })
        .await;
    assert_eq!(status.refused, None, "a newer good one ends it");
}

/// Its backup was older than what the host has.
#[tokio::test]
async fn a_plane_that_forgot_is_told_so_and_the_spec_stays() {
    let bed = Bed::new();
    let agent = bed.start().await;
    bed.plane.offer(bed.sign(5, bed.worker(&bed.no_stack())));
    bed.node.until(|n| n.specs.last().cloned()).await;
    agent.stop().await;
    bed.plane.offer(bed.sign(3, Assignment::None));
    let _agent = bed.start().await;
    let refused = |code: Option<&'static str>| {
        bed.plane.until(move |p| {
            let last = p.statuses.last()?;
            let now = last.refused.as_ref().map(|f| f.code.word());
            (now == code && last.accepted_generation.0 == 5).then(|| last.clone())
        })
    };
    let status = refused(Some("spec-older")).await;
    let fault = status.refused.expect("refused");
    let words = fault.to_string();
    assert!(
        words.contains("spec generation 3 refused: this host has generation 5, which stays"),
        "{words}"
    );
    // To a person on the machine, to the plane and in the event: the same words.
    let local = bed.local_status().await;
    assert_eq!(local.refused, Some(fault));
    let event = bed.plane.until(|p| p.event("spec-refused").cloned()).await;
    assert_eq!(event.message, words);
    assert!(
        bed.node.read(|n| n.specs.iter().all(|s| *s == n.specs[0])),
        "nodelet saw nothing of it"
    );
    // The right backup was found: the fault is over.
    bed.plane.offer(bed.sign(5, bed.worker(&bed.no_stack())));
    refused(None).await;
    let events = |p: &plane::PlaneSide| {
        let said = p.events.iter().filter(|e| e.kind == "spec-refused");
        said.count()
    };
    assert_eq!(bed.plane.read(events), 1, "said once");
}

#[tokio::test]
async fn without_the_plane_the_last_spec_is_handed_on_and_events_wait() {
    let bed = Bed::new();
    let agent = bed.start().await;
    bed.plane.offer(bed.sign(3, bed.worker(&bed.no_stack())));
    bed.node.until(|n| n.specs.last().cloned()).await;
    bed.plane
        .until(|p| p.event("spec-accepted").map(drop))
        .await;
    agent.stop().await;

    bed.plane.go_away();
    bed.node.forget();
    let agent = bed.start().await;
    let spec = bed.node.until(|n| n.specs.last().cloned()).await;
    assert_eq!(spec, bed.sign(3, bed.worker(&bed.no_stack())));
    let local = bed.local_status().await;
    assert_eq!(local.accepted_generation.0, 3);
    let known = bed.plane.read(|p| p.events.len());
    agent.stop().await;

    bed.plane.come_back().await;
    let _agent = bed.start().await;
    bed.plane
        .until(|p| {
            // Events of the first run may be sent again; only new ids count.
            let (old, new) = p.events.split_at_checked(known)?;
            let starts = new.iter().filter(|e| e.kind == "agent-started");
            let ids: std::collections::BTreeSet<_> = starts
                .map(|e| &e.id)
                .filter(|id| old.iter().all(|e| &e.id != *id))
                .collect();
            (ids.len() == 2).then_some(())
        })
        .await;
    // At least once: what was sent twice is the same event, and no id stands for two.
    let told = bed.plane.read(|p| p.events.clone());
    for event in &told {
        let mut same_id = told.iter().filter(|e| e.id == event.id);
        assert!(same_id.all(|e| e == event), "{event:?}");
    }
    within(async {
        while bed.spooled() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_damaged_stored_spec_is_put_aside_and_said() {
    let bed = Bed::new();
    let agent = bed.start().await;
    for generation in [1, 2] {
        bed.plane
            .offer(bed.sign(generation, bed.worker(&bed.no_stack())));
        bed.node
            .until(|n| (n.specs.len() as u64 == generation).then_some(()))
            .await;
    }
    agent.stop().await;
    bed.plane.go_away();
    let spec = "/var/opt/pf9/hostagent/spec.json";
    bed.fs
        .write(spec, b"{\"schema\": 1, ", &Attrs::mode(0o640))
        .expect("damage");
    bed.node.forget();
    let _agent = bed.start().await;
    let used = bed.node.until(|n| n.specs.last().cloned()).await;
    assert_eq!(used, bed.sign(1, bed.worker(&bed.no_stack())));
    bed.plane.come_back().await;
    bed.plane
        .until(|p| p.event("spec-quarantined").map(drop))
        .await;
    // The plane's newest spec arrives again.
    bed.node
        .until(|n| {
            (n.specs.last() == Some(&bed.sign(2, bed.worker(&bed.no_stack())))).then_some(())
        })
        .await;
}

#[tokio::test]
async fn nodelet_is_left_alone_while_there_is_no_role() {
    let bed = Bed::new();
    let _agent = bed.start().await;
    bed.plane.offer(bed.sign(1, Assignment::None));
    let status = bed
        .plane
        .until(|p| {
            p.statuses
                .last()
                .filter(|s| s.accepted_generation.0 == 1)
                .cloned()
        })
        .await;
    assert_eq!(
        (status.state, status.observed_generation.0),
        (NodeState::Ok, 1)
    );
    assert_eq!(status.node, None);
    assert_eq!(bed.node.read(|n| n.calls), 0);
}

#[tokio::test]
async fn when_the_role_is_gone_nodelet_is_asked_no_more() {
    let bed = Bed::new();
    let agent = bed.start().await;
    bed.plane.offer(bed.sign(1, bed.worker(&bed.no_stack())));
    bed.node.until(|n| n.specs.first().map(drop)).await;
    bed.plane.offer(bed.sign(2, Assignment::None));
    bed.node.until(|n| n.specs.get(1).map(drop)).await;
    bed.node.say(|s| {
        s.generation = Generation(2);
        s.role = Role::None;
        s.state = NodeState::Converging;
    });
    bed.plane
        .until(|p| p.last_state().filter(|s| *s == NodeState::Converging))
        .await;
    bed.node.say(|s| s.state = NodeState::Ok);
    let status = bed
        .plane
        .until(|p| {
            p.statuses
                .last()
                .filter(|s| s.state == NodeState::Ok)
                .cloned()
        })
        .await;
    assert_eq!(status.observed_generation.0, 2);
    within(async {
        let note = "/var/opt/pf9/hostagent/nodelet-needed.json";
        let says_no = |text: Option<String>| text.is_some_and(|t| t.contains("false"));
        while !says_no(bed.fs.read_text(note, 1024).expect("note")) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    agent.stop().await;

    let calls = bed.node.read(|n| n.calls);
    let _agent = bed.start().await;
    let sent = bed.plane.read(|p| p.statuses.len());
    bed.plane.until(|p| p.statuses.get(sent).map(drop)).await;
    assert_eq!(bed.node.read(|n| n.calls), calls, "nor after a restart");
}

#[tokio::test]
async fn a_stack_is_fetched_through_cuts_and_staged() {
    let bed = Bed::new();
    let stack = bed.publish("1.37.2-1", 30_000);
    bed.plane.change(|p| p.cuts = vec![10_000, 7_000]);
    let _agent = bed.start().await;
    bed.plane.offer(bed.sign(1, bed.worker(&stack)));
    bed.plane.until(|p| p.event("stack-staged").map(drop)).await;
    let ranges = bed.plane.read(|p| p.ranges.clone());
    assert_eq!(ranges, [None, Some(10_000), Some(17_000)]);
    let trust = pf9_hostagent::identity::trust(&bed.fs).expect("trust");
    stack::prepare(&bed.fs, &stack, &trust, Default::default(), &mut |_| {})
        .expect("nodelet can unpack it");
    bed.node.until(|n| (n.wakes > 0).then_some(())).await;

    // Another stack: what was staged for the first one goes.
    let next = bed.publish("1.36.4-1", 1_000);
    bed.plane.offer(bed.sign(2, bed.worker(&next)));
    bed.plane
        .until(|p| {
            (p.events.iter().filter(|e| e.kind == "stack-staged").count() == 2).then_some(())
        })
        .await;
    let staged = bed.fs.list(paths::STAGING).expect("list");
    assert_eq!(
        staged,
        [
            format!("{}.manifest.json", next.manifest),
            format!("{}.tar.zst", next.manifest)
        ]
    );
}

#[tokio::test]
async fn the_archive_of_a_stack_that_does_not_fit_is_not_fetched() {
    let bed = Bed::new();
    let stack = bed.publish_of("1", "1.33.1");
    let _agent = bed.start().await;
    bed.plane.offer(bed.sign(1, bed.worker(&stack)));
    bed.node.until(|n| n.specs.first().map(drop)).await;
    bed.node.say(|s| {
        s.generation = Generation(1);
        s.state = NodeState::Converging;
        s.wants_stack = Some(stack.clone());
    });
    let reason = bed.plane.until(|p| p.reason(FaultCode::StackUnfit)).await;
    let words = "Kubernetes 1.33 is not supported";
    assert!(reason.to_string().contains(words), "{reason}");
    // nodelet is woken, so that it checks the manifest and reports the same.
    bed.node.until(|n| (n.wakes > 0).then_some(())).await;
    assert_eq!(bed.plane.read(|p| p.ranges.len()), 0);
    assert!(bed.fs.at(stack::staged_manifest(&stack.manifest)).exists());
}

#[tokio::test]
async fn a_download_goes_on_after_a_restart() {
    let bed = Bed::new();
    let stack = bed.publish("1", 30_000);
    // Every connection is cut; the first one after two thirds.
    bed.plane.change(|p| p.cuts = vec![20_000, 0, 0, 0, 0, 0]);
    let agent = bed.start().await;
    bed.plane.offer(bed.sign(1, bed.worker(&stack)));
    bed.plane.until(|p| p.ranges.get(1).map(drop)).await;
    agent.stop().await;
    bed.plane.change(|p| p.cuts.clear());
    let before = bed.plane.read(|p| p.ranges.len());
    let _agent = bed.start().await;
    bed.plane.until(|p| p.event("stack-staged").map(drop)).await;
    let after = bed
        .plane
        .read(|p| p.ranges.get(before..).map(<[_]>::to_vec));
    assert_eq!(after, Some(vec![Some(20_000)]));
}

#[tokio::test]
async fn a_wrong_archive_and_a_wrong_manifest_are_said_and_never_staged() {
    let bed = Bed::new();
    let stack = bed.publish("1", 10_000);
    bed.plane.change(|p| {
        let archive = p.archives.get_mut(&stack.manifest).expect("archive");
        archive[5_000] ^= 1;
    });
    let _agent = bed.start().await;
    bed.plane.offer(bed.sign(1, bed.worker(&stack)));
    bed.node.until(|n| n.specs.first().map(drop)).await;
    bed.node.say(|s| {
        s.generation = Generation(1);
        s.state = NodeState::Converging;
        s.wants_stack = Some(stack.clone());
    });
    let reason = bed.plane.until(|p| p.reason(FaultCode::StackDamaged)).await;
    assert!(reason.to_string().contains("SHA-256"), "{reason}");
    assert!(reason.next_try.is_some());
    assert!(!bed.fs.at(stack::staged_archive(&stack.manifest)).exists());

    let foreign = SigningKey::generate().expect("key").0;
    let other = bed.publish_signed("2", 10_000, &foreign);
    bed.plane.offer(bed.sign(2, bed.worker(&other)));
    bed.node.until(|n| n.specs.get(1).map(drop)).await;
    bed.node.say(|s| {
        s.generation = Generation(2);
        s.wants_stack = Some(other.clone());
    });
    let reason = bed
        .plane
        .until(|p| p.reason(FaultCode::DocumentUntrusted))
        .await;
    assert!(reason.what.contains("stack pf9-kube 2"), "{reason}");
    assert!(!bed.fs.at(stack::staged_manifest(&other.manifest)).exists());
}

#[tokio::test]
async fn a_disk_that_takes_nothing_does_not_stop_reporting() {
    let bed = Bed::new();
    let stack = bed.publish("1", 10_000);
    // Directories that cannot be created: even root can create nothing below a file.
    for dir in [paths::STAGING, "/var/opt/pf9/hostagent/events"] {
        bed.fs.write(dir, b"", &Attrs::mode(0o600)).expect("block");
    }
    let _agent = bed.start().await;
    bed.plane.offer(bed.sign(1, bed.worker(&stack)));
    // Both are reported, whichever is found first.
    bed.plane
        .until(|p| {
            let last = p.statuses.last()?;
            last.download.as_ref()?.fault.as_ref()?;
            let mut warnings = last.health.warnings.iter();
            warnings
                .find(|w| w.code.word() == "events-in-memory")
                .map(drop)
        })
        .await;
    bed.plane
        .until(|p| p.event("spec-accepted").map(drop))
        .await;

    bed.fs.remove_file(paths::STAGING).expect("mend");
    bed.plane.until(|p| p.event("stack-staged").map(drop)).await;
}

#[tokio::test]
async fn nodelets_refusal_reaches_the_plane() {
    let bed = Bed::new();
    bed.node.change(|n| n.refuse = true);
    let _agent = bed.start().await;
    bed.plane.offer(bed.sign(1, bed.worker(&bed.no_stack())));
    let reason = bed
        .plane
        .until(|p| p.reason(FaultCode::DocumentUntrusted))
        .await;
    assert_eq!(reason.why, "nodelet said so");
    let status = bed
        .plane
        .read(|p| p.statuses.last().cloned())
        .expect("status");
    assert_eq!(status.refused, Some(reason));
    bed.node.change(|n| n.refuse = false);
}

#[tokio::test]
async fn a_host_the_plane_does_not_know_any_more_keeps_its_role_and_says_so() {
    let bed = Bed::new();
    let fault = Fault::new(
        FaultCode::HostUnknown,
        "request refused",
        "not enrolled any more",
    );
    let agent = bed.start().await;
    bed.plane.offer(bed.sign(1, bed.worker(&bed.no_stack())));
    bed.node.until(|n| n.specs.first().map(drop)).await;
    agent.stop().await;
    bed.plane.change(|p| p.banned = Some(fault.clone()));
    let _agent = bed.start().await;
    let warned = bed
        .plane
        .until(|p| {
            let warnings = &p.statuses.last()?.health.warnings;
            warnings
                .contains(&fault)
                .then(|| p.statuses.last().cloned())?
        })
        .await;
    assert_eq!(warned.accepted_generation.0, 1);
    bed.plane.change(|p| p.banned = None);
    bed.plane
        .until(|p| {
            let warnings = &p.statuses.last()?.health.warnings;
            (!warnings.contains(&fault)).then_some(())
        })
        .await;
}

#[tokio::test]
async fn the_local_socket_is_the_groups_and_knows_one_path() {
    let bed = Bed::new();
    let _agent = bed.start().await;
    let socket = bed.fs.at(paths::HOSTAGENT_SOCKET);
    let mode = std::fs::metadata(&socket).expect("socket").mode();
    assert_eq!(mode & 0o777, 0o660);
    assert_eq!(bed.local_status().await.host_id, bed.host);
    let client = pf9_hostagent::local::Client::unix(&socket).expect("client");
    let wrong = client
        .get::<serde_json::Value>("/v1/wat", PATIENCE)
        .await
        .expect_err("404");
    assert!(wrong.to_string().contains("there is no /v1/wat"), "{wrong}");
}

#[tokio::test]
async fn a_host_that_is_not_enrolled_says_so() {
    let bed = Bed::new();
    bed.fs.remove_file(paths::HOST_ID).expect("remove");
    let fault = bed.try_start().await.err().expect("not enrolled");
    assert_eq!(fault.code, FaultCode::NotEnrolled);
}

#[test]
fn digests_name_staged_files() {
    let digest = Digest::of(b"x");
    let path = stack::staged_archive(&digest);
    assert_eq!(
        path.to_str(),
        Some(format!("{}/{digest}.tar.zst", paths::STAGING).as_str())
    );
}
