"""How exported files agree with their module: every exporter and precision, in its engine.

python -m benchmarks.measurement.agreement

fp32 on MobileNetV3 subnets with random weights (largest error, relative to the largest output); every precision on a
small CNN trained on scikit-learn's digits, on 397 images that neither training nor calibration saw (top-1 agreement
with the fp32 module, and accuracy in the engine).
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from benchmarks.measurement.nets import modules, one_thread, space, stratified
from hwsearch.build import registry
from hwsearch.errors import DeviceError, UserError
from hwsearch.export.verify import compare

PRECISIONS = {"onnx": ("fp32", "int8", "int8-dynamic"), "openvino": ("fp32", "bf16", "int8"), "litert": ("fp32",)}
N_TRAIN = 1400


def digits_net() -> tuple[nn.Module, torch.Tensor, np.ndarray]:
    """Returns a CNN trained on the first 1,400 digits, all images, and their labels."""
    digits = load_digits()
    x = torch.from_numpy(digits.images.astype(np.float32) / 16).unsqueeze(1)
    y = torch.from_numpy(digits.target)
    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.BatchNorm2d(32), nn.Hardswish()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    for step in range(300):
        rows = torch.randperm(N_TRAIN)[:64]
        loss = nn.functional.cross_entropy(module(x[rows]), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for group in optimiser.param_groups:
            group["lr"] = 0.01 * (1 - step / 300)
    return module.eval(), x, digits.target


def calibrated(module: nn.Module) -> nn.Module:
    """Returns the module with the BatchNorm statistics of noise; with its initial ones no signal reaches the output."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for part in norms:
        part.reset_running_stats()
        part.momentum = None
    module.train()
    with torch.no_grad():
        module(torch.randn(16, 3, 128, 128))
    return module.eval()


def main() -> None:
    one_thread()
    supernet = space(128)
    nets = [(calibrated(m), e, c) for m, e, c in modules(supernet, stratified(supernet, 4, seed=0))]
    trained, x, labels = digits_net()
    test = x[N_TRAIN:]
    with torch.no_grad():
        print(f"fp32 module: accuracy {np.mean(trained(test).argmax(1).numpy() == labels[N_TRAIN:]):.4f}")
    print("| format | precision | error, 4 MobileNetV3 | error, digits | top-1 agreement | accuracy in the engine |")
    print("|---|---|---|---|---|---|")
    for name, precisions in PRECISIONS.items():
        exporter = registry.named("exporters", name, "exporter")()
        for precision in precisions:
            large = "-"
            if precision == "fp32":
                batches = [(torch.randn(2, 3, 128, 128),)]
                found = [compare(m, exporter.export(m, e, costs=c), exporter, batches=batches) for m, e, c in nets]
                large = f"{max(agreement.max_rel_error for agreement in found):.1e}"
            try:
                calibration = [(x[i : i + 50],) for i in range(0, 300, 50)]
                artifact = exporter.export(trained, (x[:1],), precision=precision, costs={}, calibration=calibration)
                own = compare(trained, artifact, exporter, batches=[(test,)])
                right = np.mean(exporter.run(artifact, (test.numpy(),)).argmax(1) == labels[N_TRAIN:])
            except (DeviceError, UserError) as error:
                print(f"| {name} | {precision} | {large} | {error} | | |")
                continue
            print(
                f"| {name} | {precision} | {large} | {own.max_rel_error:.1e} | {own.top1_agreement:.4f} | {right:.4f} |"
            )


if __name__ == "__main__":
    main()
