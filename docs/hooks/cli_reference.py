"""A hook of mkdocs: the reference of all commands, made from the command line itself whenever the site is built."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer

from hwsearch.cli import app

PLACE = re.compile(r"<!-- commands: .* -->")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Returns the page, with the reference in it where its comment asks for one."""
    return PLACE.sub(lambda _: reference(), markdown) if page.file.src_path == "cli.md" else markdown


def reference() -> str:
    """Returns a section for every command, in Markdown."""
    return "\n\n".join(_section(path, command) for path, command in _walk("hwsearch", typer.main.get_command(app)))


def _walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    for name, inner in sorted(command.commands.items()):
        if hasattr(inner, "commands"):
            yield from _walk(f"{path} {name}", inner)
        else:
            yield f"{path} {name}", inner


def _section(path: str, command: Any) -> str:
    text, _, example = inspect.cleandoc(command.help or "").partition("Example:")
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join([path, *(p.metavar or p.name.upper() for p in arguments), *(["[OPTIONS]"] if options else [])])
    lines = [f"## {path}", "", f"`{usage}`", "", " ".join(text.split()), ""]
    if example:
        lines += ["```text", " ".join(example.split()), "```", ""]
    if arguments or options:
        lines += ["| | | default |", "|---|---|---|"]
        lines += [f"| `{_names(p)}` | {_cell(p.help)} | {_default(p)} |" for p in (*arguments, *options)]
    return "\n".join(lines)


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper()).replace("|", "\\|")
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    metavar = f" {parameter.metavar}" if parameter.metavar else ""
    return f"{names}{metavar}".replace("|", "\\|")


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default in (None, False, (), []):
        return ""
    value = getattr(parameter.default, "value", parameter.default)
    return f"`{value}`"
