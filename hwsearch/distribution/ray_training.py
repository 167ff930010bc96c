"""Training a super-network on several processes of a Ray cluster, by Ray Train, with the one training loop."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import ray
from torch import distributed as dist

from hwsearch.data.dataset import Dataset
from hwsearch.distribution.jobs import Resources, one_line
from hwsearch.distribution.leftovers import end_leftovers, note_processes
from hwsearch.distribution.ray_cluster import alive_nodes, join
from hwsearch.errors import UserError, WorkerError, missing_extra
from hwsearch.runfolder import write_atomic
from hwsearch.training.config import TrainingConfig
from hwsearch.training.group import ProcessGroup
from hwsearch.training.progress import Progress, ProgressCallback
from hwsearch.training.supernet_training import train
from search_spaces.supernet import Supernet

Material = Callable[[], tuple[Supernet, Dataset, TrainingConfig]]
"""Makes, inside the process that trains, the super-network with any weights, its data and the settings; picklable."""

TELL_S = 0.5
"""How often a training tells how far it is."""


@dataclass(frozen=True)
class Place:
    """Where a training runs.

    Args:
        workers: processes that share every batch.
        needs: of each of them.
        retries: how often the training goes on from its last checkpoint after a worker was lost.
        storage: URL of fsspec of a folder that keeps the checkpoint; None for the run's own folder.
        address, namespace, runtime_env: of the cluster, as for `RayExecutor`.
    """

    workers: int
    needs: Resources
    retries: int = 3
    storage: str | None = None
    address: str | None = None
    namespace: str | None = None
    runtime_env: Mapping[str, Any] | None = None


class Keeper:
    """Keeps the checkpoint where the driver is, or at a URL: no node needs to share a disk with another."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.progress: Progress | None = None

    def load(self) -> bytes | None:
        """Returns the checkpoint, if there is one."""
        files, path = fsspec.core.url_to_fs(self.path)
        content: bytes | None = files.cat_file(path) if files.exists(path) else None
        return content

    def save(self, content: bytes) -> None:
        """Replaces the checkpoint; it is whole at every moment."""
        files, path = fsspec.core.url_to_fs(self.path)
        if "file" in files.protocol:
            write_atomic(Path(path), content)
            return
        files.makedirs(files._parent(path), exist_ok=True)
        files.pipe_file(f"{path}.part", content)
        files.mv(f"{path}.part", path)

    def tell(self, progress: Progress) -> None:
        """Notes how far the training is."""
        self.progress = progress

    def told(self) -> Progress | None:
        """Returns how far the training is."""
        return self.progress


class _RayGroup(ProcessGroup):
    """Rank 0 hands its checkpoints to the keeper."""

    def __init__(self, config: TrainingConfig, keeper: Any, *, device: str) -> None:
        super().__init__(config, device=device)
        self.keeper = keeper

    def saved(self, path: Path) -> None:
        ray.get(self.keeper.save.remote(path.read_bytes()))


def _work(task: Mapping[str, Any]) -> None:
    """What every worker does."""
    material, keeper, device = task["material"], task["keeper"], task["device"]
    supernet, dataset, config = material()
    supernet.load_arrays(task["weights"])
    group = _RayGroup(config, keeper, device=device)
    # All ranks go on from the same checkpoint, even if the last save of a lost group is still on its way.
    found = [ray.get(keeper.load.remote()) if group.rank == 0 else None]
    dist.broadcast_object_list(found, src=0)
    told = 0.0

    def tell(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            keeper.tell.remote(progress)

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.safetensors"
        if found[0] is not None:
            checkpoint.write_bytes(found[0])
        train(
            supernet,
            dataset,
            config,
            checkpoint=checkpoint,
            progress=tell if group.rank == 0 else None,
            device=device,
            group=group,
        )


def train_on_ray(
    material: Material,
    supernet: Supernet,
    dataset: Dataset,
    config: TrainingConfig,
    *,
    place: Place,
    checkpoint: Path,
    progress: ProgressCallback | None = None,
    ledger: Path | None = None,
) -> None:
    """Trains the super-network in place on the workers of a cluster; goes on from a checkpoint of the same training.

    Args:
        material: what each worker trains; its weights become those of `supernet`.
        supernet: with the initial weights.
        dataset: as of the material.
        config: as of the material.
        place: where.
        checkpoint: file on this machine, written after every epoch (and there, where `place.storage` says).
        progress: called in this process, about twice a second.
        ledger: as for `RayExecutor`.

    Raises:
        MissingExtraError: Ray Train is not installed.
        UserError: no cluster answers, or it has no room for the workers.
        WorkerError: workers were lost too often, or what they do fails.
    """
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise missing_extra("Ray Train", "cluster", "a training on several workers") from error
    owns, ledger = not ray.is_initialized(), ledger if place.address is None else None
    if owns:
        if ledger is not None:
            end_leftovers(ledger)
        join(place.address, namespace=place.namespace, runtime_env=place.runtime_env)
        if ledger is not None:
            note_processes(ledger)
    try:
        _check_room(place)
        here = ray.get_runtime_context().get_node_id()
        url = f"{place.storage.rstrip('/')}/{checkpoint.name}" if place.storage else str(checkpoint.absolute())
        keeper: Any = (
            ray.remote(Keeper)
            .options(name=f"hwsearch checkpoint {os.getpid()}", num_cpus=0, label_selector={"ray.io/node-id": here})
            .remote(url)
        )
        task = {
            "material": material,
            "weights": supernet.to_arrays(),
            "keeper": keeper,
            "device": "cuda" if place.needs.gpus else "cpu",
        }
        resources = {"CPU": place.needs.cpus, "GPU": place.needs.gpus, "memory": place.needs.memory_bytes}
        os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # modules of the working directory are imported late
        with tempfile.TemporaryDirectory() as scratch:
            trainer = TorchTrainer(
                _work,
                train_loop_config=task,
                scaling_config=ScalingConfig(
                    num_workers=place.workers,
                    use_gpu=place.needs.gpus > 0,
                    resources_per_worker={name: n for name, n in resources.items() if n},
                ),
                run_config=RunConfig(storage_path=scratch, failure_config=FailureConfig(max_failures=place.retries)),
            )
            _follow(trainer.fit, lambda: ray.get(keeper.told.remote()), progress)
        if place.storage:
            write_atomic(checkpoint, ray.get(keeper.load.remote()))
        ray.kill(keeper)
    finally:
        if owns:
            ray.shutdown()
            if ledger is not None:
                end_leftovers(ledger)
    train(supernet, dataset, config, checkpoint=checkpoint)  # finished: takes the weights over


def _check_room(place: Place) -> None:
    """Raises UserError where a cluster of this size could never hold the workers."""
    room = sum(place.needs.fit(node) for node in alive_nodes().values())
    if place.workers > room:
        raise UserError(
            f"executor.training.workers must be at most the {room} that fit into Ray's resources, "
            f"but got {place.workers}."
        )


def _follow(fit: Callable[[], Any], ask: Callable[[], Progress | None], progress: ProgressCallback | None) -> None:
    """Waits for Ray Train in a thread, so that Ctrl-C ends this process as always, and passes on what is told."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            fit()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    seen = None
    while thread.is_alive():
        thread.join(TELL_S)
        told = ask()
        if progress is not None and told is not None and told != seen:
            seen = told
            progress(told)
    if failures:
        reasons = getattr(failures[0], "worker_failures", None) or {0: failures[0]}
        reason = one_line(next(iter(reasons.values())))[:300]
        raise WorkerError(
            f"the training must end on all workers, but: {reason}. The same command continues after its last epoch"
        ) from failures[0]
