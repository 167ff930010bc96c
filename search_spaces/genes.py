"""Genes: the named choices a search space is made of, and when they matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

Value = int | float | str | bool
"""What a choice may be. All choices of one gene have one type (int and float may mix)."""

MAX_CHOICES = 255


@dataclass(frozen=True)
class Condition:
    """Holds when the gene called `gene` is active and has one of `values`."""

    gene: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"a condition on gene {self.gene!r} must list at least one value, but got none.")


@dataclass(frozen=True)
class Gene:
    """One named decision of an architecture.

    Args:
        name: dotted path, unique in its space: `stage2.block3.kernel`.
        choices: 1 to 255 distinct values; the first is what an inactive gene is set to.
        active_when: the gene matters only if all of these hold; their genes come earlier in the space.
        aliases: choice -> choice that makes the same network whatever the other genes are. Canonical
            genotypes hold the representative only. A representative has no alias itself.
    """

    name: str
    choices: tuple[Value, ...]
    active_when: tuple[Condition, ...] = ()
    aliases: Mapping[Value, Value] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not self.name or self.name != self.name.strip():
            raise ValueError(f"a gene name must be non-empty and without outer spaces, but got {self.name!r}.")
        if not 1 <= len(self.choices) <= MAX_CHOICES:
            raise ValueError(f"gene {self.name!r} must have 1 to {MAX_CHOICES} choices, but got {len(self.choices)}.")
        if len(set(self.choices)) != len(self.choices):
            raise ValueError(f"gene {self.name!r} must have distinct choices, but got {list(self.choices)}.")
        kinds = {float if isinstance(c, int | float) and not isinstance(c, bool) else type(c) for c in self.choices}
        if len(kinds) > 1 or not kinds <= {float, str, bool}:
            raise ValueError(
                f"gene {self.name!r} must have choices of one type (numbers, strings or booleans), "
                f"but got {list(self.choices)}."
            )
        for alias, target in self.aliases.items():
            if alias not in self.choices or target not in self.choices or target in self.aliases:
                raise ValueError(
                    f"gene {self.name!r}: an alias must map a choice to a choice without alias, "
                    f"but got {alias!r} -> {target!r}."
                )
        if self.choices[0] in self.aliases:
            raise ValueError(f"gene {self.name!r}: the first choice {self.choices[0]!r} must not be an alias.")
        object.__setattr__(self, "aliases", MappingProxyType(dict(self.aliases)))

    def __reduce__(self) -> tuple[object, ...]:
        return Gene, (self.name, self.choices, self.active_when, dict(self.aliases))

    def __hash__(self) -> int:
        return hash((self.name, self.choices, self.active_when, tuple(self.aliases.items())))

    def index(self, value: Value) -> int:
        """Returns the position of `value` among the choices.

        Raises:
            ValueError: `value` is not a choice (2 and 2.0 are the same, 1 and True are not).
        """
        for position, choice in enumerate(self.choices):
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return position
        raise ValueError(f"gene {self.name!r} must be one of {list(self.choices)}, but got {value!r}.")

    def representatives(self) -> tuple[int, ...]:
        """Returns the choice indices that canonical genotypes may hold, ascending."""
        return tuple(i for i, choice in enumerate(self.choices) if choice not in self.aliases)
