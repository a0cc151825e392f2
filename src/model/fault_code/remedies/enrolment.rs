//! How a machine becomes a host, and stays the one it is.

rows! {
    TokenMalformed: "what was given is not an enrolment token",
        "only part of the line was copied, or the file holds something else",
        "give the file with the whole line that `pf9-plane token create` printed";
    TokenUnknown: "the plane never issued that token",
        "it is of another plane, or so old that it is forgotten",
        "make one at this plane: `pf9-plane token create`";
    TokenUsed: "the token was used already; each is valid for one machine",
        "two machines were given the same one, or the answer to the first try was lost",
        "the message names the host that used it; make another one: `pf9-plane token create`";
    TokenExpired: "the token has expired",
        "it was made too long ago; by default it is valid for a day",
        "make another one: `pf9-plane token create --ttl 24h`";
    TokenScope: "the token is not for this",
        "it is for no project, or is a kubeconfig's or an application credential's, which may make no tokens and change no passwords",
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
        "the machine was installed anew, its key was lost, the id was copied from another machine, or the token is of another project",
        "if it is the same machine: `pf9-plane host allow-reenrol HOST`, then `pf9ctl node prep --plane URL --token-file FILE`; else enrol without an id, as a new host";
    OrderKeyPinned: "the host sent another key of its root than the one that the plane pinned",
        "the machine was installed anew, or somebody else uses its identity",
        "look who comes; if it is the machine: `pf9-plane host allow-reenrol HOST`, then `pf9ctl node prep --plane URL --token-file FILE --force`";
    OrderKeyInvalid: "the key of root that the plane has of this host cannot be used",
        "its row was damaged, or the host sent none that is a key",
        "`pf9-plane host allow-reenrol HOST`, then `pf9ctl node prep --plane URL --token-file FILE --force` there";
    OrderKeyUnusable: "this host cannot order certificates: none is renewed or issued",
        "/etc/pf9/root/order-key.json is missing, damaged or of another host",
        "`pf9-plane host allow-reenrol HOST`, then `pf9ctl node prep --plane URL --token-file FILE --force` here; role and workloads stay";
    ProofInvalid: "the proof of the host's present key does not fit this enrolment",
        "an enrolment was cut off and begun again with an old proof, or somebody replays one",
        "`pf9ctl node prep --plane URL --token-file FILE` once more; it makes a new proof";
    IdentityCopied: "two machines use this host's identity; nothing is changed on the one that was told to hold",
        "a virtual machine or a disk was cloned after it was enrolled; or a disk was moved, a mainboard replaced, a snapshot put back",
        "on the copy: `pf9ctl identity reset`, then `pf9ctl node prep --plane URL --token-file FILE`. If it is the only one: `pf9-plane host accept-machine HOST BOOT_ID` with its own /proc/sys/kernel/random/boot_id";
    IdentityDamaged: "key, certificate or another file of the identity cannot be used",
        "a disk that lost writes, or files that were changed by hand",
        "`pf9ctl node prep --plane URL --token-file FILE --force` with a new token; role and workloads stay";
    IdentityIncomplete: "part of the identity is missing",
        "an enrolment that was cut off, or files that were deleted",
        "`pf9ctl node prep --plane URL --token-file FILE` with a new token; role and workloads stay";
    IdentityIo: "the identity cannot be read or written",
        "a full, read-only or failing disk, or a wrong owner below /etc/pf9",
        "look at the disk and the named path";
    IdentityKey: "a key could not be made or read",
        "the cryptography library refused it, or the disk failed",
        "try again; if it stays so: `pf9ctl bundle`, and report it";
    MachineInvalid: "what the machine says it is cannot be used",
        "a boot id that is none, or marks that are too long or malformed",
        "read /proc/sys/kernel/random/boot_id on the machine that is the host, and give that";
    MachineUnknown: "a copy of this machine's disk would not notice by itself that it is one",
        "/etc/pf9/machine.json is missing or cannot be read",
        "nothing while the plane is reached: the file is written anew from what the plane has noted";
    HostConnected: "the machine that uses the identity now stays: it is connected",
        "another machine was to be accepted as the host while one is there",
        "stop the machine that is connected first, then `pf9-plane host accept-machine HOST BOOT_ID`";
    NodeNameInvalid: "the host name cannot be a node's name",
        "it is not a DNS name",
        "`hostnamectl set-hostname worker-1`; the host tells the plane automatically";
    NodeNameTaken: "another host has this node's name already",
        "two machines with the same host name, or a host that is gone and was never removed",
        "give the machine a name of its own, or `pf9-plane host remove HOST` for the one that is gone";
    AddressTaken: "another machine or another cluster has this address already",
        "a cloned configuration, an address given out twice, or a host that is gone and was never removed",
        "give the machine an address of its own, or `pf9-plane host remove HOST` for the one that is gone; for a masterIp choose another one";
    FactsInvalid: "what the host says of itself cannot be used",
        "a name or an address that is none, or too many of them",
        "look at `hostnamectl` and `ip addr` there; the message names the field";
    SchemaUnsupported: "the document is of a schema that the reader does not know",
        "agent and plane are too far apart in version",
        "upgrade the plane first, then the agents: no agent may be newer than its plane";
}
