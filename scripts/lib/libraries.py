"""The programs' libraries checked against deny.toml: without a network, and without a tool that takes minutes to compile.

  check()    Fail with every fault: a licence, a source, a banned library, an unlisted duplicate
             version, an obsolete line of deny.toml, a dependency that no source file names
  python3 libraries.py [--versions]   the same; with --versions prints the lines for [bans] skip
  python3 libraries.py --costs        what each direct dependency of the node's program costs: seconds to compile, bytes in it

Checked is what is linked into the programs (with and without the plane, for both architectures); build and test
dependencies are not part of them; sources are checked for all.
"""
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict

import tools
from common import REPO, Fail, run, say

DENY = REPO / "deny.toml"
TARGETS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")
# Direct dependencies that no source file names, and why they are needed.
UNNAMED = {}
# The source directories of our packages: of the programs, and of their tests.
SOURCES = {"pf9-hostagent": (("src",), ("tests/node", "tests/etcd", "tests/support")),
           "pf9-plane": (("crates/plane/src", "benches"), ("tests/it", "tests/clients", "tests/support")),
           "pf9-tunnel": (("crates/tunnel/src",), ("crates/tunnel/tests",))}
WORDS = re.compile(r"\(|\)|AND|OR|[^\s()]+(?:\s+WITH\s+[^\s()]+)?")


def asked(*cmd):
    done = subprocess.run(["cargo", *cmd, "--locked", "--all-features"], cwd=REPO, capture_output=True, text=True, timeout=300,
                          check=False)
    if done.returncode != 0:
        raise Fail(f"cargo {cmd[0]} failed", done.stderr.strip())
    return done.stdout


def linked(target, features=True):
    """(name, version) → its dependents, for each library that is linked in for a target. From `cargo tree`: the lists of
    `cargo metadata` also have optional dependencies that are not enabled."""
    tree = (asked("tree", "--workspace", "--edges", "normal", "--target", target, "--prefix", "depth", "--format", "|{p}") if features else
            tree_of_package(target))
    return read_tree(tree.splitlines())


def tree_of_package(target):
    """The program in the packages, which has no features."""
    done = subprocess.run(["cargo", "tree", "--locked", "--package", "pf9-hostagent", "--edges", "normal", "--target", target, "--prefix", "depth",
                           "--format", "|{p}"], cwd=REPO, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise Fail("cargo tree failed", done.stderr.strip())
    return done.stdout


def read_tree(lines):
    """Macros run during the build and are not part of the program, nor are their dependencies."""
    found, above, macro = defaultdict(set), [], None
    for line in filter(None, lines):  # between two trees one is empty
        depth, _, name = line.partition("|")
        depth, words = int(depth), name.split()
        if macro is not None and depth > macro:
            continue
        macro = depth if "(proc-macro)" in words else None
        if macro is not None:
            continue
        above[depth:] = [words[0]]
        if depth:
            found[words[0], words[1].lstrip("v")].add(above[depth - 1])
    return dict(found)


def allowed(expression, accepted):
    """Whether a licence, as an SPDX expression, is satisfied by the accepted ones. OR binds weaker than AND."""
    words = WORDS.findall(expression.replace("/", " OR "))

    def either():
        good = both()
        while words and words[0] == "OR":
            words.pop(0)
            good = both() or good
        return good

    def both():
        good = one()
        while words and words[0] == "AND":
            words.pop(0)
            good = one() and good
        return good

    def one():
        word = words.pop(0) if words else ""
        if word == "(":
            good = either()
            if words[:1] == [")"]:
                words.pop(0)
            return good
        return " ".join(word.split()) in accepted

    return either() and not words


def named(package, roots):
    """Whether a source file names the library."""
    name = re.compile(rf"\b{package.replace('-', '_')}(::|\s*;|\s+as\s)")
    return any(name.search(path.read_text()) for root in roots for path in sorted((REPO / root).rglob("*.rs")))


def faults(rules, everything, programs, unnamed=()):
    """All faults, as messages. `programs`: the result of `linked` for each way of building."""
    found = []
    sources = {f"registry+{url}" for url in rules["sources"]["allow-registry"]}
    for package in everything["packages"]:
        if package["source"] is not None and package["source"] not in sources:
            found.append(f"{package['name']} {package['version']} is from {package['source']}")
    licences = {(package["name"], package["version"]): package["license"] or "" for package in everything["packages"]}
    banned = {rule["crate"]: rule["reason"] for rule in rules["bans"]["deny"]}
    brought = defaultdict(set)
    for program in programs:
        for one, by in program.items():
            brought[one] |= by
    versions = defaultdict(list)
    for (name, version), by in sorted(brought.items()):
        versions[name].append(version)
        if name in banned:
            found.append(f"{name} is not to come in ({banned[name]}): {', '.join(sorted(by))} brings it")
        licence = licences[name, version]
        if not allowed(licence, rules["licenses"]["allow"]):
            found.append(f"{name} {version} has a licence that is not allowed: {licence or 'none'}")
    skipped = {rule["crate"] for rule in rules["bans"]["skip"]}
    several = {f"{name}@{version}": sorted(brought[name, version]) for name, all_of in versions.items()
               for version in sorted(all_of, key=key)[:-1]}
    found += [f"{one} beside a newer one, brought by {', '.join(by)}: get rid of it, or say in deny.toml why not"
              for one, by in several.items() if one not in skipped]
    found += [f"{one} stands in deny.toml as a second version and is none any more" for one in sorted(skipped - set(several))]
    return found + [f"{name} is a dependency and no source file names it" for name in unnamed]


def key(version):
    return [int(part) for part in re.findall(r"\d+", version.split("-")[0].split("+")[0])]


def unnamed(everything):
    found = []
    for package in everything["packages"]:
        if package["id"] in everything["workspace_members"]:
            programs, tests = SOURCES[package["name"]]
            places = {None: programs, "dev": programs + tests, "build": (".",)}
            found += [f"{dep['name']} of {package['name']}" for dep in package["dependencies"]
                      if dep["name"] not in UNNAMED and not named(dep["rename"] or dep["name"], places[dep["kind"]])]
    return found


def look():
    rules, everything = tomllib.loads(DENY.read_text()), json.loads(asked("metadata", "--format-version", "1"))
    return rules, everything, [linked(target, features) for target in TARGETS for features in (True, False)]


def check():
    rules, everything, programs = look()
    found = faults(rules, everything, programs, unnamed(everything))
    if found:
        raise Fail("what our programs are made of is not as deny.toml says", "\n".join(found))
    say(f"{len({name for program in programs for name, _ in program})} libraries, as deny.toml says")


# The crate of a demangled symbol.
CRATE = re.compile(r"[^\w]*(?:(?:mut|const|dyn) )*([a-z]\w*)(?:\[\w+\])?::")


def seconds_of(page):
    """Of cargo's page of timings, which has its data as JSON: (name, version) → seconds of all its units."""
    units, _ = json.JSONDecoder().raw_decode(page.split("const UNIT_DATA = ", 1)[1])
    found = defaultdict(float)
    for unit in units:
        found[unit["name"], unit["version"]] += unit["duration"]
    return found


def bytes_of(symbols):
    """Of `nm --print-size --demangle`: crate → bytes. Generic code counts for the crate that names it."""
    found = defaultdict(int)
    for _, size, _, name in (words for line in symbols.splitlines() if len(words := line.split(maxsplit=3)) == 4):
        crate = CRATE.match(name)
        found[crate[1] if crate else ""] += int(size, 16)
    return found


def alone(one, program, ours):
    """This library and what would not come in without it."""
    reached = set(ours)
    while more := {name for (name, _), by in program.items() if name != one and by & reached} - reached:
        reached |= more
    return {library for library in program if library[0] not in reached}


def costs():
    target = tools.target_dir() / "costs"
    shutil.rmtree(target, ignore_errors=True)
    say("building the node's program from nothing: some five minutes on two cores")
    run(["cargo", "build", "--release", "--locked", "--package", "pf9-hostagent", "--bin", "pf9-agent", "--timings", "--config",
         "profile.release.strip=false"], cwd=REPO, env={"CARGO_TARGET_DIR": str(target)}, timeout=tools.BUILD_SECONDS)
    seconds = seconds_of((target / "cargo-timings/cargo-timing.html").read_text())
    sizes = bytes_of(run(["nm", "--print-size", "--demangle", target / "release/pf9-agent"]).stdout)
    program, ours = linked(TARGETS[0], features=False), set(SOURCES)
    rows = [(sum(seconds[each] for each in brought), sum(sizes[each.replace("-", "_")] for each in {name for name, _ in brought}),
             seconds[library], library) for library, by in program.items() if by & ours and library[0] not in ours
            for brought in [alone(library[0], program, ours)]]
    say(f"{'with what only it brings':<40}{'s':>8}{'KiB':>8}{'itself s':>10}")
    for took, size, itself, (name, version) in sorted(rows, reverse=True):
        say(f"{name + ' ' + version:<40}{took:>8.1f}{size / 1024:>8.0f}{itself:>10.1f}")
    say(f"{'all units, and all symbols':<40}{sum(seconds.values()):>8.1f}{sum(sizes.values()) / 1024:>8.0f}")


def main(argv):
    if argv == ["--costs"]:
        costs()
        return
    if argv == ["--versions"]:
        rules, everything, programs = look()
        rules["bans"]["skip"] = []
        for line in faults(rules, everything, programs):
            if " beside a newer one, brought by " in line:
                one, by = line.split(" beside a newer one, brought by ")
                say(f'    {{ crate = "{one}", reason = "{by.split(":")[0]}" }},')
        return
    check()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fail as fail:
        print(f"libraries: {fail}", file=sys.stderr)
        sys.exit(fail.code or 1)
