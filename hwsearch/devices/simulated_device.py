"""The simulated device: a roofline formula on an artifact's costs, or a table, with seeded noise."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hwsearch.devices.base import Device, DeviceSpec, Fingerprint
from hwsearch.errors import DeviceError, UserError
from hwsearch.results import Artifact, Measurement

DEFAULTS: Mapping[str, float | bool] = {
    "gmacs_per_s": 20.0,
    "gb_per_s": 10.0,
    "overhead_ms": 0.02,
    "launch_ms": 0.0,
    "launches": 0.0,
    "bf16_speedup": 1.0,
    "int8_speedup": 1.0,
    "sparse": False,
    "noise": 0.02,
    "seed": 0.0,
}


class SimulatedDevice(Device):
    """Gives latency by a formula with multiplicative log-normal noise (roofline model, Williams et al. 2009).

        latency_ms = overhead_ms + launches * launch_ms
                     + max(batch * macs / gmacs_per_s / speed-up, bytes / gb_per_s) / 1e6
        bytes = weight bytes + batch * activation_bytes

    With `sparse: true` it has kernels for any zeros: MACs shrink by nonzeros / parameters of the whole net and the
    weight bytes are `stored_bytes`; without, zeros buy nothing. Repeat r of an artifact is multiplied by
    exp(noise * z), z standard normal from `default_rng([seed, digest, r])`, where the digest is of the artifact and
    its costs and r counts how often this object has measured it: the same in every process.

    With `table: file.csv` the latency is looked up instead: columns `architecture` (its key) and `latency_ms`. Only
    artifacts that carry costs alone say which architecture they are.

    Args:
        spec: options as in `DEFAULTS`, and `table`. `launches` is used where the artifact's costs have no such entry.
    """

    exclusive = False

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__(spec)
        spec.check_options((*DEFAULTS, "table"))
        table = spec.options.get("table")
        self._table = None if table is None else read_table(Path(str(table)), spec.name)
        self._options = {key: self._number(key) for key in DEFAULTS}
        self._measured: Counter[str] = Counter()

    @classmethod
    def skips_zeros(cls, spec: DeviceSpec, pattern: str) -> bool | None:
        """Returns the option `sparse`; None where a table says the latency."""
        return None if spec.options.get("table") is not None else bool(spec.options.get("sparse", DEFAULTS["sparse"]))

    def _number(self, key: str) -> float:
        value = self.spec.options.get(key, DEFAULTS[key])
        positive = key in {"gmacs_per_s", "gb_per_s", "bf16_speedup", "int8_speedup"}
        if isinstance(value, str) or value is None or not math.isfinite(value) or value < 0 or (positive and not value):
            least = "a positive number" if positive else "a number of at least 0"
            raise UserError(f"device {self.spec.name}: option {key} must be {least}, but got {value!r}.")
        return float(value)

    def latency_ms(self, artifact: Artifact) -> float:
        """Returns the latency of the formula or the table, without noise."""
        if self._table is not None:
            return self._looked_up(artifact, self._table)
        option, costs, batch = self._options, artifact.costs, self.spec.batch
        missing = [name for name in ("macs", "parameters", "nonzeros", "stored_bytes") if name not in costs]
        if missing:
            raise DeviceError(f"artifact {artifact.sha256[:12]} must carry the cost {missing[0]!r}, but it does not.")
        macs, weight_bytes = batch * costs["macs"], 4.0 * costs["parameters"]
        if option["sparse"]:
            macs *= costs["nonzeros"] / max(costs["parameters"], 1.0)
            weight_bytes = costs["stored_bytes"]
        speedup = option.get(f"{artifact.precision}_speedup", 1.0)
        compute = macs / option["gmacs_per_s"] / speedup
        memory = (weight_bytes + batch * costs.get("activation_bytes", 0.0)) / option["gb_per_s"]
        launches = costs.get("launches", option["launches"])
        return option["overhead_ms"] + launches * option["launch_ms"] + max(compute, memory) / 1e6

    def _looked_up(self, artifact: Artifact, table: Mapping[str, float]) -> float:
        try:
            key = json.loads(artifact.content)["architecture"]
        except (ValueError, KeyError, TypeError) as error:
            raise DeviceError(
                f"device {self.spec.name}: artifact {artifact.sha256[:12]} must say its architecture."
            ) from error
        if key not in table:
            raise DeviceError(f"device {self.spec.name}: the table must hold architecture {key}, but it does not.")
        return table[key]

    def measure(self, artifacts: Sequence[Artifact]) -> list[Mapping[str, Measurement]]:
        """Returns one noisy latency per artifact."""
        out: list[Mapping[str, Measurement]] = []
        for artifact in artifacts:
            self.check(artifact)
            exact = self.latency_ms(artifact)
            digest = _digest(artifact)
            rng = np.random.default_rng([int(self._options["seed"]), int(digest[:16], 16), self._measured[digest]])
            self._measured[digest] += 1
            noise = self._options["noise"]
            value = exact * math.exp(noise * rng.standard_normal())
            out.append({"latency_ms": Measurement(value, noise * exact, "ms", environment=self.fingerprint())})
        return out

    def fingerprint(self) -> Fingerprint:
        """Returns the formula's coefficients."""
        table = self.spec.options.get("table")
        return {"runtime": "simulated", "batch": self.spec.batch, **self._options, "table": table}


def read_table(path: Path, device: str) -> dict[str, float]:
    """Returns architecture key -> latency in ms.

    Raises:
        UserError: no such file, or not such a table; says which line.
    """
    where = f"device {device}: table {path}"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            if not {"architecture", "latency_ms"} <= set(rows.fieldnames or ()):
                raise UserError(f"{where} must have columns architecture and latency_ms, but got {rows.fieldnames}.")
            found = {}
            for line, row in enumerate(rows, start=2):
                try:
                    value = float(row["latency_ms"])
                except (TypeError, ValueError):
                    value = math.nan
                if not 0 < value < math.inf:
                    raise UserError(
                        f"{where}, line {line}: latency_ms must be positive, but got {row['latency_ms']!r}."
                    )
                found[row["architecture"]] = value
            return found
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where} must be a CSV file, but: {error}.") from error


def _digest(artifact: Artifact) -> str:
    costs = json.dumps({name: float(value) for name, value in artifact.costs.items()}, sort_keys=True)
    return hashlib.sha256(f"{artifact.sha256}{costs}".encode()).hexdigest()
