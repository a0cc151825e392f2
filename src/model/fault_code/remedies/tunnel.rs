//! The way between a host and its plane.

rows! {
    TunnelDown: "the tunnel ended; the node continues, and the agent reconnects automatically",
        "the plane was restarted, the network broke, or a firewall or proxy closed a connection that was idle or old",
        "nothing, if it comes back. If it ends again and again: `pf9ctl tunnel status` and `pf9ctl logs comms -n 50`; look for an idle timeout on the path";
    PlaneAway: "the plane does not answer through the tunnel, or `pf9-plane` found no plane to ask",
        "the tunnel is down for now; on the plane's own machine: the plane does not run, or --state-dir is wrong",
        "on a host nothing: it continues automatically when the tunnel is up. At the plane: start it, or correct \
         --state-dir";
    PlaneBusy: "the plane is busy or has no capacity at the moment, and says when to retry",
        "many hosts reconnect at once after an outage, or something large is being built",
        "nothing: it is retried automatically; if it lasts, check the plane's load and its log";
    PlaneSlow: "the plane aborted a request that took too long",
        "an overloaded plane or a slow disk below its store",
        "try again; check the plane's disk and load";
    PlaneTimeout: "the plane did not answer in time",
        "a firewall that drops instead of refusing, a broken route, or an overloaded plane",
        "`pf9ctl proxy test` shows which hop is silent; check that the firewall lets this host out to the plane";
    PlaneRefused: "the plane's machine refuses the connection",
        "the plane does not run, the port is wrong, or a firewall rejects it",
        "check name and port, that the plane runs, and firewalls; if only a proxy leads out: `pf9ctl proxy set URL`";
    PlaneUnreachable: "the plane cannot be reached",
        "no connection was made yet, or one of the hops fails",
        "`pf9ctl status` shows the last reason; `pf9ctl proxy test` tries each hop; for operators' calls check the URL and ca_file in operator.toml";
    PlaneUnresolvable: "the plane's name has no address here",
        "DNS of this machine is down or does not know the name",
        "`resolvectl query` the name, or look at /etc/resolv.conf; if only a proxy leads out: `pf9ctl proxy set URL`";
    PlaneForeignCertificate: "the server is not this plane: its certificate is from another authority",
        "a middlebox inspects TLS, the URL is another plane's, the plane has a new authority, or this \
         machine's clock is wrong",
        "`pf9ctl proxy test` shows who signed it; exempt the plane from TLS inspection; check the clock; for \
         a new authority use a new token";
    PlaneForbidden: "the plane no longer knows this host, or its key",
        "the host was removed at the plane, or the plane was restored from a backup that is older than the host",
        "`pf9-plane host list` at the plane; with a new token it becomes a host again: `pf9ctl node prep --plane URL --token-file FILE --force`";
    PlaneGarbage: "the server does not answer like a plane",
        "the URL is another server's, or a proxy or captive portal answers instead",
        "check host and port of the URL, and that nothing in between inspects or forbids TLS";
    ProxyUnresolvable: "the proxy's name has no address here",
        "DNS of this machine, or a mistyped name",
        "`pf9ctl proxy show`, then `pf9ctl proxy set URL` with the right one";
    ProxyRefused: "the proxy's machine refuses the connection",
        "the proxy does not run, or the port is wrong",
        "`pf9ctl proxy show`; check host, port and that it runs";
    ProxyTimeout: "the proxy did not answer in time",
        "a firewall between this host and the proxy, or the proxy itself does not get through",
        "`pf9ctl proxy test` shows which of the two";
    ProxyClosed: "the proxy accepted the connection and closed it without an answer",
        "it cannot reach the plane, forbids it, or inspects TLS and rejects it",
        "check the proxy's log for this host";
    ProxyGarbage: "the server is not an HTTP proxy that supports CONNECT",
        "a wrong port, a SOCKS proxy, or a web server",
        "`pf9ctl proxy show`; name an HTTP proxy";
    ProxyCannotReach: "the proxy does not reach the plane (it answered 5xx)",
        "the proxy's own DNS or firewall, or the plane is down",
        "check the plane's name and port, then have the proxy's administrator try from there";
    ProxyDenies: "the proxy forbids the way to the plane",
        "its rules do not allow CONNECT to this name and port",
        "have its administrator allow CONNECT to the plane's name and port";
    ProxyCredentialsWanted: "the proxy requires a user and a password (407)",
        "none are set here",
        "`pf9ctl proxy set URL --user USER --password-file FILE`";
    ProxyCredentialsRejected: "the proxy rejects the user and password that are set",
        "the password was changed or has expired, or the account is locked",
        "ask for the right one, then `pf9ctl proxy set URL --user USER --password-file FILE`";
    ProxyCredentialsKind: "the proxy requires an authentication method that the agent does not support",
        "it asks for NTLM, Kerberos or Digest; only Basic can be given",
        "have it let this host through to the plane without a password, or with Basic";
    ProxyCredentialsUnsafe: "the file with the proxy's password is not used",
        "users other than the tunnel's can read or write it",
        "`chown pf9-comms /etc/pf9/proxy-credentials && chmod 0600 /etc/pf9/proxy-credentials`; if others may have read it, change the password first";
    ProxyCredentialsUnreadable: "the file with the proxy's password cannot be read",
        "it is missing or belongs to another user",
        "`chown pf9-comms /etc/pf9/proxy-credentials`, or rewrite it: `pf9ctl proxy set URL --user USER --password-file FILE`";
    ClockOff: "this host's clock differs from the plane's",
        "no time service runs, or it does not reach its servers; certificates and etcd suffer",
        "`timedatectl set-ntp true`, or set it by hand and install chrony; the node continues \
         automatically. If this clock is right, the plane's is wrong";
    HandshakeInvalid: "the plane refused a connection that is not an agent tunnel",
        "something else connects to the tunnel's path, or a proxy changes the handshake's headers",
        "on a host: `pf9ctl proxy test`; otherwise find out who connects there";
    UpgradeImpossible: "the connection cannot become a tunnel",
        "a proxy or load balancer in front of the plane does not forward the HTTP upgrade",
        "let it pass TCP through, or allow upgrades (websocket) to the plane";
    TunnelOnly: "this call is for hosts and comes through the tunnel only",
        "a host's API was called from outside",
        "use the operators' APIs: `docs/roles.md` has every route";
    SessionRenewalOnly: "the host's certificate has expired; this session is for its renewal only",
        "the host was away for longer than its certificate was valid",
        "nothing: it renews the certificate and reconnects automatically";
    SessionRemovalOnly: "the host was removed; this session only tells it to remove its role",
        "it was removed at the plane while it was away",
        "nothing, if that was intended; to make it a host again: `pf9ctl node prep --plane URL --token-file FILE --force`";
    HostMismatch: "a host reports in the name of another one",
        "a copied configuration or a defect; the report was discarded",
        "inspect that host: `pf9ctl identity show`";
    HostAway: "the host is not connected, so it cannot answer",
        "it is off, or its tunnel is down",
        "`pf9-plane host show HOST`; on it `pf9ctl status`";
    HostSilent: "the host has not reported a name and address yet that its root signed and that no other host has",
        "it was enrolled a moment ago, nodelet does not run there, or its name or address belongs to another host",
        "on the host: `pf9ctl status` shows its warnings";
}
