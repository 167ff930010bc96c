"""Architecture: one canonical choice for every gene that matters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property

from search_spaces.genes import Value


class Architecture(Mapping[str, Value]):
    """The active genes of one network and their values; immutable, hashable, JSON-able.

    Made by `SearchSpace.architecture`, which validates. Two architectures are equal exactly when they
    describe the same network of their space.
    """

    def __init__(self, choices: Mapping[str, Value]) -> None:
        self._choices = dict(choices)

    def __getitem__(self, gene: str) -> Value:
        return self._choices[gene]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __hash__(self) -> int:
        return hash(tuple(self._choices.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self._choices == other._choices

    def __repr__(self) -> str:
        return f"Architecture({self.key}: {self.to_json()})"

    def integer(self, gene: str) -> int:
        """Returns the value of a numeric gene as an int."""
        value = self._choices[gene]
        if isinstance(value, str):
            raise TypeError(f"gene {gene!r} must be numeric, but got {value!r}.")
        return int(value)

    @cached_property
    def key(self) -> str:
        """A stable 12-digit hexadecimal digest of the active genes, in any process and on any machine."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Value]:
        """Returns the active genes and their values, in gene order."""
        return dict(self._choices)

    def to_json(self) -> str:
        """Returns the active genes as canonical JSON (sorted, no spaces)."""
        return json.dumps(self._choices, sort_keys=True, separators=(",", ":"))
