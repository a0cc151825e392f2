//! How a machine becomes a host, and stays the one it is.

rows! {
    TokenMalformed: "this is not an enrolment token",
        "only part of the line was copied, or the file holds something else",
        "give the file with the whole line that `pf9-plane token create` printed";
    TokenUnknown: "the plane never issued that token",
        "it is from another plane, or so old that it is forgotten",
        "make one at this plane: `pf9-plane token create`";
    TokenUsed: "the token was used already; each is valid for one machine",
        "two machines were given the same one, or the answer to the first try was lost",
        "the message names the host that used it; create another one: `pf9-plane token create`";
    TokenExpired: "the token has expired",
        "it was created too long ago; by default it is valid for a day",
        "make another one: `pf9-plane token create --ttl 24h`";
    TokenScope: "the token does not allow this",
        "it is for no project, or is a kubeconfig's or an application credential's, which can create no tokens and change no passwords",
        "log in to the project it is meant for, and use that token";
    NotEnrolled: "this machine is not enrolled with a plane",
        "it was never enrolled, or was decommissioned",
        "`pf9ctl node prep --plane URL --token-file FILE`";
    OtherPlane: "this machine is a host of another plane already",
        "it was moved between planes, or the URL is mistyped",
        "`pf9ctl node decommission` first; or leave that plane behind: `pf9ctl node prep --plane URL --token-file FILE --force`";
    PlaneUrl: "the plane's URL cannot be used",
        "it is not an https:// URL with a host",
        "`pf9ctl node prep --plane URL --token-file FILE` with the right one";
    HostEnrolled: "the plane has this host with another key, and the enrolment did not prove it",
        "the machine was reinstalled, its key was lost, the id was copied from another machine, or the token is of another project",
        "if it is the same machine: `pf9-plane host allow-reenrol HOST`, then `pf9ctl node prep --plane URL --token-file FILE`; else enrol without an id, as a new host";
    OrderKeyPinned: "the host sent another order key than the one that the plane pinned",
        "the machine was reinstalled, or another machine uses its identity",
        "check which machine it is; if it is the right one: `pf9-plane host allow-reenrol HOST`, then `pf9ctl node prep --plane URL --token-file FILE --force`";
    OrderKeyInvalid: "the plane's copy of this host's order key cannot be used",
        "its row was damaged, or the host sent an invalid key",
        "`pf9-plane host allow-reenrol HOST`, then `pf9ctl node prep --plane URL --token-file FILE --force` there";
    OrderKeyUnusable: "this host cannot order certificates: none is renewed or issued",
        "/etc/pf9/root/order-key.json is missing, damaged or of another host",
        "`pf9-plane host allow-reenrol HOST`, then `pf9ctl node prep --plane URL --token-file FILE --force` here; role and workloads stay";
    ProofInvalid: "the proof of the host's present key does not fit this enrolment",
        "an enrolment was interrupted and restarted with an old proof, or one is being replayed",
        "`pf9ctl node prep --plane URL --token-file FILE` again; it makes a new proof";
    IdentityCopied: "two machines use this host's identity; nothing is changed on the one that was ordered to hold",
        "a virtual machine or a disk was cloned after it was enrolled; or a disk was moved, a mainboard replaced, a snapshot restored",
        "on the copy: `pf9ctl identity reset`, then `pf9ctl node prep --plane URL --token-file FILE`. If it is the only one: `pf9-plane host accept-machine HOST BOOT_ID` with its own /proc/sys/kernel/random/boot_id";
    IdentityDamaged: "key, certificate or another file of the identity cannot be used",
        "a disk that lost writes, or files that were changed by hand",
        "`pf9ctl node prep --plane URL --token-file FILE --force` with a new token; role and workloads stay";
    IdentityIncomplete: "part of the identity is missing",
        "an interrupted enrolment, or files that were deleted",
        "`pf9ctl node prep --plane URL --token-file FILE` with a new token; role and workloads stay";
    IdentityIo: "the identity cannot be read or written",
        "a full, read-only or failing disk, or a wrong owner below /etc/pf9",
        "check the disk and the named path";
    IdentityKey: "a key could not be generated or read",
        "the cryptography library refused it, or the disk failed",
        "try again; if it persists: `pf9ctl bundle`, and report it";
    MachineInvalid: "the machine's identifying marks cannot be used",
        "an invalid boot id, or marks that are too long or malformed",
        "read /proc/sys/kernel/random/boot_id on the machine that is the host, and give that";
    MachineUnknown: "a copy of this machine's disk would not notice that it is a copy",
        "/etc/pf9/machine.json is missing or cannot be read",
        "nothing while the plane is reachable: the file is rewritten from the plane's record";
    HostConnected: "the machine that uses the identity now keeps it: it is connected",
        "another machine was to be accepted as the host while one is connected",
        "stop the machine that is connected first, then `pf9-plane host accept-machine HOST BOOT_ID`";
    NodeNameInvalid: "the host name cannot be a node's name",
        "it is not a DNS name",
        "`hostnamectl set-hostname worker-1`; the host tells the plane automatically";
    NodeNameTaken: "another host has this node's name already",
        "two machines with the same host name, or a host that is gone and was never removed",
        "give the machine a name of its own, or `pf9-plane host remove HOST` for the one that is gone";
    AddressTaken: "another machine or another cluster has this address already",
        "a cloned configuration, an address assigned twice, or a host that is gone and was never removed",
        "give the machine an address of its own, or `pf9-plane host remove HOST` for the one that is gone; for a masterIp choose another one";
    FactsInvalid: "the name or addresses that the host reports cannot be used",
        "an invalid name or address, or too many of them",
        "check `hostnamectl` and `ip addr` there; the message names the field";
    SchemaUnsupported: "the document has a schema that the reader does not know",
        "agent and plane are too far apart in version",
        "upgrade the plane first, then the agents: no agent may be newer than its plane";
}
