//! Certificates of hosts and nodes, and the authorities that sign them.

rows! {
    CertificateExpired: "a certificate has expired; what uses it is refused by its peers",
        "the machine or its plane was down for longer than the certificate was valid, or the clock is wrong",
        "`timedatectl`, then let the agent reach the plane: it renews automatically (`pf9ctl status`)";
    CertificateNotRenewed: "a certificate is due and was not renewed yet",
        "the plane is down, refuses the request, or its authority is about to expire",
        "`pf9ctl status` shows why, and when the next try is; there is time until that expiry";
    CertificateUnproven: "the new host certificate does not work; the old one stays in use",
        "the plane did not accept it, or the new session broke",
        "nothing: another one is requested; if it persists, see the plane's log";
    CertificateRefused: "the node rejects a certificate that the plane signed",
        "it is for another key, name or role, or from an authority unknown to the node",
        "nothing at first: the plane signs a new one; if it does not: `pf9-plane cluster authorities NAME show`";
    CertificateForeign: "certificates for another cluster, or for a role that this host does not have",
        "the host changed its cluster a moment ago",
        "nothing: it orders its own";
    CertificateMissing: "the connection to the plane's tunnel presents no host certificate",
        "something other than an agent connects, or a proxy inspects TLS",
        "on a host: `pf9ctl proxy test`; exempt the plane from TLS inspection";
    CertificateEarly: "the certificate is not valid yet",
        "the clock of the plane, or of the signer, is wrong",
        "compare both clocks: `timedatectl` on host and plane";
    CertificateRevoked: "this certificate is no longer the host's",
        "the host has a newer one; an old disk or a copy of the machine connects",
        "find the copy: `pf9-plane host show HOST`; on it `pf9ctl identity reset`";
    CsrRefused: "the request for a certificate cannot be signed",
        "it is malformed, is not signed with its own key, or its key is weak",
        "nothing: the host makes a new one; if it persists, upgrade its agent";
    KeyReused: "the request is for the key that the host has already; a renewal brings a new one",
        "an old agent, or a request that is replayed",
        "nothing: the host makes a new key";
    PurposeRefused: "a node of this role has no such certificate",
        "a worker asked for a master's certificate, or its role changed a moment ago",
        "nothing, if it passes; if not, inspect the host: it requests what it has no right to";
    Key: "a key of the node could not be generated or read",
        "the disk with /etc/pf9/kube.d is full, read-only or failing, or the file is not a key",
        "check the disk and the named path; it is retried automatically";
    CaMissing: "the plane's authority cannot be shown",
        "ca.pem is not in the state directory: wrong --state-dir, or the plane was never started there",
        "correct --state-dir";
    RotationUnderWay: "a rotation of the cluster's authorities is under way; a second one is not started",
        "one at a time, because each restarts masters",
        "`pf9-plane cluster authorities NAME show`; wait, or `pf9-plane cluster authorities NAME abort`";
    RotationNone: "no rotation of the cluster's authorities is under way",
        "it has ended, or was never started",
        "`pf9-plane cluster authorities NAME show`";
    RotationTooLate: "the rotation can no longer be aborted: the old authority is being removed",
        "every node trusts the new one by now",
        "wait until it is finished; if needed start another one: `pf9-plane cluster authorities NAME rotate`";
    HoldInvalid: "the time for which nodes trust both authorities is out of range",
        "it is negative or longer than allowed; the message has the bound",
        "`pf9-plane cluster authorities NAME rotate --hold 10m`";
}
