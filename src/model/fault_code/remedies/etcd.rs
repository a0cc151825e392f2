//! etcd on the masters, its backups, and the archive where they are kept.

rows! {
    EtcdNotHealthy: "etcd on this master does not report healthy; without quorum the API accepts no writes",
        "too few masters are up, the disk is slow or full, or its certificates do not fit",
        "`pf9ctl etcd status`, `journalctl -n 100 -u pf9-etcd`; bring masters back before anything is removed";
    EtcdQuorum: "etcd would lose its quorum if a master left; it stays",
        "another member is down, so this one is needed",
        "bring the other masters back, or detach those that will not come back first; with force \
         it leaves all the same, and the API accepts no writes until a backup is restored";
    EtcdTurn: "etcd is not restarted with its new settings yet; it runs with the old ones",
        "another member is restarting or unhealthy: one at a time",
        "`pf9ctl etcd status` shows which one; it is retried automatically";
    EtcdCorrupt: "a member of etcd has different data from the rest (alarm CORRUPT)",
        "a disk that lost writes, or failing memory",
        "`pf9ctl etcd alarm`, and `journalctl -u pf9-etcd` for which member it is; detach that master and attach it again, so that it gets the data of the others";
    EtcdNoSpace: "etcd accepts no more writes: its database has reached its quota",
        "too many objects or events, or history that was not compacted",
        "wait: it is compacted and defragmented, and the alarm disarmed; if it stays, delete what is not needed, or \
         raise etcdQuotaBytes: `pf9-plane cluster settings NAME JSON`";
    EtcdNearlyFull: "etcd's database has nearly reached its quota",
        "objects that are never deleted, mostly events, jobs or secrets",
        "delete what is not needed, or raise etcdQuotaBytes: `pf9-plane cluster settings NAME JSON`";
    EtcdDiskSlow: "the disk below etcd is slow; the API is slow, and leaders change",
        "a shared or throttled disk, or another program that writes a lot",
        "give /var/lib/pf9/etcd a disk of its own, or a faster one; below 10 ms for a synchronous write is good";
    EtcdNotTended: "etcd's upkeep (compacting, defragmenting) was not done",
        "a member is not healthy, and one does not answer while it is defragmented",
        "`pf9ctl etcd status` shows which one; it is retried automatically; by hand `pf9ctl etcd defrag`";
    EtcdMemberLeft: "this host's member could not be removed from etcd",
        "etcd has no quorum, or its API does not answer",
        "`pf9ctl etcd status`; on another master `etcdctl member list`, then `etcdctl member remove` with its id";
    EtcdMemberStays: "the member of a host that is gone is still in etcd",
        "etcd has no quorum for that, or a master is unhealthy",
        "check that etcd is healthy on every master: `pf9ctl etcd status`";
    EtcdNoVote: "this member has no vote in etcd yet; it catches up",
        "a large database, a slow disk or a slow network between masters",
        "`pf9ctl etcd status` shows the progress; `journalctl -n 50 -u pf9-etcd` if there is none";
    EtcdNotJoined: "this master did not join the etcd of the others, or bootstrap it with them",
        "etcd on the others is not healthy, or ports 2379 and 2380 are closed between masters",
        "`pf9ctl etcd status` on the others; open the ports; detach a master that will not come back: `pf9-plane cluster detach NAME HOST`";
    EtcdElsewhere: "the other members do not know this member's new address",
        "the master has another address, and etcd has no quorum to record it",
        "check that etcd is healthy on every master: `pf9ctl etcd status`";
    EtcdData: "etcd's data are missing; etcd is not started, so that it does not start empty",
        "the disk for /var/lib/pf9/etcd is not mounted, or the data were removed",
        "mount it (`findmnt /var/lib/pf9/etcd`, /etc/fstab): etcd starts then automatically; if it is lost for good \
         `pf9ctl etcd rejoin` takes the data of the other masters, `pf9ctl etcd restore FILE` those of a backup";
    EtcdDataUnreadable: "etcd's data do not tell which version of etcd may use them",
        "etcd was never healthy with them, or they are damaged",
        "check whether etcd is healthy with the active stack: `pf9ctl etcd status`";
    EtcdStepUnfit: "this etcd version cannot use the present data",
        "a step of more than one minor, a downgrade, or an untested release",
        "upgrade through a stack with the etcd in between (`pf9-plane stack list`); the README has the table";
    EtcdNotPrepared: "etcd's data were not prepared for another version in time",
        "a member is not healthy",
        "`pf9ctl etcd status`; it is retried automatically";
    EtcdCertificatesFull: "no other certificate of etcd is signed for this host: it has the maximum number",
        "it requested them again and again: a defect or an intruder",
        "inspect the host; then detach it and attach it again";
    EtcdBackupStale: "the cluster has no new backup of etcd",
        "backups fail on every master, or the masters do not report",
        "on a master `pf9ctl etcd status`, then `pf9ctl etcd backup`";
    BackupFailed: "no backup of etcd was made, or none was copied",
        "etcd did not answer, the disk failed, or there is no key to seal it for",
        "`pf9ctl etcd status`; without a key: `pf9-plane cluster backups NAME set --recovery-recipient KEY`; it is \
         retried automatically";
    BackupBroken: "this backup cannot be opened or is incomplete",
        "a disk that lost writes, or a truncated copy",
        "use another one: `pf9ctl etcd list`; `pf9ctl etcd verify BACKUP` checks one";
    BackupUntrusted: "this backup is not signed by a master of this cluster",
        "it is from another cluster, is a plain snapshot, or was placed there by hand",
        "use another one: `pf9ctl etcd list`. Keys of another cluster: `pf9ctl etcd restore FILE --signers FILE`; \
         if you trust its origin `pf9ctl etcd restore FILE --unsigned`. If such files keep appearing, find \
         out who writes there";
    KeyInvalid: "the key is invalid, or readable by others",
        "a mistyped recipient (age1…), a file with something else, or the plane's key for the cluster's backups is damaged",
        "a key file belongs to root: `chown root FILE && chmod 0600 FILE`; a new pair: `pf9ctl etcd recovery-key FILE`";
    KeyRefused: "this key does not open it, or is not accepted from this host",
        "the backup was sealed for an earlier key or another cluster's, or the host is not a master of the cluster",
        "open it with the recovery key of its time: `pf9ctl etcd verify BACKUP --recovery-key FILE`";
    EtcdDrill: "the fire drill of a backup failed: it is not proven that it can be restored",
        "no room or memory for a second etcd, or the backup is damaged",
        "`pf9ctl etcd list`, then `pf9ctl etcd drill` again; if it fails again make a new backup: `pf9ctl etcd backup`";
    EtcdRestore: "the restore of etcd did not start, or did not continue",
        "the disk with etcd's data cannot hold it, or none is under way",
        "`pf9ctl etcd restore --show`; check the disk; the present data are not deleted but kept aside";
    EtcdRestoreForeign: "the snapshot is of another cluster than this master",
        "a wrong file, or a cluster that was recreated",
        "if it is the right one anyway: `pf9ctl etcd restore FILE --any-cluster`";
    EtcdRestoreUnfit: "this snapshot cannot be restored here, and nothing was changed",
        "another version of etcd or Kubernetes wrote it, it is too large for the quota or the disk, or the stack is not active yet",
        "the message says which: bring the cluster to the stack of that time (`pf9-plane cluster upgrade NAME \
         back`), make room, or choose another backup";
    EtcdArchiveInvalid: "the backup archive is not configured, or not usable",
        "the cluster's settings name none, or an invalid URL or directory",
        "`pf9-plane cluster backups NAME set --archive-dir DIR`, or `--archive-s3` with the bucket's URL";
    EtcdArchiveNotMounted: "the archive directory is not a mount, as it should be",
        "the network mount is down; copies would land on the same disk",
        "mount it; until then backups are on this machine's disk only";
    EtcdArchiveDenied: "the archive refuses these credentials or this write",
        "the key was changed, or has no write access to that bucket or prefix",
        "correct /etc/pf9/etcd-archive-credentials on each master, or the bucket's policy";
    EtcdArchiveCredentials: "the credentials for the archive cannot be used",
        "the file is missing, malformed, or not readable by root alone",
        "rewrite /etc/pf9/etcd-archive-credentials on each master: `chown root /etc/pf9/etcd-archive-credentials && chmod 0600 /etc/pf9/etcd-archive-credentials`";
    EtcdArchiveClock: "the archive says that this machine's clock is wrong",
        "requests to S3 are signed with the time",
        "`timedatectl set-ntp true`, or install chrony";
    EtcdArchiveNoBucket: "there is no such bucket",
        "a mistyped name, another endpoint, or path_style that does not fit the service",
        "make the bucket, or correct name, endpoint or path_style in the cluster's settings";
    EtcdArchiveOtherRegion: "the bucket is in another region",
        "region or endpoint in the settings are those of another one",
        "correct both in the cluster's settings";
    EtcdArchiveForeignCertificate: "the archive presents a certificate that this machine does not trust",
        "a private authority, or a proxy that inspects TLS",
        "name the file with its authority as `authority` in the cluster's settings, or correct the endpoint";
    EtcdArchiveAway: "the archive cannot be reached, or is too slow or busy",
        "network, firewall or proxy between this master and it",
        "check the endpoint and the path to it; it is retried automatically";
    EtcdArchiveFull: "the archive is full",
        "more backups than room: keep or max_bytes are too large",
        "enlarge it, or lower them: `pf9-plane cluster backups NAME set --keep 24`";
    EtcdArchiveMissing: "that backup is not in the archive",
        "it was never copied, or has been pruned",
        "`pf9ctl etcd list`, and name one that is there";
    EtcdArchiveDamaged: "the copy in the archive is not what was stored there",
        "it was changed or truncated in the archive",
        "use another one: `pf9ctl etcd list`; find out who writes to that bucket";
    EtcdArchiveFailed: "the archive's answer cannot be parsed, or its directory fails",
        "the endpoint is not an S3-compatible service, or the mount is broken",
        "check the endpoint, the directory and its mount";
}
