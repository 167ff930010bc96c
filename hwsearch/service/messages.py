"""What is sent to the service and what comes back, as models: they check requests and make the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from search_spaces.space import SearchSpace

ARCHITECTURE = "Architecture"
"""Name of the schema that is made from the space."""

_ANY_ARCHITECTURES = {
    "description": "One mapping of genes to values, a list of such mappings, or a list of rows of choice indices.",
    "anyOf": [
        {"$ref": f"#/components/schemas/{ARCHITECTURE}"},
        {"type": "array", "minItems": 1, "items": {"$ref": f"#/components/schemas/{ARCHITECTURE}"}},
        {"type": "array", "minItems": 1, "items": {"$ref": f"#/components/schemas/{ARCHITECTURE}Row"}},
    ],
}
Source = Literal["trials", "predictors"]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Level = Annotated[float, Field(ge=0.01, le=0.999, description="Probability of a new measurement in the interval.")]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PredictRequest(_Message):
    """What is to be predicted, of which architectures."""

    # Checked by `prediction.parse`, thousands at a time, with the genes' own words.
    architectures: Annotated[Any, WithJsonSchema(_ANY_ARCHITECTURES)]
    metrics: list[Name] | None = Field(
        None, max_length=64, description="`latency_ms@cpu`, or `latency_ms` for every device; all by default."
    )
    devices: list[Name] | None = Field(None, max_length=64, description="Only what depends on one of these.")
    level: Level = 0.9


class Limit(_Message):
    """A bound that every answer keeps."""

    metric: Name
    device: Name | None = None
    min: Number | None = None
    max: Number | None = None


class QueryRequest(_Message):
    """Which architectures are looked for."""

    prefer: Name = Field(description="Metric to be best in: `latency_ms@cpu`.")
    direction: Literal["minimize", "maximize"] | None = Field(None, description="What best means; known for most.")
    limits: list[Limit] = Field(default_factory=list, max_length=32)
    sources: tuple[Source, ...] = Field(("trials", "predictors"), min_length=1, max_length=2, strict=False)
    count: int = Field(10, ge=1, description="Answers of each label at most.")
    candidates: int = Field(10_000, ge=1, description="Architectures that predictors are asked about at most.")
    seed: int = Field(0, ge=0, le=2**32 - 1)
    level: Level = 0.9
    cautious: bool = Field(False, description="Judge predicted values by the worse end of their interval.")


class Column(BaseModel):
    """Predicted values of one metric, one per architecture, in the order of the request."""

    name: str
    metric: str
    device: str | None
    unit: str
    kind: Literal["predicted", "exact"]
    model: str
    interval: str = Field(description="What it comes from: `held-out errors`, a `normal`, or `exact`.")
    mean: list[float | None]
    std: list[float | None]
    lower: list[float | None]
    upper: list[float | None]
    outside: list[bool] | None = Field(
        description="An active gene holds a value that no training row had, or the deviation is larger than any that "
        "cross-validation gave a training row. Null when the predictor's file does not say."
    )


class PredictAnswer(BaseModel):
    """Predictions, one column per metric and device."""

    space: str
    count: int
    level: float
    predictions: list[Column]


class Value(BaseModel):
    """One value of an answer to a query."""

    value: float | None
    std: float | None
    unit: str
    kind: Literal["measured", "predicted", "exact"]
    lower: float | None
    upper: float | None
    outside: bool | None


class Found(BaseModel):
    """One architecture. `measured`: all that it was chosen by was measured or is an exact cost."""

    label: Literal["measured", "predicted"]
    key: str
    trial: int | None
    on_front: bool
    architecture: dict[str, Any]
    values: dict[str, Value]


class QueryAnswer(BaseModel):
    """Measured architectures, best first, then predicted ones, best first."""

    space: str
    prefer: str
    direction: Literal["minimize", "maximize"]
    answers: list[Found]


class MetricCard(BaseModel):
    """One metric that the service knows."""

    name: str
    metric: str
    device: str | None
    unit: str
    direction: Literal["minimize", "maximize"]
    kind: Literal["predicted", "exact", "measured"]
    model: str | None
    n_rows: int | None
    report: dict[str, Any] | None


class DeviceCard(BaseModel):
    """A device, with the names of its metrics."""

    device: str
    metrics: list[str]


class DevicesAnswer(BaseModel):
    """Devices, everything that can be asked, and how good its predictor was in cross-validation."""

    space: str
    n_trials: int
    devices: list[DeviceCard]
    metrics: list[MetricCard]


class GeneCard(BaseModel):
    """A gene, its values in the order of choice indices, and when it matters."""

    name: str
    choices: list[Any]
    active_when: dict[str, list[Any]]


class SpaceAnswer(BaseModel):
    """The search space that architectures are of."""

    fingerprint: str
    size: str = Field(description="Exact number of distinct architectures, as text: it may have hundreds of digits.")
    genes: list[GeneCard]


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


def space_schemas(space: SearchSpace) -> dict[str, Any]:
    """Returns the JSON schemas of a space's architectures, as mappings and as rows of choice indices."""
    return {
        ARCHITECTURE: {
            "type": "object",
            "title": ARCHITECTURE,
            "description": f"Genes of space {space.fingerprint}; those that do not matter may be left out.",
            "properties": {gene.name: {"enum": list(gene.choices)} for gene in space.genes},
            "required": [gene.name for gene in space.genes if not gene.active_when],
            "additionalProperties": False,
        },
        f"{ARCHITECTURE}Row": {
            "type": "array",
            "title": f"{ARCHITECTURE}Row",
            "description": "The index of each gene's choice, in the order of /v1/space.",
            "prefixItems": [{"type": "integer", "minimum": 0, "maximum": int(n) - 1} for n in space.n_choices],
            "minItems": space.n_genes,
            "maxItems": space.n_genes,
        },
    }
