"""The components of a package's program: as a list for machines (CycloneDX), and the licences for people.

  of_program()      the package itself, and Crate of each library that is linked into it
  refuse_others()   Fail if a licence is not among the accepted ones
  cyclonedx()       the list, as JSON
  licences()        each with its licence, and every text once

With `cargo metadata` alone: a build needs no other tool. Macros and build scripts run during the build and are no part
of the program, nor is what only tests or the plane use. Both texts are the same for the same lock file.
"""
import hashlib
import json
import re
import tomllib
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import libraries
from common import REPO, Fail, out

TARGETS = {"amd64": "x86_64-unknown-linux-gnu", "arm64": "aarch64-unknown-linux-gnu"}
TEXTS = re.compile(r"^(LICEN[CS]E|COPYING|NOTICE|UNLICENSE|COPYRIGHT)", re.I)
# Of the compiler's own library, which is linked in and in no lock file.
STANDARD = ("std", "MIT OR Apache-2.0", "The Rust standard library")


@dataclass
class Crate:
    name: str
    version: str
    licence: str
    about: str = ""
    checksum: str = ""
    folder: Path | None = None
    needs: list = field(default_factory=list)

    @property
    def ref(self):
        return f"pkg:cargo/{self.name}@{self.version}"

    def texts(self):
        if not self.folder:
            return []
        found = sorted(path for path in self.folder.iterdir() if path.is_file() and TEXTS.match(path.name))
        return [path.read_text(errors="replace").replace("\r\n", "\n").strip() for path in found]


def of_program(arch):
    """The crates, by name; the program itself is not among them."""
    asked = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", TARGETS[arch]]
    data = json.loads(out(asked, cwd=REPO, timeout=300))
    packages = {package["id"]: package for package in data["packages"]}
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    root = data["resolve"]["root"]
    sums = {(item["name"], item["version"]): item.get("checksum", "")
            for item in tomllib.loads((REPO / "Cargo.lock").read_text())["package"]}

    def linked(package):
        return not any("proc-macro" in target["kind"] for target in packages[package]["targets"])

    # Optional dependencies that are not enabled are in those lists as well, and in no program.
    really = libraries.linked(TARGETS[arch], features=False)

    def needs(package):
        normal = [dep["pkg"] for dep in nodes[package]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
        return sorted(dep for dep in set(normal)
                      if linked(dep) and (packages[dep]["name"], packages[dep]["version"]) in really)

    seen, todo = {}, [root]
    while todo:
        package = todo.pop()
        if package not in seen:
            seen[package] = needs(package)
            todo += seen[package]
    found = {}
    for package in seen:
        item = packages[package]
        found[package] = Crate(item["name"], item["version"], " ".join((item["license"] or "").replace("/", " OR ").split()),
                               (item["description"] or "").strip(), sums.get((item["name"], item["version"]), ""),
                               Path(item["manifest_path"]).parent)
    for package, crate in found.items():
        crate.needs = sorted(found[dep].ref for dep in seen[package])
    # The workspace's own crates are the program itself.
    ours = [found.pop(package) for package in sorted(set(data["workspace_members"]) & set(seen), key=lambda p: p != root)]
    own = ours[0]
    own.needs = sorted({need for crate in ours for need in crate.needs} - {crate.ref for crate in ours})
    name, licence, about = STANDARD
    compiler = out(["rustc", "--version"]).split()[1]
    return own, sorted([*found.values(), Crate(name, compiler, licence, about)], key=lambda c: (c.name, c.version))


def refuse_others(crates, accepted):
    """A new licence has to be read by a person, before anything is distributed with it."""
    bad = [f"{crate.name} {crate.version}: {crate.licence or 'none'}" for crate in crates if crate.licence not in accepted]
    if bad:
        raise Fail("a library has a licence that was not accepted", "\n".join(bad) + "\nread it, then add it to packaging/package.toml")


def cyclonedx(own, crates, about, seconds):
    """Version 1.5 of the format, which the distributions' tools read."""
    def component(crate):
        shown = {"type": "library", "bom-ref": crate.ref, "name": crate.name, "version": crate.version, "purl": crate.ref,
                 "scope": "required", "licenses": [{"expression": crate.licence}]}
        if crate.about:
            shown["description"] = crate.about
        if crate.checksum:
            shown["hashes"] = [{"alg": "SHA-256", "content": crate.checksum}]
        return shown

    components = [component(crate) for crate in crates]
    names = json.dumps([about, components], sort_keys=True)
    root = {"type": "application", "bom-ref": about["name"], "name": about["name"], "version": about["version"],
            "licenses": [{"expression": about["license"]}]}
    known = {crate.ref for crate in crates}
    edges = [{"ref": crate.ref, "dependsOn": [need for need in crate.needs if need in known]} for crate in crates]
    edges.insert(0, {"ref": root["bom-ref"], "dependsOn": own.needs + [crate.ref for crate in crates if crate.name == STANDARD[0]]})
    return json.dumps({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, names)}",
        "metadata": {"timestamp": seconds, "component": root}, "components": components, "dependencies": edges,
    }, indent=1, sort_keys=True) + "\n"


def licences(crates):
    lines = ["What the programs of this package are made of, beside their own source, and under which licence.",
             "A number in brackets is that of a text below, as the library's authors ship it.", ""]
    numbers, texts = {}, []
    for crate in crates:
        marks = []
        for text in crate.texts():
            key = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
            if key not in numbers:
                texts.append(text)
                numbers[key] = len(texts)
            marks.append(f"[{numbers[key]}]")
        lines.append(f"{crate.name} {crate.version}  {crate.licence}  {' '.join(dict.fromkeys(marks))}".rstrip())
    for number, text in enumerate(texts, 1):
        lines += ["", "-" * 100, f"[{number}]", "", text]
    return "\n".join(lines) + "\n"
