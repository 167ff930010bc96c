from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwsearch.errors import DeviceError, UserError
from hwsearch.export.base import Exporter
from hwsearch.export.verify import verify
from hwsearch.native import compiler, targets
from hwsearch.native.exporter import CARD, NativeExporter
from hwsearch.results import Artifact
from search_spaces.bert import Bert
from search_spaces.ofa_networks import OfaMobilenetV3
from search_spaces.ofa_resnet50 import OfaResNet50
from search_spaces.supernet import Family, SparsityGenes, Supernet
from search_spaces.vit import ViT
from tests.contracts.exporter_contract import ExporterContract
from tests.contracts.nets import conv_supernet, subnet
from tests.hwsearch.native.nets import Own, settled


class TestNative(ExporterContract):
    @pytest.fixture
    def exporter(self) -> Exporter:
        return NativeExporter()


class TestNativePortable(ExporterContract):
    """The C99 path, compiled for the same machine."""

    @pytest.fixture
    def exporter(self) -> Exporter:
        return NativeExporter("portable")


def agreement(family: Family, sparsity: str, example: tuple[Tensor, ...], *, largest: bool = False) -> float:
    """Largest error of one net of a family under a pattern, on two examples."""
    supernet = Supernet(family, sparsity=SparsityGenes((sparsity,), per="model"), seed=0)
    arch = supernet.space.largest() if largest else supernet.space.smallest()
    module = settled(supernet.extract(arch), example)
    with torch.no_grad():
        assert module(*example).abs().max() > 0.05
    exporter = NativeExporter()
    artifact = exporter.export(module, tuple(x[:1] for x in example), costs={})
    return verify(module, artifact, exporter, batches=[example]).max_rel_error


def images(side: int) -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0)),)


@pytest.mark.parametrize("pattern", ["unstructured-0.8", "block-4x1-0.5"])
@pytest.mark.parametrize("side", [64, 50])  # 50: 25, 13, 7, 4, 2 pixels wide
def test_mobilenet_v3(pattern: str, side: int) -> None:
    assert agreement(OfaMobilenetV3(resolutions=(side,)), pattern, images(side)) < 1e-4


def test_resnet50() -> None:
    assert agreement(OfaResNet50(resolutions=(64,)), "unstructured-0.8", images(64)) < 1e-4


@pytest.mark.parametrize("tokens", [16, 13])
def test_bert(tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 100, (2, tokens), generator=generator)
    mask = (torch.arange(tokens)[None] < torch.tensor([[tokens], [tokens - 5]])).long()
    family = Bert(preset="tiny", vocab_size=100, tokens=tokens)
    assert agreement(family, "unstructured-0.8", (ids, mask), largest=True) < 1e-4


def test_vit() -> None:
    family = ViT(preset="tiny")
    side = family.input_shape[1]
    assert agreement(family, "unstructured-0.8", images(side), largest=True) < 1e-4


def test_own_model() -> None:
    torch.manual_seed(0)
    example = (torch.randn(3, 3, 17, 17),)
    module, exporter = settled(Own(), example), NativeExporter()
    artifact = exporter.export(module, (example[0][:1],), costs={})
    assert verify(module, artifact, exporter, batches=[example]).max_rel_error < 1e-5


class Reads(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Stale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x + 1.0
        z = y.view(1, -1)
        y += 1.0
        return z * 2.0


class Several(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1.0, x


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(7)


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.view(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Reads(), r"its code reads the values of a tensor \(__bool__\)"),
        (Stale(), "changed in place through another one"),
        (Several(), "an output of type tuple"),
        (Fails(), "its code fails on one example: shape"),
        (Norm(), "BatchNorm without running statistics"),
        (nn.Identity(), "an output that is an input"),
        (nn.Conv1d(1, 2, 1), "no kernel for conv1d"),
        (nn.Softmax(1), "no kernel for softmax"),
        (nn.LayerNorm((1, 4)), r"LayerNorm over \(1, 4\)"),
    ],
)
def test_what_has_no_kernel_is_named(module: nn.Module, message: str) -> None:
    x = torch.ones(1, 1, 4) if isinstance(module, nn.Conv1d | nn.LayerNorm) else torch.ones(1, 4)
    with pytest.raises(
        UserError, match=rf"module {type(module).__name__} cannot be exported to native code: .*{message}"
    ):
        NativeExporter().export(module, (x,), costs={})


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifact, nn.Module]:
    module, example, costs = subnet(conv_supernet(), largest=False)
    artifact = NativeExporter().export(module.eval(), example, costs=costs)
    folder = tmp_path_factory.mktemp("model.native")
    for name, content in artifact.files.items():
        (folder / name).write_bytes(content)
    return folder, artifact, module


def outputs(text: str) -> np.ndarray:
    return np.array([float(line) for line in text.split()], np.float32)


def test_examples_give_the_modules_output(written: tuple[Path, Artifact, nn.Module]) -> None:
    folder, _, module = written
    want = module(torch.zeros(1, 3, 16, 16)).detach().numpy()[0]
    done = subprocess.run([sys.executable, "example.py"], cwd=folder, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(outputs(done.stdout), want, rtol=1e-4, atol=1e-6)
    # The C example, from the source alone, with the flags of the card.
    card = json.loads((folder / CARD).read_text())
    flags = [f for f in card["build"].split()[1:] if f.startswith("-") and f not in ("-shared", "-o")]
    sources = ["example.c", "model.c", *sorted(path.name for path in folder.glob("hw_*.c"))]
    subprocess.run([compiler.compiler()[0], *flags, "-O1", *sources, "-o", "example"], cwd=folder, check=True)
    done = subprocess.run(["./example"], cwd=folder, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(outputs(done.stdout), want, rtol=1e-4, atol=1e-6)


def test_card_says_how_each_matrix_is_stored(written: tuple[Path, Artifact, nn.Module]) -> None:
    card = json.loads(written[1].files[CARD])
    assert card["target"] == targets.best_target().name
    assert card["inputs"] == [{"shape": [3, 16, 16], "type": "float"}]
    assert card["output"] == [10]
    assert {entry["form"] for entry in card["matrices"]} <= {"dense", "pairs", "groups", "sparse"}
    assert all(0 < entry["density"] <= 1 for entry in card["matrices"])


def test_calls_may_run_at_the_same_time(written: tuple[Path, Artifact, nn.Module]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    artifact, exporter = written[1], NativeExporter()
    batches = [np.random.default_rng(i).standard_normal((4, 3, 16, 16)).astype(np.float32) for i in range(8)]
    want = [exporter.run(artifact, (batch,)) for batch in batches]
    with ThreadPoolExecutor(4) as pool:  # each opens the library with scratch memory of its own
        got = list(pool.map(lambda batch: NativeExporter().run(artifact, (batch,)), batches))
    for one, other in zip(want, got, strict=True):
        np.testing.assert_array_equal(one, other)


# ---- compiler and targets -------------------------------------------------------------------------------------------


def test_no_compiler_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    compiler.compiler.cache_clear()
    try:
        with pytest.raises(
            DeviceError, match=r"native code needs a C compiler, but .* not on the path: install gcc or clang"
        ):
            NativeExporter().export(nn.Linear(2, 2), (torch.ones(1, 2),), costs={})
    finally:
        compiler.compiler.cache_clear()


def test_compiler_that_refuses() -> None:
    with pytest.raises(DeviceError, match=r"the C compiler refuses the network: .*error"):
        compiler.build_library({"model.c": b"int model_run(void) { return nothing; }"}, target=targets.best_target())


def test_unknown_target() -> None:
    with pytest.raises(UserError, match="native target must be one of avx512, avx2, neon, portable, but got 'sse'"):
        NativeExporter("sse")


@pytest.mark.slow
def test_kernels_of_another_target_compile(tmp_path: Path) -> None:
    """AVX-512 where this CPU cannot run it: a compiler for the same family still has to take it."""
    if "avx2" not in targets.cpu_features():
        pytest.skip("not an x86 machine")
    example = (torch.ones(1, 8),)
    artifact = NativeExporter("avx512").export(nn.Linear(8, 4).eval(), example, costs={})
    if targets.runs_here(targets.TARGETS["avx512"]):
        assert NativeExporter("avx512").run(artifact, (example[0].numpy(),)).shape == (1, 4)
    else:
        with pytest.raises(DeviceError, match="it needs avx512 instructions, which this CPU does not have"):
            NativeExporter("avx512").run(artifact, (example[0].numpy(),))


def test_library_that_is_not_the_cards(written: tuple[Path, Artifact, nn.Module]) -> None:
    artifact = written[1]
    files = {**artifact.files, artifact.entry: artifact.content + b"x"}
    changed = Artifact("native", "fp32", files, artifact.entry, {}, artifact.input_shapes)
    with pytest.raises(DeviceError, match=r"it is not the one that its card\.json names"):
        NativeExporter().run(changed, (np.zeros((1, 3, 16, 16), np.float32),))
