"""The analytic device: exact costs that came with the artifact; nothing runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwsearch.devices.base import Device, DeviceSpec, Fingerprint
from hwsearch.errors import DeviceError
from hwsearch.objectives import COST_METRICS
from hwsearch.results import Artifact, Measurement


class AnalyticDevice(Device):
    """Gives every cost metric, exactly and without spread.

    Args:
        spec: no options.
    """

    metrics = tuple(COST_METRICS)
    exclusive = False

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__(spec)
        spec.check_options(())

    def measure(self, artifacts: Sequence[Artifact]) -> list[Mapping[str, Measurement]]:
        """Returns the costs of each artifact."""
        return [{name: self._cost(artifact, name) for name in self.metrics} for artifact in artifacts]

    def _cost(self, artifact: Artifact, name: str) -> Measurement:
        self.check(artifact)
        if name not in artifact.costs:
            raise DeviceError(f"artifact {artifact.sha256[:12]} must carry the cost {name!r}, but it does not.")
        return Measurement(float(artifact.costs[name]), 0.0, COST_METRICS[name], environment=self.fingerprint())

    def fingerprint(self) -> Fingerprint:
        """Returns the runtime's name: costs depend on nothing else."""
        return {"runtime": "analytic"}
