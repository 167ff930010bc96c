"""Every kernel against torch: drawn shapes and densities, unaligned memory, odd sizes, empty rows, all activations."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from hwsearch.native.compiler import build_library
from hwsearch.native.memory import node_scratch
from hwsearch.native.nodes import ACTIVATIONS, Network, Node
from hwsearch.native.packing import pack_groups, pack_pairs, pack_vector
from hwsearch.native.targets import TARGETS, Target, padded, runs_here

FloatArray = NDArray[np.float32]
TOLERANCE = 1e-5
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}
quick = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(params=list(TARGETS))
def target(request: pytest.FixtureRequest) -> Target:
    target = TARGETS[request.param]
    if not runs_here(target):
        pytest.skip(f"this CPU has no {target.name} instructions")
    return target


@cache
def probe(target: Target) -> ctypes.CDLL:
    content = build_library({"probe.c": Path(__file__).with_name("probe.c").read_bytes()}, target=target)
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(content)
        file.flush()
        return ctypes.CDLL(file.name)


def call(target: Target, name: str, *arguments: object) -> None:
    converted: list[object] = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            converted.append(ctypes.c_void_p(argument.ctypes.data))
        elif argument is None:
            converted.append(ctypes.c_void_p())
        else:
            converted.append(ctypes.c_float(argument) if isinstance(argument, float) else argument)
    getattr(probe(target), f"probe_{name}")(*converted)


def matrix(values: FloatArray, vector: int, *, shift: int = 0) -> FloatArray:
    """Rows padded to whole vectors, `shift` floats from an aligned address; room for two vectors behind."""
    rows, n = values.shape
    stride = padded(n, vector)
    memory = np.zeros(rows * stride + 2 * vector + 32, np.float32)
    skip = (-memory.ctypes.data % 64) // 4 + shift
    out = memory[skip : skip + rows * stride].reshape(rows, stride)
    out[:, :n] = values
    return out


def close(got: FloatArray, want: Tensor, scale: float = 1.0) -> None:
    """Relative to the largest value, at least 1: sums of products lose that much in any order."""
    expected = want.numpy()
    assert np.abs(got - expected).max(initial=0.0) <= TOLERANCE * max(1.0, np.abs(expected).max(initial=0.0)) * scale


def sparse(rng: np.random.Generator, outputs: int, inputs: int, density: float) -> FloatArray:
    weight = rng.standard_normal((outputs, inputs)) * (rng.random((outputs, inputs)) < density) / np.sqrt(inputs)
    weight[rng.random(outputs) < 0.1] = 0.0  # empty rows
    return weight.astype(np.float32)


sizes = st.integers(1, 40)
densities = st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0])


@quick
@given(
    outputs=sizes,
    inputs=sizes,
    n=st.sampled_from([2, 7, 8, 25, 49, 57, 113, 196]),
    density=densities,
    block=st.one_of(st.none(), st.integers(1, 20)),
    together=st.integers(1, 4),
    act=st.sampled_from(ACTIVATIONS),
    residual=st.booleans(),
    shift=st.integers(0, 3),
    form=st.sampled_from(["pairs", "groups", "dense"]),
    seed=st.integers(0, 9),
)
def test_matrix(
    target: Target,
    outputs: int,
    inputs: int,
    n: int,
    density: float,
    block: int | None,
    together: int,
    act: str,
    residual: bool,
    shift: int,
    form: str,
    seed: int,
) -> None:
    rng, vector = np.random.default_rng(seed), target.vector
    weight = sparse(rng, outputs, inputs, density)
    bias = rng.standard_normal(outputs).astype(np.float32)
    x = matrix(rng.standard_normal((inputs, n)).astype(np.float32), vector, shift=shift)
    more = matrix(rng.standard_normal((outputs, n)).astype(np.float32), vector, shift=shift) if residual else None
    y = matrix(np.full((outputs, n), np.nan, np.float32), vector, shift=shift)
    stride = padded(n, vector)
    if form == "pairs":
        stream = pack_pairs(weight, stride=stride, block=block, together=together)
    else:
        stream = pack_groups(weight, stride=stride, dense=form == "dense", together=together)
    kernel = "pairs" if form == "pairs" else "groups"
    call(target, kernel, x, y, stream, stride // vector, stride, bias, more, ACTIVATIONS.index(act))
    sums = torch.from_numpy(weight).double() @ torch.from_numpy(x[:, :n]).double() + torch.from_numpy(bias)[:, None]
    want = FUNCTIONS[act](sums + (0.0 if more is None else torch.from_numpy(more[:, :n])))
    close(y[:, :n], want)
    assert np.isfinite(y).all()  # what stands behind the last position too


@quick
@given(
    outputs=sizes,
    inputs=sizes,
    density=densities,
    act=st.sampled_from(ACTIVATIONS),
    residual=st.booleans(),
    dense=st.booleans(),
    seed=st.integers(0, 9),
)
def test_vector(
    target: Target, outputs: int, inputs: int, density: float, act: str, residual: bool, dense: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = sparse(rng, outputs, inputs, density)
    x, bias, more = (rng.standard_normal(size).astype(np.float32) for size in (inputs, outputs, outputs))
    y, number = np.full(outputs, np.nan, np.float32), ACTIVATIONS.index(act)
    added = more if residual else None
    if dense:
        call(target, "dense_vector", x, y, weight, outputs, inputs, bias, added, number)
    else:
        call(target, "sparse_vector", x, y, pack_vector(weight), outputs, bias, added, number)
    sums = torch.from_numpy(weight).double() @ torch.from_numpy(x).double() + torch.from_numpy(bias)
    close(y, FUNCTIONS[act](sums + (torch.from_numpy(more) if residual else 0.0)))


@quick
@given(
    channels=st.integers(1, 4),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    kernel=st.sampled_from([1, 3, 5, 7, 9]),
    stride=st.sampled_from([1, 2]),
    less=st.integers(0, 1),
    act=st.sampled_from(["none", "relu", "hardswish", "silu"]),
    residual=st.booleans(),
    seed=st.integers(0, 9),
)
def test_depthwise(
    target: Target,
    channels: int,
    height: int,
    width: int,
    kernel: int,
    stride: int,
    less: int,
    act: str,
    residual: bool,
    seed: int,
) -> None:
    rng, vector = np.random.default_rng(seed), target.vector
    padding = max(0, kernel // 2 - less)
    if min(height, width) + 2 * padding < kernel:
        return
    image = rng.standard_normal((channels, height, width)).astype(np.float32)
    weight = rng.standard_normal((channels, 1, kernel, kernel)).astype(np.float32) / kernel
    bias = rng.standard_normal(channels).astype(np.float32)
    sums = F.conv2d(
        torch.from_numpy(image)[None].double(),
        torch.from_numpy(weight).double(),
        torch.from_numpy(bias).double(),
        stride,
        padding,
        groups=channels,
    )[0]
    rows, columns = sums.shape[1:]
    x, y = matrix(image.reshape(channels, -1), vector), matrix(np.zeros((channels, rows * columns), np.float32), vector)
    more = matrix(rng.standard_normal((channels, rows * columns)).astype(np.float32), vector) if residual else None
    names = ("channels", "height", "width", "kernel", "stride", "padding", "out_height", "out_width")
    values = (channels, height, width, kernel, stride, padding, rows, columns)
    node = Node("depthwise", [0], 1, numbers=dict(zip(names, values, strict=True)))
    scratch = np.full(node_scratch(node, Network((), (), (), 0, ()), vector=vector, strip=0), np.nan, np.float32)
    means = np.zeros(channels, np.float32)
    place = np.array(values, np.int32)
    call(target, "depthwise", x, y, weight, place, means, scratch, bias, more, ACTIVATIONS.index(act))
    n = rows * columns
    added = 0.0 if more is None else torch.from_numpy(more[:, :n]).view(channels, rows, columns)
    want = FUNCTIONS[act](sums + added)
    close(y[:, :n], want.reshape(channels, n))
    close(means, want.mean((1, 2)))
    assert np.isfinite(y).all()


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("count", [1, 7, 8, 33])
def test_activations(target: Target, act: str, count: int) -> None:
    x = np.random.default_rng(0).uniform(-12, 12, count).astype(np.float32)
    x[0] = -90.0 if count > 1 else 0.5  # exponentials must not overflow
    y = np.empty_like(x)
    call(target, "unary", x, y, count, ACTIVATIONS.index(act))
    close(y, FUNCTIONS[act](torch.from_numpy(x)))


@quick
@given(channels=st.integers(2, 50), n=st.integers(1, 20), seed=st.integers(0, 9))
def test_layernorm(target: Target, channels: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = matrix((3 * rng.standard_normal((channels, n)) + 1).astype(np.float32), target.vector)
    weight, bias = (rng.standard_normal(channels).astype(np.float32) for _ in range(2))
    y = matrix(np.zeros((channels, n), np.float32), target.vector)
    call(target, "layernorm", x, y, weight, bias, 1e-5, channels, n)
    tokens = torch.from_numpy(x[:, :n].T.copy())
    close(y[:, :n], F.layer_norm(tokens, (channels,), torch.from_numpy(weight), torch.from_numpy(bias)).T, 2.0)


@quick
@given(
    heads=st.integers(1, 3),
    size=st.integers(1, 9),
    queries=st.integers(1, 40),
    keys=st.integers(1, 20),
    mask=st.booleans(),
    seed=st.integers(0, 9),
)
def test_attention(target: Target, heads: int, size: int, queries: int, keys: int, mask: bool, seed: int) -> None:
    rng, vector = np.random.default_rng(seed), target.vector
    q, k, v = (rng.standard_normal((heads, size, n)).astype(np.float32) for n in (queries, keys, keys))
    seen = rng.random(keys) < 0.7
    seen[0] = True
    added = np.where(seen, 0.0, -1e30).astype(np.float32) if mask else None
    placed = [matrix(part.reshape(heads * size, -1), vector) for part in (q, k, v)]
    y = matrix(np.zeros((heads * size, queries), np.float32), vector)
    numbers = {"heads": heads, "size": size, "queries": queries, "keys": keys}
    node = Node("attention", [], 0, numbers=numbers)
    scratch = np.empty(node_scratch(node, Network((), (), (), 0, ()), vector=vector, strip=0), np.float32)
    call(target, "attention", *placed, y, heads, size, queries, keys, size**-0.5, added, scratch)
    tensors = [torch.from_numpy(part).transpose(1, 2) for part in (q, k, v)]
    shown = torch.from_numpy(seen)[None, None, :] if mask else None
    want = F.scaled_dot_product_attention(*(t[None] for t in tensors), attn_mask=shown)[0]
    close(y[:, :queries], want.transpose(1, 2).reshape(heads * size, queries))
