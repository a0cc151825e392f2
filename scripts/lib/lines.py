"""Lines of product code, then and now: of all of it, and of what did the same already then.

  python3 scripts/lib/lines.py [--then COMMIT] [--now COMMIT]

A line counts if it has more than white space and a comment, and is not compiled for tests only. The whole has grown with
what it does. Each row of SAME is one behaviour: whole files, or named items of files, wherever it lived at either commit;
so a move counts for nothing. What does more than then is no row.
"""
import argparse
import re

from common import Fail, out

THEN = "530d14e"
PRODUCT = re.compile(r"(src|crates/\w+/src)/.*\.rs")
# As tests/arch.rs has it.
TESTS = re.compile(r"(.*/)?((tests|golden)/.*|(tests|testing|golden|walk|rig)\.rs|app/memory\.rs)")
MODULE = re.compile(r"^#\[cfg\(test\)\]\n(pub\(\w+\) )?mod tests \{", re.M)
BEFORE = re.compile(r"(pub(\(\w+\))? |async |const )*")
# behaviour: (files and their items then, the same now).
SAME = {
    "the wait between tries": (
        {"src/comms/backoff.rs": (), "src/hostagent/backoff.rs": (), "src/nodelet/lifecycle.rs": ("fn pause",)},
        {"src/model/backoff.rs": (), "src/app/backoff.rs": (), "src/nodelet/lifecycle.rs": ("fn pause",)}),
    "who the plane is, in TLS": (
        {"src/identity/look.rs": ("struct Anybody", "impl ServerCertVerifier for Anybody"), "src/identity/pinned.rs": (),
         "src/identity/pins.rs": ()},
        {"src/identity/verify.rs": ()}),
    "an error with its causes": (
        {"src/telemetry.rs": ("fn chain",), "src/nodelet/certs.rs": ("fn chain",), "src/host/kube.rs": ("fn root_cause",)},
        {"crates/tunnel/src/lib.rs": ("fn causes", "fn chain"), "src/host/kube.rs": ("fn root_cause",)}),
    "where a node's API is": (
        {"src/nodelet/peers.rs": ("fn api_url",), "src/nodelet/phase/context.rs": ("fn api_url",)},
        {"src/nodelet/phase/context.rs": ("fn api_url",)}),
    "processors and memory": (
        {"src/host/kernel.rs": ("fn cpus",), "src/hostagent/inventory.rs": ("fn meminfo",),
         "src/preflight/facts.rs": ("fn memory", "fn cpus")},
        {"src/host/facts.rs": ("fn cpus", "fn meminfo"), "src/preflight/facts.rs": ("fn memory", "fn cpus")}),
    "files and processes that wake nodelet": ({"src/nodelet/watch.rs": ()}, {"src/nodelet/watch.rs": ()}),
}


def product(text):
    """The code of a file before its test module."""
    tests = MODULE.search(text)
    return text[:tests.start()] if tests else text


def counted(lines):
    return sum(1 for line in lines if line.strip() and not line.strip().startswith("//"))


def items(text, name):
    """All items of a file that begin so, with their ends."""
    lines, found = text.splitlines(), []
    for at, line in enumerate(lines):
        word = BEFORE.sub("", line.strip(), count=1)
        if word.startswith(name) and not re.match(r"\w", word[len(name):]):
            indent = line[:len(line) - len(line.lstrip())]
            end = next(n for n in range(at, len(lines)) if lines[n].rstrip() == indent + "}" or (n == at and line.endswith((";", "}"))))
            found += lines[at:end + 1]
    if not found:
        raise Fail(f"no {name} in a file that had one")
    return found


def of(commit, files):
    total = 0
    for file, names in files.items():
        text = product(out(["git", "show", f"{commit}:{file}"]))
        total += sum(counted(items(text, name)) for name in names) if names else counted(text.splitlines())
    return total


def whole(commit):
    files = [f for f in out(["git", "ls-tree", "-r", "--name-only", commit]).splitlines()
             if PRODUCT.fullmatch(f) and not TESTS.fullmatch(f)]
    return of(commit, dict.fromkeys(files, ()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--then", default=THEN)
    parser.add_argument("--now", default="HEAD")
    args = parser.parse_args()
    rows = [(name, of(args.then, then), of(args.now, now)) for name, (then, now) in SAME.items()]
    rows += [("all of these", sum(row[1] for row in rows), sum(row[2] for row in rows)),
             ("all product code, with what it does more", whole(args.then), whole(args.now))]
    for name, then, now in [("", args.then, args.now), *rows]:
        print(f"{name:<44}{then:>10}{now:>10}")


if __name__ == "__main__":
    main()
