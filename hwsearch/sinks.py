"""Where the progress of a search is shown besides its own record: TensorBoard and MLflow."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from hwsearch.errors import missing_extra
from hwsearch.results import SearchProgress, State
from hwsearch.study import Study

EXPERIMENT = "hwsearch"
"""In MLflow, all runs are in this experiment."""


class Sink(Protocol):
    """Takes numbers by name, each with the number of the trial that they belong to."""

    @classmethod
    def require(cls) -> None:
        """Raises MissingExtraError where its library is not installed."""
        ...

    def __init__(self, folder: Path, name: str) -> None:
        """Opens what the numbers go to: for the run in `folder`, called `name`."""
        ...

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Notes the values."""
        ...

    def close(self) -> None:
        """Writes what is not written yet."""
        ...


class TensorBoardSink:
    """Event files in RUN/tensorboard, written by tensorboardX: no TensorFlow, and TensorBoard only to look at them."""

    def __init__(self, folder: Path, name: str) -> None:
        from tensorboardX import SummaryWriter

        # A file is named by the second: a run that goes on within the same one must not write over the first part.
        parts = len(list((folder / "tensorboard").glob("events.*")))
        self._writer: Any = SummaryWriter(logdir=str(folder / "tensorboard"), filename_suffix=f".{parts}")

    @classmethod
    def require(cls) -> None:
        """Raises MissingExtraError where tensorboardX is not installed."""
        if find_spec("tensorboardX") is None:
            raise missing_extra("tensorboardX", "tensorboard", "logging: [tensorboard]")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Notes the values as scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is buffered."""
        self._writer.close()


class MlflowSink:
    """A run of the MLflow server in MLFLOW_TRACKING_URI; a search that is continued goes on in the same one."""

    def __init__(self, folder: Path, name: str) -> None:
        from mlflow import MlflowClient

        self._client: Any = MlflowClient()
        note = folder / "mlflow.run"
        if note.is_file():
            self._run = note.read_text().strip()
            self._client.update_run(self._run, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(EXPERIMENT)
        self._run = self._client.create_run(experiment, run_name=name).info.run_id
        self._client.set_tag(self._run, "hwsearch.run", str(folder.resolve()))
        note.write_text(self._run)

    @classmethod
    def require(cls) -> None:
        """Raises MissingExtraError where MLflow is not installed."""
        if find_spec("mlflow") is None:
            raise missing_extra("MLflow", "mlflow", "logging: [mlflow]")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Notes the values as metrics; MLflow takes no `@` in a name."""
        for name, value in values.items():
            self._client.log_metric(self._run, re.sub(r"[^\w\-. :/]", "/", name), value, step=step)

    def close(self) -> None:
        """Marks the run as ended."""
        self._client.set_terminated(self._run)


class Recorder:
    """Tells sinks of trials as they arrive, each once, and of the front. A sink that fails is left out from then on.

    Args:
        study: its trials; those that have arrived already are known to the sinks.
        sinks: to tell.
        note: is told of a sink that failed.
    """

    def __init__(self, study: Study, sinks: Sequence[Sink], *, note: Callable[[str], None]) -> None:
        self._study, self._sinks, self._note = study, list(sinks), note
        self._told = {t.index for t in study.trials if t.state != State.RUNNING}

    def search(self, progress: SearchProgress) -> None:
        """Tells of what has arrived since the last call."""
        if not self._sinks:
            return
        new = [t for t in self._study.trials if t.state != State.RUNNING and t.index not in self._told]
        for trial in new:
            self._told.add(trial.index)
            if trial.state == State.FINISHED:
                self._each(lambda sink, t=trial: sink.log({f"trial/{k}": v for k, v in t.metrics.items()}, t.index))  # type: ignore[misc]
        if new:
            standing: dict[str, float] = {"front/size": progress.n_front, "trials/failed": progress.n_failed}
            if progress.hypervolume is not None:
                standing["front/hypervolume"] = progress.hypervolume
            self._each(lambda sink: sink.log(standing, progress.n_done))

    def close(self) -> None:
        """Ends every sink."""
        self._each(lambda sink: sink.close())

    def _each(self, tell: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                tell(sink)
            except Exception as error:
                self._sinks.remove(sink)
                self._note(f"{type(sink).__name__} is left out from now on: {' '.join(str(error).split())[:200]}")
