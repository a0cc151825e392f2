//! For each check of `pf9ctl node check`: what breaks exactly that on a node, and what repairs it as its text says; or
//! why the test machines cannot be broken like that, and which test shows it with recorded facts instead. A test
//! compares this with the table of checks, so that none is missing.

/// How a check is shown to work.
pub(crate) enum Shown {
    /// On the machine itself, for a moment.
    Machine(Broken),
    /// With mounts of the program's own: the daemons, which would act on it, do not see it.
    View(Broken),
    /// The test machines have no such defect.
    Recorded {
        /// Why not.
        why: &'static str,
        /// The test in `src/preflight` that has it in facts.
        test: &'static str,
    },
}

/// Lines of shell.
pub(crate) struct Broken {
    pub(crate) breaks: &'static str,
    /// A word of what the check reports then.
    pub(crate) says: &'static str,
    pub(crate) mends: &'static str,
}

const fn machine(breaks: &'static str, says: &'static str, mends: &'static str) -> Shown {
    Shown::Machine(Broken {
        breaks,
        says,
        mends,
    })
}

const fn view(breaks: &'static str, says: &'static str, mends: &'static str) -> Shown {
    Shown::View(Broken {
        breaks,
        says,
        mends,
    })
}

const fn recorded(why: &'static str, test: &'static str) -> Shown {
    Shown::Recorded { why, test }
}

/// With facts of a machine that is good but for one thing.
const DEFECTS: &str = "each_defect_is_named_with_a_remedy_and_an_exit_code";

/// Checks whose remedy is a command with nothing to fill in: what mends it is that command, to the letter.
pub(crate) const COMMANDS: [&str; 4] = ["mount-propagation", "limits", "mtu", "ports-given-away"];

/// Every check once, in the order of the table.
pub(crate) const BREAKS: &[(&str, Shown)] = &[
    (
        "root",
        recorded(
            "everybody else sees less, and other checks are left out with it",
            DEFECTS,
        ),
    ),
    (
        "distribution",
        view(
            "sed 's/^VERSION_ID=.*/VERSION_ID=\"10\"/' /usr/lib/os-release >/run/broken && mount --bind /run/broken /usr/lib/os-release",
            "Debian",
            "umount /usr/lib/os-release",
        ),
    ),
    (
        "architecture",
        recorded("a program runs on the processor it is made for", DEFECTS),
    ),
    (
        "init",
        recorded(
            "on a machine without systemd no unit runs, and the checks of the agent fail with it",
            DEFECTS,
        ),
    ),
    (
        "tested",
        view(
            "touch /usr/lib/systemd/libsystemd-shared-260.so; echo 5.4.0 >/run/broken && mount --bind /run/broken /proc/sys/kernel/osrelease",
            "systemd 260",
            "umount /proc/sys/kernel/osrelease; rm /usr/lib/systemd/libsystemd-shared-260.so",
        ),
    ),
    (
        "host-name",
        view(
            "echo db_1 >/run/broken && mount --bind /run/broken /proc/sys/kernel/hostname",
            "db_1",
            "umount /proc/sys/kernel/hostname",
        ),
    ),
    (
        "memory",
        view(
            "sed 's/^MemTotal:.*/MemTotal: 500000 kB/' /proc/meminfo >/run/broken && mount --bind /run/broken /proc/meminfo",
            "give the machine more memory",
            "umount /proc/meminfo",
        ),
    ),
    (
        "processors",
        view(
            "printf 'processor\\t: 0\\n' >/run/broken && mount --bind /run/broken /proc/cpuinfo",
            "starves",
            "umount /proc/cpuinfo",
        ),
    ),
    (
        "swap",
        view(
            "printf 'Filename Type Size Used Priority\\n/dev/sdz1 partition 1 0 5\\n' >/run/broken && mount --bind /run/broken /proc/swaps",
            "/dev/sdz1",
            "umount /proc/swaps",
        ),
    ),
    (
        "disk",
        view(
            "mount -t tmpfs -o size=10m none /var/log/pf9",
            "/var/log/pf9 needs",
            "mount -o remount,size=1g /var/log/pf9",
        ),
    ),
    (
        "programs",
        machine(
            "mkdir -p /opt/pf9/cni && mount -t tmpfs -o noexec none /opt/pf9/cni",
            "/opt/pf9/cni",
            "mount -o remount,exec /opt/pf9/cni; umount /opt/pf9/cni; rmdir /opt/pf9/cni 2>/dev/null || :",
        ),
    ),
    (
        "links",
        view(
            "mount -t tmpfs -o size=1g none /var/log && mkdir /var/log/pf9 && ln -s /run /var/log/pods",
            "/var/log/pods is a link to /run",
            "rm /var/log/pods && mkdir /var/log/pods",
        ),
    ),
    (
        "runtime-storage",
        view(
            "mount -t ramfs none /var/lib/pf9/containerd",
            "/var/lib/pf9/containerd",
            "mount -t tmpfs none /var/lib/pf9/containerd",
        ),
    ),
    (
        "etcd-disk",
        recorded(
            "no disk of the test machines can be made slow",
            "one_slow_write_is_an_accident_and_two_are_a_disk",
        ),
    ),
    (
        "control-groups",
        view(
            "if [ -e /sys/fs/cgroup/cgroup.controllers ]; then \
               echo cpu cpuset io pids >/run/broken && mount --bind /run/broken /sys/fs/cgroup/cgroup.controllers; \
             else mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/cpu /sys/fs/cgroup/cpuset /sys/fs/cgroup/pids; fi",
            "kubelet needs memory",
            "if [ -e /sys/fs/cgroup/cgroup.controllers ]; then umount /sys/fs/cgroup/cgroup.controllers; \
             else mkdir /sys/fs/cgroup/memory; fi",
        ),
    ),
    (
        "user-namespaces",
        recorded(
            "it says what is possible, and judges nothing",
            "pods_that_want_ids_of_their_own_are_told_why_not",
        ),
    ),
    (
        "overlay",
        view(
            "grep -v overlay /proc/filesystems >/run/broken && mount --bind /run/broken /proc/filesystems && { [ ! -d /sys/module ] || mount -t tmpfs none /sys/module; }",
            "absent",
            "umount /proc/filesystems; umount /sys/module 2>/dev/null || :",
        ),
    ),
    (
        "kernel-log",
        machine(
            "mv /dev/kmsg /dev/kmsg.was",
            "absent",
            "mv /dev/kmsg.was /dev/kmsg",
        ),
    ),
    (
        "mount-propagation",
        machine(
            "mount --make-private /",
            "private",
            "mount --make-rshared /",
        ),
    ),
    (
        "bridge-filter",
        view(
            "mkdir -p /run/net/netfilter /run/net/ipv4 && cd /proc/sys/net && for f in netfilter/nf_conntrack_max \
             ipv4/ip_local_port_range ipv4/ip_local_reserved_ports; do cat $f >/run/net/$f; done && cd / && \
             mount --bind /run/net /proc/sys/net",
            "br_netfilter",
            "mkdir /run/net/bridge; rm -r /run/net/bridge; umount /proc/sys/net; rm -r /run/net",
        ),
    ),
    (
        "connection-tracking",
        view(
            "mkdir -p /run/net/bridge /run/net/ipv4 && cd /proc/sys/net && for f in \
             ipv4/ip_local_port_range ipv4/ip_local_reserved_ports; do cat $f >/run/net/$f; done && cd / && \
             mount --bind /run/net /proc/sys/net && { [ ! -d /sys/module ] || mount -t tmpfs none /sys/module; }",
            "nf_conntrack",
            "umount /sys/module 2>/dev/null || :; umount /proc/sys/net; rm -r /run/net",
        ),
    ),
    (
        "selinux",
        recorded(
            "it says what there is, and judges nothing; the test machines' kernel has none",
            "what_is_only_said_is_judged_by_nobody",
        ),
    ),
    (
        "apparmor",
        recorded(
            "it says what there is, and judges nothing; the test machines' kernel has none",
            "what_is_only_said_is_judged_by_nobody",
        ),
    ),
    (
        "limits",
        view(
            "echo 16 >/run/broken && mount --bind /run/broken /proc/sys/fs/inotify/max_user_instances",
            "fs.inotify.max_user_instances is 16",
            "sysctl -w fs.inotify.max_user_instances=128",
        ),
    ),
    (
        "clock",
        recorded(
            "the test machines are containers, which have the clock of their host",
            DEFECTS,
        ),
    ),
    (
        "clock-offset",
        recorded(
            "the test machines have the clock of their plane",
            "only_what_is_certain_is_an_alarm",
        ),
    ),
    (
        "dns",
        machine(
            "cp -L /etc/resolv.conf /root/resolv.kept && umount /etc/resolv.conf 2>/dev/null; mv /etc/resolv.conf /root/resolv.was; \
             ln -s /run/nowhere/resolv.conf /etc/resolv.conf",
            "does not exist",
            "rm /etc/resolv.conf; cp /root/resolv.kept /etc/resolv.conf; rm -f /root/resolv.was /root/resolv.kept",
        ),
    ),
    (
        "default-route",
        machine(
            "ip -4 route show default >/run/broken && ip -4 route del default",
            "ip route add default",
            "ip -4 route add $(cat /run/broken)",
        ),
    ),
    (
        "mtu",
        machine(
            "ip link set dev host0 mtu 1200",
            "1200 on host0",
            "ip link set dev host0 mtu 1500",
        ),
    ),
    (
        "networks",
        recorded(
            "the machine that is looked at is a node: there the status compares, with the networks that its cluster has; on a \
             machine that is none: tests/node/likes.rs",
            "a_machine_that_has_a_clusters_addresses_is_told_unless_it_is_a_node",
        ),
    ),
    (
        "firewall",
        machine(
            "nft add table inet broken && nft add chain inet broken f '{ type filter hook forward priority 0; policy drop; }'",
            "table inet broken",
            "nft delete table inet broken",
        ),
    ),
    (
        "tools",
        machine(
            "mv /usr/sbin/conntrack /usr/sbin/conntrack.was",
            "conntrack",
            "mv /usr/sbin/conntrack.was /usr/sbin/conntrack",
        ),
    ),
    (
        "libraries",
        view(
            "d=/usr/lib/$(uname -m)-linux-gnu; mkdir /dev/shm/u /dev/shm/w && \
             mount -t overlay -o lowerdir=$d,upperdir=/dev/shm/u,workdir=/dev/shm/w none $d && rm $d/libseccomp.so.2",
            "libseccomp",
            "umount -l /usr/lib/$(uname -m)-linux-gnu; rm -r /dev/shm/u /dev/shm/w",
        ),
    ),
    (
        "package-locks",
        machine(
            "mkfifo /run/held && { perl -MFcntl -e 'open F, \">>\", \"/var/lib/dpkg/lock-frontend\"; \
             $l = pack(\"s s x![q] q q i\", F_WRLCK, 0, 0, 0, 0); fcntl(F, F_SETLK, $l) or die; print \"held\\n\"; close STDOUT; sleep 600' \
             >/run/held 2>/dev/null </dev/null & echo $! >/run/broken; } && read -r held </run/held && rm /run/held",
            "perl",
            "kill $(cat /run/broken)",
        ),
    ),
    (
        "ports",
        machine(
            "mkfifo /run/held && { perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(LocalPort => 2380, Listen => 1) or die; \
             print \"held\\n\"; close STDOUT; sleep 600' >/run/held 2>/dev/null </dev/null & echo $! >/run/broken; } && \
             read -r held </run/held && rm /run/held",
            "is taken by perl",
            "kill $(cat /run/broken)",
        ),
    ),
    (
        "ports-given-away",
        view(
            "printf '10000\\t60999\\n' >/run/broken && mount --bind /run/broken /proc/sys/net/ipv4/ip_local_port_range && \
             : >/run/reserved && mount --bind /run/reserved /proc/sys/net/ipv4/ip_local_reserved_ports",
            "10250",
            "sysctl -w net.ipv4.ip_local_reserved_ports=10248,10249,10250,10256,10257,10259",
        ),
    ),
    (
        "other-kubelet",
        machine(
            "cp /bin/sleep /root/kubelet && { /root/kubelet 600 >/dev/null 2>&1 </dev/null & echo $! >/run/broken; }",
            "kubelet (process",
            "kill $(cat /run/broken); rm /root/kubelet",
        ),
    ),
    (
        "other-agent",
        machine(
            "mkdir -p /etc/rancher/agent",
            "/etc/rancher/agent",
            "rmdir /etc/rancher/agent /etc/rancher",
        ),
    ),
    (
        "other-runtime",
        recorded(
            "it says what there is, and judges nothing; with one that runs: tests/node/theirs.rs",
            "what_is_only_said_is_judged_by_nobody",
        ),
    ),
    (
        "leftovers",
        machine(
            "mkdir -p /etc/cni/net.d && touch /etc/cni/net.d/10-other.conflist",
            "/etc/cni/net.d",
            "rm -r /etc/cni",
        ),
    ),
    (
        "plane",
        machine(
            "p=$(pf9ctl check-node --json | grep -oE 'wss://[^/\" ]+' | head -n 1 | sed 's/.*://') && \
             nft add table inet broken && nft add chain inet broken o '{ type filter hook output priority 0; }' && \
             nft add rule inet broken o meta skuid 0 tcp dport $p reject with tcp reset",
            "refused",
            "nft delete table inet broken",
        ),
    ),
    (
        "identity",
        view(
            "cp /etc/pf9/root/order-key.json /run/broken && chmod 0644 /run/broken && \
             mount --bind /run/broken /etc/pf9/root/order-key.json",
            "order-key.json",
            "chmod 0600 /run/broken",
        ),
    ),
    (
        "certificates",
        recorded(
            "no certificate of a node that works has ended",
            "each_defect_is_named",
        ),
    ),
    (
        "configuration",
        view(
            "{ cat /etc/pf9/hostagent.toml; printf '\\n[nonsense]\\nx = 1\\n'; } >/run/broken && \
             mount --bind /run/broken /etc/pf9/hostagent.toml",
            "nonsense",
            "umount /etc/pf9/hostagent.toml",
        ),
    ),
    (
        "daemons",
        machine(
            "systemctl stop pf9-hostagent",
            "hostagent",
            "systemctl start pf9-hostagent",
        ),
    ),
    (
        "connection",
        machine(
            "p=$(pf9ctl check-node --json | grep -oE 'wss://[^/\" ]+' | head -n 1 | sed 's/.*://') && \
             nft add table inet broken && nft add chain inet broken o '{ type filter hook output priority 0; }' && \
             nft add rule inet broken o meta skuid pf9-comms tcp dport $p reject with tcp reset",
            "not connected",
            "nft delete table inet broken",
        ),
    ),
];
