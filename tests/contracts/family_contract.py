"""What every family of networks keeps: one slicing rule, exact costs, weights that convert both ways."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.architecture import Architecture
from search_spaces.ordering import reorder_channels
from search_spaces.published import from_published, published_names, to_published
from search_spaces.slicing import slice_tensor
from search_spaces.supernet import Family, SparsityGenes, Supernet
from tests.search_spaces.nets import counted_macs, equal_states, state, supernet

SPARSE = SparsityGenes(choices=("dense", "unstructured-0.6", "2:4"))


class FamilyContract(ABC):
    """Inherited by one class per family, which supplies a small instance."""

    @abstractmethod
    def family(self) -> Family:
        """A family whose networks run in milliseconds."""

    def inputs(self, family: Family, arch: Architecture, batch: int = 2) -> tuple[Tensor, ...]:
        return family.example_inputs(batch=batch, generator=torch.Generator().manual_seed(1), arch=arch)

    def archs(self, net: Supernet, n: int = 4) -> list[Architecture]:
        rows = net.space.sample(n, np.random.default_rng(0))
        return [net.space.smallest(), net.space.largest(), *net.space.architectures(rows)]

    @torch.no_grad()
    def test_the_largest_subnet_is_the_full_network(self) -> None:
        net = supernet(self.family())
        inputs = self.inputs(net.family, net.space.largest())
        assert torch.equal(net.extract(net.space.largest())(*inputs), net.full(*inputs))

    @torch.no_grad()
    def test_extracted_subnets_equal_forward_bit_for_bit(self) -> None:
        for sparsity in (None, SPARSE):
            net = supernet(self.family(), sparsity=sparsity)
            before = state(net)
            for arch in self.archs(net):
                inputs = self.inputs(net.family, arch)
                assert torch.equal(net(inputs, arch), net.extract(arch)(*inputs))
            assert equal_states(state(net), before)

    @torch.no_grad()
    def test_examples_fit_and_batches_do_not_mix(self) -> None:
        net = supernet(self.family())
        for arch in self.archs(net, 2):
            subnet = net.extract(arch)
            inputs = self.inputs(net.family, arch, batch=3)
            assert all(len(x) == 3 for x in inputs)
            first = subnet(*(x[:1] for x in inputs))
            torch.testing.assert_close(subnet(*inputs)[:1], first, rtol=1e-4, atol=1e-4)

    def test_costs_equal_counts_on_built_modules(self) -> None:
        """MACs of convolutions and linear layers by hooks, parameters and stored bytes by tensors, zeros by value."""
        for sparsity in (None, SPARSE):
            net = supernet(self.family(), sparsity=sparsity)
            archs = self.archs(net)
            costs = net.costs(np.stack([net.space.row(arch) for arch in archs]))
            for i, arch in enumerate(archs):
                subnet = net.extract(arch)
                layers = net.layer_costs(arch)
                products = sum(int(np.sum(x.macs())) for x in layers.layers if x.kind == "matmul")
                assert costs.macs[i] == products + counted_macs(subnet, self.inputs(net.family, arch, batch=1))
                assert costs.parameters[i] == sum(p.numel() for p in subnet.parameters())
                assert costs.nonzeros[i] == sum(int((p != 0).sum()) for p in subnet.parameters())
                stored = sum(t.numel() * t.element_size() for t in (*subnet.parameters(), *subnet.buffers()))
                assert costs.stored_bytes[i] == stored if sparsity is None else costs.stored_bytes[i] <= stored
                assert costs.metrics(i) == layers.metrics()

    def test_layers_are_the_weighted_modules(self) -> None:
        net = supernet(self.family())
        for arch in self.archs(net, 2):
            subnet = net.build(arch)
            layers = {x.name: x for x in net.layer_costs(arch).layers if bool(np.all(x.active))}
            for name, module in subnet.named_modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    assert int(np.sum(layers[name].weights())) == module.weight.numel(), name
                    assert layers[name].bias == (module.bias is not None), name

    def test_gradients_stay_inside_the_slice(self) -> None:
        net = supernet(self.family())
        arch = net.space.smallest()
        net(self.inputs(net.family, arch), arch).square().sum().backward()
        shapes = {name: t.shape for name, t in net.build(arch).named_parameters()}
        for name, parameter in net.full.named_parameters():
            if parameter.grad is not None and name in shapes and name not in net.family.transforms:
                outside = parameter.grad.clone()
                slice_tensor(outside, shapes[name]).zero_()
                assert (outside == 0).all(), name
            if parameter.grad is not None and name not in shapes:
                assert "matrix_" in name or (parameter.grad == 0).all(), name

    @torch.no_grad()
    def test_sorting_channels_keeps_the_largest_network(self) -> None:
        net = supernet(self.family())
        inputs = self.inputs(net.family, net.space.largest())
        expected = net(inputs, net.space.largest())
        orders = reorder_channels(net)
        assert any((order != torch.arange(len(order))).any() for order in orders.values())
        scale = expected.abs().max()
        torch.testing.assert_close(net(inputs, net.space.largest()) / scale, expected / scale, rtol=0, atol=1e-4)

    def test_published_tensors_load_again_also_without_storage(self) -> None:
        net = supernet(self.family())
        kept = {f"full.{name}" for name in published_names(net)}
        for other in (Supernet(self.family(), seed=3), Supernet(self.family(), meta=True)):
            from_published(other, to_published(net))
            assert all(torch.equal(t, other.state_dict()[name]) for name, t in state(net).items() if name in kept)
            assert not any(t.is_meta for t in other.tensors().values())
