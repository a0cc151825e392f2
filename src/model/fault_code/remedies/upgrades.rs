//! Changes of a version: of the cluster's stack, of the distribution, of the agent itself.

rows! {
    RollUnderWay: "another upgrade is under way; this one was not begun",
        "one at a time: each drains nodes and starts them again",
        "`pf9-plane cluster upgrade NAME status` or `pf9-plane agent upgrade status`; wait, cancel it, or resume what is stopped";
    RollNone: "no upgrade is under way",
        "it has ended, was cancelled, or was never begun",
        "`pf9-plane cluster upgrade NAME --to VERSION`, or for agents `pf9-plane agent upgrade --to VERSION`";
    RollNotNow: "this cannot be done with the upgrade as it stands",
        "it is on its way back already, too long ago, or nothing would change by it",
        "the message says which; `pf9-plane cluster upgrade NAME status`, `pf9-plane agent upgrade status`";
    RollBlocked: "something stands against the upgrade",
        "a node that is not well, a step that nobody tested, a rotation of authorities, an object of an API that goes away",
        "`pf9-plane cluster upgrade NAME --to VERSION --plan` lists all with their ids; mend them, or go on despite one that you know: `pf9-plane cluster upgrade NAME --to VERSION --despite ID`";
    RollStopped: "the upgrade stopped by itself; nobody else is told of anything",
        "a node or host failed, went back, or did not report in time",
        "see to the named one (`pf9ctl status` there), then `pf9-plane cluster upgrade NAME resume` or `pf9-plane agent upgrade resume`; or go back";
    UpgradeFailed: "this node could not be brought to the new stack",
        "it did not become well with it in time, there was no fresh backup of etcd, or nothing ordered the change",
        "it is back on the stack of before where the message says so; `pf9ctl logs kube -n 50` on it, then `pf9-plane cluster upgrade NAME resume`";
    UpgradeNotDrained: "the node was not upgraded: its pods did not go in time",
        "a disruption budget, or pods whose finalizers nobody takes away",
        "`kubectl get pdb -A`; then `pf9-plane cluster upgrade NAME resume`, with `--then wait` or `--then force` if that is meant";
    UpgradeWithdrawn: "the stack was not changed: another one was asked for before it was proven",
        "somebody began another upgrade, or took this one back",
        "nothing, if that was meant";
    OsUpdateFailed: "the distribution's updates are not all in, or the machine did not restart",
        "the package manager failed, was locked or cut off, or something keeps the machine from restarting",
        "`journalctl -n 100 -u pf9-os-update`, `systemctl status pf9-os-update`; for a restart `systemctl list-jobs` and `systemd-inhibit --list`; then `pf9-plane cluster os-update NAME resume`";
    OsUnknown: "the distribution's package manager is not known here",
        "it is neither apt nor dnf",
        "bring the updates in by hand, or take the machine out of the cluster first";
    AgentFetch: "the agent's new version could not be fetched or made ready",
        "the tunnel broke, or a disk failed",
        "nothing while hostagent runs: it is fetched again";
    AgentPackage: "the agent's package is refused by this host; only another order cures it",
        "it is for another machine, has other programs than it should, or another content than was ordered",
        "`pf9-plane agent list`; import the right file: `pf9-plane agent import FILE`";
    AgentNotProven: "the new version of the agent did not prove itself; the one before it runs",
        "it did not start, did not reach the plane, or the node was not well with it; or the machine stopped in the middle each time",
        "nothing on this machine; `journalctl -u 'pf9-*'` shows why; order another version";
    AgentOvertaken: "another version of the agent was installed by hand meanwhile",
        "apt or dnf upgraded the package",
        "nothing, if that was meant; else order the version again: `pf9-plane agent upgrade --to VERSION`";
    AgentDatabase: "the package manager does not know of the agent's version that runs, or would not install it",
        "it is locked or broken, or a dependency is missing on this machine",
        "`ps aux | grep -e apt -e dnf`, `df -h`; install what the message names; it is tried again by itself";
    AgentTooFar: "this version of the agent is too far from the one that runs, or from the plane's",
        "versions are tried with their neighbours only, and no agent may be newer than its plane",
        "upgrade the plane first; else go by the versions between";
    AgentVersionUnknown: "no package of that version was imported that fits the hosts, or to go back by",
        "deb or rpm, or one processor, is missing",
        "`pf9-plane agent list`, then `pf9-plane agent import FILE`";
    AgentVersionTaken: "another package of this version is here already",
        "the agent was built again without a new version",
        "a version means one content: build it with a new version";
    AgentPackageRefused: "the plane does not take this file as a package of the agent",
        "it is no .deb or .rpm of it, is too large, or cannot be read",
        "give the files of a release: `pf9-plane agent import FILE`";
    AgentUpgradeInvalid: "the wishes for the upgrade of agents cannot be; nothing was begun or changed",
        "percentages that do not rise, both hosts and shares, or a window that is none; the message names the field",
        "`pf9-plane agent upgrade --to VERSION --percent 10,50,100`";
}
