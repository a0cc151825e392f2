# >>> what is ours and how long it may take: from src/host/ours and src/host/deadlines.rs
ROLE_UNITS="/etc/systemd/system/pf9-containerd.service /etc/systemd/system/pf9-etcd.service /etc/systemd/system/pf9-network.service /etc/systemd/system/pf9-kubelet.service /etc/systemd/system/pf9-kube-proxy.service /etc/systemd/system/pf9-pods.service"
LEDGER="/var/opt/pf9/nodelet/ledger.json"
ROLE_TREES="/opt/pf9/cni /opt/pf9/stacks /var/lib/pf9 /run/pf9-containerd"
ROLE_ENTRIES="/etc/systemd/system/pf9-containerd.service /etc/systemd/system/multi-user.target.wants/pf9-containerd.service /etc/systemd/system/pf9-etcd.service /etc/systemd/system/multi-user.target.wants/pf9-etcd.service /etc/systemd/system/pf9-network.service /etc/systemd/system/multi-user.target.wants/pf9-network.service /etc/systemd/system/pf9-kubelet.service /etc/systemd/system/multi-user.target.wants/pf9-kubelet.service /etc/systemd/system/pf9-kube-proxy.service /etc/systemd/system/multi-user.target.wants/pf9-kube-proxy.service /etc/systemd/system/pf9-pods.service /etc/systemd/system/multi-user.target.wants/pf9-pods.service /etc/systemd/system/multi-user.target.wants/pf9-nodeletd.service /etc/sysctl.d/90-pf9-kubernetes.conf /etc/modules-load.d/pf9-kubernetes.conf"
AGENT_TREES="/var/opt/pf9 /run/pf9 /run/pf9-machine.json /var/log/pf9"
AGENT_PROGRAMS="/opt/pf9/agent"
AGENT_ENTRIES="/etc/systemd/system/multi-user.target.wants/pf9-comms.service /etc/systemd/system/multi-user.target.wants/pf9-hostagent.service /etc/systemd/system/sockets.target.wants/pf9-nodeletd.socket"
CONFIG_ROOT="/etc/pf9"
MOUNTED="/run/pf9-containerd /var/lib/pf9/containerd /var/lib/pf9/kubelet"
DISKS="/var/lib/pf9/etcd /var/opt/pf9/etcd-backups /var/lib/pf9/containerd /var/lib/pf9/kubelet /var/lib/pf9/volumes"
PROXY_CONFIG="/etc/pf9/conf.d/50-proxy.toml"
SHARED_DIRS="/etc/systemd/system /etc/systemd/system/multi-user.target.wants /etc/systemd/system/sockets.target.wants /etc/sysctl.d /etc/modules-load.d"
SHARED_PARENTS="/opt/pf9 /etc/pf9/conf.d"
real_path() {
    printf '%s/%s' "$(readlink -f "$(dirname "$1")")" "$(basename "$1")"
}
unmount_ours() {
    for root in $MOUNTED; do
        root=$(real_path "$root")
        while read -r _ _ _ _ point _; do
            case "$point" in "$root"/*) printf '%s\n' "$point" ;; esac
        done </proc/self/mountinfo | tac | while read -r point; do
            umount -l "$(printf '%b' "$point")" 2>/dev/null || :
        done
    done
}
remove_tree() (
    # Never everything, whatever a mistake of ours makes of a name.
    case "$1" in /*/*) ;; *) exit 0 ;; esac
    kernel=$(real_path "$1" | sed -z -e 's/\\/\\134/g' -e 's/ /\\040/g' -e 's/\t/\\011/g' -e 's/\n/\\012/g')
    here="" below=""
    while read -r _ _ _ _ point _; do
        case "$point" in "$kernel") here=yes ;; "$kernel"/*) below=yes ;; esac
    done </proc/self/mountinfo
    if [ -z "$here$below" ]; then
        rm -rf --one-file-system "$1" || echo "pf9-hostagent: WARNING: could not delete all of $1" >&2
        exit 0
    fi
    if [ -n "$here" ]; then
        disk=""
        case " $ROLE_TREES $AGENT_TREES $CONFIG_ROOT $DISKS " in *" $1 "*) if [ -d "$1" ]; then disk=yes; fi ;; esac
        if [ -z "$disk" ]; then
            echo "pf9-hostagent: left as it is, for something is mounted there: $1" >&2
            exit 0
        fi
    fi
    for entry in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        if [ -e "$entry" ] || [ -L "$entry" ]; then remove_tree "$entry"; fi
    done
    if [ -z "$here" ]; then rmdir --ignore-fail-on-non-empty "$1" || :; fi
)
tell_drop_ins() {
    for dir in $SHARED_DIRS; do
        for own in "$dir"/pf9-*.service.d "$dir"/pf9-*.socket.d; do
            if [ -e "$own" ]; then echo "pf9-hostagent: left as it is, for it is the administrator's: $own" >&2; fi
        done
    done
}
role_is_left() {
    for unit in $ROLE_UNITS; do
        # One that somebody mounted another file over stays after the role.
        if [ -e "$unit" ] && ! grep -qs "^[^ ]* [^ ]* [^ ]* [^ ]* $unit " /proc/self/mountinfo; then return 0; fi
    done
    # The units go before the network and before what is put back: the ledger says until when it is being removed.
    grep -qs '"removing": true' "$LEDGER"
}
config_is_kept() {
    case "$1" in
        hostagent.toml | conf.d | services.d | operations.toml | check.d | inventory.d | hostagent.toml.*) return 0 ;;
    esac
    return 1
}
# <<<
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
if [ "$1" -ge 1 ]; then
    # An upgrade: what ran is restarted, what did not is left alone. pf9-agent-switch.service has done it already where it is
    # what makes the package manager know of the version that runs.
    if [ -d /run/systemd/system ] && [ -z "$PF9_AGENT_SETTLES" ]; then
        systemctl --quiet try-restart pf9-nodeletd.socket pf9-comms.service pf9-hostagent.service || :
    fi
elif ! role_is_left; then
    # The links, and versions that were only tried.
    remove_tree "$AGENT_PROGRAMS"
    unmount_ours
    for tree in $AGENT_TREES $ROLE_TREES; do remove_tree "$tree"; done
    for entry in $ROLE_ENTRIES $AGENT_ENTRIES $PROXY_CONFIG; do remove_tree "$entry"; done
    # Of writes that were cut off; nobody of ours writes any more.
    for dir in $SHARED_DIRS; do rm -f "$dir"/.pf9-tmp-*.tmp; done
    # The package's own configuration, and what rpm saved of it, is a person's.
    for path in "$CONFIG_ROOT"/* "$CONFIG_ROOT"/.[!.]*; do
        if [ -e "$path" ] && ! config_is_kept "${path##*/}"; then remove_tree "$path"; fi
    done
    for dir in $SHARED_PARENTS "$CONFIG_ROOT"; do
        if [ -d "$dir" ]; then rmdir --ignore-fail-on-non-empty "$dir"; fi
    done
    tell_drop_ins
    for user in pf9-comms pf9; do
        if getent passwd "$user" >/dev/null; then userdel "$user" 2>/dev/null || :; fi
    done
    if getent group pf9 >/dev/null; then groupdel pf9 2>/dev/null || :; fi
fi
exit 0
