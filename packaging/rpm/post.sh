# Users and directories; nothing is started or enabled on a first installation.
systemd-sysusers pf9-hostagent.conf
systemd-tmpfiles --create pf9-hostagent.conf
rm -rf /var/opt/pf9/removal
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
if [ "$1" -eq 1 ] && [ ! -e /etc/pf9/host_id.conf ]; then
    echo "pf9-hostagent: installed; nothing runs yet. Next: pf9ctl prep-node --plane URL --token-file FILE"
fi
exit 0
