"""Tests of scripts/bench tunnel: which goals it judges, and how its figures follow from what the load tool and logs say."""

import argparse
import io
import json
import unittest
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import bench_peers
import bench_tunnel
from common import Fail

# What each way answers; ours first. A test changes what it is about.
PLAIN = {"gbit": 20.0, "cpu_s_per_gib": 0.5}
ANSWER = {"gbit": 6.0, "cpu_s_per_gib": 1.5, "p50_us": 100, "p99_us": 300, "per_second": 6000, "rss_kib": [20480, 10240],
          "before_kib": [19680, 9440], "gbit_beside": 3, "gbit_before": 4, "client_first": True, "target_first": True,
          "first_byte_s": 0.5, "bytes": 2**20}


class Lab:
    """Answers as the load tool would, from a table."""
    pki, program, target, folder, comms = "pki", "tool", "target:1", Path("/"), Path("/bin/sh")

    def __init__(self, changes, missing=()):
        self.changes, self.missing, self.asked = changes, missing, []

    def way(self, name):
        ends = tuple(SimpleNamespace(pid=end, lines=end) for end in ("plane", "node"))
        way = SimpleNamespace(name=name, to="to", bulk="bulk", relay="relay", ends=ends)
        way.pids, way.freeze = lambda: ["plane", "node"], lambda: 100.0
        return way

    def ours(self, *_where, **_how):
        return self.way("ours")

    def peer(self, name, *_where, **_how):
        if name in self.missing:
            raise Fail("it is not there")
        return self.way(name)

    def load(self, way, words, *_how, **_more):
        name = getattr(way, "name", "direct")
        self.asked.append((name, words.format(way=way)))
        return {**ANSWER, **self.changes.get(name, {})}

    def tls(self, _seconds, *more):
        return {"gbit": 20.0, "cpu_s_per_gib": 0.25} if more else PLAIN


class Tunnel(unittest.TestCase):
    def rows(self, groups, changes=None, missing=()):
        """Rows by name, and the lab."""
        lab, out = Lab(changes or {}, missing), io.StringIO()
        args = argparse.Namespace(json=True, quick=False, only=groups, gate=False, no_peers=False)
        clock = mock.Mock(**{"monotonic.return_value": 100.0})
        with redirect_stdout(out), redirect_stderr(io.StringIO()), mock.patch.object(bench_tunnel, "time", clock), \
                mock.patch.object(bench_tunnel, "memory_kib", lambda _pid, _what=None: 51200), \
                mock.patch("os.sched_getaffinity", lambda _pid: {0, 1}):
            bench = bench_tunnel.Bench(args, lab)
            for group in groups:
                {**bench_tunnel.GROUPS, "gate": bench_tunnel.gate}[group](bench)
        return {row["name"]: row for row in map(json.loads, out.getvalue().splitlines())}, lab

    def test_throughput_is_judged_beside_its_peers_in_the_same_run(self):
        peers = {"ours": {"gbit": 6.0, "cpu_s_per_gib": 1.5}, "haproxy": {"gbit": 5.0, "cpu_s_per_gib": 2.0},
                 "stunnel": {"gbit": 5.5}, "openssh": {"gbit": 1.0}, "bore (plain)": {"gbit": 6.5}}
        rows, _ = self.rows(["throughput"], peers)
        goals = {name: (row["ours"], row["target"], row["met"]) for name, row in rows.items() if row["target"]}
        for way in ("down", "up"):
            self.assertEqual(goals.pop(f"  {way}, 1 stream: 6.0 / 5.0 of haproxy"), (1.2, 1.2, True))
            self.assertEqual(goals.pop(f"  {way}, 1 stream: 6.0 / 6.5 of bore (plain)"), (0.92, 0.9, True))
            self.assertEqual(goals.pop(f"  {way}, 8 streams: 6.0 / 5.5 of stunnel"), (1.09, 1.1, False))
            for streams in ("1 stream", "8 streams"):
                self.assertEqual(goals.pop(f"  CPU seconds per GiB: {way}, {streams}: 1.5 / 2.0 of haproxy"), (0.75, 0.75, True))
            self.assertEqual(goals.pop(f"1 stream {way}: part of plain rustls"), (0.3, 0.65, False))
        self.assertEqual(goals, {})
        # Two cores over one rustls' and two sockets' seconds: 2 / (0.5 + 2 * 0.25) GiB a second.
        self.assertEqual(rows["what these cores allow a relay that costs nothing"]["peers"], {"rustls": 17.18})
        self.assertEqual(rows["1 stream up: part of what these cores allow"]["ours"], 0.35)
        self.assertEqual(rows["down, 1 stream"]["peers"]["direct"], 6.0)
        self.assertNotIn("direct", rows["CPU seconds per GiB: down, 1 stream"]["peers"])

    def test_an_echo_is_judged_alone_and_beside_bulk(self):
        rows, lab = self.rows(["latency"], {"ours": {"p50_us": 80}})
        self.assertEqual(rows["  echo, 64 bytes: p50: 80 / 100 of haproxy"]["target"], 0.85)
        for what in ("4 bulk streams down", "4 bulk streams up", "1 bulk stream down"):
            self.assertEqual([rows[f"echo beside {what}: {part}"]["target"] for part in ("p50", "p99")], [0.5, 10.0])
            self.assertEqual(rows[f"echo beside {what}: p50"]["ours"], 0.08)
            self.assertEqual(rows[f"  {what} beside the echo, part of alone"]["target"], 0.9)
        self.assertEqual({name for name, words in lab.asked if words == "bulk --to bulk --direction up --streams 4"}, {"ours"})
        self.assertIn(("ours", "echo --to to --direction down --streams 1 --bulk-to bulk"), lab.asked)

    def test_long_paths_are_judged(self):
        rows, _ = self.rows(["round-trips"], {"haproxy": {"gbit": 5.0}})
        for way in ("down", "up"):
            self.assertEqual(rows[f"  40 ms round trip, 1 stream {way}: 6.0 / 5.0 of haproxy"]["target"], 1.0)
        self.assertEqual(rows["150 ms round trip, 1 stream up, cap 256 MiB"]["target"], 5.0)
        # (64 - 32) MiB * 4 / 5 in 150 ms are 1.43 Gbit/s.
        row = rows["  part of what the default cap allows"]
        self.assertEqual((row["ours"], row["target"]), (4.19, 0.85))
        self.assertEqual(rows["40 ms round trip, new streams, 16 callers"]["target"], 377)

    def test_memory_is_judged_against_its_bounds(self):
        rows, _ = self.rows(["memory", "opens", "half-close"])
        told = {name: (row["ours"], row["target"]) for name, row in rows.items() if row["target"]}
        self.assertEqual(told, {
            "RSS of pf9-comms, one session": (50, 15), "RSS of both ends, 400 idle streams": (30, 36),
            "  memory of an idle stream and side": (2, 8), "50 + 50 stalled readers: RSS, plane's end": (20, 64),
            "50 + 50 stalled readers: RSS, node's end": (10, 64), "  echo beside them: p99": (0.3, 10),
            "  part of its cap of 64 MiB": (0.78, 1), "40 ms, 50 + 50 readers stop: RSS, plane's end": (20, 83.7),
            "40 ms, 50 + 50 readers stop: RSS, node's end": (10, 83.7), "new streams, 16 callers": (6000, 5000),
            "half-close exact, both ways": (1, 1)})
        self.assertEqual(rows["  1 bulk stream beside them, part of before"]["ours"], 0.75)

    def test_lines_of_both_ends_say_when_a_path_was_dead_and_replaced(self):
        def line_with(end, words, _seconds):
            told = {"node": [(103, "tunnel-down wait_ms=200")], "plane": [(99, "up"), (104, "up"), (107, "down")]}[end]
            self.at[end] = self.at.get(end, -1) + 1
            return told[self.at[end] % len(told)]
        self.at = {}
        with mock.patch.object(bench_tunnel, "line_with", line_with):
            rows, _ = self.rows(["dead-path"], missing=("openssh",))
        told = {name: (row["ours"], row["target"]) for name, row in rows.items()}
        self.assertEqual(told, {"dead path: noticed by the node": (3, 20), "dead path: connected again": (4, 25),
                                "dead path: the plane's old session over": (7, 25),
                                "dead path, ping of 5 s: connected again, median": (4, 12)})
        with mock.patch.object(bench_tunnel, "line_with", lambda *_: (103, "tunnel-down wait_ms=200")):
            rows, _ = self.rows(["cut"])
        self.assertEqual((rows["connection cut: worst of 9 nodes"]["target"], rows["connection cut: worst of 9 nodes"]["peers"]),
                         (1.5, {"openssh": 0.5}))
        self.assertEqual(rows["  without what the node waits (40 ms), median"]["ours"], 300)

    def test_a_peer_that_is_missing_or_fails_has_no_column_and_ours_must_not_fail(self):
        rows, lab = self.rows(["opens"], missing=("stunnel",))
        self.assertEqual(set(rows["new streams, 1 caller"]["peers"]), {"direct", "haproxy", "openssh", "bore (plain)"})

        def load(way, words, **_how):
            if getattr(way, "name", "") == broken:
                raise Fail("it broke")
            return ANSWER
        bench = bench_tunnel.Bench(argparse.Namespace(json=True, quick=True, no_peers=False, gate=False), lab)
        lab.load = load
        with redirect_stderr(io.StringIO()), mock.patch.object(bench_tunnel, "time"):
            broken = "haproxy"
            self.assertNotIn("haproxy", bench.measure("opens"))
            broken = "ours"
            with self.assertRaises(Fail):
                bench.measure("opens")

    def test_the_gate_is_the_multiple_of_plain_rustls(self):
        rows, lab = self.rows(["gate"])
        row = rows["CPU per GiB up, times that of plain rustls"]
        self.assertEqual((row["ours"], row["target"], row["met"]), (3.0, bench_tunnel.CPU_TIMES, True))
        self.assertEqual({name for name, _ in lab.asked}, {"ours"})

    def test_peers_are_told_every_address(self):
        known = {f"{key}{part}": "x" for key in ("far", "to", "near", "target") for part in ("", "_host", "_port")}
        known |= {"pki": "x", "folder": "x", "user": "x", "alive": 0, "level": "INFO", "config": "x"}
        for far, near in bench_peers.PEERS.values():
            for _, _, arguments, text in (far, near):
                self.assertNotIn("{", (arguments + text).format(**known))


if __name__ == "__main__":
    unittest.main()
