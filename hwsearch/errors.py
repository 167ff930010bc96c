"""Errors that users meet: each is one clear line."""


class UserError(ValueError):
    """A mistake in what the user gave: the command line prints it as one line and exits with 2."""


class ConfigError(UserError):
    """One or more problems in a configuration, all reported at once."""


class RunFolderError(UserError):
    """The run folder cannot be used: locked by another driver, of another space, or of an unknown format."""


class DeviceError(RuntimeError):
    """A device, its runtime or its connection failed; the search goes on without its measurement."""


class WorkerError(RuntimeError):
    """No worker of a kind can be made, so that the work cannot go on; nothing recorded is lost."""


class RecordError(OSError):
    """The record, or a file of the run, cannot be written: a full disk, a database that is gone."""

    def __init__(self, what: str, reason: object) -> None:
        super().__init__(f"{what} must be written, but: {reason}. Nothing recorded is lost: the same command continues")


class NoResultError(RuntimeError):
    """A search came to its end without a network that can be handed over."""


class MissingExtraError(UserError):
    """A library is missing that an extra installs; the message names the extra."""


def missing_extra(library: str, extra: str, what: str) -> MissingExtraError:
    """Returns the error for a library that is not installed."""
    return MissingExtraError(f"{what} needs {library}, which is not installed: pip install 'hwsearch[{extra}]'.")
