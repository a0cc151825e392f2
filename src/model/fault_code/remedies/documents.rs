//! Documents from the plane, whether they are trusted, and single operations that the plane orders.

rows! {
    DocumentMalformed: "a signed document, or a body on a local socket, cannot be read",
        "it was damaged on the way, is of another kind or schema, or was written by hand",
        "correct the named field where it was made; a plane sends its own again automatically";
    DocumentNewer: "a document has something in it that this older program must not ignore",
        "the plane, or another agent, is newer and uses what came with that version",
        "upgrade the agent (package pf9-hostagent), or revert what is new on the plane; if a plane reports it, upgrade the plane first";
    DocumentUntrusted: "a document is not signed by a key that this host trusts; the previous one stays in force",
        "another plane, a plane with new keys, or a forgery",
        "`pf9-plane keys list` at the plane, `pf9ctl identity show` here; if the plane is right: `pf9ctl node prep --plane URL --token-file FILE --force` with a new token";
    TrustDamaged: "a trusted key on this host does not belong to its id",
        "a disk that lost writes, or files of /etc/pf9/trust that were changed by hand",
        "`pf9ctl node prep --plane URL --token-file FILE --force` with a new token";
    TrustInvalid: "the trust document is refused",
        "it is for another host or machine, or of a schema that this agent does not know",
        "upgrade the agent if the schema is the reason; otherwise nothing: the plane makes a new one";
    TrustOlder: "a trust document is older than the one in force, and is refused",
        "the plane was restored from a backup, or an old one is being replayed",
        "if the plane was restored: `pf9-plane recover`";
    SpecInvalid: "the host's spec has an invalid value; the last good one stays in force",
        "a cluster setting that this agent's rules do not allow",
        "correct the named field: `pf9-plane cluster settings NAME JSON`";
    SpecOlder: "a spec is older than the one in force on this host, and is refused",
        "the plane was restored from a backup older than its hosts' specs",
        "`pf9-plane recover`, and check what it shows before confirming";
    SpecConflict: "the host has another spec of the same generation",
        "the plane was restored from a backup and used the same number again",
        "`pf9-plane recover`";
    SpecOnItsWay: "a new spec has arrived and is not being reconciled yet",
        "nodelet has just received it, or waits for a step to end",
        "nothing; if it lasts for minutes: `journalctl -n 50 -u pf9-nodeletd`";
    SpecLost: "the newest spec on this host's disk cannot be read; the role stays as it is, and none is installed",
        "a disk that lost writes, or an agent that is older than the one that wrote it",
        "nothing if the plane is reachable: it is handed over again; otherwise check the disk, or install the newer agent";
    LedgerLost: "the record of what is installed on this host is lost; the role stays as it is",
        "the disk with /var/opt/pf9/nodelet lost writes, or files there were deleted",
        "check the disk; with a spec from the plane the role is adopted and recorded again";
    Ledger: "what is installed could not be recorded on the disk; nothing continues without that record",
        "the disk with /var/opt/pf9/nodelet is full, read-only or failing",
        "`df -h /var/opt/pf9`, `dmesg`; it is retried automatically";
    LocalOrderLost: "root's order to remove the role can no longer be read; the role stays",
        "the disk with /var/opt/pf9/nodelet lost writes",
        "`pf9ctl node decommission` again, or have the plane send a newer spec";
    RoleKept: "the role stays, although the newest spec asks for none or another one",
        "that spec is not newer than the one that installed the role, or is for another host id",
        "if the plane was restored from a backup: `pf9-plane recover`; to remove the role: `pf9ctl node \
         decommission`";
    RecoverChanged: "the generation of a host was not raised, because its state has changed since it was shown",
        "the host reported, or its cluster changed, before the confirmation",
        "`pf9-plane recover` again, and check what it shows";
    SigningKey: "a signing key cannot be used",
        "the key file of the plane was damaged, or the cryptography library refused it",
        "restore the plane's state directory from its backup; `pf9-plane keys list` shows both kinds";
    KeysTurn: "the plane's keys are unchanged: this is not the next step",
        "a key is announced already, none is, or the previous one is still trusted",
        "`pf9-plane keys list` shows which step is next: announce, take-over, retire";
    KeysHostsWait: "the plane's keys are unchanged: some hosts do not know the new one yet",
        "hosts are off or not connected",
        "wait until they have (`pf9-plane keys list`), remove those that are gone, or give up each by name: `pf9-plane keys take-over signing --force HOST`; such a host must enrol again";
    OperationExpired: "the operation's deadline has passed, or is too far ahead",
        "the host was away for longer than it was valid, or one of the clocks is wrong",
        "compare the clocks of host and plane, then order it again";
    OperationForeign: "the operation is for another host",
        "a defect, or documents of one host are sent to another",
        "nothing was done; check who has access to the plane";
    OperationNotAllowed: "root of the host does not allow this operation",
        "it is not in the list `allow` of /etc/pf9/operations.toml there, or that file cannot be used",
        "root of the host adds it, or corrects the file: owner root, writable by root only";
    OperationReplayed: "an operation with this number was already carried out or refused",
        "it is being replayed, or the plane was restored from a backup and reuses numbers",
        "order it again";
    OperationFailed: "the operation failed on the host, or no answer arrived in time",
        "the message has the details",
        "`pf9-plane host operations HOST`; on the host `pf9ctl status`";
    OperationInvalid: "the operation has an invalid value",
        "an unknown unit, program or certificate, or a time that is too long",
        "`pf9-plane host order HOST ping` works always; the help has the closed list";
    OrderEarly: "certificates cannot be ordered yet: the newest spec is not being reconciled",
        "the host got a new spec a moment ago",
        "nothing: it is requested again";
    OrderEmpty: "there is nothing to order: every certificate is valid, or the host has no role",
        "the request came a moment too late",
        "nothing";
    OrderForeign: "a host sent an order that root of another host signed",
        "a copied disk, or orders that are passed on",
        "nothing was signed; on both: `pf9ctl identity show`";
    OrderMalformed: "what root of the host signed cannot be read",
        "an agent that is too old or too new for this plane",
        "bring both to neighbouring versions, the plane first";
    OrderUnsigned: "it is not signed by root of the host, and nothing was done",
        "the host's order key is not the one that it enrolled with",
        "`pf9-plane host allow-reenrol HOST`, then `pf9ctl node prep --plane URL --token-file FILE --force` there";
    OrderReplayed: "the nonce of the order was not given, or was used before",
        "it came late, or twice",
        "nothing: the host asks for another nonce";
    OrderOlder: "the order is for an older spec than the newest of this host",
        "the host has not taken the newest spec yet",
        "nothing: it orders again when it has";
    OrderNewer: "the order is for a newer spec than this plane ever made for the host",
        "the plane was restored from a backup",
        "`pf9-plane recover`";
    Order: "an order could not be signed",
        "a defect: the agent's own document could not be serialised",
        "`pf9ctl bundle`, and report it";
}
