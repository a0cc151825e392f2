# Users and directories, and `current` and `last-good` are this version; nothing is started or enabled on a first installation.
systemd-sysusers pf9-hostagent.conf
systemd-tmpfiles --create pf9-hostagent.conf
rm -rf /var/opt/pf9/removal
AGENT=/opt/pf9/agent
# An installation by hand wins: also a trial of another version ends here, with its units. (Files of the version before
# go after this.)
for link in current last-good; do
    ln -sfn "{version}" "$AGENT/.$link.new"
    mv -T "$AGENT/.$link.new" "$AGENT/$link"
done
sync "$AGENT" || :
for unit in agent-boot.service agent-switch.service comms.service hostagent.service nodeletd.service nodeletd.socket os-update.service; do
    rm -f "/run/systemd/system/pf9-$unit"
done
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
if [ "$1" -eq 1 ] && [ ! -e /etc/pf9/host_id.conf ]; then
    echo "pf9-hostagent: installed; nothing runs yet. Next: pf9ctl node prep --plane URL --token-file FILE"
fi
exit 0
