"""Every command in README.md and docs/ runs, or says beside it why not and is one that the command line takes."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import typer

from hwsearch.cli import app
from tests.docs.blocks import BLOCKS, COMMANDS, PAGES, ROOT, Command, blocks_of, commands_of
from tests.docs.sandbox import Sandbox

OTHERS = {"make", "python", "git", "cd", "pip", "npm", "ray", "curl", "optuna-dashboard", "source", "python3"}
"""Programs besides hwsearch that a page may name."""
ALL = typer.main.get_command(app)


def parsed(words: list[str]) -> Any:
    """Returns the context of the sub-command that the arguments call, all of them parsed and nothing called.

    Raises:
        Exception: no such sub-command, option or choice, or something is missing.
    """
    command, context = ALL, ALL.make_context("hwsearch", list(words))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        _, command, rest = command.resolve_command(context, rest)
        assert command is not None
        context = command.make_context(command.name, rest, parent=context)
    return context


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
def test_a_command_is_one_that_exists(command: Command) -> None:
    words = [word for word in command.words if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    if words[0] == "hwsearch":
        parsed(words[1:])
    else:
        assert words[0] in OTHERS, words
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), words


def _examples(command: Any) -> list[str]:
    inner = [e for c in getattr(command, "commands", {}).values() for e in _examples(c)]
    own = (command.help or "").partition("Example: ")[2]
    return [*inner, *([" ".join(own.split())] if own else [])]


@pytest.mark.parametrize("example", _examples(ALL))
def test_the_example_in_a_help_text_is_one_that_exists(example: str) -> None:
    program, *words = shlex.split(example)
    assert program == "hwsearch"
    parsed(words)


def _run(command: Command, sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    program, *rest = command.words
    if program == "hwsearch":
        for library in ("openvino", "pymoo"):
            if any(library in word for word in rest):
                pytest.importorskip(library)
        code = sandbox.hwsearch(*rest)
        assert code == 0, capfd.readouterr().err
    else:
        assert program == "python", f"{command.name}: only hwsearch and python run here; mark it"
        sandbox.python(*rest)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.how == "run"], ids=lambda c: c.name)
def test_a_command_runs(command: Command, sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    _run(command, sandbox, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if c.how == "slow"], ids=lambda c: c.name)
def test_a_slow_command_runs(command: Command, sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    _run(command, sandbox, capfd)


def test_what_is_not_run_says_why() -> None:
    for block in BLOCKS:
        for mark in block.marks:
            assert mark.reason or mark.what == "yaml", block.name


def test_commands_stand_in_fences() -> None:
    for path in PAGES:
        loose = re.findall(r"^ {4,}(?:hwsearch|make|python|pip|curl|import|from) .*", _outside(path.read_text()), re.M)
        assert loose == [], path.name


def _outside(text: str) -> str:
    return re.sub(r"^( *)```\w*\n.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)


def test_blocks_and_commands_are_found() -> None:
    text = (
        "a\n<!-- not run serve: waits -->\n\n```bash\nhwsearch serve x  # c\npython a.py \\\n  b\ncurl -d '{\n}'\n```\n"
    )
    (block,) = blocks_of(text, "p.md")
    assert block.line == 4 and block.marks[0].which == ("serve",) and block.marks[0].reason == "waits"
    found = commands_of(block)
    assert [c.words for c in found] == [("hwsearch", "serve", "x"), ("python", "a.py", "b"), ("curl", "-d", "{\n}")]
    assert [c.how for c in found] == ["not run", "run", "run"]
    with pytest.raises(ValueError, match="a block must be one of"):
        blocks_of("```\nx\n```", "p.md")
    with pytest.raises(ValueError, match=r"a mark must be of the form in blocks\.py"):
        blocks_of("<!-- slow fit -> x\n```bash\nx\n```", "p.md")
    with pytest.raises(ValueError, match="the block must end"):
        blocks_of("```bash\nx", "p.md")
    with pytest.raises(Exception, match="No such option"):
        parsed(["front", "runs/x", "--nonsense"])
    with pytest.raises(Exception, match="No such command"):
        parsed(["runs", "nonsense"])
