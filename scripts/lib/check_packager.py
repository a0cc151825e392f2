"""The maintainer of a package comes from the environment, as with Debian's own tools."""
import os
import unittest
from unittest import mock

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


if __name__ == "__main__":
    unittest.main()
