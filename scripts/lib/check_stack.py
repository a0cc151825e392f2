"""A stack from a directory has calico's add-on if it has calico's images, and completely or not at all."""
import json
import tarfile
import tempfile
import unittest
from pathlib import Path

import images
import matrix
import parts
import stack
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


if __name__ == "__main__":
    unittest.main()
