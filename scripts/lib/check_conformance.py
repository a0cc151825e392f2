"""The verdict on a conformance run, and the registry of its images, tested with reports and stores made here."""
import hashlib
import io
import json
import re
import tarfile
import tempfile
import unittest
import urllib.error
import urllib.request
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import conformance
import quick
import registry
import testimages
import verdict
from common import Fail, wait_for
from verdict import Case

REPORT = """<?xml version="1.0"?>
<testsuites><testsuite name="e2e">
 <testcase name="[SynchronizedBeforeSuite]" status="{suite}" time="1"><failure type="failed">no node</failure></testcase>
 <testcase name="[It] [sig-node] Pods should run [Conformance]" status="passed" time="2.5"/>
 <testcase name="[It] [sig-node] Pods should end [LinuxOnly] [Conformance] [Serial]" status="failed" time="1">
  <failure type="failed">it
   did not</failure></testcase>
 <testcase name="[It] [sig-node] Pods should swap [Conformance]" status="skipped" time="0">
  <skipped message="skipped - no swap here"/></testcase>
 <testcase name="[It] [sig-node] Pods should wait [Conformance]" status="skipped" time="0">
  <skipped message="skipped"/></testcase>
 <testcase name="[It] [sig-node] Pods should fly" status="failed" time="0"/>
</testsuite></testsuites>
"""
PAGE = """# Page
| `[sig-node] Pods of no table` | no |

<!-- table: e2e -->
| test | why |
|---|---|
| `[sig-node] Pods should end` | they never do |
| `[sig-node] Pods should swap` | no swap |

| `[sig-node] Pods after the table` | no |
<!-- table: cri -->
| `runtime should | pipe` | it cannot |
"""


class Verdict(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.junit = Path(folder.name) / "junit.xml"

    def cases(self, suite="passed"):
        self.junit.write_text(REPORT.format(suite=suite), encoding="utf-8")
        return verdict.cases(self.junit, lambda name: "[Conformance]" in name)

    def test_a_report_is_read_with_its_reasons(self):
        found = self.cases()
        self.assertEqual([(case.name.split()[-1], case.state, case.why) for case in found],
                         [("run", "passed", ""), ("end", "failed", "it did not"), ("swap", "skipped", "no swap here"),
                          ("wait", "not run", "skipped")])
        self.assertEqual(verdict.counts(found), "1 passed, 1 failed, 1 skipped, 1 not run")

    def test_a_suite_that_did_not_begin_says_nothing_of_its_tests(self):
        with self.assertRaises(verdict.Broken) as raised:
            self.cases(suite="failed")
        self.assertIn("no node", str(raised.exception))

    def test_a_table_is_read_to_its_end(self):
        self.assertEqual(verdict.known(PAGE, "e2e"), {"[sig-node] Pods should end": "they never do",
                                                      "[sig-node] Pods should swap": "no swap"})
        self.assertEqual(verdict.known(PAGE, "cri"), {"runtime should | pipe": "it cannot"})

    def test_what_is_listed_is_no_surprise_and_all_else_is(self):
        expected, surprises = verdict.judge(self.cases(), verdict.known(PAGE, "e2e"))
        self.assertEqual(expected, ["failed: [sig-node] Pods should end: they never do",
                                    "skipped: [sig-node] Pods should swap: no swap"])
        self.assertEqual(surprises, ["not run: [sig-node] Pods should wait"])
        _, surprises = verdict.judge(self.cases(), {})
        self.assertIn("failed: [sig-node] Pods should end: it did not", surprises)
        self.assertIn("skipped: [sig-node] Pods should swap: no swap here", surprises)

    def test_a_row_that_is_true_no_more_is_a_surprise(self):
        rows = {"a": "why", "gone": "why"}
        _, surprises = verdict.judge([Case("a", verdict.PASSED)], rows)
        self.assertEqual(surprises, ["passed, and is listed as one that does not: a"])
        _, surprises = verdict.judge([Case("a", verdict.FAILED)], rows, everything=True)
        self.assertEqual(surprises, ["listed, and no test of this suite: gone"])
        # Its turn did not come: its listing proves nothing.
        _, surprises = verdict.judge([Case("a", verdict.NOT_RUN)], rows)
        self.assertEqual(surprises, ["not run: a"])

    def test_a_selection_means_the_words_themselves(self):
        expression = re.compile(verdict.selected({"x": ["a (b) *c*"], "y": ["d.e"]}))
        self.assertTrue(expression.search("say a (b) *c* now") and expression.search("d.e"))
        self.assertFalse(expression.search("dXe") or expression.search("a b c"))
        found = [Case("[sig-x] say a (b) *c* now", verdict.PASSED)]
        self.assertEqual(verdict.unmatched({"x": ["a (b) *c*", "a b"]}, found), ["chooses no test: x: a b"])

    def test_the_quick_choice_can_be_read_by_both_runners(self):
        self.assertTrue(all(quick.AREAS.values()))
        re.compile(verdict.selected(quick.AREAS))


# The suite's runner, as far as it is used: it writes its report where the suite is told to.
RUNNER = """#!/bin/sh
echo "$@" > "$0.args"
for word; do case $word in --report-dir=*) folder=${{word#*=}} ;; esac; done
echo '••• ran'
{then}
"""


class Run(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = Path(folder.name)
        self.page = self.dir / "page.md"
        for name, value in (("OUT", self.dir / "out"), ("PAGE", self.page), ("REPO", self.dir), ("EVERY_SECONDS", 0.1)):
            patch = mock.patch.object(conformance, name, value)
            patch.start()
            self.addCleanup(patch.stop)

    def suite(self, then, words="Pods"):
        runner = self.dir / "runner"
        runner.write_text(RUNNER.format(then=then), encoding="utf-8")
        runner.chmod(0o755)
        demo = SimpleNamespace(kubeconfig=self.dir / "kubeconfig", tools=self.dir)
        with redirect_stdout(io.StringIO()):
            return conformance.run_suite(SimpleNamespace(program=lambda *_: runner), demo, "full", words)

    def judged(self, found, folder, page, everything=False):
        self.page.write_text(page, encoding="utf-8")
        with redirect_stdout(io.StringIO()) as screen:
            good = conformance.told("full", found, [], folder, everything, 0)
        return good, screen.getvalue()

    def test_a_run_is_judged_by_its_report_and_the_page(self):
        (self.dir / "report").write_text(REPORT.format(suite="passed"), encoding="utf-8")
        found, folder, _ = self.suite(f"cp {self.dir}/report $folder/junit_01.xml; exit 1")
        self.assertIn("--focus=(Pods).*\\[Conformance\\]", (self.dir / "runner.args").read_text())
        found = [case for case in found if case.state != verdict.NOT_RUN]
        good, screen = self.judged(found, folder, PAGE)
        self.assertTrue(good, screen)
        self.assertIn("1 passed, 1 failed, 1 skipped of 3", screen)
        self.assertEqual(screen.splitlines()[:3], (folder / "summary.txt").read_text().splitlines()[:3])
        good, screen = self.judged(found, folder, PAGE.replace("<!-- table: e2e -->", ""))
        self.assertFalse(good)
        self.assertIn("UNEXPECTED: failed: [sig-node] Pods should end: it did not", screen)
        good, screen = self.judged(found, folder, PAGE, everything=True)
        self.assertFalse(good, "fewer than the target passed")

    def test_no_report_is_no_success(self):
        with self.assertRaises(Fail) as raised:
            self.suite("echo it panicked")
        self.assertIn("it panicked", str(raised.exception))

    def test_a_suite_that_does_not_end_is_ended_with_all_it_started(self):
        with mock.patch.object(conformance, "FULL_SECONDS", 0), mock.patch.object(conformance, "GRACE_SECONDS", 0.2), \
                self.assertRaises(Fail) as raised:
            self.suite('sleep 1000 & echo $! > "$0.pid"; wait')
        self.assertIn("did not end", str(raised.exception))
        pid = Path("/proc", (self.dir / "runner.pid").read_text().strip())
        wait_for("its child to be gone", lambda: not pid.exists() or "Z" in (pid / "stat").read_text().split()[2], 10)


class Registry(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.store = Path(folder.name)
        target = testimages.Store(self.store)
        image = testimages.Image([testimages.layer({"a/b": (b"text", 0o644)}, {"c": "a/b"})], {"Cmd": ["sh"]})
        self.digest = target.image(image)
        (self.store / "names.json").write_text(json.dumps({"one.example/x/y:1.0": self.digest}))

    def ask(self, server, path, method="GET"):
        url = f"http://127.0.0.1:{server.server_address[1]}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as answer:
            return answer.headers, answer.read()

    def test_an_image_is_pulled_by_name_and_all_of_it_by_digest(self):
        with registry.serving(self.store, "127.0.0.1") as server:
            self.ask(server, "/v2/")
            headers, body = self.ask(server, "/v2/x/y/manifests/1.0?ns=one.example", "HEAD")
            self.assertEqual((headers["Docker-Content-Digest"], body), (self.digest, b""))
            headers, body = self.ask(server, f"/v2/x/y/manifests/{self.digest}?ns=one.example")
            self.assertEqual((headers["Content-Type"], "sha256:" + hashlib.sha256(body).hexdigest()),
                             (registry.MANIFEST, self.digest))
            manifest = json.loads(body)
            for blob in [manifest["config"], *manifest["layers"]]:
                _, data = self.ask(server, f"/v2/x/y/blobs/{blob['digest']}")
                self.assertEqual((len(data), "sha256:" + hashlib.sha256(data).hexdigest()), (blob["size"], blob["digest"]))
            self.assertEqual(server.refused, [])

    def test_what_is_not_there_is_refused_and_remembered(self):
        asked = ["/v2/x/y/manifests/1.0?ns=other.example", "/v2/x/y/manifests/2.0?ns=one.example",
                 f"/v2/x/y/blobs/sha256:{'0' * 64}", "/v2/x/../../names.json", "/names.json"]
        with registry.serving(self.store, "127.0.0.1") as server:
            for path in asked:
                with self.assertRaises(urllib.error.HTTPError) as raised:
                    self.ask(server, path)
                self.assertEqual(raised.exception.code, 404, path)
            self.assertEqual(server.refused, asked)


class Images(unittest.TestCase):
    def test_a_layer_is_the_same_each_time_and_has_the_parents_of_its_files(self):
        files, links = {"usr/local/bin/x": (b"1", 0o755), "y": (b"2", 0o644)}, {"bin/x": "/usr/local/bin/x"}
        self.assertEqual(testimages.layer(files, links), testimages.layer(dict(reversed(files.items())), links))
        with tarfile.open(fileobj=io.BytesIO(testimages.layer(files, links, {"tmp": 0o1777}))) as tar:
            self.assertEqual(tar.getnames(), ["bin", "tmp", "usr", "usr/local", "usr/local/bin", "usr/local/bin/x", "y", "bin/x"])
            self.assertEqual(tar.getmember("tmp").mode, 0o1777)


if __name__ == "__main__":
    unittest.main()
