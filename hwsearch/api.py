"""The Python interface: `hwsearch.search(...)` and the result it returns."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hwsearch.commands.choosing import Choice, chosen
from hwsearch.commands.choosing import export as export_command
from hwsearch.commands.query import run_plan
from hwsearch.commands.report import open_study
from hwsearch.commands.run import Observer, run
from hwsearch.config import set_path
from hwsearch.errors import UserError, missing_extra
from hwsearch.front import Member, load_front
from hwsearch.objectives import DEVICE_METRICS
from hwsearch.results import SearchProgress
from hwsearch.runfolder import RunFolder
from hwsearch.training.progress import Progress as TrainingProgress

if TYPE_CHECKING:
    import pandas

ONE_DEVICE = "device"
"""Name of a device that was given without one."""


class _Quiet:
    """An observer that says nothing."""

    def phase(self, name: str) -> None:
        """Nothing is shown."""

    def note(self, text: str) -> None:
        """Nothing is shown."""

    def training(self, progress: TrainingProgress) -> None:
        """Nothing is shown."""

    def search(self, progress: SearchProgress) -> None:
        """Nothing is shown."""

    def validation(self, done: int, total: int) -> None:
        """Nothing is shown."""


def search(
    space: str | Path | Mapping[str, Any],
    objectives: Sequence[str] = (),
    *,
    device: str | Mapping[str, Mapping[str, Any]] | None = None,
    budget: int | None = None,
    run_dir: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
) -> SearchResult:
    """Searches, validates and exports; the same call continues a search that was interrupted.

    Args:
        space: a configuration (path of a YAML file), a family's name, or the section `supernet` of a configuration.
        objectives: such as `accuracy`, `latency_ms <= 5`, `stored_bytes`; may be left out with a configuration. A
            metric of a device names it (`latency_ms@phone`), unless the device was given as a runtime's name.
        device: a runtime's name (`onnxruntime`), or the section `devices` of a configuration.
        budget: architectures to evaluate, at least 1; 100 by default.
        run_dir: folder of the run; `runs/<name>` by default.
        settings: anything else of a configuration, by path: `{"training.epochs": 5, "data": {"name": "digits"}}`.
        observer: is told what happens; nobody by default.

    Raises:
        UserError: anything wrong with what was given; nothing has been written then.
        NoResultError: no network could be evaluated, or none keeps the limits.
    """
    raw = _configuration(space, objectives, device)
    if budget is not None:
        set_path(raw, f"search.trials={budget}")
    for path, value in (settings or {}).items():
        set_path(raw, f"{path}={yaml.safe_dump(value, default_flow_style=True)}")
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "search.yaml"
        config.write_text(yaml.safe_dump(raw, sort_keys=False))
        folder = None if run_dir is None else Path(run_dir)
        outcome = run(config, run_dir=folder, observer=observer or _Quiet())
    return SearchResult(outcome.folder.path)


def _configuration(
    space: str | Path | Mapping[str, Any],
    objectives: Sequence[str],
    device: str | Mapping[str, Mapping[str, Any]] | None,
) -> dict[str, Any]:
    """Returns a configuration as plain data."""
    if isinstance(objectives, str):
        raise UserError(f"objectives must be a list such as ['accuracy', 'macs'], but got {objectives!r}.")
    if isinstance(space, Path) or (isinstance(space, str) and space.endswith((".yaml", ".yml"))):
        from hwsearch.config import read_yaml

        raw = read_yaml(Path(space))
    else:
        section = {"family": space} if isinstance(space, str) else dict(space)
        raw = {"name": str(section.get("family", "search")), "supernet": section}
        if not objectives:
            raise UserError("objectives must be given unless the space is a configuration, but got none.")
    if objectives:
        single = isinstance(device, str)
        raw["objectives"] = [_on_device(text) if single else text for text in objectives]
    if device is not None:
        raw["devices"] = {ONE_DEVICE: {"runtime": device}} if isinstance(device, str) else dict(device)
    return raw


def _on_device(text: str) -> str:
    """Returns an objective with the one device's name, where its metric is measured on a device."""
    metric, *rest = text.split(maxsplit=1)
    return " ".join([f"{metric}@{ONE_DEVICE}" if metric in DEVICE_METRICS else metric, *rest])


@dataclass(frozen=True)
class SearchResult:
    """A run with a validated front. Everything is read from its folder, so a run of any time can be opened.

    Args:
        path: the folder: `SearchResult(Path("runs/quickstart"))`.
    """

    path: Path

    @property
    def front(self) -> list[Member]:
        """The validated nets: `.key`, `.architecture`, `.validated`, `.validated_stds`, `.behind`.

        Raises:
            RunFolderError: the run has no front yet.
        """
        return load_front(RunFolder(self.path).require())

    def best(self, prefer: str, *, limit: Sequence[str] = ()) -> Member:
        """Returns the net that is best in a metric among those that keep all limits.

        Args:
            prefer: such as `latency_ms@cpu`.
            limit: such as `accuracy:min=0.97`.

        Raises:
            UserError: no such metric, or no net keeps the limits.
        """
        limits = [limit] if isinstance(limit, str) else list(limit)
        return chosen(self.front, Choice(prefer=prefer, limits=limits))

    def export(self, net: Member | str, *, forms: Sequence[str] = (), out: str | Path | None = None) -> Path:
        """Writes a net of the front in any formats, each compared with its module, and returns its folder.

        Args:
            net: a net of `front`, or its key.
            forms: `onnx`, `openvino-int8`, `pt2`, ...; none: as it was measured, and ONNX.
            out: folder to write to; `models` of the run by default.

        Raises:
            UserError: no such net or form.
            DeviceError: a form does not agree with the module.
        """
        key = net if isinstance(net, str) else net.key
        target = None if out is None else Path(out)
        return Path(export_command(str(self.path), Choice(key=key), forms=forms, out=target)["folder"])

    def to_dataframe(self) -> pandas.DataFrame:
        """Returns all trials as a table: key, state, on_front, metrics, `<metric>:std`, and a column per gene.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise missing_extra("pandas", "dataframe", "a table of trials") from error

        plan, folder = run_plan(self.path)
        study = open_study(plan, folder)
        front = {trial.index for trial in study.front()}
        rows = [
            {
                "key": trial.key,
                "state": trial.state.name.lower(),
                "on_front": trial.index in front,
                **trial.metrics,
                **{f"{name}:std": std for name, std in trial.stds.items()},
                **study.space.architecture(trial.row).to_dict(),
            }
            for trial in study.trials
        ]
        return pandas.DataFrame(rows, index=pandas.Index([t.index for t in study.trials], name="trial"))

    def _repr_html_(self) -> str:
        """Returns the front as a table, for notebooks."""
        members = self.front
        names = list(dict.fromkeys(name for m in members for name in m.metrics if name in m.validated))
        head = "".join(f"<th>{html.escape(name)}</th>" for name in ("net", *names))
        rows = "".join(
            f"<tr><td><code>{html.escape(m.key)}</code></td>"
            + "".join(f"<td>{_cell(m.validated.get(n), m.validated_stds.get(n))}</td>" for n in names)
            + "</tr>"
            for m in members
        )
        return f"<p>{len(members)} nets in {html.escape(str(self.path))}</p><table><tr>{head}</tr>{rows}</table>"


def _cell(value: float | None, std: float | None) -> str:
    return "-" if value is None else f"{value:.5g}" + (f" ± {std:.2g}" if std else "")
