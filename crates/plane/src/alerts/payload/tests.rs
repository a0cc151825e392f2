use super::*;
use crate::alerts::Sent;
use crate::alerts::facts::tests::at;
use crate::alerts::verbs::tests::firing;

fn told(notice: Notice) -> Told {
    let mut alert = firing(1, 0);
    alert.sent = Some(Sent {
        at: at(300),
        urgency: alert.urgency,
        times: 2,
    });
    if notice == Notice::Resolved {
        alert.resolved_at = Some(at(600));
    }
    Told {
        notice,
        at: at(300),
        alert,
    }
}

#[test]
fn a_fingerprint_is_alertmanagers() {
    let labels = |pairs: &[(&str, &str)]| {
        let all = pairs.iter().map(|(n, v)| ((*n).to_owned(), json!(v)));
        fingerprint(&all.collect())
    };
    assert_eq!(labels(&[]), "cbf29ce484222325");
    assert_ne!(labels(&[("a", "b")]), labels(&[("ab", "")]));
    // Of {alertname="x"}, as Alertmanager 0.25 answers.
    assert_eq!(labels(&[("alertname", "x")]), "d240efc3896bf266");
}

#[test]
fn an_alertmanager_receiver_can_read_it() {
    let firing = of(
        Kind::Alertmanager,
        "ops",
        &told(Notice::Repeated),
        "https://plane",
    );
    assert_eq!(firing["status"], "firing");
    assert_eq!(firing["alerts"][0]["endsAt"], NEVER);
    assert_eq!(firing["alerts"][0]["labels"]["host"], "node-1");
    assert_eq!(
        firing["commonAnnotations"]["summary"],
        "Host node-1 is short of room on a file system (/var/lib)"
    );
    let over = of(
        Kind::Alertmanager,
        "ops",
        &told(Notice::Resolved),
        "https://plane",
    );
    assert_eq!(over["status"], "resolved");
    assert_eq!(over["alerts"][0]["endsAt"], at(600).to_string());
    let known = |document: &Value| document["alerts"][0]["fingerprint"].clone();
    assert!(known(&firing).is_string());
    let group = firing["groupKey"].as_str().expect("text");
    assert!(group.starts_with("{}:{alertname=\"DiskLow\", "), "{group}");
}

#[test]
fn a_ticket_keeps_one_key_from_create_to_resolve() {
    for (notice, action) in [
        (Notice::Fired, "create"),
        (Notice::Raised, "update"),
        (Notice::Repeated, "update"),
        (Notice::Resolved, "resolve"),
    ] {
        let told = told(notice);
        let ticket = of(Kind::Ticket, "jira", &told, "https://plane");
        assert_eq!(ticket["action"], action);
        assert_eq!(ticket["key"], json!(told.alert.id));
        assert_eq!(ticket["delivery"], json!(format!("{}-2", told.alert.id)));
        assert_eq!(ticket["alert"]["what"], ticket["title"]);
    }
}
