//! Machines of the distribution's next release: another systemd, another libc, other packet filter tools.

use crate::demo::{
    NODES, Outcome, agent_is_ok, demo, eventually, kubectl, ready_through_plane, shell,
};
use crate::matrix;
use crate::scenario::{READY_AGAIN, is_purged_once_its_pods_may, leaves_no_trace};

#[test]
fn ga_machines_of_the_next_debian_become_nodes_and_are_as_before() -> Outcome {
    demo(&["down"])?;
    demo(&[
        "up",
        "--masters",
        "1",
        "--workers",
        "1",
        "--debian",
        "trixie",
    ])?;
    for node in NODES {
        let release = shell(node, ". /etc/os-release && echo $ID $VERSION_ID")?;
        assert_eq!(release.trim(), "debian 13", "{node}");
        eventually(&format!("{node} Ready"), READY_AGAIN, || {
            ready_through_plane(node)?;
            agent_is_ok(node)
        })?;
    }
    let hello = kubectl(&["logs", "hello-worker-1"])?;
    assert_eq!(hello.trim(), "hello from worker-1");
    matrix::all_ran("ga_machines_of_the_next_debian_become_nodes_and_are_as_before")?;
    is_purged_once_its_pods_may(NODES[1])?;
    leaves_no_trace(NODES[0])?;
    demo(&["down"]).map(drop)
}
