"""The fenced blocks of README.md and docs/, and what HTML comments above them say about running them.

`<!-- not run: reason -->` above a block of commands: they are checked against the command line and not run.
`<!-- not run serve, weights inspect: reason -->`: only those sub-commands (or programs) of the block are not run.
`<!-- slow: reason -->`, `<!-- slow verify: reason -->`: the same for the tests marked slow.
`<!-- yaml device -->`: what a YAML block is, where it is not a part of a configuration.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
LANGUAGES = {"bash", "python", "yaml", "text", "json"}
FENCE = re.compile(r"(?P<indent> *)```(?P<language>\w*)\s*$")
MARK = re.compile(r" *<!-- (?P<what>not run|slow|yaml)(?: (?P<which>(?:(?!: ).)+?))?(?:: (?P<reason>.+?))? -->$")


@dataclass(frozen=True)
class Mark:
    """What a comment says: `which` names sub-commands (empty: all), or the kind of a YAML block."""

    what: str
    which: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is that of its fence, from 1."""

    page: str
    line: int
    language: str
    text: str
    marks: tuple[Mark, ...]

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def how(self) -> str:
        """How a block as a whole is treated: run, slow, not run."""
        return next((mark.what for mark in self.marks if mark.what != "yaml" and not mark.which), "run")

    @property
    def kind(self) -> str:
        """What a YAML block is: config (the default), device, task, genes."""
        return next((mark.which[0] for mark in self.marks if mark.what == "yaml"), "config")


@dataclass(frozen=True)
class Command:
    """One command of a block; `how` is run, slow or not run."""

    block: Block
    words: tuple[str, ...]
    how: str

    @property
    def name(self) -> str:
        return f"{self.block.name} {' '.join(self.words)[:60]}"


def blocks_of(text: str, page: str) -> list[Block]:
    """Returns the fenced blocks of a page.

    Raises:
        ValueError: a fence without a known language, or one that does not end.
    """
    found: list[Block] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        start = FENCE.match(lines[at])
        if start is None:
            at += 1
            continue
        if start["language"] not in LANGUAGES:
            raise ValueError(f"{page}:{at + 1}: a block must be one of {sorted(LANGUAGES)}, got {start['language']!r}.")
        indent = start["indent"]
        ends = [i for i in range(at + 1, len(lines)) if lines[i].rstrip() == f"{indent}```"]
        if not ends:
            raise ValueError(f"{page}:{at + 1}: the block must end.")
        body = "\n".join(line.removeprefix(indent) for line in lines[at + 1 : ends[0]])
        found.append(Block(page, at + 1, start["language"], body, _marks(lines[:at])))
        at = ends[0] + 1
    return found


def _marks(above: list[str]) -> tuple[Mark, ...]:
    """Returns the marks in the comment lines that end right above a fence."""
    marks = []
    for line in reversed(above):
        mark = MARK.match(line)
        if mark is None and line.strip():
            if re.match(r" *<!-- (not run|slow|yaml)\b", line):
                raise ValueError(f"a mark must be of the form in {Path(__file__).name}, but got {line!r}.")
            break
        if mark is not None:
            which = tuple(word.strip() for word in (mark["which"] or "").split(",") if word.strip())
            marks.append(Mark(mark["what"], which, mark["reason"] or ""))
    return tuple(marks)


def commands_of(block: Block) -> list[Command]:
    """Returns the commands of a bash block: lines, joined where one ends with a backslash or inside a quotation."""
    commands: list[Command] = []
    text = ""
    for line in block.text.splitlines():
        text = f"{text}\n{line}" if text else line
        if text.endswith("\\"):
            text = text[:-1]
            continue
        try:
            words = tuple(shlex.split(text, comments=True))
        except ValueError:  # inside a quotation
            continue
        text = ""
        if words:
            commands.append(Command(block, words, _how(words, block.marks)))
    if text:
        raise ValueError(f"{block.name}: the last command must end, but got {text!r}.")
    return commands


def _how(words: tuple[str, ...], marks: tuple[Mark, ...]) -> str:
    told = " ".join(words[1:]) if words[0] == "hwsearch" else " ".join(words)
    for mark in marks:
        if mark.what != "yaml" and (not mark.which or any(f"{told} ".startswith(f"{name} ") for name in mark.which)):
            return mark.what
    return "run"


BLOCKS = [
    block for path in PAGES for block in blocks_of(path.read_text(), str(path.relative_to(ROOT)).removeprefix("docs/"))
]
COMMANDS = [command for block in BLOCKS if block.language == "bash" for command in commands_of(block)]
