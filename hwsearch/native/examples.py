"""Examples: the ten lines that call a library from C and from Python, written beside it."""

from __future__ import annotations

from math import prod

from hwsearch.native.nodes import Network


def c(network: Network) -> str:
    """Returns a C program that runs the network on zeros and prints its outputs."""
    arrays = "\n".join(f"    static {kind} in{i}[{prod(shape)}];" for i, (shape, kind) in enumerate(network.inputs))
    names = ", ".join(f"in{i}" for i in range(len(network.inputs)))
    return f"""/* cc <the flags in card.json> example.c model.c hw_*.c -o example && ./example */
#include "model.h"
#include <stdio.h>
#include <stdlib.h>

int main(void)
{{
{arrays}
    static float out[MODEL_OUTPUTS];
    void *scratch = malloc(MODEL_SCRATCH_BYTES);
    if (!scratch)
        return 1;
    model_run(1, {names}, out, scratch);
    for (int i = 0; i < MODEL_OUTPUTS; i++)
        printf("%.9g\\n", out[i]);
    free(scratch);
    return 0;
}}
"""


def python(network: Network) -> str:
    """Returns a Python program, NumPy only, that does the same with the shared library."""
    dtypes = {"float": "np.float32", "int64_t": "np.int64"}
    inputs = "\n".join(
        f"in{i} = np.zeros((1, {', '.join(map(str, shape))}), {dtypes[kind]})"
        for i, (shape, kind) in enumerate(network.inputs)
    )
    names = ", ".join(f"in{i}" for i in range(len(network.inputs)))
    return f"""import ctypes
import json
from pathlib import Path

import numpy as np

here = Path(__file__).parent
card = json.loads((here / "card.json").read_text())
{inputs}
out = np.empty((1, *card["output"]), np.float32)
scratch = np.empty(card["scratch_bytes"], np.uint8)
run = ctypes.CDLL(str(here / "model.so")).model_run
run(1, *(ctypes.c_void_p(a.ctypes.data) for a in ({names}, out, scratch)))
print(*(f"{{value:.9g}}" for value in out.flat), sep="\\n")
"""
