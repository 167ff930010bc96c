"""What every exporter must do."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hwsearch.errors import DeviceError, UserError
from hwsearch.export.base import Exporter
from hwsearch.export.verify import verify
from hwsearch.results import Artifact
from tests.contracts.nets import conv_supernet, mlp_supernet, subnet


class Strange(nn.Module):
    """Uses an operator that no inference format has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.abs(torch.linalg.eigvals(x))


class ExporterContract:
    """Inherit and supply `exporter`."""

    tolerance: float | None = 1e-4
    deterministic = True
    refuses_strange = True
    slow = False
    """Exporting takes seconds."""

    @pytest.fixture
    def exporter(self) -> Exporter:
        raise NotImplementedError

    @pytest.mark.parametrize("largest", [True, False])
    @pytest.mark.parametrize("make", [conv_supernet, mlp_supernet])
    def test_artifact_agrees_with_module(self, exporter: Exporter, make, largest: bool) -> None:
        if largest and make is conv_supernet and self.slow:
            pytest.skip("the smallest CNN has every layer of it")
        module, example, costs = subnet(make(), largest=largest)
        artifact = exporter.export(module, example, costs=costs)
        generator = torch.Generator().manual_seed(3)
        batches = [(torch.randn(n, *example[0].shape[1:], generator=generator),) for n in (1, 5)]
        agreement = verify(module, artifact, exporter, batches=batches, tolerance=self.tolerance)
        assert agreement.n_examples == 6
        assert agreement.top1_agreement == 1.0
        assert artifact.format == exporter.format
        assert artifact.precision == "fp32"
        assert artifact.costs == costs
        assert list(artifact.input_shapes.values()) == [tuple(example[0].shape[1:])]
        assert len(artifact.content) > 0

    def test_module_is_left_as_it_was(self, exporter: Exporter) -> None:
        module, example, costs = subnet(mlp_supernet() if self.slow else conv_supernet(), largest=False)
        module.train()
        next(module.children()).eval()  # mixed modes must survive
        before = copy.deepcopy(module)
        artifact = exporter.export(module, example, costs=costs)
        exporter.run(artifact, (example[0].numpy(),))
        assert_same_module(module, before)

    def test_same_module_gives_same_bytes(self, exporter: Exporter) -> None:
        if not self.deterministic:
            pytest.skip("the format does not promise it")
        module, example, costs = subnet(conv_supernet(), largest=False)
        one = exporter.export(module, example, costs=costs)
        other = exporter.export(copy.deepcopy(module), example, costs=costs)
        assert one.sha256 == other.sha256

    def test_unknown_precision(self, exporter: Exporter) -> None:
        module, example, costs = subnet(mlp_supernet(), largest=False)
        with pytest.raises(UserError, match=r"precision of format \w+ must be one of .*, but got 'fp3'"):
            exporter.export(module, example, precision="fp3", costs=costs)

    def test_operator_without_counterpart(self, exporter: Exporter) -> None:
        if not self.refuses_strange:
            pytest.skip("the format takes every operator of torch")
        with pytest.raises(UserError, match=r"module Strange cannot be exported.*eigvals") as caught:
            exporter.export(Strange(), (torch.randn(1, 8, 8),), costs={})
        assert "\n" not in str(caught.value)

    def test_layer_of_an_operator_without_counterpart(self, exporter: Exporter) -> None:
        if not self.refuses_strange:
            pytest.skip("the format takes every operator of torch")
        module = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(8, 8), Strange()))
        with pytest.raises(UserError, match=r"eigvals.* in layer 1\.1") as caught:
            exporter.export(module, (torch.randn(1, 8, 8),), costs={})
        assert "\n" not in str(caught.value)

    def test_broken_bytes(self, exporter: Exporter) -> None:
        module, example, costs = subnet(mlp_supernet(), largest=False)
        artifact = exporter.export(module, example, costs=costs)
        files = {name: content[: len(content) // 2] for name, content in artifact.files.items()}
        broken = Artifact(artifact.format, artifact.precision, files, artifact.entry, {}, artifact.input_shapes)
        with pytest.raises(DeviceError, match="cannot open the") as caught:
            exporter.run(broken, (np.zeros((1, 8, 8), np.float32),))
        assert "\n" not in str(caught.value)

    def test_wrong_input_shape(self, exporter: Exporter) -> None:
        module, example, costs = subnet(mlp_supernet(), largest=False)
        artifact = exporter.export(module, example, costs=costs)
        with pytest.raises(DeviceError, match="cannot run the") as caught:
            exporter.run(artifact, (np.zeros((1, 9, 8), np.float32),))
        assert "\n" not in str(caught.value)


def assert_same_module(module: nn.Module, before: nn.Module) -> None:
    """Bit-equal tensors, equal modes and gradients' flags."""
    assert [(n, m.training) for n, m in module.named_modules()] == [(n, m.training) for n, m in before.named_modules()]
    now, then = module.state_dict(), before.state_dict()
    assert list(now) == list(then)
    assert all(torch.equal(now[name], then[name]) for name in now)
    assert [p.requires_grad for p in module.parameters()] == [p.requires_grad for p in before.parameters()]
