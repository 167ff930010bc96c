"""`hwsearch run`: from a configuration to a validated, exported front. The same call continues a run."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from hwsearch import build, checkpoints
from hwsearch.build import Factory, Plan
from hwsearch.commands.deciding import freeze
from hwsearch.commands.exporting import Request, export_net, is_exported
from hwsearch.commands.fitting import fit_predictors
from hwsearch.commands.identity import check_identity, identity, inputs
from hwsearch.commands.report import write_report
from hwsearch.database import one_driver
from hwsearch.devices.environment import machine
from hwsearch.distribution.workers import WEIGHTS
from hwsearch.engines.base import SearchEngine
from hwsearch.errors import DeviceError, NoResultError, UserError
from hwsearch.export.weights import encode
from hwsearch.front import Member, save_front, spread, stored_front, validate, versions
from hwsearch.journal import repair_journal
from hwsearch.loop import Search
from hwsearch.report.plot import front_png
from hwsearch.results import SearchProgress, State
from hwsearch.runfolder import RunFolder, RunLock, write_atomic, write_json
from hwsearch.sinks import Recorder
from hwsearch.study import Study, open_storage
from hwsearch.training.progress import Progress as TrainingProgress
from hwsearch.warm import load_sources
from search_spaces.supernet import Supernet


class Observer(Protocol):
    """Is told how a run comes along."""

    def phase(self, name: str) -> None:
        """A phase begins."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...

    def training(self, progress: TrainingProgress) -> None:
        """A training step is done."""
        ...

    def search(self, progress: SearchProgress) -> None:
        """A trial arrived, or a second passed."""
        ...

    def validation(self, done: int, total: int) -> None:
        """A member of the front was scored or measured again."""
        ...


@dataclass(frozen=True)
class RunOutcome:
    """What a run leaves: its folder, the validated front (`front`: content of front.json), how many trials."""

    folder: RunFolder
    members: tuple[Member, ...]
    n_trials: int
    n_failed: int
    exhausted: bool
    exported: tuple[str, ...]
    front: Mapping[str, Any]


def run(config: Path, *, overrides: Sequence[str] = (), run_dir: Path | None = None, observer: Observer) -> RunOutcome:
    """Runs, or continues, the search that a configuration describes.

    Args:
        config: YAML file.
        overrides: `key.path=value`.
        run_dir: of the run; `runs/<name>` by default.
        observer: is told what happens.

    Raises:
        UserError: anything wrong with the configuration or the folder; nothing has been written then.
        WorkerError: no worker, or no device, comes up. The same call continues.
        NoResultError: no network could be evaluated, or none keeps the limits.
    """
    plan = build.load(config, tuple(overrides))
    folder = RunFolder(run_dir or Path("runs") / plan.config.name)
    check_identity(plan, folder)
    plan, dropped = freeze(plan, folder)
    supernet = plan.supernet()
    pretrained = build.pretrained(plan, supernet)
    with RunLock(folder.path) as lock, one_driver(plan.config.storage, plan.config.name):
        study = _study(plan, folder, observer, stale_pid=lock.stale_pid)
        folder.save_config(plan.config.to_dict())
        for line in dropped:
            observer.note(line)
        environment = {"versions": versions(), "machine": dict(machine()), "inputs": inputs(plan)}
        write_json(folder.environment, environment)
        budget = min(plan.config.search.trials, plan.space.size())
        stored = stored_front(study, folder, contenders=plan.config.search.contenders)
        if stored and len(study.trials) >= budget and not study.unmeasured():
            observer.note("search and validation are complete; search.trials=... asks for more")
            members = stored
        else:
            members = _search(plan, supernet, study, folder, observer, pretrained=pretrained)
        fit_predictors(plan, study, folder)
        content = json.loads(folder.front_json.read_text())
        write_atomic(folder.front_png, front_png(study, content))
        if not members:
            raise NoResultError(_why_nothing(plan, study))
        observer.phase("export")
        exported = _export(plan, supernet, members, folder, observer)
        write_report(plan, study, folder)
    return RunOutcome(
        folder=folder,
        members=tuple(members),
        n_trials=len(study.trials),
        n_failed=sum(trial.state == State.FAILED for trial in study.trials),
        exhausted=len(study.trials) >= plan.space.size(),
        exported=tuple(exported),
        front=content,
    )


def _study(plan: Plan, folder: RunFolder, observer: Observer, *, stale_pid: int | None) -> Study:
    """Returns the record of the run, repaired if its last driver was killed."""
    if stale_pid is not None:
        observer.note(f"continuing after process {stale_pid}, which ended without finishing")
    if plan.config.storage is None:
        cut = repair_journal(folder.journal)
        if cut:
            observer.note(f"cut {cut} bytes of a torn last record from {folder.journal.name}")
    study = Study(
        plan.config.name,
        plan.space,
        objectives=plan.objectives,
        limits=plan.limits,
        devices=plan.measured,
        storage=open_storage(plan.config.storage, folder.journal),
        admitted=plan.admitted,
        identity=identity(plan),
    )
    for device, reason in plan.unavailable.items():
        if device in plan.measured:
            study.leave_out(device)
            observer.note(f"the run goes on without {device}: {reason}")
    if study.trials:
        observer.note(f"continuing with {len(study.trials)} recorded trials")
    return study


def _search(
    plan: Plan, supernet: Supernet, study: Study, folder: RunFolder, observer: Observer, *, pretrained: bool
) -> list[Member]:
    """Trains if need be, searches, and returns the validated front."""
    weights = _weights(plan, supernet, folder, observer, pretrained=pretrained)
    observer.phase("search")
    recorder = Recorder(study, plan.sinks(folder.path), note=observer.note)

    def told(progress: SearchProgress) -> None:
        observer.search(progress)
        recorder.search(progress)

    executor = plan.executor(Factory(plan.config.to_dict()), weights, ledger=folder.path / "ray.pids")
    try:
        section = plan.config.search
        engine = plan.engine(load_sources(plan.space, plan.objectives, section.warm_start))
        search = Search(study, executor, engine, folder=folder)
        result = search.run(
            section.trials, observe=told, stop_below=section.stop_below, max_minutes=section.max_minutes
        )
        if result.stopped is not None:
            observer.note(f"search ends after {result.n_trials} trials: {result.stopped}")
        for device, reason in search.left_out.items():
            observer.note(f"the run went on without {device}: {reason}")
        for device, (reason, n) in _refusals(study).items():
            observer.note(f"{device} could not measure {n} of {len(study.trials)} nets; the last: {reason}")
        if study.front():
            observer.phase("validate")
            said = _front_probabilities(engine, study)
            return validate(
                study,
                executor,
                folder,
                probabilities=said,
                contenders=section.contenders,
                observe=observer.validation,
            )
    finally:
        executor.close()
        recorder.close()
    save_front([], study.objectives, study.limits, folder)
    return []


def _front_probabilities(engine: SearchEngine, study: Study) -> dict[int, float] | None:
    """Returns proposal index -> probability to be on the true front; None if nothing says how noisy labels are."""
    history = study.history()
    said = engine.front_probability(history) if (history.stds > 0).any() else None
    return None if said is None else {t.index: float(p) for t, p in zip(study.trials, said, strict=True)}


def _refusals(study: Study) -> dict[str, tuple[str, int]]:
    """Returns device -> its last reason for not measuring a net that another device measured, and how often."""
    found: dict[str, tuple[str, int]] = {}
    for trial in study.trials:
        for device, reason in trial.refused.items() if trial.error is None else ():
            found[device] = (reason, found.get(device, ("", 0))[1] + 1)
    return found


def _why_nothing(plan: Plan, study: Study) -> str:
    """Returns one line that says why there is no front."""
    n = len(study.trials)
    errors = Counter(t.error for t in study.trials if t.error is not None)
    if errors.total() == n:
        (error, times), *_ = errors.most_common(1)
        return f"at least one network must be evaluated, but all {n} trials failed; {times} of them with: {error}"
    reasons = []
    for limit in plan.limits:
        known = [t.metrics[limit.name] for t in study.trials if limit.name in t.metrics]
        nearest = min(known, key=limit.violation, default=None)
        assert limit.limit is not None
        if nearest is None or limit.violation(nearest) > 0:
            got = "it was never measured" if nearest is None else f"the nearest has {nearest:.6g}"
            reasons.append(f"{limit.name} {'<=' if limit.sign > 0 else '>='} {limit.limit:g} ({got})")
    shown = "; ".join(reasons) or "all of them together, though each is kept by some"
    return f"at least one network must keep the limits, but none of {n} trials does: {shown}."


def _weights(
    plan: Plan, supernet: Supernet, folder: RunFolder, observer: Observer, *, pretrained: bool
) -> dict[str, NDArray[Any]] | None:
    """Returns the full weights, trained if need be and stored once; None where no weights are needed."""
    if not plan.measured and not plan.needs_network and not pretrained:
        return None
    if not pretrained and plan.needs_network:
        from hwsearch.training.supernet_training import train

        assert plan.dataset is not None
        if folder.supernet.is_file():
            checkpoints.load_weights(supernet, folder.supernet)
        else:
            observer.phase("train")
            place, checkpoint = plan.place(), folder.training / "checkpoint.safetensors"
            if place is None:
                train(supernet, plan.dataset, plan.training(), checkpoint=checkpoint, progress=observer.training)
            else:
                from hwsearch.distribution.ray_training import train_on_ray

                train_on_ray(
                    Factory(plan.config.to_dict()).training,
                    supernet,
                    plan.dataset,
                    plan.training(),
                    place=place,
                    checkpoint=checkpoint,
                    progress=observer.training,
                    ledger=folder.path / "ray.pids",
                )
            write_atomic(folder.supernet, encode(supernet.tensors()))
    return supernet.to_arrays()


def _export(
    plan: Plan, supernet: Supernet, members: Sequence[Member], folder: RunFolder, observer: Observer
) -> list[str]:
    """Exports the configured nets of the front; a net that fails its check is named and not exported."""
    nets = plan.config.export.nets
    usable = [m for m in members if m.error is None and WEIGHTS in m.artifacts]
    if not usable and nets != 0 and plan.weights_are is None:
        observer.note("nothing is exported: there are no weights (no supernet.weights, no objective such as accuracy)")
    # Contenders that fell behind are on record; they take no other net's place.
    ahead = [m for m in usable if not m.behind]
    chosen = usable if nets == "all" else spread(ahead if len(ahead) >= nets else usable, nets, plan.objectives[0])
    request = Request(command=("hwsearch", *sys.argv[1:]))
    done = []
    for member in chosen:
        try:
            if not is_exported(member, folder):
                export_net(member, plan, supernet, folder, request=request)
            done.append(member.key)
        except (DeviceError, UserError) as error:
            observer.note(f"{member.key} was not exported: {error}")
    earlier = {path.name for path in folder.models.glob("*")} - {m.key for m in members}
    if earlier:
        observer.note(f"{folder.models} also holds nets that are not on this front: {', '.join(sorted(earlier))}")
    return done
