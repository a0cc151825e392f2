//! Changes of a version: of the cluster's stack, of the distribution, of the agent itself.

rows! {
    RollUnderWay: "another upgrade is under way; this one was not started",
        "one at a time: each drains and restarts nodes",
        "`pf9-plane cluster upgrade NAME status` or `pf9-plane agent upgrade status`; wait, cancel it, or resume what is stopped";
    RollNone: "no upgrade is under way",
        "it has ended, was cancelled, or was never started",
        "`pf9-plane cluster upgrade NAME --to VERSION`, or for agents `pf9-plane agent upgrade --to VERSION`";
    RollNotNow: "the upgrade is not in a state that allows this",
        "it is rolling back already, finished too long ago, or nothing would change",
        "the message says which; `pf9-plane cluster upgrade NAME status`, `pf9-plane agent upgrade status`";
    RollBlocked: "a check blocks the upgrade",
        "an unhealthy node, an untested step, a rotation of authorities, an object of a removed API",
        "`pf9-plane cluster upgrade NAME --to VERSION --plan` lists all with their ids; fix them, or overrule one \
         that you accept: `pf9-plane cluster upgrade NAME --to VERSION --despite ID`";
    RollStopped: "the upgrade stopped; no other node or host starts",
        "a node or host failed, rolled back, or did not report in time",
        "fix the named one (`pf9ctl status` there), then `pf9-plane cluster upgrade NAME resume` or `pf9-plane \
         agent upgrade resume`; or go back";
    UpgradeFailed: "this node could not be upgraded to the new stack",
        "it did not become healthy with it in time, there was no fresh backup of etcd, or no upgrade ordered the \
         change",
        "it was rolled back to the previous stack where the message says so; `pf9ctl logs kube -n 50` on it, then \
         `pf9-plane cluster upgrade NAME resume`";
    UpgradeNotDrained: "the node was not upgraded: its pods were not drained in time",
        "a disruption budget, or pods whose finalizers nothing removes",
        "`kubectl get pdb -A`; then `pf9-plane cluster upgrade NAME resume`, with `--then wait` or `--then force` if that is intended";
    UpgradeWithdrawn: "the stack was not changed: another one was ordered before it was proven",
        "another upgrade was started, or this one was withdrawn",
        "nothing, if that was intended";
    OsUpdateFailed: "the distribution's updates are not all installed, or the machine did not reboot",
        "the package manager failed, was locked or interrupted, or something keeps the machine from rebooting",
        "`journalctl -n 100 -u pf9-os-update`, `systemctl status pf9-os-update`; for a restart `systemctl list-jobs` and `systemd-inhibit --list`; then `pf9-plane cluster os-update NAME resume`";
    OsUnknown: "the distribution's package manager is not supported",
        "it is neither apt nor dnf",
        "install the updates by hand, or take the machine out of the cluster first";
    AgentFetch: "the new agent version could not be downloaded or staged",
        "the tunnel broke, or a disk failed",
        "nothing while hostagent runs: it is downloaded again";
    AgentPackage: "the agent package is refused by this host; only another order helps",
        "it is for another machine, contains the wrong programs, or differs from what was ordered",
        "`pf9-plane agent list`; import the right file: `pf9-plane agent import FILE`";
    AgentNotProven: "the new agent version did not prove itself; the previous one runs",
        "it did not start, did not reach the plane, or the node was not healthy with it; or the machine stopped in \
         the middle each time",
        "nothing on this machine; `journalctl -u 'pf9-*'` shows why; order another version";
    AgentOvertaken: "another version of the agent was installed by hand meanwhile",
        "apt or dnf upgraded the package",
        "nothing, if that was intended; else order the version again: `pf9-plane agent upgrade --to VERSION`";
    AgentDatabase: "the package manager does not know the running agent version, or refuses to install it",
        "it is locked or broken, or a dependency is missing on this machine",
        "`ps aux | grep -e apt -e dnf`, `df -h`; install what the message names; it is retried automatically";
    AgentTooFar: "this agent version is too far from the running one, or from the plane's",
        "only neighbouring versions are tested together, and no agent may be newer than its plane",
        "upgrade the plane first; else upgrade through the versions in between";
    AgentVersionUnknown: "no imported package of that version fits the hosts, or there is none to roll back to",
        "deb or rpm, or one processor, is missing",
        "`pf9-plane agent list`, then `pf9-plane agent import FILE`";
    AgentVersionTaken: "another package of this version was imported already",
        "the agent was built again without a new version",
        "a version has one content: build it with a new version";
    AgentPackageRefused: "the plane does not accept this file as a package of the agent",
        "it is not a .deb or .rpm of the agent, is too large, or cannot be read",
        "give the files of a release: `pf9-plane agent import FILE`";
    AgentUpgradeInvalid: "invalid options for the agent upgrade; nothing was started or changed",
        "percentages that do not rise, both hosts and percentages, or an invalid window; the message names the field",
        "`pf9-plane agent upgrade --to VERSION --percent 10,50,100`";
}
