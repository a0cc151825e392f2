if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
if [ "$1" -ge 1 ]; then
    # An upgrade: what ran is restarted, what did not is left alone.
    if [ -d /run/systemd/system ]; then
        systemctl --quiet try-restart pf9-nodeletd.socket pf9-comms.service pf9-hostagent.service || :
    fi
elif [ ! -e /etc/systemd/system/pf9-kubelet.service ]; then
    rm -rf --one-file-system /var/opt/pf9 /var/log/pf9 /run/pf9 /opt/pf9/stacks /var/lib/pf9 \
        /etc/pf9/certs /etc/pf9/trust /etc/pf9/kube.d /etc/pf9/host_id.conf /etc/pf9/endpoints.json \
        /etc/pf9/conf.d/50-proxy.toml /etc/pf9/proxy-credentials
    if [ -d /etc/pf9/conf.d ]; then rmdir --ignore-fail-on-non-empty /etc/pf9/conf.d; fi
    if [ -d /opt/pf9 ]; then rmdir --ignore-fail-on-non-empty /opt/pf9; fi
    for user in pf9-comms pf9; do
        if getent passwd "$user" >/dev/null; then userdel "$user" 2>/dev/null || :; fi
    done
    if getent group pf9 >/dev/null; then groupdel pf9 2>/dev/null || :; fi
fi
exit 0
