//! `support`: what root agrees to is what nodelet finds, and nothing without an end.

use super::*;
use crate::app::{Agreed, agreed};
use crate::model::Consent;

#[tokio::test]
async fn what_is_agreed_to_once_is_shown_found_and_taken_back() {
    let mut rig = Rig::new();
    let logs = |rig: &Rig| agreed(&rig.host, Consent::Logs, crate::seam::clock::now());
    let ran = rig.run(&["support", "show"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert!(ran.text.contains("no"), "{}", ran.text);
    let ran = rig.run(&["support", "allow", "--for", "15m"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert!(ran.text.contains("available once"), "{}", ran.text);
    assert_eq!(logs(&rig), Ok(Agreed::Once));
    rig.json = true;
    let shown = rig.run(&["support", "show"]).await;
    rig.json = false;
    let shown: serde_json::Value = serde_json::from_str(&shown.text).expect("json");
    assert_eq!(shown["logs"], false);
    assert!(shown["logs_once_until"].is_string(), "{shown}");
    let ran = rig.run(&["support", "withdraw"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    logs(&rig).expect_err("taken back");
    let ran = rig.run(&["config", "set", "support.logs", "true"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert_eq!(logs(&rig), Ok(Agreed::Standing));
    // Only root can consent.
    rig.uid = 1000;
    for verb in ["allow", "withdraw", "show"] {
        let ran = rig.run(&["support", verb]).await;
        assert_eq!(ran.exit, Exit::Refused, "{verb}: {}", ran.text);
    }
}
