"""Runs as jobs of a cluster, by Ray's own job server: the package and the configuration travel with the job."""

from __future__ import annotations

import shlex
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import hwsearch
import predictors
import search_spaces
from hwsearch.errors import UserError, missing_extra

PACKAGES = (hwsearch, predictors, search_spaces)
CONFIG = "config.yaml"


@dataclass(frozen=True)
class JobState:
    """What the job server says of a job: `status` in Ray's words (PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED)."""

    job: str
    status: str
    message: str
    run_dir: str

    @property
    def ended(self) -> bool:
        """Whether the job is over."""
        return self.status in {"STOPPED", "SUCCEEDED", "FAILED"}


class Jobs:
    """The job server of a cluster.

    Args:
        address: of its dashboard, `http://head:8265`.

    Raises:
        MissingExtraError: Ray without its job client.
        UserError: nobody answers there, or Ray's token is missing or wrong.
    """

    def __init__(self, address: str) -> None:
        try:
            from ray.job_submission import JobSubmissionClient
        except ImportError as error:
            raise missing_extra("Ray's job client", "cluster", "a job on a cluster") from error
        try:
            self._client = JobSubmissionClient(address)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"--address must be the dashboard of a Ray cluster, but {address!r}: {reason}") from error

    def submit(
        self,
        raw: Mapping[str, Any],
        *,
        run_dir: str,
        pip: Sequence[str] = (),
        image: str | None = None,
    ) -> str:
        """Starts `hwsearch run` on the cluster; returns the id of the job.

        Args:
            raw: configuration; paths in it are the cluster's.
            run_dir: folder of the run on the head, or on storage that the nodes share; `~` is the head's home.
            pip: packages to install for the job; nothing where the nodes have what hwsearch requires.
            image: container image that the job runs in.

        Raises:
            UserError: the connection broke, or the job server refused.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            for package in PACKAGES:
                assert package.__file__ is not None
                ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
                shutil.copytree(Path(package.__file__).parent, folder / package.__name__, ignore=ignored)
            (folder / CONFIG).write_text(yaml.safe_dump(dict(raw), sort_keys=False))
            environment: dict[str, Any] = {"working_dir": str(folder), "env_vars": {"HWSEARCH_RUN_DIR": run_dir}}
            if pip:
                environment["pip"] = list(pip)
            if image is not None:
                environment["image_uri"] = image
            target = "~/" + shlex.quote(run_dir[2:]) if run_dir.startswith("~/") else shlex.quote(run_dir)
            try:
                job: str = self._client.submit_job(
                    entrypoint=f"python -m hwsearch run {CONFIG} --run-dir {target}",
                    submission_id=f"{raw['name']}-{uuid.uuid4().hex[:8]}",
                    runtime_env=environment,
                    metadata={"run_dir": run_dir},
                )
            except (OSError, RuntimeError) as error:  # of requests; what the job server answered
                reason = " ".join(str(error).split())[:300]
                raise UserError(f"--address must be a cluster that takes the job, but it did not: {reason}") from error
        return job

    def state(self, job: str) -> JobState:
        """Returns how a job is.

        Raises:
            UserError: no such job.
        """
        try:
            info = self._client.get_job_info(job)
        except RuntimeError as error:
            raise UserError(f"JOB must be a job of this cluster, but there is no {job!r}.") from error
        message = " ".join((info.message or "").split())
        return JobState(job, str(info.status.value), message, str((info.metadata or {}).get("run_dir", "")))

    def logs(self, job: str) -> str:
        """Returns what a job has printed.

        Raises:
            UserError: no such job.
        """
        self.state(job)
        text: str = self._client.get_job_logs(job)
        return text

    def follow(self, job: str) -> Iterator[str]:
        """Yields what a job prints, from its beginning, until it ends or the caller stops.

        Raises:
            UserError: no such job.
        """
        import asyncio

        self.state(job)
        lines, loop = self._client.tail_job_logs(job), asyncio.new_event_loop()
        try:
            while True:
                try:
                    yield loop.run_until_complete(anext(lines))
                except StopAsyncIteration:
                    return
        finally:
            loop.close()

    def stop(self, job: str) -> bool:
        """Asks a job to end, as Ctrl-C would; returns whether it was running."""
        if self.state(job).ended:
            return False
        stopped: bool = self._client.stop_job(job)
        return stopped
