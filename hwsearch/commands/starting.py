"""`hwsearch init`: a commented configuration from a few answers, checked before it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from hwsearch import build
from hwsearch.config import NAME, absolute_paths, json_schema
from hwsearch.errors import ConfigError, UserError
from hwsearch.problems import nearest
from hwsearch.runfolder import write_atomic

SCHEMA = "hwsearch-schema.json"
"""File beside the configuration that editors check it with."""
DATA = ("digits", "cifar10", "cifar100", "image_folder")
DEVICES = ("onnxruntime", "openvino", "native", "torch", "simulated")
GOALS = {"small": ("stored_bytes",), "fast": ("latency_ms@here",), "both": ("latency_ms@here", "stored_bytes")}
"""What accuracy is traded for."""
SPARSITY = {
    "none": (),
    "unstructured": ("dense", "unstructured-0.5", "unstructured-0.8"),
    "n:m": ("dense", "2:4", "1:4"),
    "blocks": ("dense", "block-4x1-0.5", "block-4x1-0.8"),
}


@dataclass(frozen=True)
class Question:
    """One thing to know: its key is also the flag; without choices any text will do."""

    key: str
    text: str
    choices: tuple[str, ...]
    default: str


@dataclass(frozen=True)
class Answers:
    """Everything that `init` wants to know; `path` is empty where the data need none."""

    name: str
    data: str
    path: str
    family: str
    goal: str
    device: str
    sparsity: str
    trials: int


def families(data: str) -> tuple[str, ...]:
    """Returns the super-networks that fit some data: transformers of images want three channels."""
    return ("mobilenet", "mlp") if data == "digits" else ("mobilenet", "mlp", "vit")


def question(key: str, known: Mapping[str, str]) -> Question | None:
    """Returns a question, its choices after the answers so far; None where they leave nothing to ask."""
    data = known.get("data", "digits")
    if key == "path" and data == "digits":
        return None
    found = {
        "name": Question("name", "Name of the run", (), "first"),
        "data": Question("data", "Which data", DATA, "digits"),
        "path": Question("path", f"Folder of {data}", (), f"data/{data}"),
        "family": Question("family", "Which super-network", families(data), "mobilenet"),
        "goal": Question("goal", "Accuracy against what: bytes, latency, or both", tuple(GOALS), "both"),
        "device": Question("device", "What runs the networks", DEVICES, "onnxruntime"),
        "sparsity": Question("sparsity", "Which zeros may weights have", tuple(SPARSITY), "unstructured"),
        "trials": Question("trials", "How many networks to try", (), "100"),
    }
    return found[key]


def answers(given: Mapping[str, str | None], ask: Callable[[Question], str] | None) -> Answers:
    """Returns complete answers.

    Args:
        given: by key; None: not given.
        ask: asks a person; None where there is nobody to ask.

    Raises:
        UserError: an answer that was not offered, or one that is missing while there is nobody to ask.
    """
    known: dict[str, str] = {}
    missing = []
    for key in (field.name for field in fields(Answers)):
        asked, value = question(key, known), given.get(key)
        if asked is None:
            if value:
                raise UserError(f"--{key} must be left out with --data {known['data']}, but got {value!r}.")
            known[key] = ""
        elif value is not None:
            known[key] = _checked(asked, value)
        elif ask is not None:
            known[key] = _checked(asked, ask(asked))
        else:
            missing.append(f"--{key}")
            known[key] = asked.default
    if missing:
        raise UserError(
            f"init must be given {', '.join(missing)} where there is no terminal to ask on; --yes takes the defaults."
        )
    return Answers(**{**known, "trials": int(known["trials"])})  # type: ignore[arg-type]


def _checked(asked: Question, value: str) -> str:
    if asked.choices and value not in asked.choices:
        raise UserError(
            f"--{asked.key} must be one of {list(asked.choices)}, but got {value!r}{nearest(value, asked.choices)}."
        )
    if asked.key == "trials" and not (value.isdecimal() and int(value) > 0):
        raise UserError(f"--trials must be a whole number of at least 1, but got {value!r}.")
    if asked.key == "name" and not NAME.fullmatch(value):
        raise UserError(f"--name must be letters, digits, '_', '-' and '.', not '.' first, but got {value!r}.")
    return value


def init(file: Path, told: Answers) -> list[Path]:
    """Writes a configuration, and the schema beside it if it is not there; returns what was written.

    Raises:
        UserError: the file exists, or `hwsearch run` would not take the configuration (data that are not there, a
            runtime that is not installed); nothing is written then.
    """
    if file.exists():
        raise UserError(f"init must write a new file, but {file} exists.")
    text = configuration(told)
    try:
        build.load_raw(absolute_paths(yaml.safe_load(text)), source=str(file))
    except ConfigError as error:
        raise UserError(f"these answers make no configuration that can run: {error}") from error
    written = [file]
    if not file.with_name(SCHEMA).exists():
        write_atomic(file.with_name(SCHEMA), json_schema().encode())
        written.append(file.with_name(SCHEMA))
    write_atomic(file, text.encode())
    return written


def configuration(told: Answers) -> str:
    """Returns the commented YAML text."""
    parts = [
        f"# yaml-language-server: $schema={SCHEMA}",
        f"# Made by `hwsearch init`. Check and change what you like, then: hwsearch run {told.name}.yaml",
        f"name: {told.name}",
        "seed: 0",
        "",
        "# The super-network: every list is a choice that the search makes.",
        _supernet(told),
    ]
    if SPARSITY[told.sparsity]:
        parts += [
            "",
            "# Zeros are choices too, per stage of the network. Patterns that no objective gains from are left",
            "# out, and the run says so: most engines compute zeros like any number, but stored bytes always shrink.",
            f"sparsity: {{per: stage, choices: [{', '.join(_quoted(c) for c in SPARSITY[told.sparsity])}]}}",
        ]
    parts += [
        "",
        "# Trained once for all sub-networks. More epochs: better networks, and a ranking that is worth more.",
        *_data(told),
        "",
        "# What is searched for. A limit may be given, too: latency_ms@here <= 5",
        f"objectives: [{', '.join(('accuracy', *GOALS[told.goal]))}]",
    ]
    if told.goal != "small":
        parts += [
            "",
            "# Where latency is measured; `here` is a name of your own. batch: examples per call.",
            f"devices:\n  here: {{runtime: {told.device}, threads: 1, batch: 1}}",
        ]
    parts += [
        "",
        "# The default engine learns from its trials which networks to try next. The same command continues a run.",
        f"search: {{engine: pareto, trials: {told.trials}}}",
        "",
        "# serial: one process. ray: as many workers as there are cores, here or on a cluster.",
        "executor: {kind: serial}",
    ]
    return "\n".join(parts) + "\n"


def _quoted(choice: str) -> str:
    return f'"{choice}"' if ":" in choice else choice  # YAML 1.1 reads 2:4 as a number to base 60


def _data(told: Answers) -> list[str]:
    if told.data == "digits":
        return ["data: {name: digits}  # scikit-learn's 1,797 handwritten digits", _training(15)]
    path = yaml.safe_dump(told.path, default_flow_style=True).splitlines()[0]
    size = ", size: 128" if told.data == "image_folder" else ""
    return [f"data: {{name: {told.data}, path: {path}{size}}}", _training(30)]


def _training(epochs: int) -> str:
    return f"training: {{epochs: {epochs}, batch_size: 64, learning_rate: 0.003}}"


def _supernet(told: Answers) -> str:
    large = told.data == "image_folder"
    if told.family == "mlp":
        return "supernet:\n  family: mlp\n  params: {hidden: [[32, 64, 128], [32, 64, 128]]}"
    if told.family == "vit":
        sizes = "side: 128, patch: 16" if large else "side: 32, patch: 4"
        return f"supernet:\n  family: vit\n  params: {{preset: small, {sizes}}}"
    lines = [
        "supernet:",
        "  family: mobilenet",
        "  params:",
        "    stem: 16",
        "    stem_stride: 2",
        "    head: 128",
        "    stages:",
        "      - {width: [16, 24, 32], depth: [1, 2], stride: 2, kernel: [3, 5], expand: [2, 3, 4]}",
        "      - {width: [32, 48, 64], depth: [1, 2, 3], stride: 2, kernel: [3, 5], expand: [2, 3, 4]}",
    ]
    more = "      - {width: [64, 96, 128], depth: [1, 2, 3], stride: 2, kernel: [3, 5], expand: [2, 3, 4]}"
    return "\n".join([*lines, *([more] if large else [])])
