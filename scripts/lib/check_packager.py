"""The maintainer of a package comes from the environment, as with Debian's own tools; a .deb is packed once."""
import os
import subprocess
import tempfile
import unittest
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

import cache
import packager
from common import Fail


class Maintainer(unittest.TestCase):
    def said(self, **given):
        others = {key: value for key, value in os.environ.items() if key not in ("DEBFULLNAME", "DEBEMAIL")}
        with mock.patch.dict(os.environ, {**others, **given}, clear=True):
            return packager.maintainer()

    def test_without_a_word_it_leads_nowhere(self):
        self.assertTrue(self.said().endswith(".example>"))
        # A name alone is not enough.
        self.assertTrue(self.said(DEBFULLNAME="Somebody").endswith(".example>"))

    def test_a_named_maintainer_is_in_every_package(self):
        whole = self.said(DEBFULLNAME="Example Operations", DEBEMAIL="ops@example.org")
        self.assertEqual(whole, "Example Operations <ops@example.org>")
        self.assertIn(whole, packager.SPEC.format(**{**dict.fromkeys(
            ("name", "version", "release", "summary", "license", "requires", "description", "tree", "files", "scripts", "changelog"), "x"),
            "maintainer": whole}))

    def test_each_package_says_which_version_it_is_when_and_by_whom(self):
        with mock.patch.dict(os.environ, {"SOURCE_DATE_EPOCH": "1000000000", "DEBEMAIL": "ops@example.org"}):
            said = packager.rpm_changelog()
            self.assertTrue(said.startswith("* Sun Sep 09 2001 "), said)
            self.assertIn(f"<ops@example.org> - {packager.version()}-{packager.DATA['release']}\n- Version", said)
            self.assertIn("Sun, 09 Sep 2001", packager.debian_changelog().decode())

    def test_what_is_no_address_makes_no_package(self):
        for given in ({"DEBEMAIL": "root"}, {"DEBEMAIL": "a@b.org\nX: y"}, {"DEBEMAIL": "a@b.org", "DEBFULLNAME": "a <b>"}):
            with self.assertRaises(Fail):
                self.said(**given)


class Kept(unittest.TestCase):
    """With the real dpkg-deb and small files."""
    TREE = {"/DEBIAN/control": (b"Package: pf9-hostagent\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x.example>\nDescription: x\n", 0o644),
            "/opt/pf9/program": (b"one", 0o755), "/usr/bin/program": ("/opt/pf9/program", None)}

    def setUp(self):
        room = tempfile.TemporaryDirectory(prefix="pf9-packager-")
        self.addCleanup(room.cleanup)
        self.room = Path(room.name)
        where = mock.patch.object(cache, "CACHE", self.room / "cache")
        where.start()
        self.addCleanup(where.stop)
        self.packed = 0

    def made(self, seconds="1000000000", **changed):
        def counted(*args):
            self.packed += 1
            return deb_of(*args)

        deb_of = packager.deb_of
        tree = self.TREE | {path.replace("_", "/"): what for path, what in changed.items()}
        with (mock.patch.object(packager, "deb_tree", lambda _: tree), mock.patch.object(packager, "deb_of", counted),
              mock.patch.dict(os.environ, {"SOURCE_DATE_EPOCH": seconds}), redirect_stdout(StringIO())):
            return packager.kept_deb(self.room, self.room / "out", self.room / "log").read_bytes()

    def test_it_is_packed_once_and_again_when_anything_of_it_is_another(self):
        first = self.made()
        self.assertEqual((self.made(), self.packed), (first, 1))
        of_others = [self.made(seconds="1000000001"), self.made(_opt_pf9_program=(b"two", 0o755)),
                     self.made(_opt_pf9_program=(b"one", 0o700)), self.made(_usr_bin_program=("/opt/pf9/other", None))]
        self.assertEqual((len({first, *of_others}), self.packed), (5, 5))
        self.assertEqual((self.made(), self.packed), (first, 5))
        said = subprocess.run(["dpkg-deb", "--fsys-tarfile", next((self.room / "out").glob("*.deb"))], check=True, capture_output=True)
        self.assertIn(b"one", said.stdout)


if __name__ == "__main__":
    unittest.main()
