"""The site builds without warnings, has all public names, and loads nothing from elsewhere."""

import html.parser
import os
import pathlib
import re
import subprocess
import sys
import types

import genrekeras as gk
import pytest

ROOT = pathlib.Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


class Loaded(html.parser.HTMLParser):
    """Collects the addresses that a page loads, as opposed to those that it links to."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "link" and attributes.get("rel") not in ("canonical", "prev", "next"):
            self.addresses.append(attributes["href"])
        if tag in ("script", "img", "iframe", "source", "video", "audio"):
            self.addresses.append(attributes.get("src") or "")


def test_pages_load_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert loaded.addresses and not [address for address in loaded.addresses if "//" in address.split(",")[0]], page
    for sheet in site.rglob("*.css"):
        addresses = re.findall(r"url\(([^)]*)\)|@import\s+([^;]*)", sheet.read_text(encoding="utf-8"))
        assert not [a for pair in addresses for a in pair if a.strip("\"'").startswith(("http", "//"))], sheet


def test_every_public_name_is_in_the_reference(site):
    anchors = set()
    for page in (site / "api").glob("*.html"):
        anchors |= set(re.findall(r'id="(genrekeras\.[\w.]+)"', page.read_text(encoding="utf-8")))
    modules = [getattr(gk, name) for name in gk.__all__ if isinstance(getattr(gk, name), types.ModuleType)]
    assert len(modules) > 8
    for module in modules:
        names = getattr(module, "__all__", None) or [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        ]
        assert [name for name in names if f"{module.__name__}.{name}" not in anchors] == []


def test_search_index(site):
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    assert index.startswith("var __index") and "MelSpectrogram" in index and "calibration" in index.lower()
