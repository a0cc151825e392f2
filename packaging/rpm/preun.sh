# $1 = 0: the last version goes. There is no purge after an erase, so the node role goes now,
# while the programs that know how are still here.
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
    if [ -e /etc/systemd/system/pf9-kubelet.service ] || [ -e /etc/systemd/system/pf9-containerd.service ]; then
        echo "pf9-hostagent: WARNING: this machine is still a Kubernetes node: removing the role (at most 300 s)" >&2
        timeout 300 /usr/bin/pf9ctl decommission-node --local --yes </dev/null ||
            echo "pf9-hostagent: WARNING: the node role could not be removed; see /etc/systemd/system/pf9-*.service" >&2
    fi
    systemctl --quiet disable --now pf9-hostagent.service pf9-comms.service pf9-nodeletd.socket || :
    systemctl --quiet stop pf9-nodeletd.service || :
fi
exit 0
