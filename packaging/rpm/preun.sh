# $1 = 0: the last version goes. There is no purge after an erase, so the node role goes now,
# while the programs that know how are still here.
# >>> what is ours and how long it may take: from src/host/ours and src/host/deadlines.rs
ROLE_UNITS="/etc/systemd/system/pf9-containerd.service /etc/systemd/system/pf9-etcd.service /etc/systemd/system/pf9-network.service /etc/systemd/system/pf9-kubelet.service /etc/systemd/system/pf9-kube-proxy.service /etc/systemd/system/pf9-pods.service"
LEDGER="/var/opt/pf9/nodelet/ledger.json"
REMOVAL_SECONDS="2540"
role_is_left() {
    for unit in $ROLE_UNITS; do
        # One that somebody mounted another file over stays after the role.
        if [ -e "$unit" ] && ! grep -qs "^[^ ]* [^ ]* [^ ]* [^ ]* $unit " /proc/self/mountinfo; then return 0; fi
    done
    # The units go before the network and before what is put back: the ledger says until when it is being removed.
    grep -qs '"removing": true' "$LEDGER"
}
# <<<

if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
    systemctl --quiet stop pf9-agent-switch.service || :
    if role_is_left; then
        echo "pf9-hostagent: WARNING: this machine is still a Kubernetes node: removing the role (at most $REMOVAL_SECONDS s)" >&2
        # Without the programs a node that is left could not be mended or removed: then they stay.
        # It also fails where something is left that is not the role's: its units say whether the role is left.
        PF9_NO_FAREWELL=true timeout "$REMOVAL_SECONDS" /usr/bin/pf9ctl node decommission --local --yes </dev/null || true
        if role_is_left; then
            echo "pf9-hostagent: the node role could not be removed, so the package stays; pf9ctl status says why" >&2
            exit 1
        fi
    fi
    systemctl --quiet disable --now pf9-hostagent.service pf9-comms.service pf9-nodeletd.socket || :
    systemctl --quiet stop pf9-nodeletd.service || :
fi
exit 0
