"""scripts/demo: a management plane and real systemd machines that become a Kubernetes cluster.

  up [--masters 1] [--workers 1] [--kubernetes 1.37]
                                   build everything, boot the machines, enrol them, create a cluster, prove that it works; without
                                   --kubernetes the newest of src/stack/matrix.toml; with --api-address masters share one;
                                   with --workloads masters are workers as well;
                                   --debian trixie creates new machines of that release, --rhel-like ones called Rocky
                                   Linux, with the .rpm and a firewalld that does not run; the rest is Debian's
  status                           what runs, the state of every host, the nodes
  kubectl ARGS…                    Kubernetes, through the plane and the tunnel
  shell NODE [CMD…]                a shell or command on a machine
  logs NODE                        the agent's logs of a machine
  reboot NODE | crash NODE         orderly reboot | power loss and boot
  off NODE                         power loss; the next `up` boots it
  plane stop|start                 stop and start the management plane
  path NODE --rtt 80 --loss 1      a worse network between plane and machine: milliseconds, per cent of packets lost;
                                   --blackhole drops everything silently; without any of them: the plain cable again
  metrics [NODE [tunnel|etcd]]     a host's metrics through its tunnel; without NODE: the scrape targets, and a
                                   configuration for Prometheus
  detach NODE…                     remove the role from machines; the next `up` restores it
  attach NODE [--master]           give a machine a role, also another one than its name says
  settings JSON                    change settings of the cluster: kubelet, kubeProxy, networkPolicies, loadBalancer …
  down                             remove everything this created

State is in $PF9_DEMO_STATE (default /var/lib/pf9-demo), slow artefacts in $PF9_CACHE (/var/cache/pf9-build).
$PF9_DEMO_PLANE_NAME: the machines know the plane by this name (/etc/hosts), e.g. plane.demo.
$PF9_DEMO_PLANE_OPTIONS: additional options of pf9-plane serve, e.g. --node-certificate-seconds 180.
"""
import argparse
import json
import os
import signal
import sys

import lifecycle
import roots
import up
from common import Fail, need_root, say
from lifecycle import Demo
from netpath import Cable
from node import HOST


def parse(argv):
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verb = verbs.add_parser("up")
    verb.add_argument("--masters", type=int, default=None, choices=range(1, 8))
    verb.add_argument("--workers", type=int, default=None, choices=range(0, 21))
    verb.add_argument("--kubernetes", default="", help="a minor or a version of src/stack/matrix.toml")
    verb.add_argument("--debian", default=roots.SUITE, choices=roots.SUITES, help="what new machines run (%(default)s)")
    verb.add_argument("--rhel-like", action="store_true", help="what new machines are called, and which package they get")
    verb.add_argument("--timeout", type=int, default=up.READY_SECONDS, help="seconds until every node must be Ready")
    verb.add_argument("--api-address", default=None, metavar="ADDRESS", nargs="?", const=up.API_ADDRESS,
                      help="masters share this address (a new cluster only; without a value: %(const)s)")
    verb.add_argument("--workloads", action="store_true", help="masters are workers as well (a new cluster only)")
    verb.add_argument("--machines-only", action="store_true", help="plane and bare booted machines, nothing installed")
    verb = verbs.add_parser("status")
    verb.add_argument("--json", action="store_true")
    verbs.add_parser("kubectl").add_argument("args", nargs="*")
    verb = verbs.add_parser("shell")
    verb.add_argument("node")
    verb.add_argument("cmd", nargs=argparse.REMAINDER)
    for name in ("logs", "reboot", "crash", "off"):
        verb = verbs.add_parser(name)
        verb.add_argument("node")
    verb = verbs.add_parser("metrics")
    verb.add_argument("node", nargs="?")
    verb.add_argument("source", nargs="?", default="tunnel")
    verb = verbs.add_parser("detach")
    verb.add_argument("nodes", nargs="+")
    verb = verbs.add_parser("attach")
    verb.add_argument("node")
    verb.add_argument("--master", action="store_true")
    verb = verbs.add_parser("plane")
    verb.add_argument("action", choices=["start", "stop"])
    verb = verbs.add_parser("path")
    verb.add_argument("node")
    verb.add_argument("--rtt", type=float, default=0.0, help="milliseconds")
    verb.add_argument("--loss", type=float, default=0.0, help="per cent, each direction")
    verb.add_argument("--blackhole", action="store_true")
    verbs.add_parser("settings").add_argument("body", type=json.loads)
    verbs.add_parser("down")
    return parser.parse_args(argv)


def main(argv):
    foreign = argv[1:] if argv[:1] == ["kubectl"] else []  # kubectl's own options are not ours to read
    args = parse(["kubectl"] if foreign else argv)
    need_root("scripts/demo")
    demo = Demo()
    if args.verb == "up":
        return up.up(demo, up.Wanted.of(args))
    if args.verb == "down":
        return demo.down()
    demo.must_exist()
    if args.verb == "status":
        return lifecycle.status(demo, args.json)
    if args.verb == "kubectl":
        command = demo.kubectl_command(foreign)
        os.execve(command[0], command, lifecycle.clean_env())
    if args.verb == "shell":
        command = demo.node(args.node).enter(args.cmd or ["bash", "-l"])
        os.execvp(command[0], command)
    if args.verb == "metrics":
        return lifecycle.metrics(demo, args.node, args.source)
    if args.verb == "logs":
        return lifecycle.logs(demo, args.node)
    if args.verb in ("reboot", "crash", "off"):
        with demo.lock():
            machine = demo.node(args.node)
            {"reboot": machine.reboot, "crash": machine.crash, "off": machine.kill}[args.verb]()
        say(f"{args.node} is off" if args.verb == "off" else f"{args.node} has booted")
        return 0
    if args.verb == "detach":
        with demo.lock():
            return up.detach(demo, args.nodes)
    if args.verb == "attach":
        with demo.lock():
            return up.attach_one(demo, args.node, args.master)
    if args.verb == "settings":
        with demo.lock():
            return up.settings(demo, args.body)
    if args.verb == "path":
        with demo.lock():
            cable = Cable(demo.node(args.node), HOST)
            if args.rtt or args.loss or args.blackhole:
                cable.set(args.rtt, args.loss / 100, args.blackhole)
            else:
                cable.clear()
        return 0
    with demo.lock():
        demo.network()
        (demo.plane.start if args.action == "start" else demo.plane.stop)()
    return 0


def terminate(_number, _frame):
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGHUP, terminate)
    try:
        sys.exit(main(sys.argv[1:]) or 0)
    except Fail as fail:
        print(f"demo: {fail}", file=sys.stderr)
        sys.exit(fail.code)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
