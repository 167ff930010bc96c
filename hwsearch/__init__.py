"""hwsearch: Pareto-optimal sparse sub-networks for the devices you care about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwsearch.api import SearchResult, search

__version__ = "0.1.0"
__all__ = ["SearchResult", "__version__", "search"]


def __getattr__(name: str) -> Any:
    # Lazily: the command line imports this package, and must answer before torch is loaded.
    if name in {"SearchResult", "search"}:
        from hwsearch import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
