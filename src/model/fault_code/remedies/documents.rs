//! Documents from the plane, whether they are trusted, and single operations that the plane orders.

rows! {
    DocumentMalformed: "a signed document, or a body on a local socket, cannot be read",
        "it was damaged on the way, is of another kind or schema, or was written by hand",
        "correct the named field where it was made; a plane sends its own again by itself";
    DocumentNewer: "a document has something in it that this older program must not ignore",
        "the plane, or another agent, is newer and uses what came with that version",
        "upgrade the agent (package pf9-hostagent), or take back on the plane what is new; where a plane says it, upgrade the plane first";
    DocumentUntrusted: "a document is signed by nobody whom this host trusts; what it had before stays in force",
        "another plane, a plane whose keys were made anew, or a forgery",
        "`pf9-plane keys list` at the plane, `pf9ctl identity show` here; if the plane is right: `pf9ctl node prep --plane URL --token-file FILE --force` with a new token";
    TrustDamaged: "a trusted key on this host does not belong to its id",
        "a disk that lost writes, or files of /etc/pf9/trust that were changed by hand",
        "`pf9ctl node prep --plane URL --token-file FILE --force` with a new token";
    TrustInvalid: "the trust document is refused",
        "it is for another host or machine, or of a schema that this agent does not know",
        "upgrade the agent if the schema is the reason; else nothing: the plane makes a new one";
    TrustOlder: "a trust document is older than the one in force, and is refused",
        "the plane was restored from a backup, or somebody replays an old one",
        "if the plane was restored: `pf9-plane recover`";
    SpecInvalid: "the host's spec has a value that cannot be; the last good one stays in force",
        "a cluster setting that this agent's rules do not allow",
        "correct the named field: `pf9-plane cluster settings NAME JSON`";
    SpecOlder: "a spec is older than the one that this host obeys, and is refused",
        "the plane was restored from a backup that is older than what it told its hosts",
        "`pf9-plane recover`, and look at what it shows before saying yes";
    SpecConflict: "the host has another spec of the same generation",
        "the plane was restored from a backup and counted the same number again",
        "`pf9-plane recover`";
    SpecOnItsWay: "a new spec has arrived and is not being reconciled yet",
        "nodelet has just received it, or waits for a step to end",
        "nothing; if it stays so for minutes: `journalctl -n 50 -u pf9-nodeletd`";
    SpecLost: "the newest spec on this host's disk cannot be read; the role stays as it is, and none is begun",
        "a disk that lost writes, or an agent that is older than the one that wrote it",
        "nothing where the plane is reached: it is handed over again; else look at the disk, or install the newer agent";
    LedgerLost: "the record of what is installed on this host is lost; the role stays as it is",
        "the disk with /var/opt/pf9/nodelet lost writes, or somebody deleted files there",
        "look at the disk; with a spec from the plane the role is adopted and recorded again";
    Ledger: "what is installed could not be recorded on the disk; nothing continues without that record",
        "the disk with /var/opt/pf9/nodelet is full, read-only or failing",
        "`df -h /var/opt/pf9`, `dmesg`; it is retried automatically";
    LocalOrderLost: "root's order to remove the role cannot be read any more; the role stays",
        "the disk with /var/opt/pf9/nodelet lost writes",
        "`pf9ctl node decommission` again, or have the plane send a newer spec";
    RoleKept: "the role stays, although the newest spec asks for none or another one",
        "that spec is not newer than the one that installed the role, or is for another host id",
        "if the plane was restored from a backup: `pf9-plane recover`; to remove the role: `pf9ctl node \
         decommission`";
    RecoverChanged: "the generation of a host was not raised, for what was shown before is not so any more",
        "the host reported, or somebody changed its cluster, while the question was open",
        "`pf9-plane recover` again, and look at what it shows";
    SigningKey: "a signing key cannot be used",
        "the key file of the plane was damaged, or the cryptography library refused it",
        "put the plane's state directory back from its backup; `pf9-plane keys list` shows both kinds";
    KeysTurn: "the plane's keys stay as they are: this is not the step that comes next",
        "a key is announced already, none is, or the previous one is still trusted",
        "`pf9-plane keys list` shows which step is next: announce, take-over, retire";
    KeysHostsWait: "the plane's keys stay as they are: hosts have not heard of the new one yet",
        "hosts are off or not connected",
        "wait until they have (`pf9-plane keys list`), remove those that are gone, or give up each by name: `pf9-plane keys take-over signing --force HOST`; such a host must enrol again";
    OperationExpired: "the operation was to be begun by a time that is past, or lies too far ahead",
        "the host was away for longer than it was good, or one of the clocks is wrong",
        "compare the clocks of host and plane, then order it again";
    OperationForeign: "the operation is for another host",
        "a defect, or somebody sends documents of one host to another",
        "nothing was done; look at who has access to the plane";
    OperationNotAllowed: "root of the host does not allow this operation",
        "it is not in the list `allow` of /etc/pf9/operations.toml there, or that file cannot be used",
        "root of the host adds it, or corrects the file: owner root, writable by nobody else";
    OperationReplayed: "an operation with this number was done or refused already",
        "somebody replays it, or the plane was restored from a backup and counts anew",
        "order it again";
    OperationFailed: "the host did the operation, and it did not work, or no answer came in time",
        "its own words are in the message",
        "`pf9-plane host operations HOST`; on the host `pf9ctl status`";
    OperationInvalid: "the operation says something that cannot be",
        "an unknown unit, program or certificate, or a time that is too long",
        "`pf9-plane host order HOST ping` works always; the help has the closed list";
    OrderEarly: "certificates cannot be ordered yet: the newest spec is not being reconciled",
        "the host got a new spec a moment ago",
        "nothing: it is asked for again";
    OrderEmpty: "there is nothing to order: every certificate is good, or the host has no role",
        "the other side asked a moment too late",
        "nothing";
    OrderForeign: "one host brings what root of another one signed",
        "a copied disk, or somebody who passes on orders",
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
    OrderOlder: "the order is of an older spec than the newest of this host",
        "the host has not taken the newest spec yet",
        "nothing: it orders again when it has";
    OrderNewer: "the order is of a newer spec than this plane ever made for the host",
        "the plane was restored from a backup",
        "`pf9-plane recover`";
    Order: "an order could not be signed",
        "a defect: a document of our own could not be written as text",
        "`pf9ctl bundle`, and report it";
}
