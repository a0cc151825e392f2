//! Clusters: who may become or stop being a node, and the way to their API.

rows! {
    CommandRefused: "a line on the page's terminal is no command that it has",
        "it is for a shell, reaches files or ports of the plane's machine, says where or as whom to ask, or is typed wrongly",
        "the message says which commands and flags there are; all others with kubectl and a kubeconfig of yours";
    NoTerminal: "the page's terminal cannot run kubectl for this cluster",
        "its stack has no kubectl, or one of another architecture than the plane's machine",
        "use kubectl with a kubeconfig of yours: `pf9-plane kubeconfig NAME`";
    AttachEmpty: "no host is named that should become a node",
        "an empty list",
        "name at least one: `pf9ctl host attach HOST --cluster CLUSTER`";
    DetachEmpty: "no host is named that should leave",
        "an empty list",
        "name at least one: `pf9-plane cluster detach NAME HOST`";
    HostUnknown: "the plane has no such host, or not for this caller",
        "a mistyped id, a host that was removed, or one of another project",
        "`pf9-plane host list`; a removed one comes back with `pf9ctl node prep --plane URL --token-file FILE --force`";
    HostAttached: "the host is in a cluster already",
        "it was attached before, here or elsewhere; or it is a master whose signing key cannot be forgotten",
        "`pf9-plane cluster show NAME`; to move it: `pf9-plane cluster detach NAME HOST` first";
    HostNotAttached: "the host is not in this cluster, or is not a master of it",
        "a mistyped id, or it left meanwhile",
        "`pf9-plane cluster show NAME`";
    LastMaster: "the last master cannot leave or be replaced while others need it",
        "workers would be left without a master, or no master is left for a new one to join",
        "detach the workers first or together with it; for a lost one restore a backup: `pf9-plane cluster restore NAME`";
    NoMaster: "there is no master: the cluster needs one first, or this host is not a master",
        "only workers were named, or an etcd verb was run on a worker",
        "attach a master first: `pf9ctl host attach HOST --cluster CLUSTER --master`; run `pf9ctl etcd status` on a master";
    MasterNotGone: "a master cannot be replaced yet: it reported recently",
        "it was away for less than etcd.replaceAfterSeconds of the cluster",
        "wait, or if it will not come back: `pf9-plane cluster detach NAME HOST`";
    MasterMovesLater: "a master has a new address, and the cluster does not follow to it yet",
        "another master is unhealthy or moving as well: etcd changes one member at a time",
        "`pf9-plane cluster etcd NAME`; bring the others back, or give this one its old address (in addition to the new one)";
    ZonesUneven: "the masters' zones are not sound: losing one zone would lose etcd's quorum, or a zone is in two regions",
        "too many masters in one zone, or some without a zone",
        "give each master a zone, and no zone more masters than etcd can lose; or give none a zone";
    PodsCidrFull: "the pod network has no free part for another node",
        "containersCidr is too small for so many nodes",
        "detach nodes that are not needed, or make a cluster with a larger network";
    ClusterFull: "the cluster has the maximum number of nodes",
        "the message has the bound",
        "make another cluster";
    ClustersFull: "the plane has the maximum number of clusters",
        "the message has the bound",
        "delete one that is not needed";
    ClusterExists: "there is a cluster of that name already, or several projects have one",
        "names are unique in a project only",
        "choose another name, or name it by its id: `pf9-plane cluster list`";
    ClusterUnknown: "there is no such cluster, or not for this caller",
        "a mistyped name, one that was deleted, or one of another project",
        "`pf9-plane cluster list`, or with an operator's token `pf9ctl cluster list`";
    ClusterForeign: "the host speaks of a cluster that it is not in",
        "it changed its cluster a moment ago, or the backup is of another one",
        "nothing, if it passes; `pf9-plane host show HOST`";
    ClusterIdInvalid: "this is not the id of a cluster",
        "an id is a UUID; a name is not accepted here",
        "`pf9-plane cluster list`";
    HostIdInvalid: "this is not the id of a host",
        "an id is a UUID",
        "`pf9-plane host list`";
    ClusterInvalid: "a setting of the cluster, or an option of the request, is invalid; nothing was changed",
        "a value out of its range, or two that exclude each other; the message names the field",
        "correct it and try again; `pf9-plane cluster show NAME --json` has the present ones";
    ClusterChanged: "nothing was changed: the cluster's masters changed while etcd was being checked",
        "two requests, or a host that came back, at the same time",
        "try again";
    ClusterAway: "the cluster's API cannot be reached through the plane",
        "no master is connected, or none of them has a ready API server",
        "`pf9-plane cluster show NAME`; on a master `pf9ctl status` and `pf9ctl etcd status`";
    ClusterBroken: "a request to the cluster's API was cut off",
        "the tunnel or the API server ended in the middle",
        "try again; if it persists check the masters: `pf9-plane cluster show NAME`";
    ProjectUnknown: "there is no such project, or not for this caller",
        "a mistyped name, or no role in it",
        "GET /keystone/v3/auth/projects lists yours; `project` in operator.toml names one";
    RoleUnknown: "there is no host role of that name",
        "a mistyped name; the message has the only one",
        "`pf9ctl host authorize HOST`";
}
