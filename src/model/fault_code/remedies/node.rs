//! A node: what nodelet makes of a machine, and what it finds changed there.

rows! {
    SwapOn: "swap is on, and kubelet does not start with it",
        "it was turned on again at boot or by hand",
        "`swapoff -a`, and remove it from /etc/fstab (for /dev/zram: /etc/systemd/zram-generator.conf or the package zram-tools); or allow it with kubelet.allowSwap of the cluster";
    PortTaken: "a port that the node needs is used by another program",
        "another Kubernetes or a service of the machine listens there",
        "`ss -lntp` shows who; stop it, or give it another port";
    PackageMissing: "a package of the distribution that the node needs is not installed",
        "a minimal installation, or it was removed",
        "install it (the message names it); the node continues automatically";
    PathIsLink: "a symbolic link is in place of one of the agent's paths, and is not followed",
        "a directory was moved to a larger disk with a link",
        "remove the link, make a directory, and bind the link's target to it: `mount --bind TARGET DIRECTORY`, with a line in /etc/fstab";
    KernelModule: "a kernel module that the node needs cannot be loaded",
        "the kernel was built without it, was upgraded without a reboot, or loading modules is locked",
        "`modprobe` the module by hand and read what it says; reboot after a kernel upgrade";
    KernelParameter: "a kernel parameter does not have, or does not keep, the value that the node needs",
        "a line in /etc/sysctl.d that is read later, or another program that sets it",
        "`sysctl --system` shows which file wins; remove the other line";
    Unit: "a systemd unit of the node has drifted: it does not run, or not with its current settings",
        "the program fails at its start, or the unit was stopped or changed by hand",
        "the message names the unit: `systemctl status 'pf9-*'`, and its journal";
    Units: "systemd did not do what it was asked to",
        "a unit file is missing or broken, or systemd is overloaded",
        "`systemctl status 'pf9-*'`; install the package pf9-hostagent again if a unit is missing";
    UnitRemoval: "a unit could not be stopped and removed",
        "its processes hang, mostly on a disk or a network mount",
        "`systemctl status` the named unit and `ps` for processes in state D; it is retried automatically";
    ContainersLeft: "not all containers or their mounts could be stopped",
        "a process that hangs in the kernel, or a mount that is in use",
        "`mount | grep pf9` and `fuser -vm` for the named path; a reboot clears what hangs";
    NetworkLeft: "links of the pod network or chains of the packet filter could not be removed",
        "another program uses or recreates them",
        "`ip link`, `nft list ruleset`; find the program that creates them; it is retried automatically";
    Removal: "part of a role could not be removed",
        "something is in use, or the disk rejects the change",
        "the message names it; fix it, it is retried automatically";
    Drain: "pods cannot be drained from the node, or the drain is still under way",
        "a disruption budget forbids it, no other node has room, or pods have no controller to recreate them",
        "`kubectl get pdb -A` and `kubectl get pods -A --field-selector spec.nodeName=NODE`; save what pods without \
         a controller hold and delete them, or order the drain with force";
    Uncordon: "the node could not be made schedulable again",
        "the cluster's API rejected it",
        "nothing, if the API comes back; `kubectl uncordon NODE` does it by hand";
    Object: "an object of the cluster (an add-on, a binding) could not be written or deleted",
        "the API server is down or refuses it: a webhook, a quota, or a version that does not know the kind",
        "the message has the API's own words; look for webhooks that refuse it: `kubectl get validatingwebhookconfigurations`";
    Image: "an image of the stack is not in the container runtime",
        "the runtime rejects it: its disk is full, or its store was damaged",
        "`df -h /var/lib/pf9/containerd`, `journalctl -n 50 -u pf9-containerd`; it is imported again automatically";
    RuntimeNotReady: "the container runtime does not answer",
        "containerd does not start, has no space on its disk, or rejects a drop-in of its configuration",
        "`journalctl -n 50 -u pf9-containerd`";
    RuntimeNotAsMeant: "the container runtime runs with settings other than its configuration",
        "it was not restarted after a change, or a drop-in overrides it",
        "`journalctl -n 50 -u pf9-containerd`; check the drop-ins of its configuration";
    RuntimeProxy: "the container runtime's proxy differs from the machine's: images outside the stack are pulled another way than intended",
        "the runtime was started with other HTTPS_PROXY or NO_PROXY, or with none",
        "`systemctl edit pf9-containerd`, with [Service] and Environment= as the message says, then `systemctl restart pf9-containerd`; containers keep running meanwhile";
    KubeletNotHealthy: "kubelet does not report healthy",
        "it does not start (swap, control groups, a setting it does not know), or cannot reach the API server",
        "`journalctl -n 100 -u pf9-kubelet`";
    NodeNotReady: "the node is not Ready in the cluster",
        "kubelet is down or does not reach the API server, or the pod network is not up yet",
        "`kubectl describe node NODE`; on the node `journalctl -n 100 -u pf9-kubelet`";
    StaticPodNotCurrent: "a part of the control plane does not match its manifest",
        "kubelet is slow to start it, or the program fails with its settings",
        "`journalctl -n 50 -u pf9-kubelet`, and the pod's log in /var/log/pods";
    ApiNotReady: "the API server does not report ready",
        "etcd has no leader, a master is down, or the API server fails at its start",
        "on a master `pf9ctl etcd status` and the API server's log in /var/log/pods; on a worker check that the master is up";
    KubeProxyNotHealthy: "kube-proxy does not report healthy; services may be unreachable from this node",
        "it does not start, or does not reach the API server",
        "`journalctl -n 50 -u pf9-kube-proxy`";
    ProxyRulesLost: "rules of kube-proxy are missing; they are being rewritten",
        "another program flushed the packet filter (firewalld, iptables-restore)",
        "find it, and keep it from flushing tables that are not its own";
    ProxyRulesLeft: "rules that kube-proxy wrote in another mode could not be removed",
        "another program runs kube-proxy on this machine",
        "look for another Kubernetes or a container that runs one; `journalctl -n 50 -u pf9-kube-proxy`";
    PodNetworkRules: "rules, routes or tunnels of the pod network are missing; they are being restored",
        "another program flushes the packet filter or drops routes (firewalld, NetworkManager)",
        "look for it: `nft monitor`, `ip monitor route`";
    PodsNotForwarded: "another table of the packet filter drops traffic of pods",
        "firewalld, ufw or Docker set the policy of forwarding to drop",
        "allow traffic from and to the pod network there; the message names table and network";
    PoliciesNotKept: "network policies are not enforced on this node: what they forbid may pass",
        "their controller has not written its rules yet, or the kernel lacks a part",
        "`kubectl -n kube-system logs -l k8s-app=network-policies` if it persists; otherwise boot a kernel that has the named part, or set networkPolicies to off";
    PolicyRulesLeft: "rules of network policies could not be removed",
        "the packet filter rejects the change, or another program reverts it",
        "`nft list ruleset`; it is retried automatically";
    PoolElsewhere: "services get addresses of a network that this node is not in",
        "the load balancer's range belongs to another network",
        "give services addresses of the nodes' network (`pf9-plane cluster settings NAME JSON`), or route them to it";
    NetworksMeet: "a network of the cluster overlaps one of the machine",
        "the pod or service range contains the machine's own network, a route or a VPN",
        "make a cluster with another network, or give the machine another one; it continues automatically when they \
         no longer overlap";
    NoDns: "pods of this node get no DNS",
        "the machine's resolv.conf is empty, or names only itself",
        "name a server that pods can reach in /etc/resolv.conf or systemd-resolved";
    CsiElsewhere: "volumes of a storage driver (CSI) cannot be mounted on this node",
        "the driver does not know this node's kubelet directory, and waits for it in /var/lib/kubelet",
        "set it to `/var/lib/pf9/kubelet` (its chart's kubeletDir or kubeletRootDir), then delete what is left in \
         /var/lib/kubelet/plugins_registry";
    NoDefaultRoute: "the machine has no default route; kube-proxy and the node's address follow it",
        "the network was reconfigured without a gateway",
        "`ip route add default via GATEWAY`, and the same where the network is configured";
    NoAddress: "the machine has no address of its own of the IP version of the cluster's pods",
        "an IPv6 cluster and an IPv4 machine, or the other way round; or only the shared address is there",
        "give it an address of that version";
    AddressGone: "the machine no longer has the node's address; its kubelet and pods are unreachable there",
        "DHCP gave another one, or an interface is down",
        "give it back and reserve it; while the plane is reachable a node follows to a new one automatically, a master if the others are healthy";
    NodeRenamed: "the machine has another host name than its node in Kubernetes, which keeps its own",
        "`hostnamectl set-hostname`, or DHCP, after the host was attached to its cluster",
        "nothing, if that is intended; else set the name back; for a node of the new name: drain it, `pf9-plane cluster detach NAME HOST`, \
         then attach it again";
    ApiAddressForeign: "the masters' shared address belongs to another machine, or is configured statically on this one",
        "it was assigned twice, or is configured on an interface",
        "remove it there: the masters share it; or create the cluster with another masterIp";
    ApiAddressOffLink: "a master has no interface in the network of the shared address, so it cannot have it",
        "a master in another subnet",
        "give it an interface in that network; the other masters share the address without it";
    ApiAddressUnheld: "no master holds the shared API address now, or this one cannot take it",
        "the API server gives no lease (etcd without quorum), or the interface refuses the address",
        "`pf9ctl etcd status` on a master; `ip addr`; it is retried automatically";
    ConntrackFull: "the table of tracked connections is nearly full; new ones of pods will be dropped",
        "many short connections, or a table that is too small for this node",
        "`conntrack -L` shows what has so many; or raise `net.netfilter.nf_conntrack_max`";
    ProcessesFull: "the machine, or a unit of the agent, can hardly start another process",
        "a pod that keeps creating threads, or a limit on processes that is too low",
        "`ps -eLf` shows which one; or raise `kernel.pid_max`, `kernel.threads-max` and TasksMax of the unit";
    DescriptorsFull: "no more files or sockets can be opened by the agent, or on this machine",
        "a program that keeps files open, or a limit that is too low",
        "`lsof` shows which one; or raise `fs.file-max` and LimitNOFILE of the unit; it is retried automatically";
    PortsGivenAway: "ports of this node are in the kernel's ephemeral range and may be in use when its services \
        start",
        "net.ipv4.ip_local_port_range holds them",
        "`sysctl -w net.ipv4.ip_local_reserved_ports=` with the ports of the message, and the same in /etc/sysctl.d";
    CgroupV1Ends: "the machine runs with control groups of version 1, which Kubernetes is dropping",
        "an old distribution, or a boot parameter",
        "boot with `systemd.unified_cgroup_hierarchy=1`, or upgrade the distribution";
    CgroupV1NoSwap: "pods use no swap, although the cluster lets them",
        "kubelet allows it with control groups of version 2 only",
        "boot with `systemd.unified_cgroup_hierarchy=1`, or set kubelet.podsSwap of the cluster to false";
    ConfigRefused: "a program of the stack rejects its new configuration; nothing was changed",
        "a setting of the cluster, or a drop-in of the machine, that this version does not know",
        "the message has the program's own words; correct the setting (`pf9-plane cluster settings NAME JSON`) or the drop-in";
    ProgramNotRunnable: "a program of the stack does not run on this machine; the previous stack stays active",
        "a file system mounted noexec, SELinux, or a stack for another machine",
        "`findmnt -T /opt/pf9`, `ausearch -m avc`; check that the file may be executed";
    Unstable: "the node does not converge: what is repaired drifts again",
        "another program keeps changing the same thing (configuration management, a second agent)",
        "the message names what; find the other program and make it leave that alone";
    Waiting: "nothing is wrong: it is waiting",
        "the message says for what",
        "nothing, unless it lasts; then check what it waits for";
    Addon: "an add-on of the stack cannot be read",
        "the stack was built wrongly, or its directory was changed",
        "build the stack again, and import it: `pf9-plane stack import DIR`";
    AddonInUse: "an add-on stays on in a cluster, because something uses it",
        "pods, volumes, services or policies need it, or the cluster's API cannot be asked",
        "change what is named, or turn it off all the same: `pf9-plane cluster addons NAME --off ADDON --force`";
    AddonMissing: "the cluster asks for an add-on that its stack does not have",
        "a stack that was built without it",
        "choose a stack that has it (`pf9-plane stack list`), or revert the setting";
}
