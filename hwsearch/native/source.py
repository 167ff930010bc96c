"""Source: a network as C - one function that calls kernels, a header, and the weights as binary data."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from hwsearch.native.calls import WRITERS, Writer
from hwsearch.native.forms import Choose
from hwsearch.native.memory import plan_memory
from hwsearch.native.nodes import Network, Node
from hwsearch.native.targets import Target

WEIGHTS = "model.bin"


@dataclass
class Source:
    """A network written down.

    Args:
        files: `model.c`, `model.h`, `model.bin`.
        forms: per matrix: its name in the C source and its form.
        scratch_bytes: what the caller provides.
    """

    files: dict[str, bytes]
    forms: list[dict[str, object]]
    scratch_bytes: int


def write_source(network: Network, *, target: Target, choose: Choose) -> Source:
    """Returns the C source of a network.

    Args:
        network: from `lower`.
        target: instruction set; strides and the order of weights depend on its vectors.
        choose: says which form each weight matrix takes.
    """
    strips = {i: _strip(node, target.vector) for i, node in enumerate(network.nodes) if node.numbers.get("patches")}
    layout = plan_memory(network, vector=target.vector, strips=strips)
    writer = Writer(network, target, choose, strips, layout)
    for i, node in enumerate(network.nodes):
        WRITERS[node.kind](writer, i, node)
    scratch = 4 * layout.floats + 64
    header = _header(network, scratch)
    files = {"model.c": _body(writer).encode(), "model.h": header.encode(), WEIGHTS: bytes(writer.blob)}
    return Source(files, writer.forms, scratch)


def _strip(node: Node, vector: int) -> int:
    """Returns how many rows of pixels are cut into patches at a time: whole vectors that stay in the caches."""
    numbers = node.numbers
    height, width = numbers["out_height"], numbers["out_width"]
    rows = numbers["channels"] * numbers["kernel"] ** 2
    whole = [r for r in range(1, height) if height % r == 0 and r * width % vector == 0]
    fitting = [r for r in whole if 4 * rows * r * width <= 256 * 1024]
    if height * width % vector or not whole:
        return int(height)
    return max(fitting, default=whole[0])


# ---- files --------------------------------------------------------------------------------------------------------


def _parameters(network: Network) -> str:
    return ", ".join(f"const {kind} *in{i}" for i, (_, kind) in enumerate(network.inputs))


def _header(network: Network, scratch: int) -> str:
    shapes = "".join(
        f" * in{i}: batch x {' x '.join(map(str, shape))} {kind}\n" for i, (shape, kind) in enumerate(network.inputs)
    )
    out = " x ".join(map(str, network.output_shape))
    return f"""/* model.h: one network, written by hwsearch. No other library is needed; calls may run at the same time.
 *
{shapes} * out: batch x {out} float
 * scratch: MODEL_SCRATCH_BYTES bytes, of any content, for each call that runs at the same time
 */
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#define MODEL_SCRATCH_BYTES {scratch}
#define MODEL_OUTPUTS {prod(network.output_shape)}

#ifdef __cplusplus
extern "C" {{
#endif

void model_run(int batch, {_parameters(network)}, float *out, void *scratch);

#ifdef __cplusplus
}}
#endif

#endif
"""


def _body(w: Writer) -> str:
    network = w.network
    names = [f"in{i}" for i in range(len(network.inputs))]
    advance = "".join(
        f"        {name} += {prod(shape)};\n" for name, (shape, _) in zip(names, network.inputs, strict=True)
    )
    outputs = prod(network.output_shape)
    lines = "".join(f"    {line}\n" for line in w.lines)
    return f"""/* model.c: one network, written by hwsearch for {w.target.name}. Build it with the hw_*.c files. */
#include "model.h"
#include "hw_kernels.h"

/* The weights are ordered for vectors of {w.target.vector} floats: if this is missing, use the flags in card.json. */
static const char *volatile const hw_vectors = &hw_vectors_of_{w.target.vector};

#if defined(__GNUC__) && defined(__ELF__)
__asm__(".section .rodata\\n.balign 64\\n.hidden hw_weights\\n.global hw_weights\\nhw_weights:\\n"
        ".incbin \\"{WEIGHTS}\\"\\n.byte 0\\n.text\\n");
extern const unsigned char hw_weights[];
#else /* elsewhere the caller sets this to the bytes of {WEIGHTS}, at a multiple of 64 */
const unsigned char *hw_weights;
#endif

#ifdef _WIN32
#define MODEL_API __declspec(dllexport)
#elif defined(__GNUC__)
#define MODEL_API __attribute__((visibility("default")))
#else
#define MODEL_API
#endif

static void one({_parameters(network)}, float *out, float *s)
{{
    const unsigned char *w = hw_weights;
    (void)hw_vectors;
{lines}    memcpy(out, {w.at(network.output)}, sizeof(float) * {outputs});
}}

MODEL_API void model_run(int batch, {_parameters(network)}, float *out, void *scratch)
{{
    float *s = (float *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
    for (int i = 0; i < batch; i++) {{
        one({", ".join(names)}, out, s);
{advance}        out += {outputs};
    }}
}}
"""
