"""Every page of the documentation is listed once, in docs/index.md and in mkdocs.yml."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_the_index_lists_every_other_page_once() -> None:
    listed = re.findall(r"^- \[[^]]+\]\((\w+\.md)\)", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    assert sorted([*listed, "index.md"]) == PAGES


def test_the_navigation_lists_every_page_once() -> None:
    assert sorted(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]) == PAGES


def test_pages_link_only_to_what_the_site_holds() -> None:
    for page in PAGES:
        links = re.findall(r"\]\(([^)#:]+\.md)", (ROOT / "docs" / page).read_text())
        assert [link for link in links if link not in PAGES] == [], page
