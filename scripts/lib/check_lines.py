"""What counts as a line of product code, and that the table of lines.py names what there is."""
import unittest

import lines
from common import Fail

TEXT = """//! A head.

/// What it is.
pub(super) struct One;

impl Trait for One {
    // Why.
    async fn two(&self) -> u32 {
        if true {
            2
        } else { 3 }
    }

    fn two_more(&self) {}
}

#[cfg(test)]
mod tests {
    fn two() {}
}
"""


class Lines(unittest.TestCase):
    def test_comments_blanks_and_tests_do_not_count(self):
        self.assertEqual(lines.counted(lines.product(TEXT).splitlines()), 8 + 1)

    def test_an_item_ends_where_it_ends(self):
        text = lines.product(TEXT)
        for name, many in (("struct One", 1), ("impl Trait for One", 8), ("fn two", 5), ("fn two_more", 1)):
            self.assertEqual(lines.counted(lines.items(text, name)), many, name)
        with self.assertRaises(Fail):
            lines.items(text, "fn tw")

    def test_the_table_names_what_there_is_now(self):
        for name, (_, now) in lines.SAME.items():
            self.assertGreater(lines.of("HEAD", now), 0, name)

    def test_files_of_tests_are_none_of_the_product(self):
        for file, is_one in (("src/a/tests.rs", True), ("src/a/tests/b.rs", True), ("src/a/rig.rs", True), ("src/contests.rs", False)):
            self.assertEqual(bool(lines.TESTS.fullmatch(file)), is_one, file)


if __name__ == "__main__":
    unittest.main()
