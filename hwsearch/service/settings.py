"""The limits of a service, and its key."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from hwsearch.errors import UserError


@dataclass(frozen=True)
class Settings:
    """What one request may take, and who may ask. Small enough that no request can take a service down.

    Args:
        max_bytes: of a request's body.
        max_architectures: in one prediction.
        max_candidates: that one query may ask predictors about.
        max_answers: of one query, of each label.
        timeout_s: in which a body must have arrived, and again in which the answer must be there.
        max_pending: requests at once, per replica; more are sent away with 503.
        threads: that compute answers, per replica.
        key_digest: SHA-256 of the API key; None asks for no key. The key itself is not kept.
    """

    max_bytes: int = 16 * 2**20
    max_architectures: int = 10_000
    max_candidates: int = 100_000
    max_answers: int = 1_000
    timeout_s: float = 30.0
    max_pending: int = 64
    threads: int = 2
    key_digest: bytes | None = None

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_architectures", "max_candidates", "max_answers", "max_pending", "threads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, but got {getattr(self, name)}.")
        if not 0 < self.timeout_s < float("inf"):
            raise UserError(f"timeout_s must be positive, but got {self.timeout_s}.")

    def admits(self, key: bytes | None) -> bool:
        """Returns whether a key, as it came in a header, is the right one; takes equally long for every wrong one."""
        if self.key_digest is None:
            return True
        return key is not None and hmac.compare_digest(digest(key), self.key_digest)


def digest(key: bytes) -> bytes:
    """Returns what `Settings.key_digest` is for a key."""
    return hashlib.sha256(key).digest()
