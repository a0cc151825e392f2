//! Faults of `pf9ctl` and the agent's programs when they are used on the machine itself.

rows! {
    Usage: "the command line is wrong; nothing was done",
        "an unknown verb, option or value, or a question that could not be asked because there is no terminal",
        "read the message and the help of the verb (`--help`, with examples at its end); in scripts give `--yes` where it asks";
    NotRoot: "this verb needs root; nothing was done",
        "the files of the agent and systemd's units are the administrator's",
        "run it with sudo";
    NotAllowed: "the caller may not do this",
        "a user other than root asked one of the agent's sockets for something only root may do, or an operator's token has too few rights at the plane",
        "on the machine: use sudo. At the plane: `docs/roles.md` says which role each route needs; ask for it, or use another token";
    Busy: "another task is running; this one was not started",
        "another `pf9ctl` runs, or nodelet is already running an etcd task (a backup, a drill, a copy): they run one at a time",
        "wait until it has ended and try again; `pf9ctl etcd status` shows the running etcd task";
    Interrupted: "it was interrupted",
        "a signal, an answer of no, a stop of the daemon, or the machine went down in the middle",
        "nothing half done is left in use; run it again if needed";
    Deadline: "it exceeded its time limit and was aborted",
        "the disk, systemd or another program answers slowly, or hangs",
        "check load and disks (`uptime`, `dmesg`), then try again; `journalctl -u pf9-nodeletd` says what it waited for";
    Runtime: "a program of the agent could not start",
        "the kernel refused a thread, descriptor or signal: limits on processes or memory are reached",
        "check `systemctl status 'pf9-*'`, `free` and `ps -eLf | wc -l`; then restart it";
    Log: "the log cannot be opened or shown",
        "nothing was logged there yet, the user may not read it, or /var/log/pf9 is full or read-only",
        "`pf9ctl logs --list` shows the logs that exist; use sudo; `journalctl -u 'pf9-*'` has most of it, too";
    File: "a file or directory could not be read, written or put in its place",
        "a full or read-only disk, a wrong owner, or a file already there that must not be lost; the message names the path",
        "check the path (`ls -ld`, `findmnt -T`, `dmesg`); nodelet retries its own automatically";
    Files: "files of the agent could not all be changed or removed",
        "a read-only or failing disk, an immutable attribute, or something mounted below",
        "check the named path (`lsattr`, `findmnt -T`), fix it, and run the same command again: it resumes where it was";
    Directories: "the agent's users and directories could not be created",
        "systemd-sysusers or systemd-tmpfiles failed: the package is incomplete, or /etc or /var is read-only",
        "install the package pf9-hostagent again, then run the command again";
    Facts: "this machine could not be inspected",
        "a file of /proc, /sys or /etc cannot be read, or a network mount hangs",
        "look for a mount that hangs: `mount -t nfs,nfs4,fuse`; otherwise check the named path";
    OutputFailed: "the result could not be written to its destination",
        "the file is there already, the directory is not writable, or a pipe was closed",
        "name another file; a bundle goes to standard output as well: `pf9ctl bundle -o -`";
    NotFound: "no such thing",
        "a name or id is mistyped, or it was removed meanwhile",
        "list what there is first: `pf9ctl etcd list`, `pf9ctl host list`, `pf9ctl cluster list`";
    NotInstalled: "a program that this needs is not installed",
        "the package pf9-hostagent is incomplete, or this machine has no ssh client to reach the others",
        "install the package again, or the distribution's ssh client (openssh-client, openssh-clients)";
    NotPrepared: "this machine is not enrolled with a plane, or has no role there",
        "it was never enrolled, was decommissioned, or was not attached to a cluster yet",
        "enrol it: `pf9ctl node prep --plane URL --token-file FILE`; a host that is enrolled becomes a node with `pf9ctl node join --cluster CLUSTER`";
    ConfigInvalid: "the daemons cannot use the configuration",
        "a key is misspelled, a value out of its range, a file that is not TOML, or a file read later that sets the same key",
        "`pf9ctl config validate` names every fault with its file and key; correct them in /etc/pf9/hostagent.toml or /etc/pf9/conf.d, then `systemctl restart pf9-comms pf9-hostagent`";
    AgentDown: "a daemon of the agent does not run; the node itself keeps running",
        "it was stopped by hand, failed again and again, or cannot start with its configuration",
        "`systemctl status 'pf9-*'` and `journalctl -n 30 -u pf9-comms -u pf9-hostagent -u pf9-nodeletd`, then `systemctl restart pf9-comms pf9-hostagent`";
    SystemdSilent: "systemd, or a daemon, did not answer",
        "the machine is overloaded, D-Bus is down, or a unit hangs in its start or stop",
        "`systemctl list-jobs` and `systemctl status 'pf9-*'`; if `systemctl` itself hangs, the machine needs a restart";
    Socket: "comms cannot listen on one of its local sockets",
        "/run/pf9 is missing or belongs to another user",
        "`systemd-tmpfiles --create`, then `systemctl restart pf9-comms`";
    LocalSocket: "a daemon cannot listen on its local socket",
        "/run/pf9 is missing or belongs to another user, or systemd's socket unit is down",
        "`systemd-tmpfiles --create`, then `systemctl restart pf9-nodeletd.socket pf9-hostagent`";
    LocalUnreachable: "a daemon on this machine cannot be reached by its socket",
        "it does not run, was just started again, or too many callers wait",
        "`systemctl status 'pf9-*'`; if it runs, try again in some seconds";
    LocalTimeout: "a daemon on this machine did not answer in time",
        "it is busy with a slow disk or a slow systemd, or it hangs",
        "check disks and load; `journalctl -n 50 -u pf9-nodeletd -u pf9-hostagent`; systemd's watchdog restarts one that hangs";
    LocalMalformed: "the answer of a daemon on this machine cannot be parsed",
        "programs of two versions run side by side, which passes when a change of the agent's version has ended",
        "`pf9ctl version` shows the version of each; `systemctl restart pf9-comms pf9-hostagent` if they differ";
    HttpError: "a call was refused with an answer in an unknown format",
        "something else answers there (a proxy, a load balancer), or the other side has another version",
        "the status is in the message; check the URL in operator.toml and who answers there";
    TooMany: "more calls, streams or connections are open than one caller may have",
        "a program of this user keeps them open, or a limit of a service in /etc/pf9/services.d is reached",
        "close some, or find the program (`ss -xp`, `pf9ctl tunnel top --once`)";
    TooOften: "this was requested too often in a short time",
        "a loop in a script, or guessed passwords",
        "wait as long as the message says; let scripts wait between attempts";
    Internal: "the program hit an internal inconsistency",
        "a defect of this software",
        "try again once; keep the evidence with `pf9ctl bundle`, and report it";
    DecommissionUnfinished: "this machine is being decommissioned, and that has not finished",
        "`pf9ctl node decommission` was interrupted: a closed terminal, a reboot, or a role that could not be removed",
        "run `pf9ctl node decommission` again: it resumes where it was; `pf9ctl status` shows what blocks it";
    RoleStays: "the role could not be removed; the agent stays, and nothing else was touched",
        "the node cannot be drained, its member cannot leave etcd, or something is in use",
        "do what the message says; it continues automatically, and `pf9ctl node decommission` may \
         be run again; for a master whose cluster is given up: `pf9ctl node decommission --force`";
    ExtensionBad: "an operator's program in /etc/pf9/check.d or inventory.d is ignored",
        "it failed, took too long, wrote too much, or its file is writable by users other than root",
        "`pf9ctl node check` runs it and reports the same; the rules are in `docs/extensions.md`";
    ExtensionCheck: "an operator's own check fails",
        "its message says what it found",
        "follow its message; it is run again automatically";
    MaintenanceInvalid: "the maintenance was not started",
        "its time or its reason is missing or too long, or root already ordered the removal of the role",
        "say for how long and why: `pf9ctl maintenance start --for 2h --reason TEXT`";
    Maintenance: "this host is in maintenance: nothing is repaired or changed",
        "a maintenance of this host was started; the message says who, why and until when",
        "wait until it ends, or end it: `pf9ctl maintenance end`";
    EventsInMemory: "events are kept in memory only; a restart of hostagent would lose them",
        "the disk with /var/opt/pf9 is full or failing",
        "free some space there; they are then written to the disk automatically";
    StateIo: "the agent could not record its progress on the disk",
        "the disk with /var/opt/pf9 or /etc/pf9 is full, read-only or failing",
        "`df -h /var/opt/pf9`, `findmnt -T /var/opt/pf9`, `dmesg`; it is retried automatically";
    State: "a record of the agent's own progress could not be kept, or is inconsistent",
        "the disk with /var/opt/pf9 or /var/lib/pf9 is full, read-only or failing; else a defect",
        "check the disk; it is retried automatically. If the disk is healthy: `pf9ctl bundle`, and report it";
    StateBroken: "a state file of the agent is missing or damaged; the previous one is used, if there is one",
        "a disk that lost writes, or another program that writes below /var/opt/pf9",
        "check the disk and what else writes there; the plane sends documents again automatically";
    StateNotUnderstood: "a state file was written by another version of the agent and cannot be used by this one",
        "the agent was downgraded by hand to a version that cannot read it",
        "install the version of the agent that wrote it";
    StateUnreadable: "a state file of the agent cannot be read",
        "a failing disk, or wrong owner or mode",
        "check the disk and the named path; it is read again automatically";
    DiskFull: "there is no room left on a file system that the agent or the node needs",
        "images, logs of pods, backups of etcd, or something else on the same disk",
        "`df -h` and `df -i` for the named path, then free some space or enlarge the file system; it is retried \
         automatically. The agent's own share: `pf9ctl status`";
    DiskFailed: "a file system that the agent or the node needs became read-only, or its disk answers with errors",
        "a failing disk, cable or storage network; the kernel remounts a file system read-only after an error",
        "`dmesg` names the device; repair or replace it, `fsck` what it holds, and make it writable \
         (`mount -o remount,rw` with the mount point that the message names); it is retried automatically";
    DiskNearlyFull: "a file system that the node needs is nearly full; kubelet evicts pods soon",
        "images, logs of pods, backups, or other data on the same disk",
        "free some space or enlarge the file system before it is full";
    MemoryLow: "memory is nearly used up, or too little is free for a test",
        "pods without limits, other programs, or a machine that is too small",
        "see what uses it (`ps aux --sort=-rss`), stop something, or give the machine more; for a postponed fire drill of a backup: `pf9ctl etcd drill` at a quieter time";
}
