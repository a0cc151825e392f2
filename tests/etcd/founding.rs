//! The basis of all other tests here.

use crate::lab::{Lab, VERSIONS};

/// Every etcd accepts the settings that nodelet writes, and a second pass changes nothing.
#[test]
fn one_member_founds_by_our_own_settings() {
    for version in VERSIONS {
        let mut lab = Lab::new(version, 1);
        let only = &mut lab.machines[0];
        only.settled();
        only.ctl(&["put", "a", "1"]);
        let plan = only.plan();
        assert!(plan.is_settled(), "{version}: {plan:?}");
        only.stop();
        only.start();
        only.settled();
        assert_eq!(only.ctl(&["get", "a"]), "a\n1\n", "{version}");
    }
}

#[test]
fn three_members_found_together() {
    let mut lab = Lab::new("3.7.3", 3);
    lab.settled();
    lab.machines[0].ctl(&["put", "a", "1"]);
    lab.machines[1].kill();
    assert_eq!(lab.machines[2].ctl(&["get", "a"]), "a\n1\n");
    assert!(!lab.machines[1].is_up());
    let members = lab.machines[2].members();
    assert_eq!(members.len(), 3, "{members:?}");
}
