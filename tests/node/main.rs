//! Tests on real machines: systemd containers with their own address and package database, driven by `scripts/demo` as
//! a person would.
//!
//! ```text
//! a_up          bare machines → Ready, logs, exec, pages with links; a second `up` changes nothing
//! ab_services   by nftables, by iptables and back: they answer, and nothing of the other way is left
//! ac_a_broken   machines that are broken in one way: the check for it reports it, its remedy helps; what breaks later the
//!               status says, until it is mended; another address → the node follows
//! ad_what_hangs kubelet, kube-proxy, runtime, etcd and scheduler that live and hang; rules and routes that are flushed → works
//! ae_a_proxy    the way out is a proxy: the tunnel and images go by it, the cluster's own addresses do not
//! af_a_renamed   a machine gets another name, then one that another has → its node is the same, and all is said; checks of
//!               operators in their sandbox
//! ag_masters     a master's machine gets another address, a lone one and one of three → the same cluster at it
//! b_reboot      machines rebooted and crashed with the plane away → Ready; a maintenance outlasts power loss
//! ba_a_join     a machine without power in its download, and again when its runtime has started → Ready, nothing fetched twice
//! c_kill        every daemon killed at random moments while converging → Ready
//! ca_what       settings that programs would refuse → said, nothing restarted, healed; each program of each node names a
//!               flag, a gate and a key that it does not know
//! cb_policies   seccomp, user namespaces, swap, NRI, pod security, users of an issuer: what pods and people get with
//!               each and without
//! cc_who_reaches network policies on one node and across nodes, services with addresses of a pool, and neither again
//! d_detach      role removed → no process or file of it is left; given back → Ready
//! dd_another   a foreign containerd with a container: the same processes before, beside and after a node
//! dc_unfit      a stack that does not fit: nothing changes, the right one repairs it
//! da_stolen     comms' and hostagent's users try everything they can reach → refused
//! e_files       a worker's files reach its own node only; a detached master's are worth nothing
//! e_people      the page's terminal as a reader, whom the API server's audit names; kubectl in all its ways through delay,
//!               loss, full lines, a restart, far away, a black hole
//! ea_certificates  lifetimes of minutes renewed, new authorities, all expired while machines and plane were off → Ready
//! eb_a_drop_in  a drop-in with a typo refused, the runtime keeps running across a reboot; fixed
//! f_decommission  the agent removed → the machine's files are what they were before
//! fa_a_budget   a disruption budget that nobody lifts → removed when a drain has had its time, and clean
//! g_minors        a cluster of each other minor that the matrix pins → Ready, its add-ons answer
//! ga_machines_of  machines of Debian 13 → Ready; the package purged alone once the pods may go → as they were before
//! gb_machines_that  machines called Rocky Linux, with firewalld, a plane by name, a bridge, a clock that is behind
//! h_a_dead_master three masters, one dead: none may leave; its host removed, a substitute → full strength
//! i_the_data      every member's data of etcd deleted, restored from a snapshot: pods kept running, all objects are there
//! j_masters_share an address of three masters: its agent stopped, its machine without power → another one has it within 10 s
//! k_a_cluster_goes  1.36 to 1.37 and back with a service requested all the time; a node that cannot is rolled back; an
//!                 image that was built again by the same name comes and goes with its stack
//! kb_a_step     etcd, then all of the master fail on the way and roll back, with the same service requested
//! kc_an_upgrade a master that is a worker as well without power in its switch, a worker without its path, one without the
//!               plane: all upgraded
//! ka_three      three masters to the next minor: how long the API is down, at their address and through the plane
//! l_the_agent     the fleet's agents to another version: proven, installed, nothing else restarted; an older and a newer
//!                 package by hand; bad ones roll back and stop the fleet
//! m_the_machines_patches  updates of the distribution without and with a reboot of the machine; a bad package stops
//! n_accidents     minutes of `scripts/torture`: accidents at random, and the promises checked against them
//! ```
//!
//! They share the machines and run one at a time, in order of name. scripts/test draws some of them, and all with
//! `--full`; their durations are in `scripts/lib/tests.py`. Each starts by bringing the demo up, so each can run alone.
//! Needs root.

mod addons;
mod address;
mod again;
#[path = "../support/bent.rs"]
mod bent;
#[path = "../support/breaks.rs"]
mod breaks;
mod broken;
mod budget;
mod certificates;
mod cut;
mod debian;
mod demo;
mod extensions;
mod hangs;
mod issuer;
mod joining;
mod later;
mod likes;
mod maintained;
mod masters;
mod matrix;
mod members;
mod minors;
mod moving;
mod network;
mod os_update;
mod pages;
mod policies;
mod proxied;
mod reach;
mod refused;
mod restore;
mod rights;
mod running;
#[path = "../support/sample.rs"]
mod sample;
mod scenario;
mod services;
mod settings;
mod takeover;
mod terminal;
mod theirs;
mod torture;
mod trials;
mod unfit;
mod upgrade;
mod version;
