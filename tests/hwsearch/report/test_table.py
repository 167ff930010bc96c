from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from hwsearch.report.live import Live
from hwsearch.report.table import front_table, number, rows_table, size
from hwsearch.results import SearchProgress

OBJECTIVES = [
    {"metric": "accuracy", "device": None, "direction": "maximize", "unit": "share"},
    {"metric": "latency_ms", "device": "cpu", "direction": "minimize", "unit": "ms"},
]


def member(key: str, accuracy: float | None, **changes: Any) -> dict[str, Any]:
    validated = {} if accuracy is None else {"accuracy": accuracy, "latency_ms@cpu": 2.0}
    given = {"validated_stds": {"latency_ms@cpu": 0.01}, "architecture": {"s1.sparsity": "dense", "s2.sparsity": "2:4"}}
    flags = {"behind": False, "passed": [], "remade": False, "error": None}
    return {"key": key, "validated": validated, **given, **flags, **changes}


def shown(table: Any, width: int = 200) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_front_table() -> None:
    content = {
        "objectives": OBJECTIVES,
        "members": [
            member("low", 0.5),
            member("ill", None, error="ValueError: must be one of ['a'], but got [/b]."),
            member("high", 0.9, behind=True, passed=["latency_ms@cpu"]),
        ],
    }
    lines = shown(front_table(content))
    keys = [line.split()[0] for line in lines if line.split() and line.split()[0] in {"low", "ill", "high"}]
    assert keys == ["high", "low", "ill"]
    text = "\n".join(lines)
    assert "behind, passes latency_ms@cpu" in text
    assert "must be one of ['a'], but got [/b]." in text
    assert "2±0.01" in text
    assert "1/2" in text
    assert len([c for c in front_table(content).columns if str(c.header).startswith("on the")]) == 0
    assert front_table({"objectives": OBJECTIVES, "members": []}).row_count == 0


def test_front_table_with_ties_and_probabilities() -> None:
    members = [
        member("low", 0.5, ties=["high"], front_probability=0.314),
        member("high", 0.9, ties=["low", "mid"], front_probability=1.0),
        member("mid", 0.7, front_probability=None),
    ]
    text = "\n".join(shown(front_table({"objectives": OBJECTIVES, "members": members})))
    assert "31%" in text and "100%" in text
    assert "ties with high" in text and "ties with 2 others" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (0.123456, "0.1235"),
        (9999.4, "9999"),
        (123456.7, "123,457"),
        (-20000, "-20,000"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_rows_are_shown_as_they_are() -> None:
    text = "\n".join(shown(rows_table([{"a": "[red]x[/red]", "b": 1.0}], ["a", "b"], "title")))
    assert "[red]x[/red]" in text


def progress(done: int, total: int, **changes: Any) -> SearchProgress:
    given: dict[str, Any] = {"n_failed": 0, "n_running": 1, "n_front": 2, "elapsed_s": 1.0, "eta_s": 3.0}
    given |= {"n_busy": 1, "hypervolume": 0.5, "latest": ("abc", {"accuracy": 0.9, "latency_ms@[cpu]": 1.23456})}
    return SearchProgress(n_trials=total, n_done=done, **{**given, **changes})


@pytest.mark.parametrize("terminal", [False, True])
def test_live(terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal)
    with Live(console) as live:
        live.note("a note with [brackets]")
        for phase in ("search", "validate"):
            live.phase(phase)
            for done in range(4):
                live.search(progress(done, 3, n_failed=1, latest_error="E: [/x] broke")) if phase == "search" else None
                live.validation(done, 3)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "[brackets]" in text
    assert "3/3" in text
    if not terminal:
        lines = text.splitlines()
        assert lines[1] == "search ..."
        assert lines[2].startswith(
            "  search 0/3  front 2  volume 0.500  busy 1  running 1  failed 1  last error: E: [/x] broke  about 3 s"
        )
        assert lines[3] == "  newest on the front abc: accuracy 0.9, latency_ms@[cpu] 1.235"
        assert sum("newest on the front" in line for line in lines) == 1  # once, as it stays the same
        assert sum("3/3" in line for line in lines) == 2  # said once per phase


def test_live_in_a_terminal_shows_the_newest_member_of_the_front_below_the_bar() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with Live(console) as live:
        live.phase("search")
        live.search(progress(1, 3))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    at = max(i for i, line in enumerate(lines) if "1/3" in line)
    assert "front 2  volume 0.500  busy 1  running 1" in lines[at]
    assert "newest on the front abc: accuracy 0.9, latency_ms@[cpu] 1.235" in lines[at + 1]


def test_live_in_a_terminal_is_closed_by_an_error() -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(KeyboardInterrupt), Live(console) as live:
        live.phase("train")
        raise KeyboardInterrupt
    console.print("after")


def test_sizes_have_the_unit_that_suits_them() -> None:
    assert [size(n) for n in (0, 921, 1_000, 8_121_000, 2e9)] == ["0 bytes", "921 bytes", "1 kB", "8.12 MB", "2 GB"]
