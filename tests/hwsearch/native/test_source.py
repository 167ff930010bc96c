"""The exported source in a process of its own: under sanitizers, valgrind, and an emulator of 64-bit ARM.

The program that calls it gives it inputs and scratch memory of exactly the size that the header says.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwsearch.errors import DeviceError
from hwsearch.native import compiler
from hwsearch.native.compiler import COMMON
from hwsearch.native.exporter import NativeExporter
from hwsearch.native.targets import TARGETS, best_target
from search_spaces.bert import Bert
from search_spaces.mobilenet import MobileNet, Stage
from search_spaces.supernet import Family, SparsityGenes, Supernet
from tests.hwsearch.native.nets import Own, settled

ARM = "aarch64-linux-gnu-gcc"
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
Made = tuple[nn.Module, tuple[Tensor, ...]]


def _drawn(family: Family, pattern: str, example: tuple[Tensor, ...]) -> Made:
    supernet = Supernet(family, sparsity=SparsityGenes((pattern,), per="model"), seed=0)
    return settled(supernet.extract(supernet.space.largest()), example), example


def _own() -> Made:
    torch.manual_seed(0)
    example = (torch.randn(2, 3, 17, 17),)
    return settled(Own(), example), example


def _cnn() -> Made:
    stages = (
        Stage(width=(12,), depth=(1,), stride=2, kernel=(5,), expand=(4,), se=True, act="hswish"),
        Stage(width=(20,), depth=(2,), stride=1, kernel=(3,), expand=(3,)),
    )
    example = (torch.randn(2, 3, 26, 26, generator=torch.Generator().manual_seed(0)),)
    family = MobileNet(input_shape=(3, 26, 26), n_classes=10, stages=stages, stem=8, head=24)
    return _drawn(family, "unstructured-0.8", example)


def _grouped() -> Made:
    example = (torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0)),)
    stages = (Stage(width=(16,), depth=(2,), stride=2, kernel=(7,), expand=(4,)),)
    family = MobileNet(input_shape=(3, 28, 28), n_classes=10, stages=stages, stem=8, head=24)
    return _drawn(family, "block-4x1-0.5", example)


def _bert() -> Made:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 100, (2, 13), generator=generator)
    mask = (torch.arange(13)[None] < torch.tensor([[13], [8]])).long()
    return _drawn(Bert(preset="tiny", vocab_size=100, tokens=13), "unstructured-0.8", (ids, mask))


NETS: dict[str, Callable[[], Made]] = {"own": _own, "cnn": _cnn, "grouped": _grouped, "bert": _bert}
every_net = pytest.mark.parametrize("net", list(NETS))


def run(net: str, folder: Path, *, target: str, extra: tuple[str, ...] = (), before: tuple[str, ...] = ()) -> None:
    """Compiles a net's source with a program that calls it, runs that, and compares its outputs with the module's.

    Args:
        net: of NETS.
        folder: to work in.
        target: instruction set.
        extra: flags of the compiler.
        before: a command that runs the program.
    """
    module, example = NETS[net]()
    artifact = NativeExporter(target).export(module, tuple(x[:1] for x in example), costs={})
    for name, content in artifact.files.items():
        (folder / name).write_bytes(content)
    (folder / "caller.c").write_text(_caller(example))
    objects = compiler.kernels(TARGETS[target], extra=extra)
    command = [compiler.compiler()[0], *TARGETS[target].flags, *COMMON, *extra, "caller.c", "model.c"]
    subprocess.run([*command, *map(str, objects), "-lm", "-o", "caller"], cwd=folder, check=True)
    content = b"".join(x.numpy().tobytes() for x in example)
    done = subprocess.run([*before, "./caller"], cwd=folder, input=content, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    with torch.no_grad():
        want = module(*example).numpy()
    got = np.frombuffer(done.stdout, np.float32).reshape(want.shape)
    assert np.abs(got - want).max() <= 1e-4 * max(1.0, np.abs(want).max())


def _caller(example: tuple[Tensor, ...]) -> str:
    batch = len(example[0])
    kinds = ["float" if x.dtype is torch.float32 else "int64_t" for x in example]
    reads = "\n".join(
        f"    {kind} *in{i} = malloc({prod(x.shape)} * sizeof({kind}));\n"
        f"    if (fread(in{i}, sizeof({kind}), {prod(x.shape)}, stdin) != {prod(x.shape)})\n        return 1;"
        for i, (kind, x) in enumerate(zip(kinds, example, strict=True))
    )
    frees = "".join(f"    free(in{i});\n" for i in range(len(example)))
    return f"""#include "model.h"
#include <stdio.h>
#include <stdlib.h>

int main(void)
{{
{reads}
    float *out = malloc({batch} * MODEL_OUTPUTS * sizeof(float));
    void *scratch = malloc(MODEL_SCRATCH_BYTES);
    model_run({batch}, {", ".join(f"in{i}" for i in range(len(example)))}, out, scratch);
    fwrite(out, sizeof(float), {batch} * MODEL_OUTPUTS, stdout);
{frees}    free(out);
    free(scratch);
    return 0;
}}
"""


@pytest.mark.parametrize(
    "net", ["own", "cnn", *(pytest.param(net, marks=pytest.mark.slow) for net in ("grouped", "bert"))]
)
def test_sanitizers_find_nothing(net: str, tmp_path: Path) -> None:
    flags = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    (tmp_path / "probe.c").write_text("int main(void) { return 0; }\n")
    if subprocess.run([compiler.compiler()[0], *flags, "probe.c"], cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("the compiler has no sanitizers")
    run(net, tmp_path, target=best_target().name, extra=flags)


@every_net
def test_valgrind_finds_nothing(net: str, tmp_path: Path) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("no valgrind")
    target = "portable" if best_target().name == "avx512" else best_target().name  # valgrind knows no AVX-512
    run(net, tmp_path, target=target, before=("valgrind", "--quiet", "--leak-check=full", "--error-exitcode=9"))


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A compiler for 64-bit ARM instead of the system's; the emulator's name."""
    emulator = next((name for name in EMULATORS if shutil.which(name)), None)
    if emulator is None or shutil.which(ARM) is None:
        pytest.skip(f"no {ARM} or no qemu-aarch64")
    monkeypatch.setenv("CC", ARM)
    compiler.compiler.cache_clear()
    yield emulator
    compiler.compiler.cache_clear()


@every_net
def test_neon_under_an_emulator(net: str, tmp_path: Path, arm: str) -> None:
    run(net, tmp_path, target="neon", extra=("-static",), before=(arm,))


def test_neon_needs_a_compiler_for_it() -> None:
    if "asimd" in best_target().needs:
        pytest.skip("an ARM machine")
    with pytest.raises(DeviceError, match=r"refuses the kernels: .*neon needs a compiler for 64-bit ARM, set CC"):
        NativeExporter("neon").export(nn.Linear(8, 4).eval(), (torch.ones(1, 8),), costs={})
