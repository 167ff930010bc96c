"""Search a small space for few multiplications and few stored bytes; no data, no training, a few seconds.

python examples/search_costs.py [FOLDER]
"""

import sys
from pathlib import Path

import hwsearch

result = hwsearch.search(
    {"family": "mlp", "params": {"input_shape": [1, 8, 8], "n_classes": 10, "hidden": [[8, 16, 32], [8, 16, 32]]}},
    ["macs", "stored_bytes", "parameters"],
    budget=20,
    run_dir=Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example"),
    settings={
        "sparsity.choices": ["dense", "unstructured-0.5", "unstructured-0.8"],
        "executor.kind": "serial",
        "search.engine": "nsga2",
    },
)
for net in result.front:
    print(net.key, dict(net.validated))
print("fewest bytes:", result.best("stored_bytes").key)
print("the report:", result.path / "report.html")
