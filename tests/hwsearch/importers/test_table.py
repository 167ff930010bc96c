"""Tables of measurements: what is read, and one line for everything that is wrong with them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from hwsearch.errors import UserError
from hwsearch.importers.table import read_table, write_header, write_row
from search_spaces.genes import Condition, Gene
from search_spaces.space import SearchSpace

SPACE = SearchSpace(
    [
        Gene("depth", (1, 2)),
        Gene("rate", (0.1, 0.25), active_when=(Condition("depth", (2,)),)),
        Gene("act", ("relu", "swish")),
        Gene("se", (False, True)),
    ]
)


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(text)
    return path


def test_genes_labels_and_their_errors(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "\ufeffact, se ,depth,rate,note,latency_ms,latency_ms_std\n"
        "swish,true,2,0.1000000001,a,1.5,0.1\n"
        "relu,0,1.0,,b,2,\n"
        "\n"
        "relu,No,1,0.25,c,,\n",
    )
    found = read_table(path, SPACE, target="latency_ms")
    np.testing.assert_array_equal(found.rows, [[1, 0, 1, 1], [0, 0, 0, 0]])
    np.testing.assert_array_equal(found.values, [1.5, 2.0])
    assert found.stds is not None
    np.testing.assert_array_equal(found.stds, [0.1, np.nan])
    assert found.unlabelled == 1


def test_a_packed_table_and_one_without_errors(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"depth,rate,act,se,ms\n2,0.25,relu,yes,7\n"))
    found = read_table(path, SPACE, target="ms")
    np.testing.assert_array_equal(found.rows, [[1, 1, 0, 1]])
    assert found.stds is None


def test_written_rows_are_read_back(tmp_path: Path) -> None:
    rows = SPACE.enumerate()
    text = write_header(SPACE, ["ms", "ms_std", "error"])
    for i, row in enumerate(rows):
        text += write_row(SPACE, row, {"ms": i + 0.1, "ms_std": float("nan"), "error": 'two\nlines, "quoted"'})
    found = read_table(table(tmp_path, text), SPACE, target="ms")
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(found.values, np.arange(len(rows)) + 0.1)
    assert found.stds is not None and np.isnan(found.stds).all()


def test_rows_without_a_label_on_request(tmp_path: Path) -> None:
    path = table(tmp_path, "depth,rate,act,se,ms\n1,,relu,0,\n2,0.1,relu,0,3\n")
    np.testing.assert_array_equal(read_table(path, SPACE, target="ms", needs_label=False).values, [np.nan, 3.0])


HEAD = "depth,rate,act,se,ms,ms_std\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have a header with distinct names, but it is not one"),
        ("depth,depth,act,se,ms\n", "must have a header with distinct names, but 'depth' is not one"),
        ("depth,act,ms\n1,relu,2\n", r"column for every gene of the space, but has none for 'rate' \(nor for 1 more\)"),
        ("depth,rate,act,se,latency\n", r"must have a column 'ms'.*but has latency\."),
        (HEAD + "1,,relu,0,nan,\n", "line 2: ms must be a finite number, or empty where not measured, but got 'nan'"),
        (HEAD + "1,,relu,0,fast,\n", "line 2: ms must be a finite number.*but got 'fast'"),
        (HEAD + "1,,relu,0,inf,\n", "line 2: ms must be a finite number.*but got 'inf'"),
        (HEAD + "1,,relu,0,1,\n3,,relu,0,1,\n", r"line 3: gene 'depth' must be one of \[1, 2\], but got '3'"),
        (HEAD + "x,,relu,0,1,\n", "line 2: gene 'depth' must be one of"),
        (HEAD + "1,,gelu,0,1,\n", r"line 2: gene 'act' must be one of \['relu', 'swish'\], but got 'gelu'"),
        (HEAD + "1,,relu,maybe,1,\n", r"line 2: gene 'se' must be one of \[False, True\], but got 'maybe'"),
        (HEAD + "2,,relu,0,1,\n", "line 2: gene 'rate' must have a value, but is empty"),
        (HEAD + "1,,relu,0,1\n", "line 2: there must be 6 cells, but got 5"),
        (HEAD + "1,,relu,0,1,-2\n", "line 2: ms_std must be a number of at least 0, but got '-2'"),
        (HEAD + "1,,relu,0,1,x\n", "line 2: ms_std must be a number of at least 0, but got 'x'"),
        (HEAD + "1,,relu,0,,\n", "must have at least one row with a ms, but has none"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read_table(table(tmp_path, text), SPACE, target="ms")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00a", b"not packed"])
def test_what_is_no_table(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / ("t.csv.gz" if content == b"not packed" else "t.csv")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"a table must be a CSV file, but .* cannot be read"):
        read_table(path, SPACE, target="ms")
