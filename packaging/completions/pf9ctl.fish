# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_pf9ctl_global_optspecs
    string join \n h/help
end

function __fish_pf9ctl_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_pf9ctl_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_pf9ctl_using_subcommand
    set -l cmd (__fish_pf9ctl_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "node" -d 'This machine: check, prep, status, join, leave, decommission'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "status" -d 'One screen: state, why, what to do, next try, tunnel, phases'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "plan" -d 'Show what nodelet would do now; changes nothing'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "phases" -d 'The stages that make a host a node: which there are, how far this one is'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "logs" -d 'What the daemons wrote, from their files'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "log-level" -d 'How much the daemons log, for a time and without a restart; without a level: what is logged now'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "explain" -d 'What a code means, how it usually comes about, and what to do'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "bundle" -d 'Everything that whoever helps asks for first, in one archive, without keys and passwords'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "config" -d 'The daemons\' configuration: get, set, validate, show'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "proxy" -d 'The HTTP proxy between this machine and its plane: set, show, test'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "tunnel" -d 'The tunnel to the plane: its sessions, round trips and streams'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "etcd" -d 'The cluster\'s memory on a master: etcd\'s state and its backups'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "cluster" -d 'The plane\'s clusters, with an operator\'s token: list, show'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "kube-token" -d 'A token for kubectl, as kubeconfigs that lead through the plane ask for it'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "host" -d 'The plane\'s hosts, with an operator\'s token: list, show, authorize, attach, detach'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "identity" -d 'Who this machine is to its plane, and what to do when it is a copy of another machine'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "version" -d 'The version of this program, of the daemons that run, and of the stack'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "completions" -d 'Completions for a shell; the packages install them'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "maintenance" -d 'For a time nothing here is repaired or changed; what the host is like is told as ever'
complete -c pf9ctl -n "__fish_pf9ctl_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and not __fish_seen_subcommand_from check prep status join leave decommission help" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and not __fish_seen_subcommand_from check prep status join leave decommission help" -f -a "check" -d 'Look whether this machine can become a node, and whether the one that it is is well; changes nothing'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and not __fish_seen_subcommand_from check prep status join leave decommission help" -f -a "prep" -d 'Make this machine a host of a plane: check, enrol, start, wait until the plane has heard'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and not __fish_seen_subcommand_from check prep status join leave decommission help" -f -a "status" -d 'One screen: state, why, what to do, next try, tunnel, phases'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and not __fish_seen_subcommand_from check prep status join leave decommission help" -f -a "join" -d 'Have this host become a node of a cluster, with an operator\'s token'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and not __fish_seen_subcommand_from check prep status join leave decommission help" -f -a "leave" -d 'Have this host leave its cluster, with an operator\'s token; its role is removed'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and not __fish_seen_subcommand_from check prep status join leave decommission help" -f -a "decommission" -d 'Remove the role, leave the plane, stop the agent, remove everything it made'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and not __fish_seen_subcommand_from check prep status join leave decommission help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from check" -s o -l output -d 'How the report is written. json-stream: one JSON value a line, each check as soon as it is known' -r -f -a "table\t'For people'
json\t'One JSON value'
json-stream\t'One JSON value a line'"
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from check" -l skip -d 'Do not count this check, and say why; can be repeated. Ids: see --list' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from check" -l plane -d 'Go to this plane (`https://HOST[:PORT]`) instead of this host\'s own, up to TLS; for machines that are not enrolled yet' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from check" -l ip -d 'Do it on this host by the system\'s ssh, and not on this machine; can be repeated, and separated by commas' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from check" -l user -d 'Log in as this user. Who is not root has to be allowed sudo without a password there' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from check" -l ssh-key -d 'Log in with the private key of this file, and no other' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from check" -l ssh-config -d 'Read this instead of ~/.ssh/config: ports, jump hosts, files of known keys' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from check" -l parallel -d 'How many hosts at a time' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from check" -l list -d 'Every check with its id, group, severity and what it looks at; nothing is looked at'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from check" -l json -d 'The same as --output json'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from check" -l strict -d 'Warnings count as failures'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from prep" -l plane -d 'The plane, as `https://HOST[:PORT]`' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from prep" -l token-file -d 'File with the one-time token the plane printed; "-" reads it from standard input. With --ip one line for each host' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from prep" -l host-id -d 'The id this host shall have; default: the one it had before, or a new one' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from prep" -l skip -d 'Do not count this check, and say why; can be repeated. Ids: see check-node --list' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from prep" -l wait -d 'How long to wait until the plane has heard of this host, in seconds' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from prep" -l ip -d 'Do it on this host by the system\'s ssh, and not on this machine; can be repeated, and separated by commas' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from prep" -l user -d 'Log in as this user. Who is not root has to be allowed sudo without a password there' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from prep" -l ssh-key -d 'Log in with the private key of this file, and no other' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from prep" -l ssh-config -d 'Read this instead of ~/.ssh/config: ports, jump hosts, files of known keys' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from prep" -l parallel -d 'How many hosts at a time' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from prep" -l force -d 'Enrol again although this machine is a host already, of this plane or another'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from prep" -l dry-run -d 'Show what would be done, exactly, and do nothing; the token is not read'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from prep" -l fix -d 'Put right what can be put right safely, and taken back: swap, clock, limits. Shown and asked first'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from prep" -l yes -d 'Do not ask before --fix'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from prep" -l no-prompt -d 'Fail instead of asking'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from prep" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from prep" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from status" -l json -d 'One JSON value instead of a screen'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from status" -l watch -d 'Show it again whenever a second has passed, until Ctrl-C'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from status" -l drift -d 'Ask nodelet as well what is not as it should be, and show it'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from join" -s c -l cluster -d 'The cluster\'s name or id' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from join" -l config -d 'File that says which plane, and where the credentials are: plane, token_file or application_credential_file, ca_file, project' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from join" -l master -d 'As a master'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from join" -l json -d 'The plane\'s answer as JSON, instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from join" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from leave" -l config -d 'File that says which plane, and where the credentials are: plane, token_file or application_credential_file, ca_file, project' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from leave" -l force -d 'Also where etcd loses its quorum by it'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from leave" -l json -d 'The plane\'s answer as JSON, instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from leave" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from decommission" -l wait -d 'How long the removal of the role may take, in seconds' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from decommission" -l yes -d 'Do not ask'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from decommission" -l dry-run -d 'Show what would go, exactly, and take nothing away'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from decommission" -l local -l local-only -d 'Do not tell the plane; for machines whose plane is gone. What has to be said there when it is back is shown'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from decommission" -l force -d 'Also where others need this host: a master leaves although etcd loses its quorum. The cluster\'s API takes no change then until a backup is restored'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from decommission" -l keep-logs -d 'Keep /var/log/pf9'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from decommission" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from decommission" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from help" -f -a "check" -d 'Look whether this machine can become a node, and whether the one that it is is well; changes nothing'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from help" -f -a "prep" -d 'Make this machine a host of a plane: check, enrol, start, wait until the plane has heard'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from help" -f -a "status" -d 'One screen: state, why, what to do, next try, tunnel, phases'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from help" -f -a "join" -d 'Have this host become a node of a cluster, with an operator\'s token'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from help" -f -a "leave" -d 'Have this host leave its cluster, with an operator\'s token; its role is removed'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from help" -f -a "decommission" -d 'Remove the role, leave the plane, stop the agent, remove everything it made'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand node; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand status" -l json -d 'One JSON value instead of a screen'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand status" -l watch -d 'Show it again whenever a second has passed, until Ctrl-C'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand status" -l drift -d 'Ask nodelet as well what is not as it should be, and show it'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand status" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand plan" -l json -d 'One JSON value instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand plan" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and not __fish_seen_subcommand_from list status start stop help" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and not __fish_seen_subcommand_from list status start stop help" -f -a "list" -d 'Every phase with its order number, and which roles have it'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and not __fish_seen_subcommand_from list status start stop help" -f -a "status" -d 'How far this node is, phase by phase'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and not __fish_seen_subcommand_from list status start stop help" -f -a "start" -d 'Go through all of them now; what differs is put right. Ends a maintenance'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and not __fish_seen_subcommand_from list status start stop help" -f -a "stop" -d 'Begin no step of any phase for a time: a maintenance, as maintenance start begins it. What runs goes on'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and not __fish_seen_subcommand_from list status start stop help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and __fish_seen_subcommand_from list" -l json -d 'One JSON value instead of a table'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and __fish_seen_subcommand_from status" -l json -d 'One JSON value instead of a table'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and __fish_seen_subcommand_from start" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and __fish_seen_subcommand_from start" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and __fish_seen_subcommand_from stop" -l for -d 'For how long: a number and s, m or h; at most 72h' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and __fish_seen_subcommand_from stop" -l reason -d 'Why, in one line: everybody who looks at this host is shown it' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and __fish_seen_subcommand_from stop" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and __fish_seen_subcommand_from stop" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and __fish_seen_subcommand_from help" -f -a "list" -d 'Every phase with its order number, and which roles have it'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and __fish_seen_subcommand_from help" -f -a "status" -d 'How far this node is, phase by phase'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and __fish_seen_subcommand_from help" -f -a "start" -d 'Go through all of them now; what differs is put right. Ends a maintenance'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and __fish_seen_subcommand_from help" -f -a "stop" -d 'Begin no step of any phase for a time: a maintenance, as maintenance start begins it. What runs goes on'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand phases; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand logs" -l since -d 'Only what is newer: 30s, 15m, 24h, 7d' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand logs" -s n -l lines -d 'At most so many lines, the newest; with --since all of them' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand logs" -l list -d 'Every log with its file, size and age; none is printed'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand logs" -s f -l follow -d 'Go on with what is written, until Ctrl-C'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand logs" -l json -d 'The list as one JSON value'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand logs" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand log-level" -l for -d 'For how long: 30s, 15m, 2h; at most 24h. Then it is as configured again, and after a restart of the daemon too' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand log-level" -l of -d 'Of this daemon alone; can be repeated. Default: all that run' -r -f -a "comms\t'The tunnel'
hostagent\t'Documents'
nodelet\t'What changes the machine'"
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand log-level" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand log-level" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand explain" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand explain" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand bundle" -s o -l output -d 'Where to write it: a file that is not there yet, a directory, or - for standard output. Default: a file of its own name, here' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand bundle" -l since -d 'Logs of this time: 30m, 24h, 7d' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand bundle" -l max-size -d 'At most so large: 1M, 10M, 1G' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand bundle" -l encrypt-to -d 'Only the holder of this key can open it (a public key of age, age1…); can be repeated' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand bundle" -l list -d 'What would be in it; nothing is made'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand bundle" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand bundle" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and not __fish_seen_subcommand_from get set validate show help" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and not __fish_seen_subcommand_from get set validate show help" -f -a "get" -d 'One value, as the daemons have it'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and not __fish_seen_subcommand_from get set validate show help" -f -a "set" -d 'Set a value, or go back to the default; the other files are not touched'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and not __fish_seen_subcommand_from get set validate show help" -f -a "validate" -d 'Whether the daemons can use it; every fault at once, with its file and key'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and not __fish_seen_subcommand_from get set validate show help" -f -a "show" -d 'What the files set; with --effective everything, defaults included'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and not __fish_seen_subcommand_from get set validate show help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and __fish_seen_subcommand_from get" -l json -d 'As a JSON value'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and __fish_seen_subcommand_from get" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and __fish_seen_subcommand_from set" -l default -d 'Back to what the other files say, or to the default'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and __fish_seen_subcommand_from set" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and __fish_seen_subcommand_from set" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and __fish_seen_subcommand_from validate" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and __fish_seen_subcommand_from validate" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and __fish_seen_subcommand_from show" -l effective -d 'Everything, defaults included: what the daemons work by'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and __fish_seen_subcommand_from show" -l json -d 'As JSON instead of TOML'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "get" -d 'One value, as the daemons have it'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "set" -d 'Set a value, or go back to the default; the other files are not touched'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "validate" -d 'Whether the daemons can use it; every fault at once, with its file and key'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "show" -d 'What the files set; with --effective everything, defaults included'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and not __fish_seen_subcommand_from set show test help" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and not __fish_seen_subcommand_from set show test help" -f -a "set" -d 'Go to the plane through a proxy, or without one. Replaces everything that was set before'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and not __fish_seen_subcommand_from set show test help" -f -a "show" -d 'Show the proxy; never the password'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and not __fish_seen_subcommand_from set show test help" -f -a "test" -d 'Go to the plane as the tunnel does and print each hop with its time'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and not __fish_seen_subcommand_from set show test help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and __fish_seen_subcommand_from set" -l user -d 'User, if the proxy wants one' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and __fish_seen_subcommand_from set" -l password-file -d 'File with the user\'s password; "-" reads it from standard input' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and __fish_seen_subcommand_from set" -l no-proxy -d 'Who is reached without the proxy, separated by commas: names (and what is below them), .suffixes, addresses, networks like 10.0.0.0/8, each perhaps with :port; * is everything' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and __fish_seen_subcommand_from set" -l none -d 'Go without a proxy'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and __fish_seen_subcommand_from set" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and __fish_seen_subcommand_from set" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and __fish_seen_subcommand_from show" -l json -d 'One JSON value instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and __fish_seen_subcommand_from test" -l plane -d 'Go to this plane (`https://HOST[:PORT]`) instead of this host\'s own, up to TLS; for machines that are not enrolled yet' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and __fish_seen_subcommand_from test" -l json -d 'One JSON value instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and __fish_seen_subcommand_from test" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and __fish_seen_subcommand_from help" -f -a "set" -d 'Go to the plane through a proxy, or without one. Replaces everything that was set before'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and __fish_seen_subcommand_from help" -f -a "show" -d 'Show the proxy; never the password'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and __fish_seen_subcommand_from help" -f -a "test" -d 'Go to the plane as the tunnel does and print each hop with its time'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand proxy; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and not __fish_seen_subcommand_from status ping top help" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and not __fish_seen_subcommand_from status ping top help" -f -a "status" -d 'Every session: state, round trip, bytes, what the kernel knows, how the last one ended'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and not __fish_seen_subcommand_from status ping top help" -f -a "ping" -d 'Measure round trips to the plane with PING frames of the tunnel, on every session'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and not __fish_seen_subcommand_from status ping top help" -f -a "top" -d 'The open streams with who asked, bytes and rates, again and again until Ctrl-C'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and not __fish_seen_subcommand_from status ping top help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and __fish_seen_subcommand_from status" -l json -d 'One JSON value instead of a screen'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and __fish_seen_subcommand_from ping" -s c -l count -d 'Stop after so many; default: go on until Ctrl-C' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and __fish_seen_subcommand_from ping" -s i -l interval -d 'Seconds between two' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and __fish_seen_subcommand_from ping" -l json -d 'The summary as one JSON value instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and __fish_seen_subcommand_from ping" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and __fish_seen_subcommand_from top" -s i -l interval -d 'Seconds between two looks; rates are measured over them' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and __fish_seen_subcommand_from top" -l once -d 'Once, for scripts'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and __fish_seen_subcommand_from top" -l json -d 'Once, as one JSON value'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and __fish_seen_subcommand_from top" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and __fish_seen_subcommand_from help" -f -a "status" -d 'Every session: state, round trip, bytes, what the kernel knows, how the last one ended'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and __fish_seen_subcommand_from help" -f -a "ping" -d 'Measure round trips to the plane with PING frames of the tunnel, on every session'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and __fish_seen_subcommand_from help" -f -a "top" -d 'The open streams with who asked, bytes and rates, again and again until Ctrl-C'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand tunnel; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and not __fish_seen_subcommand_from status list backup drill restore rejoin defrag alarm verify recovery-key help" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and not __fish_seen_subcommand_from status list backup drill restore rejoin defrag alarm verify recovery-key help" -f -a "status" -d 'The member, its database and its backups; ends with 1 when something is wrong'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and not __fish_seen_subcommand_from status list backup drill restore rejoin defrag alarm verify recovery-key help" -f -a "list" -d 'Every backup on this master and in the second place, newest first'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and not __fish_seen_subcommand_from status list backup drill restore rejoin defrag alarm verify recovery-key help" -f -a "backup" -d 'Make a backup now: taken, sealed, verified'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and not __fish_seen_subcommand_from status list backup drill restore rejoin defrag alarm verify recovery-key help" -f -a "drill" -d 'Restore the newest backup into an etcd of its own, count it, and take it away again'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and not __fish_seen_subcommand_from status list backup drill restore rejoin defrag alarm verify recovery-key help" -f -a "restore" -d 'Begin the cluster anew from a snapshot, on this master; the others rejoin'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and not __fish_seen_subcommand_from status list backup drill restore rejoin defrag alarm verify recovery-key help" -f -a "rejoin" -d 'Put this master\'s data aside and join the one that is restored'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and not __fish_seen_subcommand_from status list backup drill restore rejoin defrag alarm verify recovery-key help" -f -a "defrag" -d 'Defragment this member\'s database now, if every member is well'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and not __fish_seen_subcommand_from status list backup drill restore rejoin defrag alarm verify recovery-key help" -f -a "alarm" -d 'The alarms that are raised, and the way out; ends with 1 when there is one'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and not __fish_seen_subcommand_from status list backup drill restore rejoin defrag alarm verify recovery-key help" -f -a "verify" -d 'Look whether a backup is whole and, with a key, whether it opens and holds what it says'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and not __fish_seen_subcommand_from status list backup drill restore rejoin defrag alarm verify recovery-key help" -f -a "recovery-key" -d 'Make the key that opens backups with the plane away; done on a machine that is kept offline'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and not __fish_seen_subcommand_from status list backup drill restore rejoin defrag alarm verify recovery-key help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from status" -l json -d 'One JSON value instead of a screen'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from list" -l here -d 'Only those on this master: the second place is not asked'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from list" -l json -d 'One JSON value instead of a table'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from backup" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from backup" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from drill" -l recovery-key -d 'A file with a private key that opens the backup (AGE-SECRET-KEY-1…); otherwise the one that the cluster\'s settings name, or the plane opens it' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from drill" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from drill" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from restore" -l recovery-key -d 'The file of the recovery key that opens a sealed one; without it the plane opens it' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from restore" -l signers -d 'Believe these as well: a file that `pf9-plane cluster backups NAME signers` wrote, kept beside the recovery key. Without it one of this cluster\'s masters has to have signed it, as the last spec of the plane names them' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from restore" -l any-cluster -d 'It may be of another cluster'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from restore" -l unsigned -d 'Nobody has to have signed it, for you know where it comes from: whoever could write there can have made it. A plain snapshot never is signed, and says nothing of its cluster'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from restore" -l yes -d 'Do not ask'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from restore" -l show -d 'Only show what is under way, and how the last one ended'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from restore" -l withdraw -d 'End the one that is under way, if no data were moved yet'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from restore" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from restore" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from rejoin" -l yes -d 'Do not ask'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from rejoin" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from rejoin" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from defrag" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from defrag" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from alarm" -l heal -d 'Do now what is due about it: compact, defragment, or take back an alarm whose cause is gone'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from alarm" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from alarm" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from verify" -l recovery-key -d 'Open it with this key, and look whether it holds what it says' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from verify" -l signers -d 'Believe these as well: a file that `pf9-plane cluster backups NAME signers` wrote. Without it one of this cluster\'s masters has to have signed it' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from verify" -l plane -d 'Open it with the plane\'s help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from verify" -l unsigned -d 'Do not look who made it'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from verify" -l json -d 'One JSON value instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from verify" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from recovery-key" -l json -d 'One JSON value instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from recovery-key" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from help" -f -a "status" -d 'The member, its database and its backups; ends with 1 when something is wrong'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from help" -f -a "list" -d 'Every backup on this master and in the second place, newest first'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from help" -f -a "backup" -d 'Make a backup now: taken, sealed, verified'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from help" -f -a "drill" -d 'Restore the newest backup into an etcd of its own, count it, and take it away again'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from help" -f -a "restore" -d 'Begin the cluster anew from a snapshot, on this master; the others rejoin'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from help" -f -a "rejoin" -d 'Put this master\'s data aside and join the one that is restored'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from help" -f -a "defrag" -d 'Defragment this member\'s database now, if every member is well'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from help" -f -a "alarm" -d 'The alarms that are raised, and the way out; ends with 1 when there is one'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from help" -f -a "verify" -d 'Look whether a backup is whole and, with a key, whether it opens and holds what it says'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from help" -f -a "recovery-key" -d 'Make the key that opens backups with the plane away; done on a machine that is kept offline'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand etcd; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand cluster; and not __fish_seen_subcommand_from list show help" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand cluster; and not __fish_seen_subcommand_from list show help" -f -a "list" -d 'Every cluster of the plane'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand cluster; and not __fish_seen_subcommand_from list show help" -f -a "show" -d 'One cluster'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand cluster; and not __fish_seen_subcommand_from list show help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand cluster; and __fish_seen_subcommand_from list" -l config -d 'File that says which plane, and where the credentials are: plane, token_file or application_credential_file, ca_file, project' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand cluster; and __fish_seen_subcommand_from list" -l json -d 'The plane\'s answer as JSON, instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand cluster; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand cluster; and __fish_seen_subcommand_from show" -l config -d 'File that says which plane, and where the credentials are: plane, token_file or application_credential_file, ca_file, project' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand cluster; and __fish_seen_subcommand_from show" -l json -d 'The plane\'s answer as JSON, instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand cluster; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand cluster; and __fish_seen_subcommand_from help" -f -a "list" -d 'Every cluster of the plane'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand cluster; and __fish_seen_subcommand_from help" -f -a "show" -d 'One cluster'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand cluster; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand kube-token" -l cluster -d 'Id of the cluster' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand kube-token" -l project -d 'Its project, if it is another than operator.toml says' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand kube-token" -l cache-dir -d 'Where the token is kept until it ends; default: pf9 below XDG_CACHE_HOME, or .cache of your home. In a directory that others can write it is not kept' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand kube-token" -l config -d 'File that says which plane, and where the credentials are: plane, token_file or application_credential_file, ca_file, project' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand kube-token" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and not __fish_seen_subcommand_from list show authorize deauthorize attach detach help" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and not __fish_seen_subcommand_from list show authorize deauthorize attach detach help" -f -a "list" -d 'Every host of the plane'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and not __fish_seen_subcommand_from list show authorize deauthorize attach detach help" -f -a "show" -d 'One host'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and not __fish_seen_subcommand_from list show authorize deauthorize attach detach help" -f -a "authorize" -d 'Let a host be a node of this plane\'s clusters'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and not __fish_seen_subcommand_from list show authorize deauthorize attach detach help" -f -a "deauthorize" -d 'Take that back; a host in a cluster is detached first'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and not __fish_seen_subcommand_from list show authorize deauthorize attach detach help" -f -a "attach" -d 'Make a host a node of a cluster'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and not __fish_seen_subcommand_from list show authorize deauthorize attach detach help" -f -a "detach" -d 'Take a host out of its cluster; its role is removed'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and not __fish_seen_subcommand_from list show authorize deauthorize attach detach help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from list" -l config -d 'File that says which plane, and where the credentials are: plane, token_file or application_credential_file, ca_file, project' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from list" -l json -d 'The plane\'s answer as JSON, instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from show" -l config -d 'File that says which plane, and where the credentials are: plane, token_file or application_credential_file, ca_file, project' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from show" -l json -d 'The plane\'s answer as JSON, instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from authorize" -l config -d 'File that says which plane, and where the credentials are: plane, token_file or application_credential_file, ca_file, project' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from authorize" -l json -d 'The plane\'s answer as JSON, instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from authorize" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from deauthorize" -l config -d 'File that says which plane, and where the credentials are: plane, token_file or application_credential_file, ca_file, project' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from deauthorize" -l json -d 'The plane\'s answer as JSON, instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from deauthorize" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from attach" -s c -l cluster -d 'The cluster\'s name or id' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from attach" -l config -d 'File that says which plane, and where the credentials are: plane, token_file or application_credential_file, ca_file, project' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from attach" -l master -d 'As a master'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from attach" -l json -d 'The plane\'s answer as JSON, instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from attach" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from detach" -l config -d 'File that says which plane, and where the credentials are: plane, token_file or application_credential_file, ca_file, project' -r -F
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from detach" -l force -d 'Also where etcd loses its quorum by it'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from detach" -l json -d 'The plane\'s answer as JSON, instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from detach" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from help" -f -a "list" -d 'Every host of the plane'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from help" -f -a "show" -d 'One host'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from help" -f -a "authorize" -d 'Let a host be a node of this plane\'s clusters'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from help" -f -a "deauthorize" -d 'Take that back; a host in a cluster is detached first'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from help" -f -a "attach" -d 'Make a host a node of a cluster'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from help" -f -a "detach" -d 'Take a host out of its cluster; its role is removed'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand host; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand identity; and not __fish_seen_subcommand_from show reset help" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand identity; and not __fish_seen_subcommand_from show reset help" -f -a "show" -d 'Show the host id, what it is bound to, whom it trusts, and whether this is a copy'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand identity; and not __fish_seen_subcommand_from show reset help" -f -a "reset" -d 'Stop being the host that this machine was copied from; then prep-node makes it a new one'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand identity; and not __fish_seen_subcommand_from show reset help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand identity; and __fish_seen_subcommand_from show" -l json -d 'One JSON value instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand identity; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand identity; and __fish_seen_subcommand_from reset" -l yes -d 'Do not ask'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand identity; and __fish_seen_subcommand_from reset" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand identity; and __fish_seen_subcommand_from reset" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand identity; and __fish_seen_subcommand_from help" -f -a "show" -d 'Show the host id, what it is bound to, whom it trusts, and whether this is a copy'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand identity; and __fish_seen_subcommand_from help" -f -a "reset" -d 'Stop being the host that this machine was copied from; then prep-node makes it a new one'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand identity; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand version" -l json -d 'One JSON value instead of lines'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand version" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand maintenance; and not __fish_seen_subcommand_from start end show help" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand maintenance; and not __fish_seen_subcommand_from start end show help" -f -a "start" -d 'Begin: no repair, no upgrade, no order of the plane is carried out here until it ends. What runs goes on'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand maintenance; and not __fish_seen_subcommand_from start end show help" -f -a "end" -d 'End it, whoever began it'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand maintenance; and not __fish_seen_subcommand_from start end show help" -f -a "show" -d 'Show it'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand maintenance; and not __fish_seen_subcommand_from start end show help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand maintenance; and __fish_seen_subcommand_from start" -l for -d 'For how long: a number and s, m or h; at most 72h' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand maintenance; and __fish_seen_subcommand_from start" -l reason -d 'Why, in one line: everybody who looks at this host is shown it' -r
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand maintenance; and __fish_seen_subcommand_from start" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand maintenance; and __fish_seen_subcommand_from start" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand maintenance; and __fish_seen_subcommand_from end" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand maintenance; and __fish_seen_subcommand_from end" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand maintenance; and __fish_seen_subcommand_from show" -l json -d 'One JSON value instead of lines for people'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand maintenance; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand maintenance; and __fish_seen_subcommand_from help" -f -a "start" -d 'Begin: no repair, no upgrade, no order of the plane is carried out here until it ends. What runs goes on'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand maintenance; and __fish_seen_subcommand_from help" -f -a "end" -d 'End it, whoever began it'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand maintenance; and __fish_seen_subcommand_from help" -f -a "show" -d 'Show it'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand maintenance; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "node" -d 'This machine: check, prep, status, join, leave, decommission'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "status" -d 'One screen: state, why, what to do, next try, tunnel, phases'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "plan" -d 'Show what nodelet would do now; changes nothing'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "phases" -d 'The stages that make a host a node: which there are, how far this one is'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "logs" -d 'What the daemons wrote, from their files'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "log-level" -d 'How much the daemons log, for a time and without a restart; without a level: what is logged now'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "explain" -d 'What a code means, how it usually comes about, and what to do'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "bundle" -d 'Everything that whoever helps asks for first, in one archive, without keys and passwords'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "config" -d 'The daemons\' configuration: get, set, validate, show'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "proxy" -d 'The HTTP proxy between this machine and its plane: set, show, test'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "tunnel" -d 'The tunnel to the plane: its sessions, round trips and streams'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "etcd" -d 'The cluster\'s memory on a master: etcd\'s state and its backups'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "cluster" -d 'The plane\'s clusters, with an operator\'s token: list, show'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "kube-token" -d 'A token for kubectl, as kubeconfigs that lead through the plane ask for it'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "host" -d 'The plane\'s hosts, with an operator\'s token: list, show, authorize, attach, detach'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "identity" -d 'Who this machine is to its plane, and what to do when it is a copy of another machine'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "version" -d 'The version of this program, of the daemons that run, and of the stack'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "completions" -d 'Completions for a shell; the packages install them'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "maintenance" -d 'For a time nothing here is repaired or changed; what the host is like is told as ever'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and not __fish_seen_subcommand_from node status plan phases logs log-level explain bundle config proxy tunnel etcd cluster kube-token host identity version completions maintenance help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from node" -f -a "check" -d 'Look whether this machine can become a node, and whether the one that it is is well; changes nothing'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from node" -f -a "prep" -d 'Make this machine a host of a plane: check, enrol, start, wait until the plane has heard'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from node" -f -a "status" -d 'One screen: state, why, what to do, next try, tunnel, phases'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from node" -f -a "join" -d 'Have this host become a node of a cluster, with an operator\'s token'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from node" -f -a "leave" -d 'Have this host leave its cluster, with an operator\'s token; its role is removed'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from node" -f -a "decommission" -d 'Remove the role, leave the plane, stop the agent, remove everything it made'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from phases" -f -a "list" -d 'Every phase with its order number, and which roles have it'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from phases" -f -a "status" -d 'How far this node is, phase by phase'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from phases" -f -a "start" -d 'Go through all of them now; what differs is put right. Ends a maintenance'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from phases" -f -a "stop" -d 'Begin no step of any phase for a time: a maintenance, as maintenance start begins it. What runs goes on'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "get" -d 'One value, as the daemons have it'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "set" -d 'Set a value, or go back to the default; the other files are not touched'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "validate" -d 'Whether the daemons can use it; every fault at once, with its file and key'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "show" -d 'What the files set; with --effective everything, defaults included'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from proxy" -f -a "set" -d 'Go to the plane through a proxy, or without one. Replaces everything that was set before'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from proxy" -f -a "show" -d 'Show the proxy; never the password'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from proxy" -f -a "test" -d 'Go to the plane as the tunnel does and print each hop with its time'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from tunnel" -f -a "status" -d 'Every session: state, round trip, bytes, what the kernel knows, how the last one ended'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from tunnel" -f -a "ping" -d 'Measure round trips to the plane with PING frames of the tunnel, on every session'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from tunnel" -f -a "top" -d 'The open streams with who asked, bytes and rates, again and again until Ctrl-C'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from etcd" -f -a "status" -d 'The member, its database and its backups; ends with 1 when something is wrong'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from etcd" -f -a "list" -d 'Every backup on this master and in the second place, newest first'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from etcd" -f -a "backup" -d 'Make a backup now: taken, sealed, verified'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from etcd" -f -a "drill" -d 'Restore the newest backup into an etcd of its own, count it, and take it away again'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from etcd" -f -a "restore" -d 'Begin the cluster anew from a snapshot, on this master; the others rejoin'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from etcd" -f -a "rejoin" -d 'Put this master\'s data aside and join the one that is restored'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from etcd" -f -a "defrag" -d 'Defragment this member\'s database now, if every member is well'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from etcd" -f -a "alarm" -d 'The alarms that are raised, and the way out; ends with 1 when there is one'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from etcd" -f -a "verify" -d 'Look whether a backup is whole and, with a key, whether it opens and holds what it says'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from etcd" -f -a "recovery-key" -d 'Make the key that opens backups with the plane away; done on a machine that is kept offline'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from cluster" -f -a "list" -d 'Every cluster of the plane'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from cluster" -f -a "show" -d 'One cluster'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from host" -f -a "list" -d 'Every host of the plane'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from host" -f -a "show" -d 'One host'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from host" -f -a "authorize" -d 'Let a host be a node of this plane\'s clusters'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from host" -f -a "deauthorize" -d 'Take that back; a host in a cluster is detached first'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from host" -f -a "attach" -d 'Make a host a node of a cluster'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from host" -f -a "detach" -d 'Take a host out of its cluster; its role is removed'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from identity" -f -a "show" -d 'Show the host id, what it is bound to, whom it trusts, and whether this is a copy'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from identity" -f -a "reset" -d 'Stop being the host that this machine was copied from; then prep-node makes it a new one'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from maintenance" -f -a "start" -d 'Begin: no repair, no upgrade, no order of the plane is carried out here until it ends. What runs goes on'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from maintenance" -f -a "end" -d 'End it, whoever began it'
complete -c pf9ctl -n "__fish_pf9ctl_using_subcommand help; and __fish_seen_subcommand_from maintenance" -f -a "show" -d 'Show it'
