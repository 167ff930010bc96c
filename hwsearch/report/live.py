"""Live progress of a run: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live as Region
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.text import Text

from hwsearch.results import SearchProgress
from hwsearch.training.progress import Progress as TrainingProgress

LINE_EVERY_S = 10.0


class Live:
    """Shows how a run comes along. Use as a context manager.

    Args:
        console: where to print.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars: Progress | None = None
        self._region: Region | None = None
        self._task: TaskID | None = None
        self._newest = Text()  # the line below the bars
        self._phase, self._started, self._last = "", 0.0, 0.0
        self._said = ""  # what a plain line said last of the front's newest member

    def __enter__(self) -> Live:
        if self.console.is_terminal:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                Remaining(),
                TextColumn("{task.fields[detail]}", markup=False),
                console=self.console,
            )
            self._region = Region(Group(self._bars, self._newest), console=self.console, refresh_per_second=8)
            self._region.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._region is not None:
            self._region.stop()

    def phase(self, name: str) -> None:
        """Shows that a phase begins."""
        self._phase, self._started, self._last = name, time.monotonic(), 0.0
        self._newest.plain = ""
        if self._bars is not None:
            self._task = self._bars.add_task(name, total=None, detail="")
        else:
            self.console.print(f"{name} ...", highlight=False)

    def note(self, text: str) -> None:
        """Shows one line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def training(self, progress: TrainingProgress) -> None:
        """Shows a training step."""
        detail = f"epoch {progress.epoch}/{progress.n_epochs}  loss {progress.loss:.3f}"
        self._show(progress.step, progress.n_steps, detail, progress.eta_seconds)

    def search(self, progress: SearchProgress) -> None:
        """Shows where the search stands."""
        volume = "" if progress.hypervolume is None else f"  volume {progress.hypervolume:.3f}"
        detail = f"front {progress.n_front}{volume}  busy {progress.n_busy}  running {progress.n_running}"
        if progress.outlook is not None and progress.outlook.gain == progress.outlook.gain:
            detail += f"  next gain {progress.outlook.gain:.1%}"
            if progress.n_front == 0:
                detail += f"  chance to keep the limits {progress.outlook.feasible:.0%}"
        if progress.n_failed:
            detail += f"  failed {progress.n_failed}"
        if progress.latest_error:
            detail += f"  last error: {progress.latest_error[:60]}"
        newest = ""
        if progress.latest is not None:
            key, values = progress.latest
            newest = f"newest on the front {key}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._newest.plain = f"  {newest}" if newest else ""
        if self._show(progress.n_done, progress.n_trials, detail, progress.eta_s) and newest not in ("", self._said):
            self._said = newest
            self.console.print(f"  {newest}", highlight=False, markup=False, soft_wrap=True)

    def validation(self, done: int, total: int) -> None:
        """Shows where validation stands."""
        self._show(done, total, "", None)

    def trainings(self, done: int, total: int) -> None:
        """Shows how many of several trainings are done."""
        elapsed = time.monotonic() - self._started
        self._show(done, total, "trainings", elapsed / done * (total - done) if done else None)

    def _show(self, done: int, total: int, detail: str, eta_s: float | None) -> bool:
        """Moves the bar, or prints a line if one is due; returns whether it printed."""
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=done, total=total, detail=detail)
        elif self._last != float("inf") and (done >= total or time.monotonic() - self._last >= LINE_EVERY_S):
            self._last = float("inf") if done >= total else time.monotonic()
            eta = f"  about {eta_s:.0f} s left" if eta_s is not None and done < total else ""
            self.console.print(f"  {self._phase} {done}/{total}  {detail}{eta}", highlight=False, markup=False)
            return True
        return False
