"""Compiler: C sources to a shared library with the system's compiler; objects and libraries are kept by their hash."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from hwsearch.errors import DeviceError
from hwsearch.native.targets import Target

RUNTIME = Path(__file__).with_name("runtime")
COMMON = ("-fPIC", "-fvisibility=hidden", "-ffp-contract=fast")
KEPT_LIBRARIES = 64
SECONDS = 300.0


def runtime_files() -> dict[str, bytes]:
    """Returns the kernels' sources and headers, which every network shares."""
    return {path.name: path.read_bytes() for path in sorted(RUNTIME.glob("hw_*.[ch]"))}


@cache
def compiler() -> tuple[str, str]:
    """Returns the path of the C compiler and the first line of what it says about itself.

    Raises:
        DeviceError: there is none.
    """
    names = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "cc", "clang"]
    for name in names:
        path = shutil.which(name)
        if path is not None:
            done = subprocess.run([path, "--version"], capture_output=True, text=True)
            return path, done.stdout.partition("\n")[0]
    raise DeviceError(
        f"native code needs a C compiler, but {' or '.join(names)} is not on the path: install gcc or clang, or set CC."
    )


def cache_folder() -> Path:
    """Returns where objects, libraries and measured choices are kept: HWSEARCH_CACHE, else ~/.cache/hwsearch."""
    root = os.environ.get("HWSEARCH_CACHE")
    folder = (Path(root) if root else Path.home() / ".cache" / "hwsearch") / "native"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def digest(*parts: bytes | str) -> str:
    """Returns a short hash of what something is made from."""
    total = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        total.update(len(raw).to_bytes(8, "little") + raw)
    return total.hexdigest()[:32]


def kernels(target: Target, *, extra: Sequence[str] = ()) -> list[Path]:
    """Returns the objects of the kernels, compiled at most once per target, compiler and extra flags."""
    path, version = compiler()
    sources = runtime_files()
    flags = (*target.flags, *COMMON, *extra)
    key = digest(version, *flags, *sources, *sources.values())
    folder = cache_folder() / f"kernels-{target.name}-{key}"
    names = [name for name in sources if name.endswith(".c")]
    objects = [folder / f"{name}.o" for name in names]
    if not all(file.exists() for file in objects):
        folder.mkdir(exist_ok=True)
        with ThreadPoolExecutor(max_workers=len(names)) as pool:
            list(pool.map(lambda pair: _object(path, flags, *pair), zip(names, objects, strict=True)))
    return objects


def _object(path: str, flags: Sequence[str], name: str, out: Path) -> None:
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        made = Path(scratch) / "out.o"
        _run([path, *flags, "-c", str(RUNTIME / name), "-o", str(made)], "the kernels")
        made.replace(out)  # atomic: another process may be doing the same


def build_library(files: Mapping[str, bytes], *, target: Target, extra: Sequence[str] = ()) -> bytes:
    """Returns the shared library of a network.

    Args:
        files: sources and data of the network; every `.c` among them is compiled.
        target: instruction set.
        extra: further flags, for compiling and linking.

    Raises:
        DeviceError: there is no compiler, or it refuses.
    """
    path, version = compiler()
    objects = kernels(target, extra=extra)
    flags = (*target.flags, *COMMON, *extra)
    key = digest(version, *flags, objects[0].parent.name, *files, *files.values())
    kept = cache_folder() / f"library-{key}.so"
    if kept.exists():
        kept.touch()
        return kept.read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, content in {**runtime_files(), **files}.items():
            (folder / name).write_bytes(content)
        sources = [name for name in files if name.endswith(".c")]
        # The network's own code only calls kernels: nothing there is worth optimising for long.
        command = [path, *flags, "-O1", "-shared", *sources, *map(str, objects), "-o", "out.so", "-Wl,--gc-sections"]
        _run([*command, "-s"], "the network", folder=folder)
        content = (folder / "out.so").read_bytes()
    with tempfile.NamedTemporaryFile(dir=cache_folder(), delete=False) as file:
        file.write(content)
    Path(file.name).replace(kept)
    _forget_oldest()
    return content


def _forget_oldest() -> None:
    kept = sorted(cache_folder().glob("library-*.so"), key=lambda file: file.stat().st_mtime)
    for file in kept[:-KEPT_LIBRARIES]:
        file.unlink(missing_ok=True)


def _run(command: Sequence[str], what: str, *, folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"{what} must compile within {SECONDS:g} s, but did not.") from error
    if done.returncode != 0:
        raise DeviceError(f"the C compiler refuses {what}: {' '.join(done.stderr.split())[:300]}")
