//! The link that etcd's programs are taken by.

use super::*;

#[test]
fn etcd_has_a_link_of_its_own_and_what_it_is_of_is_kept() {
    let node = node();
    let fs = &node.fs;
    assert_eq!(current_etcd(fs).expect("none"), None);
    let stacks: Vec<_> = ["1", "2", "3", "4"]
        .into_iter()
        .map(|v| recipe(v).stage(&node))
        .collect();
    assert!(matches!(
        activate_etcd(fs, &stacks[0]),
        Err(StackError::NotInstalled)
    ));
    for stack in &stacks {
        try_install(&node, stack).expect("install");
        activate(fs, stack).expect("activate");
        if stack == &stacks[0] {
            activate_etcd(fs, stack).expect("etcd");
        }
        assert_eq!(current_etcd(fs).expect("etcd").as_ref(), Some(&stacks[0]));
    }
    let version = etcd_content(fs).map(|content| content.version);
    assert_eq!(version.as_deref(), Some("1"));
    assert_eq!(collect_garbage(fs, &[]).expect("gc"), ["pf9-kube-2"]);
    activate_etcd(fs, &stacks[3]).expect("etcd");
    assert_eq!(current(fs).expect("current").as_ref(), Some(&stacks[3]));
    assert_eq!(collect_garbage(fs, &[]).expect("gc"), ["pf9-kube-1"]);
}
