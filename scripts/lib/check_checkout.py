"""What may be reused from one commit for the next, and what must not: with a real git, no compiler."""
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import checkout
import crates
from common import run


class Checkout(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="pf9-checkout-")
        self.addCleanup(folder.cleanup)
        self.repo, self.place = Path(folder.name) / "clone", Path(folder.name) / "kept"
        run(["git", "init", "--quiet", self.repo])
        self.commit({"same.rs": "same", "other.rs": "old", "gone.rs": "gone", ".gitignore": "/target\n*.swp\n"})

    def git(self, *words):
        run(["git", "-C", self.repo, "-c", "user.name=t", "-c", "user.email=t@example.org", *words])

    def commit(self, files):
        for name, text in files.items():
            (self.repo / name).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "x")

    def bring(self):
        checkout.bring(self.repo, self.place)
        return {path.name: path for path in self.place.iterdir()}

    def test_what_is_the_same_keeps_its_time_and_only_that(self):
        files = self.bring()
        for path in files.values():
            os.utime(path, (1, 1))
        (self.repo / "gone.rs").unlink()
        self.commit({"other.rs": "new", "more.rs": "more"})
        files = self.bring()
        self.assertEqual(set(files), {".git", ".gitignore", "same.rs", "other.rs", "more.rs"})
        self.assertEqual(files["other.rs"].read_text(), "new")
        old = {name for name, path in files.items() if path.stat().st_mtime == 1}
        self.assertEqual(old - {".git"}, {"same.rs", ".gitignore"})

    def test_nothing_stays_but_what_cargo_made(self):
        self.bring()
        (self.place / "target/debug").mkdir(parents=True)
        (self.place / "target/debug/x").write_text("x")
        (self.place / "ignored.swp").write_text("x")
        (self.place / "nested/target").mkdir(parents=True)
        (self.place / "same.rs").write_text("edited")
        run(["git", "init", "--quiet", self.place / "nested"])
        files = self.bring()
        self.assertEqual(set(files), {".git", ".gitignore", "same.rs", "other.rs", "gone.rs", "target"})
        self.assertEqual(files["same.rs"].read_text(), "same")
        self.assertTrue((self.place / "target/debug/x").exists())

    def test_what_a_broken_run_left_is_made_anew(self):
        self.bring()
        (self.place / ".git/HEAD").write_text("nonsense")
        self.assertEqual(self.bring()["other.rs"].read_text(), "old")
        (self.place / ".git/index.lock").write_text("")
        self.assertEqual(self.bring()["other.rs"].read_text(), "old")

    def stays(self, repo, cache):
        with mock.patch.object(checkout, "REPO", repo), mock.patch.object(checkout, "CACHE", cache), \
                mock.patch.object(checkout, "PLACE", cache / "checkout"):
            return checkout.reason_to_stay()

    def test_what_cannot_be_tested_elsewhere_is_tested_where_it_is(self):
        (self.repo / "new.rs").write_text("x")
        self.assertIn("not committed", self.stays(self.repo, self.place))
        self.assertFalse(self.place.exists())
        nothing = self.repo.parent / "no-clone"
        nothing.mkdir()
        self.assertIn("no commit", self.stays(nothing, self.place))
        (self.repo / "new.rs").unlink()
        self.place.write_text("a file where the cache should be")
        self.assertIn("cannot be checked out", self.stays(self.repo, self.place))
        self.place.unlink()
        with contextlib.redirect_stdout(io.StringIO()):
            self.assertIsNone(self.stays(self.repo, self.place))
        self.assertEqual((self.place / "checkout/same.rs").read_text(), "same")

    def test_another_compiler_and_too_much_are_not_gone_on_with(self):
        target = Path(self.repo) / "target"
        self.place.mkdir()

        def kept():
            with contextlib.redirect_stdout(io.StringIO()):
                checkout.trim(target, 2**20)
            return (target / "x").exists()

        def put(size):
            (target / "x").write_bytes(b"x" * size)

        self.assertFalse(kept())
        put(1000)
        grown = target / "debug/incremental/of-an-old-commit"
        grown.mkdir(parents=True)
        (grown / "x").write_bytes(b"x" * 2**21)
        self.assertTrue(kept(), "without what grows with each commit")
        self.assertFalse(grown.exists())
        (target / crates.COMPILER).write_text("rustc 1.0")
        self.assertFalse(kept())
        put(2**21)
        self.assertFalse(kept())
        put(1000)
        (target / crates.COMPILER).unlink()
        self.assertFalse(kept())

    def test_two_do_not_share_it(self):
        self.place.mkdir()
        code = ("import sys; sys.path.insert(0, sys.argv[1]); import checkout; from pathlib import Path; "
                "checkout.CACHE = Path(sys.argv[2]); checkout.hold(); import os; "
                "os.execv('/bin/sh', ['sh', '-c', 'echo held; read x'])")
        child = subprocess.Popen([sys.executable, "-c", code, str(Path(checkout.__file__).parent), str(self.place)],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.assertEqual(child.stdout.readline(), "held\n")
        free = ["flock", "--nonblock", self.place / ".lock-checkout", "true"]
        self.assertNotEqual(run(free, check=False).returncode, 0, "held over exec")
        child.communicate("\n")
        self.assertEqual(run(free, check=False).returncode, 0)


if __name__ == "__main__":
    unittest.main()
