"""What stacks are made of: a part is built again when something of it changes, and two at a time; a directory's has calico's
add-on where it has calico's images, and the whole of it or nothing; release files are those of the table, and what their
projects publish the sums of."""
import hashlib
import http.server
import io
import json
import tarfile
import tempfile
import threading
import unittest
from pathlib import Path
from unittest import mock

import golang
import images
import matrix
import parts
import stack
import upstream
from common import Fail

CALICO = [name for name in matrix.SUPPLIED if name.startswith("calico-")]
OURS = {name: f"registry.example:5000/{name}:{matrix.SUPPLIED[name].rpartition(':')[2]}" for name in CALICO}


def addons(brought, own=""):
    """The stack made from a directory with these images: path → text."""
    with tempfile.TemporaryDirectory() as tmp:
        source, target = Path(tmp) / "in", Path(tmp) / "out"
        for folder in ("bin", "cni", "images", "addons"):
            (source / folder).mkdir(parents=True)
        for name, reference in brought.items():
            images.image(source / "images" / f"{name}.tar", reference, {}, {}, {})
        if own:
            (source / "addons/55-calico.yaml").write_text(own)
        stack.from_dir(source, "1.37.2-9", "1.37.2", target)
        stack.run(["zstd", "-q", "-d", target / "stack.tar.zst"])
        with tarfile.open(target / "stack.tar") as tar:
            paths = json.loads((target / "manifest.json").read_text())["addons"]
            return {path: tar.extractfile(path).read().decode() for path in paths}


class Calico(unittest.TestCase):
    def test_it_comes_with_its_images_and_names_those_that_were_brought(self):
        self.assertEqual(addons({}), {})
        [(path, text)] = addons(OURS).items()
        self.assertEqual(path, f"addons/{stack.CALICO}")
        for reference in OURS.values():
            self.assertIn(f'image: "{reference}"', text)
        self.assertNotIn("@", text)
        # A file the stack already has is not overwritten.
        skipped = text.split("SKIP_CNI_BINARIES, value: \"")[1].split('"')[0].split(",")
        self.assertEqual(skipped, sorted(name for names in parts.CNI.values() for name in names))
        self.assertEqual(addons(OURS, own="kind: X\n"), {"addons/55-calico.yaml": "kind: X\n"})

    def test_what_is_not_whole_or_of_another_minor_is_named(self):
        for name in CALICO:
            with self.assertRaises(Fail) as refused:
                addons({other: OURS[other] for other in CALICO if other != name})
            self.assertIn(matrix.SUPPLIED[name], str(refused.exception))
        older = "quay.io/calico/cni:v3.28.0"
        with self.assertRaises(Fail) as refused:
            addons({**OURS, "calico-cni": older})
        self.assertIn(older, str(refused.exception))

    def test_a_stack_that_is_compiled_has_none_of_it(self):
        with tempfile.TemporaryDirectory() as tmp:
            stack.make_addons(Path(tmp), "1.37.2-1", {name: "1" for name in stack.OF_ADDONS if name not in CALICO})
            names = {path.name for path in Path(tmp).glob("addons/*")}
        self.assertIn("05-coredns.yaml", names)
        self.assertNotIn(stack.CALICO, names)


class Parts(unittest.TestCase):
    STACK = matrix.stack()

    def others(self, **changed):
        """Parts that are made again for a stack with other versions."""
        before, after = ({program.name: golang.identity(program) for program in parts.programs(stack)}
                         for stack in (self.STACK, {**self.STACK, **changed}))
        self.assertEqual(before.keys(), after.keys())
        return {name for name in before if before[name] != after[name]}

    def test_each_is_kept_by_what_it_is_made_of_and_by_nothing_else(self):
        self.assertEqual(self.others(etcd="3.7.99"), {"etcd"})
        self.assertEqual(self.others(containerd="2.4.99"), {"containerd"})
        self.assertEqual(self.others(kubernetes="1.37.99"), {"kubernetes"})
        with mock.patch.object(parts, "beside", lambda: "1.37.99"):
            self.assertEqual({program.name for program in parts.programs(self.STACK) if program.beside == "1.37.99"},
                             {"metrics-server", "coredns", "kube-router", "local-path-provisioner"})

    def test_two_are_built_side_by_side_and_who_has_the_libraries_of_a_kubernetes_comes_after_it(self):
        pair, begun, ended = threading.Barrier(2, timeout=30), [], []

        def built(program):
            begun.append((program.name, set(ended)))
            if program.name in ("kubernetes", "containerd"):
                pair.wait()  # each has begun before one of them ends
            ended.append(program.name)
            return Path(program.name)

        with mock.patch.object(parts, "announce", lambda _: []), mock.patch.object(golang, "build", built):
            made = parts.build(self.STACK)
        self.assertEqual(made, {program.name: Path(program.name) for program in parts.programs(self.STACK)})
        self.assertEqual({name for name, _ in begun[:2]}, {"kubernetes", "containerd"})
        beside = {program.name for program in parts.programs(self.STACK) if program.beside}
        self.assertTrue(beside)
        self.assertEqual({name for name, before in begun if name in beside and "kubernetes" not in before}, set())


def packed(names):
    """A release's archive: each program says its name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name in names:
            entry = tarfile.TarInfo(f"some/where/{name}")
            entry.size = len(name)
            tar.addfile(entry, io.BytesIO(name.encode()))
    return out.getvalue()


class Projects:
    """Their servers, with what each publishes; sums as each writes them."""

    def __init__(self, item):
        self.files = {}
        for name in parts.KUBERNETES:
            self.publish(f"/k/v{item['kubernetes']}/{name}", name.encode(), alone=True)
        of = {
            f"containerd/containerd/v{item['containerd']}/containerd-{item['containerd']}-linux-amd64.tar.gz":
                ["containerd", "containerd-shim-runc-v2", "ctr"],
            f"etcd-io/etcd/v{item['etcd']}/etcd-v{item['etcd']}-linux-amd64.tar.gz": ["etcd", "etcdctl", "etcdutl"],
            f"containernetworking/plugins/v{item['cni_plugins']}/cni-plugins-linux-amd64-v{item['cni_plugins']}.tgz":
                [name for names in parts.CNI.values() for name in names],
            f"coredns/coredns/v{item['coredns']}/coredns_{item['coredns']}_linux_amd64.tgz": ["coredns"]}
        for path, names in of.items():
            suffix = {"containerd": ".sha256sum", "etcd-io": "/SHA256SUMS"}.get(path.split("/")[0], ".sha256")
            self.publish(f"/g/{path}", packed(names), suffix)
        self.publish(f"/g/opencontainers/runc/v{item['runc']}/runc.amd64", b"runc", "/runc.sha256sum")

    def publish(self, path, data, suffix=".sha256", alone=False):
        sum_, name = hashlib.sha256(data).hexdigest(), path.rsplit("/", 1)[1]
        where = path.rsplit("/", 1)[0] + suffix if suffix.startswith("/") else path + suffix
        self.files[path], self.files[where] = data, (sum_ if alone else f"{'0' * 64}  another\n{sum_}  {name}\n").encode()

    def fetch(self, item, target):
        files = self.files

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                data = files.get(self.path)
                self.send_response(404 if data is None else 200)
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *_):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            at = f"http://127.0.0.1:{server.server_port}"
            try:
                with mock.patch.multiple(upstream, KUBERNETES=at + "/k/v{v}/{name}", GITHUB=at + "/g/{repo}/v{v}/{name}"):
                    upstream.fetch(target, item, "amd64")
            finally:
                server.shutdown()


class Upstream(unittest.TestCase):
    def test_every_supported_minor_gets_parts_that_the_table_goes_together_with(self):
        tested = {}
        for row in matrix.DATA["kubernetes"]:
            item, tested[row["minor"]] = matrix.around(f"{row['minor']}.9")
            self.assertEqual(item["kubernetes"], f"{row['minor']}.9")
            self.assertIn({**item, "kubernetes": ""}, [{**pinned, "kubernetes": ""} for pinned in matrix.stacks()])
        self.assertEqual([minor for minor, so in tested.items() if so], matrix.minors())
        self.assertEqual(matrix.around("1.36.9")[0]["containerd"], "2.3.7")
        for version in ("1.33.9", "1.99.0"):
            with self.assertRaises(Fail) as refused:
                matrix.around(version)
            self.assertIn("is not supported, 1.34 to ", str(refused.exception))

    def test_all_files_come_and_one_that_is_not_what_was_published_is_refused(self):
        item, _ = matrix.around("1.35.4")
        projects = Projects(item)
        with tempfile.TemporaryDirectory() as tmp:
            projects.fetch(item, Path(tmp))
            found = {str(path.relative_to(tmp)) for path in Path(tmp).rglob("*") if path.is_file()}
            on_nodes = {f"bin/{name}" for names in stack.ON_NODES.values() for name in names}
            self.assertLessEqual(on_nodes, found)
            self.assertLessEqual({f"images/{name}" for name in [*parts.CONTROL_PLANE, "coredns"]}, found)
            self.assertIn("cni/bridge", found)
            self.assertEqual((Path(tmp) / "bin/etcdutl").read_text(), "etcdutl")
        for path in [path for path in projects.files if "sha256" not in path.lower()]:
            whole = projects.files[path]
            projects.files[path] = whole + b"\0"
            with tempfile.TemporaryDirectory() as tmp, self.assertRaises(Fail) as refused:
                projects.fetch(item, Path(tmp))
            self.assertIn("is not what its project published", str(refused.exception))
            projects.files[path] = whole


if __name__ == "__main__":
    unittest.main()
