//! What somebody meets who works with `pf9ctl` and the agent's programs on the machine itself.

rows! {
    Usage: "the command line is wrong; nothing was done",
        "a verb, an option or a value is none that the program has, or a question could not be asked because there is no terminal",
        "read the message and the help of the verb (`--help`, examples are at its end); in scripts give `--yes` where it asks";
    NotRoot: "this verb needs root; nothing was done",
        "the files of the agent and systemd's units are the administrator's",
        "run it with sudo";
    NotAllowed: "the caller may not do this",
        "a user who is not root asked one of the agent's sockets for something that only root may, or an operator's token has too few rights at the plane",
        "on the machine: use sudo. At the plane: `docs/roles.md` says which role each route needs; ask for it, or use another token";
    Busy: "something else is being done; this was not begun",
        "another `pf9ctl` runs, or nodelet does something for etcd already (a backup, a drill, a copy): these do not go side by side",
        "wait until it has ended and try again; `pf9ctl etcd status` shows what is under way for etcd";
    Interrupted: "it was interrupted",
        "a signal, an answer of no, a stop of the daemon, or the machine went down in the middle",
        "nothing half done is left in use; run it again if you meant it";
    Deadline: "it took longer than it may, and was given up",
        "the disk, systemd or another program answers slowly, or hangs",
        "look at load and disks (`uptime`, `dmesg`), then try again; `journalctl -u pf9-nodeletd` says what it waited for";
    Runtime: "a program of the agent could not start",
        "the kernel gave it no thread, no descriptor or no signal: limits of processes or memory are reached",
        "look at `systemctl status 'pf9-*'`, `free` and `ps -eLf | wc -l`; then start it again";
    Log: "the log cannot be opened or shown",
        "nothing was logged there yet, the user may not read it, or /var/log/pf9 is full or read-only",
        "`pf9ctl logs --list` shows which logs there are; use sudo; `journalctl -u 'pf9-*'` has most of it, too";
    File: "a file or directory could not be read, written or put in its place",
        "a full or read-only disk, a wrong owner, or a file already there that must not be lost; the message names the path",
        "look at the path (`ls -ld`, `findmnt -T`, `dmesg`); nodelet tries its own again by itself";
    Files: "files of the agent could not all be changed or removed",
        "a read-only or failing disk, an immutable attribute, or something mounted below",
        "look at the named path (`lsattr`, `findmnt -T`), put it right, and run the same command again: it goes on where it was";
    Directories: "the agent's users and directories could not be made",
        "systemd-sysusers or systemd-tmpfiles failed: the package is not whole, or /etc or /var is read-only",
        "install the package pf9-hostagent again, then run the command again";
    Facts: "this machine could not be looked at",
        "a file of /proc, /sys or /etc cannot be read, or a network mount hangs",
        "look for a mount that hangs: `mount -t nfs,nfs4,fuse`; else for the named path";
    OutputFailed: "the result could not be written where it was to go",
        "the file is there already, the directory is not writable, or a pipe was closed",
        "name another file; a bundle goes to standard output as well: `pf9ctl bundle -o -`";
    NotFound: "what was asked for is not there",
        "a name or id is mistyped, or it was removed meanwhile",
        "list what there is first: `pf9ctl etcd list`, `pf9ctl host list`, `pf9ctl cluster list`";
    NotInstalled: "a program that this needs is not installed",
        "the package pf9-hostagent is not complete, or the machine that commands others has no ssh client",
        "install the package again, or the distribution's ssh client (openssh-client, openssh-clients)";
    NotPrepared: "this machine is not enrolled with a plane, or has no role there",
        "it was never enrolled, was decommissioned, or was not attached to a cluster yet",
        "enrol it: `pf9ctl node prep --plane URL --token-file FILE`; a host that is enrolled becomes a node with `pf9ctl node join --cluster CLUSTER`";
    ConfigInvalid: "the daemons cannot use the configuration",
        "a key is misspelled, a value out of its range, a file no TOML, or a file that is read later sets the same key",
        "`pf9ctl config validate` names every fault with its file and key; correct them in /etc/pf9/hostagent.toml or /etc/pf9/conf.d, then `systemctl restart pf9-comms pf9-hostagent`";
    AgentDown: "a daemon of the agent does not run; the node itself runs on",
        "it was stopped by hand, failed again and again, or cannot start with its configuration",
        "`systemctl status 'pf9-*'` and `journalctl -n 30 -u pf9-comms -u pf9-hostagent -u pf9-nodeletd`, then `systemctl restart pf9-comms pf9-hostagent`";
    SystemdSilent: "systemd, or a daemon, did not answer",
        "the machine is overloaded, D-Bus is down, or a unit hangs in its start or stop",
        "`systemctl list-jobs` and `systemctl status 'pf9-*'`; if `systemctl` itself hangs, the machine needs a restart";
    Socket: "comms cannot listen on one of its local sockets",
        "/run/pf9 is missing or belongs to somebody else",
        "`systemd-tmpfiles --create`, then `systemctl restart pf9-comms`";
    LocalSocket: "a daemon cannot listen on its local socket",
        "/run/pf9 is missing or belongs to somebody else, or systemd's socket unit is down",
        "`systemd-tmpfiles --create`, then `systemctl restart pf9-nodeletd.socket pf9-hostagent`";
    LocalUnreachable: "a daemon on this machine cannot be reached by its socket",
        "it does not run, was just started again, or too many callers wait",
        "`systemctl status 'pf9-*'`; if it runs, try again in some seconds";
    LocalTimeout: "a daemon on this machine did not answer in time",
        "it is busy with a slow disk or a slow systemd, or it hangs",
        "look at disks and load; `journalctl -n 50 -u pf9-nodeletd -u pf9-hostagent`; systemd's watchdog starts one again that hangs";
    LocalMalformed: "a daemon on this machine answered what cannot be read",
        "programs of two versions run side by side, which passes when a change of the agent's version has ended",
        "`pf9ctl version` shows which version each runs; `systemctl restart pf9-comms pf9-hostagent` where they differ";
    HttpError: "a call was refused with an answer in an unknown format",
        "something else answers in that place (a proxy, a load balancer), or the other side is of another version",
        "the status is in the message; check the URL in operator.toml and who answers there";
    TooMany: "more calls, streams or connections are open than one caller may have",
        "a program of this user keeps them open, or a bound of a service in /etc/pf9/services.d is reached",
        "close some, or find the program (`ss -xp`, `pf9ctl tunnel top --once`)";
    TooOften: "this was asked for too often in a short time",
        "a loop in a script, or somebody who guesses passwords",
        "wait as long as the message says; let scripts wait between two tries";
    Internal: "the program hit an internal inconsistency",
        "a defect of this software",
        "try again once; keep the evidence with `pf9ctl bundle`, and report it";
    DecommissionUnfinished: "this machine is being decommissioned, and that did not finish",
        "`pf9ctl node decommission` was cut off: a closed terminal, a reboot, or a role that could not be removed",
        "run `pf9ctl node decommission` again: it goes on where it was; `pf9ctl status` shows what keeps it";
    RoleStays: "the role could not be removed; the agent stays, and nothing else was touched",
        "the node cannot be drained, its member cannot leave etcd, or something is in use",
        "do what the message says; it continues automatically, and `pf9ctl node decommission` may be run again; a \
         master whose cluster is given up goes with `pf9ctl node decommission --force`";
    ExtensionBad: "an operator's program in /etc/pf9/check.d or inventory.d is ignored",
        "it failed, took too long, wrote too much, or its file can be written by others than root",
        "`pf9ctl node check` runs it and says the same; the rules are in `docs/extensions.md`";
    ExtensionCheck: "an operator's own check fails",
        "what it found is in its words",
        "do what it says; it is run again automatically";
    MaintenanceInvalid: "the maintenance was not begun",
        "its time or its reason is missing or too long, or root already ordered the removal of the role",
        "say for how long and why: `pf9ctl maintenance start --for 2h --reason TEXT`";
    Maintenance: "this host is in maintenance: nothing is repaired or changed",
        "somebody started a maintenance of this host; the message says who, why and until when",
        "wait until it ends, or end it: `pf9ctl maintenance end`";
    EventsInMemory: "events are kept in memory only; a restart of hostagent would lose them",
        "the disk with /var/opt/pf9 is full or failing",
        "make room there; they are written to the disk by themselves then";
    StateIo: "the agent could not record its progress on the disk",
        "the disk with /var/opt/pf9 or /etc/pf9 is full, read-only or failing",
        "`df -h /var/opt/pf9`, `findmnt -T /var/opt/pf9`, `dmesg`; it is retried automatically";
    State: "a record of the agent's own progress could not be kept, or is inconsistent",
        "the disk with /var/opt/pf9 or /var/lib/pf9 is full, read-only or failing; else a defect",
        "look at the disk; it is retried automatically. If the disk is well: `pf9ctl bundle`, and report it";
    StateBroken: "a state file of the agent is missing or damaged; the one before it is used where there is one",
        "a disk that lost writes, or somebody else who writes below /var/opt/pf9",
        "look at the disk and at who else writes there; the plane sends documents again by itself";
    StateNotUnderstood: "a state file was written by another version of the agent and cannot be used by this one",
        "the agent was set back to an older version by hand, past what that version can read",
        "install the version of the agent that wrote it";
    StateUnreadable: "a state file of the agent cannot be read",
        "a failing disk, or wrong owner or mode",
        "look at the disk and the named path; it is read again by itself";
    DiskFull: "there is no room left on a file system that the agent or the node needs",
        "images, logs of pods, backups of etcd, or something else on the same disk",
        "`df -h` and `df -i` for the named path, then free some space or enlarge the file system; it is retried \
         automatically. What is ours on the disks: `pf9ctl status`";
    DiskNearlyFull: "a file system that the node needs is nearly full; kubelet evicts pods soon",
        "images, logs of pods, backups, or other data on the same disk",
        "free some space or enlarge the file system before it is full";
    MemoryLow: "memory is nearly used up, or too little is free for what was to be tried",
        "pods without limits, other programs, or a machine that is too small",
        "see who has it (`ps aux --sort=-rss`), end something, or give the machine more; a fire drill of a backup that was put off: `pf9ctl etcd drill` at a quieter time";
}
