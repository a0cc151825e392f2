//! What a spec allows and this machine cannot give: pods run without it, and that is said.

use super::job::Job;
use crate::host::fs::HostFs;
use crate::host::kernel::Kernel;
use crate::model::{Fault, FaultCode, NodeSpec};

/// Of the node that is worked on, or kept in repair.
pub(super) fn warnings(fs: &HostFs, job: &Job) -> Vec<Fault> {
    let node = match job {
        Job::Node(work) => Some(&work.node),
        Job::Hold(hold) => hold.keeps.as_ref().map(|work| &work.node),
        Job::Nothing(_) | Job::Remove(..) => None,
    };
    // What cannot be read is left out here.
    let old = Kernel::new(fs.clone()).cgroup_v1().unwrap_or(false);
    let swap = node.and_then(|node| pods_swap(node, old));
    swap.into_iter().collect()
}

/// kubelet would not start with the policy on such a machine, so it is not told of it.
fn pods_swap(node: &NodeSpec, cgroup_v1: bool) -> Option<Fault> {
    (node.kubelet.pods_swap && cgroup_v1).then(|| {
        let why = "kubelet gives it to them with control groups of version 2 only, and this machine has version 1";
        let fix = "boot with systemd.unified_cgroup_hierarchy=1, or set kubelet.podsSwap to false";
        Fault::new(FaultCode::CgroupV1NoSwap, "pods use no swap, although they may", why).fix(fix)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Generation, Role};
    use crate::nodelet::job::{Hold, Work};
    use crate::nodelet::phase::samples;

    #[test]
    fn swap_that_pods_may_use_and_do_not_get_is_said() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let said = |pods_swap| {
            let mut node = samples::worker("1.37.2").node;
            node.kubelet.pods_swap = pods_swap;
            let work = Work {
                generation: Generation(1),
                role: Role::Worker,
                node: Arc::new(node),
            };
            let kept = Hold {
                generation: Generation(2),
                fault: Fault::new(FaultCode::Internal, "a", "b"),
                keeps: Some(work.clone()),
                wants_spec: false,
            };
            [Job::Node(work), Job::Hold(Box::new(kept))].map(|job| {
                let all = warnings(&fs, &job).into_iter();
                all.map(|f| f.code).collect::<Vec<_>>()
            })
        };
        let none = [const { Vec::new() }; 2];
        std::fs::create_dir_all(fs.at("/sys/fs/cgroup/memory")).expect("version 1");
        assert_eq!(
            said(true),
            [[FaultCode::CgroupV1NoSwap], [FaultCode::CgroupV1NoSwap]]
        );
        assert_eq!(said(false), none);
        std::fs::write(fs.at("/sys/fs/cgroup/cgroup.controllers"), "memory\n").expect("version 2");
        assert_eq!(said(true), none);
    }
}
