//! What `pf9ctl node check` finds: the code and the remedy of each check that has no code of others.

/// One row a check, for both lists that are made of it: `codes` (its code) and `rows` (its remedy).
macro_rules! with_checks {
    ($list:ident { $($others:tt)* }) => {
        $list! {
            [ $($others)* ]
            CheckInit = "check-init": "systemd is not process 1; agent and node run as its units",
                "a container without systemd, or another init",
                "boot the machine with systemd";
            CheckTested = "check-tested": "systemd, control groups or kernel are not in the table of what was tested, or are refused there",
                "a very new or very old distribution, or control groups of version 1",
                "the message names the part; use a release from the README's table, and boot with `systemd.unified_cgroup_hierarchy=1` if version 1 is the reason";
            CheckHostName = "check-host-name": "the host name cannot be a node's name",
                "it is not a DNS name (capitals, underscores), is localhost, or is one that a cluster uses itself",
                "`hostnamectl set-hostname worker-1` before the host is enrolled";
            CheckMemory = "check-memory": "the machine has too little memory for a node",
                "kubelet and its helpers need 1 GiB; what is above that is for pods",
                "give the machine more memory; the thresholds are in `docs/checks.md`";
            CheckProcessors = "check-processors": "a control plane starves on one processor",
                "a small virtual machine",
                "add a processor, or make it a worker";
            CheckSwap = "check-swap": "swap is on, and kubelet does not start with it unless the cluster allows it",
                "the distribution's installer made a swap partition or file, or zram is set up at boot",
                "`swapoff -a`, and remove it from /etc/fstab (for /dev/zram: /etc/systemd/zram-generator.conf or the package zram-tools); `pf9ctl node prep --plane URL --token-file FILE --fix` does it; or allow it with kubelet.allowSwap of the cluster";
            CheckPrograms = "check-programs": "programs cannot be run in the directories of the agent, Kubernetes or etcd",
                "the file system is mounted noexec, as some hardening guides recommend",
                "`mount -o remount,exec` for the named mount, and the same in /etc/fstab";
            CheckLinks = "check-links": "a symbolic link is in place of one of the agent's directories",
                "/var/lib/pf9 or a neighbour was moved to a larger disk with a link; mounts and deletions below need the real path",
                "remove the link, make a directory, and bind the link's target to it: `mount --bind TARGET DIRECTORY`, with a line in /etc/fstab";
            CheckRuntimeStorage = "check-runtime-storage": "an overlay cannot be mounted where the container runtime would put images",
                "XFS without ftype=1, a network file system, an overlay on an overlay, or a quota",
                "mount a disk with ext4 or with XFS (ftype=1) at /var/lib/pf9, or raise the quota";
            CheckEtcdDisk = "check-etcd-disk": "writes are slow on the disk where etcd would be",
                "a spinning disk, a throttled volume of a cloud, or another program that writes a lot: etcd waits for each write",
                "for a master mount a faster disk (SSD) at /var/lib/pf9/etcd; a worker may have a slow one";
            CheckControlGroups = "check-control-groups": "control groups lack what kubelet needs",
                "the memory controller is off at boot (some ARM boards), or a container got no delegation",
                "boot with `cgroup_enable=memory`, or delegate the controllers to the container";
            CheckUserNamespaces = "check-user-namespaces": "pods cannot have user ids of their own",
                "user.max_user_namespaces is 0, or the kernel is too old",
                "nothing, unless pods use hostUsers: false; else raise `user.max_user_namespaces`, or use a kernel of 6.3 or newer";
            CheckOverlay = "check-overlay": "the kernel has no overlay file system",
                "a kernel built without it, or the module is not installed",
                "`modprobe overlay`, or use the distribution's own kernel";
            CheckKernelLog = "check-kernel-log": "the kernel's log cannot be read, and kubelet exits without it",
                "/dev/kmsg is missing, mostly in a container",
                "give the container the device /dev/kmsg; on a machine `mknod -m 600 /dev/kmsg c 1 11`";
            CheckMountPropagation = "check-mount-propagation": "mounts are not shared; pods that mount for others (storage drivers) do not start",
                "something makes / private at boot",
                "`mount --make-rshared /`, and disable whatever makes it private at boot";
            CheckBridgeFilter = "check-bridge-filter": "bridged packets are not filtered, so services may be unreachable between pods of one node",
                "the module br_netfilter is missing",
                "`modprobe br_netfilter`, or use a kernel that has it";
            CheckConnectionTracking = "check-connection-tracking": "the kernel tracks no connections; services cannot work",
                "the module nf_conntrack is missing",
                "`modprobe nf_conntrack`, or use a kernel that has it";
            CheckSelinux = "check-selinux": "whether SELinux is there; never a failure",
                "information only",
                "nothing: the agent works with each";
            CheckApparmor = "check-apparmor": "whether AppArmor is there; never a failure",
                "information only",
                "nothing: the agent works with each";
            CheckLimits = "check-limits": "the kernel's limits on processes, descriptors or file watches are too low for a node with many pods",
                "the distribution's defaults, or a container's limits",
                "`sysctl -w` with the values in the message, and the same in /etc/sysctl.d; `pf9ctl node prep --plane URL --token-file FILE --fix` does it";
            CheckClock = "check-clock": "the clock is wrong, or not synchronised",
                "no time service runs, or the battery of the machine's clock is empty",
                "`timedatectl set-ntp true`, or install chrony";
            CheckClockOffset = "check-clock-offset": "this machine's clock differs from the plane's",
                "no time service, or one that cannot reach its servers; rarely the plane's own clock",
                "`timedatectl status` here and at the plane; set the one that is wrong";
            CheckDns = "check-dns": "there is no name server that pods can use",
                "resolv.conf is empty or names an address of this machine (127.0.0.53 without systemd-resolved's own list)",
                "`resolvectl status` or /etc/resolv.conf: name a server that pods can reach";
            CheckDefaultRoute = "check-default-route": "there is no default route; kube-proxy and the node's address follow it",
                "a network without a gateway, or one that is not configured at boot",
                "`ip route add default via GATEWAY`, and the same in the network's configuration";
            CheckMtu = "check-mtu": "packets are small; an overlay network leaves little of one",
                "the default route is a tunnel or VPN",
                "`ip link set dev NAME mtu 1500`, if the network carries it";
            CheckNetworks = "check-networks": "networks that this machine reaches overlap the pods or services of a new cluster",
                "a network of the site, a VPN or another container runtime uses the same private addresses",
                "make the cluster with other networks (`containersCidr`, `servicesCidr`), or give the machine others";
            CheckFirewall = "check-firewall": "a packet filter of this machine drops traffic between nodes or pods",
                "firewalld, ufw or other rules that drop forwarded packets",
                "allow the networks of nodes and pods there, and ports 6443, 2379, 2380 and 10250 between nodes";
            CheckTools = "check-tools": "programs of the distribution that a node calls are missing",
                "a minimal installation",
                "install the packages that the message names (apt or dnf)";
            CheckLibraries = "check-libraries": "libraries of the distribution that a node needs are missing",
                "a minimal installation",
                "install the packages that the message names (apt or dnf)";
            CheckPackageLocks = "check-package-locks": "another process holds the package manager's locks",
                "unattended-upgrades or cloud-init at work, usual in the first minutes after a boot",
                "let it finish; `ps aux | grep -e apt -e dnf` shows who";
            CheckPorts = "check-ports": "ports of the node are taken",
                "another program, or another Kubernetes, listens there",
                "stop the program that the message names, or give it another port";
            CheckPortsGivenAway = "check-ports-given-away": "ports of the node are in the kernel's ephemeral range, and a service may find its port in \
                use",
                "net.ipv4.ip_local_port_range begins very low",
                "`sysctl -w net.ipv4.ip_local_reserved_ports=` with the ports of the message, and the same in /etc/sysctl.d";
            CheckOtherKubelet = "check-other-kubelet": "another Kubernetes runs here; two kubelets fight over one machine",
                "kubeadm, k3s, RKE or the like was installed before",
                "remove it (kubeadm reset, k3s-uninstall.sh), or use another machine";
            CheckOtherAgent = "check-other-agent": "another agent manages this machine",
                "it was onboarded to another management plane before",
                "decommission it there first, then remove what it left";
            CheckOtherRuntime = "check-other-runtime": "another container runtime runs beside the node's; never a failure",
                "Docker or containerd of the distribution",
                "nothing: ours has a socket, a directory and a unit of its own";
            CheckLeftovers = "check-leftovers": "another Kubernetes left links, routes, packet-filter rules or directories",
                "it was removed incompletely",
                "let it remove itself (kubeadm reset, k3s-uninstall.sh), delete what is left, and reboot";
            CheckIdentity = "check-identity": "key, certificate and authorities of this host do not belong together, or not to this machine",
                "a disk that was copied or reset, or files that were changed by hand",
                "`pf9ctl identity show` shows what does not fit; on a copy `pf9ctl identity reset`";
            CheckCertificates = "check-certificates": "a certificate of this host has expired, or is about to and is not renewed",
                "the host could not reach its plane for a long time, or the plane's authority is about to expire",
                "let the agent reach the plane: it renews them automatically (`pf9ctl status`); authorities on the plane: \
                 `pf9-plane keys list`";
            CheckConnection = "check-connection": "the tunnel is not up; the node continues with its last orders, and gets no new ones",
                "network, proxy or plane",
                "`pf9ctl status` says why and when the next try is; `pf9ctl proxy test` tests the way hop by hop";
            CheckOperators = "check-operators": "one of the operator's own checks fails",
                "its message says what it found",
                "follow its message; see `docs/extensions.md`";
        }
    };
}

with_checks! { rows {
    UnsupportedOs: "the packages are not made for this distribution or release",
        "an old release, or an untested distribution",
        "use a supported one (the README has the list); a close relative works, and the check warns only";
    UnsupportedArch: "there is no stack for this processor",
        "it is neither x86_64 nor aarch64",
        "use another machine";
} }
