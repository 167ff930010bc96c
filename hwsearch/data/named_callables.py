"""A user's own functions, named in a configuration as `package.module:name` or `path/to/file.py:name`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def load_callable(reference: str, where: str) -> Callable[..., Any]:
    """Returns the function that a reference names; its code is run, as an import does.

    Args:
        reference: `module:name` (modules are also looked for in the working directory) or `file.py:name`.
        where: key of the configuration, for messages.

    Raises:
        ValueError: malformed, or no such module, file or function.
    """
    source, colon, name = reference.rpartition(":")
    if not colon or not source or not name.isidentifier():
        raise ValueError(f"{where} must be module:function or file.py:function, but got {reference!r}.")
    module = _from_file(Path(source), where) if source.endswith(".py") else _imported(source, where)
    found = getattr(module, name, None)
    if not callable(found):
        known = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        raise ValueError(f"{where} must name a function of {source} ({known}), but got {name!r}.")
    made: Callable[..., Any] = found
    return made


def _from_file(path: Path, where: str) -> Any:
    path = path.expanduser().absolute()
    if not path.is_file():
        raise ValueError(f"{where} must name a Python file, but {path} does not exist.")
    name = f"hwsearch_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _imported(name: str, where: str) -> Any:
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.split(".")[0] and error.name != name:
            raise
        raise ValueError(f"{where} must name a module that can be imported, but there is no {name!r}.") from error
    finally:
        if added:
            sys.path.remove(here)
