"""deny.toml's rules for the programs' libraries, tested with faulty trees and rules; and this
checkout's own."""
import unittest

import libraries

RULES = {"sources": {"allow-registry": ["https://x/index"]}, "licenses": {"allow": ["MIT", "Apache-2.0"]},
         "bans": {"deny": [{"crate": "ring", "reason": "no"}], "skip": []}}
TREE = """0|ours v1.0.0 (/x)|
1|a v1.0.0
2|macro v1.0.0 (proc-macro)
3|ring v9.0.0
1|b v2.0.0
2|a v0.9.0
"""


def package(name, version, licence="MIT", source="registry+https://x/index"):
    return {"id": f"{name} {version}", "name": name, "version": version, "license": licence, "source": source}


def everything(*packages):
    return {"packages": list(packages), "resolve": {"root": ""}}


class Libraries(unittest.TestCase):
    def test_a_licence_is_judged_as_it_is_written(self):
        for text, good in [("MIT", True), ("GPL-3.0", False), ("MIT OR GPL-3.0", True), ("MIT AND GPL-3.0", False), ("", False),
                           ("(MIT OR GPL-3.0) AND Apache-2.0", True), ("GPL-3.0 OR MIT AND Apache-2.0", True),
                           ("(GPL-3.0 OR BSL-1.0) AND MIT", False), ("MIT/GPL-3.0", True), ("MIT WITH x", False), ("MIT)", False)]:
            self.assertEqual(libraries.allowed(text, ["MIT", "Apache-2.0"]), good, text)

    def test_what_only_a_macro_needs_is_not_linked(self):
        self.assertEqual(libraries.read_tree(TREE.splitlines()),
                         {("a", "1.0.0"): {"ours"}, ("b", "2.0.0"): {"ours"}, ("a", "0.9.0"): {"b"}})

    def found(self, *packages, tree=None, skip=(), unnamed=()):
        rules = {**RULES, "bans": {**RULES["bans"], "skip": [{"crate": name} for name in skip]}}
        tree = tree or {(p["name"], p["version"]): {"ours"} for p in packages}
        return libraries.faults(rules, everything(*packages), [tree], unnamed)

    def test_each_fault_is_named_with_who_brings_it(self):
        self.assertEqual(self.found(package("a", "1.0.0")), [])
        for packages, words in [([package("a", "1.0.0", source="git+https://x")], "a 1.0.0 is from git"),
                                ([package("a", "1.0.0", "GPL-3.0")], "GPL-3.0"), ([package("a", "1.0.0", None)], "none"),
                                ([package("ring", "1.0.0")], "ring is not to come in (no): ours brings it"),
                                ([package("a", "1.9.0"), package("a", "1.10.0")], "a@1.9.0 beside a newer one, brought by ours")]:
            found = self.found(*packages)
            self.assertEqual(len(found), 1, found)
            self.assertIn(words, found[0])

    def test_a_second_version_is_written_down_for_as_long_as_it_is_one(self):
        two = [package("a", "1.0.0"), package("a", "2.0.0")]
        self.assertEqual(self.found(*two, skip=["a@1.0.0"]), [])
        found = self.found(package("a", "2.0.0"), skip=["a@1.0.0"])
        self.assertIn("none any more", found[0])

    def test_a_dependency_that_nobody_names_is_told(self):
        self.assertIn("x is a dependency and no source file names it", self.found(unnamed=["x"])[0])
        self.assertTrue(libraries.named("tokio", ["src"]))
        self.assertFalse(libraries.named("nobody-names-this", ["src"]))

    def test_what_a_library_costs_is_itself_and_what_only_it_brings(self):
        program = {("a", "1"): {"ours"}, ("b", "1"): {"ours"}, ("c", "1"): {"a"}, ("d", "1"): {"c", "b"}, ("d", "2"): {"a"}}
        self.assertEqual(libraries.alone("a", program, {"ours"}), {("a", "1"), ("c", "1")})
        self.assertEqual(libraries.alone("b", program, {"ours"}), {("b", "1")})
        page = """DURATION = 3;
const UNIT_DATA = [{"i": 0, "name": "a", "version": "1", "mode": "todo", "duration": 1.5, "unblocked_units": []},
                   {"i": 1, "name": "a", "version": "1", "mode": "run-custom-build", "duration": 0.5, "unblocked_units": []}];
"""
        self.assertEqual(libraries.seconds_of(page), {("a", "1"): 2.0})
        symbols = """00000000000a0000 0000000000000010 t tokio::runtime::park
00000000000a0010 0000000000000020 t <serde_json::Value as core::fmt::Display>::fmt
00000000000a0030 0000000000000004 t <&mut http[5a3b]::Uri as core::fmt::Debug>::fmt
00000000000a0034 0000000000000008 T aws_lc_0_39_0_SHA256
                 U memcpy
"""
        self.assertEqual(libraries.bytes_of(symbols), {"tokio": 16, "serde_json": 32, "http": 4, "": 8})

    def test_ours_are_as_they_should_be(self):
        libraries.check()


if __name__ == "__main__":
    unittest.main()
