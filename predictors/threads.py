"""One BLAS thread for small matrices: more of them wait for one another, and for the cores that others use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]


@cache
def _controller() -> ThreadpoolController:
    """Returns the loaded libraries; looking for them takes milliseconds, so it is done once."""
    import scipy.linalg  # noqa: F401 (its own BLAS must be loaded to be found)

    return ThreadpoolController()


@contextmanager
def one_thread(rows: int = 0, *, limit: int = 2000) -> Iterator[None]:
    """Runs the block with one BLAS thread, unless it works on more than `limit` rows.

    On 100 rows two threads made a Gaussian process 20 times slower on a machine whose cores were busy.
    """
    if rows > limit:
        yield
        return
    with _controller().limit(limits=1, user_api="blas"):
        yield
