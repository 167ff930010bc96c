"""The documentation as a whole: every page is listed once, links lead somewhere, what it quotes exists."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import typer
import yaml

from hwsearch.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted(page.name for page in (ROOT / "docs").glob("*.md"))
LONGEST_LINE = 120


def test_the_index_lists_every_other_page_once() -> None:
    listed = re.findall(r"^- \[[^]]+\]\((\w+\.md)\)", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    assert sorted([*listed, "index.md"]) == PAGES


def _flat(nav: list[Any]) -> Iterator[str]:
    for item in nav:
        if isinstance(item, str):
            yield item
        else:
            yield from _flat(next(iter(item.values())))


def test_the_navigation_lists_every_page_once() -> None:
    assert sorted(_flat(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])) == PAGES


def test_pages_link_only_to_what_the_site_holds() -> None:
    for page in PAGES:
        links = re.findall(r"\]\(([^)#:]+\.md)", (ROOT / "docs" / page).read_text())
        assert [link for link in links if link not in PAGES] == [], page


def test_lines_can_be_read_in_a_terminal() -> None:
    for page in (ROOT / "README.md", ROOT / "docs" / "index.md"):
        assert [line for line in page.read_text().splitlines() if len(line) > LONGEST_LINE] == [], page.name


def messages(folder: Path) -> list[str]:
    """Returns every text of the sources, with one character for each value that is put into it."""
    found = []
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_message_that_troubleshooting_quotes_is_in_the_sources() -> None:
    quoted = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(quoted) > 15
    known = [m for package in ("hwsearch", "predictors", "search_spaces") for m in messages(ROOT / package)]
    for message in quoted:
        pattern = re.compile(".*?".join(re.escape(part) for part in re.split("… …|…", message)))
        assert any(pattern.search(text) for text in known), message


def test_the_python_reference_names_what_can_be_imported() -> None:
    names = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert len(names) > 10
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute) or importlib.util.find_spec(name), name


def _hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cli_reference", ROOT / "docs/hooks/cli_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_of_commands_holds_all_of_them() -> None:
    text = _hook().reference()
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {f"## hwsearch {name}" for name, c in commands.items() if not hasattr(c, "commands")} <= set(
        text.splitlines()
    )
    assert "## hwsearch runs clean" in text and "`--dry-run` | Only say what would go." in text
    assert "\n\n\n\n" not in text and "None" not in text
    assert re.search(r"<!-- commands: .* -->", (ROOT / "docs/cli.md").read_text())
