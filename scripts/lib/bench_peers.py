"""Both ends of each peer that scripts/bench tunnel compares with: program, arguments, configuration. `far` is where the end
at the target listens, `to` where the other one reaches it, `near` where the load goes in."""
BORE, BORE_PORT = "0.6.0", 7835  # the port is fixed in bore
HAPROXY = ("global\n  maxconn 8000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n"
           "  timeout server 1h\nlisten l\n  bind %s\n  server s %s\n")
STUNNEL = "foreground = yes\npid =\nsyslog = no\nsslVersionMin = TLSv1.3\n%s\n[s]\naccept = %s\nconnect = %s\n"
SSHD = ("ListenAddress {far}\nHostKey {folder}/key\nAuthorizedKeysFile {folder}/key.pub\nPidFile none\nStrictModes no\n"
        "UsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nAllowTcpForwarding yes\n"
        "ClientAliveInterval {alive}\nClientAliveCountMax 2\n")
SSH = ("Port {to_port}\nIdentityFile {folder}/key\nUserKnownHostsFile /dev/null\nStrictHostKeyChecking no\nBatchMode yes\n"
       "ExitOnForwardFailure yes\nRemoteForward {near} {target}\nServerAliveInterval {alive}\nServerAliveCountMax 2\n"
       "LogLevel {level}\n")
# The end at the target, then the other one: package, program, arguments, configuration.
PEERS = {
    "haproxy": [("haproxy", "haproxy", "-db -f {config}", HAPROXY % words) for words in (
        ("{far} ssl crt {pki}/server.pem ssl-min-ver TLSv1.3", "{target}"), ("{near}", "{to} ssl verify none"))],
    "stunnel": [("stunnel4", "stunnel4", "{config}", STUNNEL % words) for words in (
        ("cert = {pki}/server.pem", "{far}", "{target}"), ("client = yes", "{near}", "{to}"))],
    "openssh": [("openssh-server", "sshd", "-D -e -f {config}", SSHD),
                ("openssh-client", "ssh", "-N -F {config} {user}@{to_host}", SSH)],
    "bore (plain)": [("bore-cli", "bore", words, "") for words in (
        "server --bind-addr {far_host} --min-port 1024",
        "local {target_port} --local-host {target_host} --to {to_host} --port {near_port}")],
}
# A peer that lives as long as its connection, restarted after each end, after a pause.
AGAIN = 'trap "kill \\$!; exit" TERM; pause=$1; shift; while :; do "$@" & wait $!; sleep "$pause"; done'
