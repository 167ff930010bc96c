"""The generated model.py: runs without hwsearch, loads the safetensors file, and computes the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwsearch.errors import UserError
from hwsearch.export.source import model_source
from hwsearch.export.weights import encode
from tests.contracts.nets import conv_supernet, mlp_supernet, subnet


def run(source: str) -> nn.Module:
    """Returns a `Model` of the generated source."""
    scope: dict[str, object] = {"__file__": "model.py", "__name__": "model"}
    exec(compile(source, "model.py", "exec"), scope)
    model = scope["Model"]()  # type: ignore[operator]
    assert isinstance(model, nn.Module)
    return model


def assert_same(module: nn.Module, *inputs: Tensor) -> None:
    module.eval()
    made = run(model_source(module, n_inputs=len(inputs)))
    made.load_state_dict(module.state_dict())
    made.eval()
    with torch.no_grad():
        assert torch.equal(made(*(x.clone() for x in inputs)), module(*(x.clone() for x in inputs)))


@pytest.mark.parametrize("make", [conv_supernet, mlp_supernet])
@pytest.mark.parametrize("largest", [True, False])
def test_families(make, largest: bool) -> None:
    module, example, _ = subnet(make(), largest=largest)
    assert_same(module, torch.randn(3, *example[0].shape[1:]))


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True)))
        self.pool = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
        self.shift = nn.Parameter(torch.randn(4, 1, 1))
        self.register_buffer("scale", torch.rand(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(x) * self.scale + self.shift
        z = self.pool(y)
        z = z / 2 - z.mean((2, 3), keepdim=True)
        return torch.cat([z.flatten(1), y.relu().mean(dim=(2, 3))], dim=1)


def test_tensors_of_its_own_and_functions() -> None:
    assert_same(Mixed(), torch.randn(2, 3, 7, 7))


def test_two_inputs_and_numbered_layers() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU()])

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            for part in self.parts:
                x = part(x)
            return x @ y

    assert_same(Two(), torch.randn(2, 4, 4), torch.randn(2, 4, 4))


ODD = [
    (nn.Conv2d(4, 6, (1, 3), stride=(1, 2), padding=(0, 1), dilation=1, groups=2, padding_mode="reflect"), (4, 8, 8)),
    (nn.Conv2d(4, 6, 3, padding="same", dilation=2), (4, 8, 8)),
    (nn.BatchNorm2d(4, eps=1e-3, momentum=None, affine=False), (4, 3, 3)),
    (nn.BatchNorm1d(4, track_running_stats=True), (4,)),
    (nn.Linear(4, 3, bias=False), (4,)),
    (nn.LayerNorm((2, 4), eps=1e-6, bias=False), (2, 4)),
    (nn.LayerNorm(4, elementwise_affine=False), (4,)),
    (nn.AvgPool2d(3, 2, 1, divisor_override=5), (4, 8, 8)),
    (nn.MaxPool2d(3, stride=1, dilation=2, ceil_mode=True), (4, 8, 8)),
    (nn.GELU(approximate="tanh"), (4,)),
    (nn.AdaptiveAvgPool2d((2, 1)), (4, 8, 8)),
    (nn.Dropout(0.3), (4,)),
    (nn.Flatten(2), (4, 2, 2)),
]


@pytest.mark.parametrize("case", range(len(ODD)))
def test_layers_are_made_with_their_own_settings(case: int) -> None:
    layer, shape = ODD[case]
    module = nn.Sequential(layer)
    assert_same(module, torch.randn(2, *shape))
    assert repr(run(model_source(module)).get_submodule("0")) == repr(layer)


def test_loads_in_a_process_without_hwsearch(tmp_path: Path) -> None:
    module, example, _ = subnet(conv_supernet(), largest=True)
    (tmp_path / "model.py").write_text(model_source(module, title="Net 'a'."))
    (tmp_path / "model.safetensors").write_bytes(encode(module.state_dict()))
    np.save(tmp_path / "x.npy", example[0].numpy())
    program = (
        "import sys, numpy as np, torch, model\n"
        "y = model.load()(torch.from_numpy(np.load('x.npy')))\n"
        "assert not [m for m in sys.modules if m.startswith(('hwsearch', 'search_spaces'))]\n"
        "np.save('y.npy', y.detach().numpy())\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, env={"PYTHONPATH": str(tmp_path)})
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), module(example[0]).detach().numpy())


def test_source_reads_well() -> None:
    module, _, _ = subnet(conv_supernet(), largest=False)
    source = model_source(module, title='Says """ and \\n.')
    assert source.startswith("\"\"\"Says ''' and /n.\n")
    assert "        self.stem.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)\n" in source
    assert "        # stage1.block1.expand\n        y" in source
    assert source.count("y4") == 0  # names are used again


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(2, 2), "a module that is a single layer"),
        (nn.Sequential(nn.LSTM(4, 4)), "layer LSTM"),
        (nn.Sequential(nn.Softplus()), "layer Softplus"),
    ],
)
def test_what_cannot_be_written(module: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=rf"model\.py cannot be written for \w+: {message}"):
        model_source(module)


def test_unused_tensors_are_refused() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x)

    with pytest.raises(UserError, match=r"a tensor b\.weight outside the layers that are called"):
        model_source(Unused())
