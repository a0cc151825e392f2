"""Tests of scripts/bench plane: what it tells of its figures."""

import io
import json
import unittest
from contextlib import redirect_stdout

import bench_plane
from bench_parts import Columns


def fleet(count, side="new", **more):
    """Figures of a fleet whose hosts cost the same, whatever its size."""
    each = {key: 2.0 for key in bench_plane.CURVE}
    return {"side": side, "count": count, **each, **more}


def told(figures):
    """Rows by name, and the goals that are not met."""
    columns, out = Columns(True, ["older"]), io.StringIO()
    with redirect_stdout(out):
        bench_plane.tell(columns, figures)
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    return rows, columns.unmet


class Curve(unittest.TestCase):
    growth = "  of 20000, times that of 1000"

    def grown(self, rows):
        return [row for row in rows if row["name"] == self.growth]

    def test_costs_of_a_host_are_told_for_each_size_and_must_not_grow_with_the_fleet(self):
        sizes = (1000, 5000, 20000)
        rows, unmet = told([fleet(count) for count in sizes])
        names = [row["name"] for row in rows]
        for words, _ in bench_plane.CURVE.values():
            for count in sizes:
                self.assertIn(f"curve, {words}, of {count}", names)
        grown = self.grown(rows)
        self.assertEqual(len(grown), len(bench_plane.CURVE))
        self.assertEqual({(row["ours"], row["target"], row["met"]) for row in grown}, {(1.0, 1.1, True)})
        self.assertEqual(unmet, [])

    def test_one_that_grows_is_not_met_and_the_older_plane_is_not_judged(self):
        figures = [fleet(1000), fleet(20000, memory=2.3), fleet(1000, "old"), fleet(20000, "old", memory=9.0)]
        rows, unmet = told(figures)
        self.assertEqual(sorted(row["met"] for row in self.grown(rows)), [False, *[True] * (len(bench_plane.CURVE) - 1)])
        self.assertEqual(unmet, [self.growth])

    def test_a_figure_that_is_missing_is_no_goal_that_is_met(self):
        few = fleet(1000)
        del few["memory"]
        rows, _ = told([few, fleet(20000)])
        self.assertEqual([row["met"] for row in self.grown(rows)].count(None), 1)

    def test_one_size_has_no_curve(self):
        rows, _ = told([fleet(10000)])
        self.assertFalse([row for row in rows if "curve" in row["name"] or "times" in row["name"]])


if __name__ == "__main__":
    unittest.main()
