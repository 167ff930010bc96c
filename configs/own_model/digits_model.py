"""A small ResNet for handwritten digits, trained once by this file and then searched as it is.

python configs/own_model/digits_model.py    # trains (half a minute), writes runs/digits_resnet.safetensors and .onnx
"""

from pathlib import Path

import torch
from torch import nn

FILE = Path("runs/digits_resnet.safetensors")


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down = None
        if stride != 1 or inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        identity = x if self.down is None else self.down(x)
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + identity)


class ResNet(nn.Module):
    def __init__(self, width=16, n_classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.layer1 = nn.Sequential(Block(width, width, 1), Block(width, width, 1))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(Block(2 * width, 4 * width, 2), Block(4 * width, 4 * width, 1))
        self.fc = nn.Linear(4 * width, n_classes)

    def forward(self, x):
        return self.fc(self.layer3(self.layer2(self.layer1(self.stem(x)))).mean((2, 3)))


def trained(seed=0, epochs=12):
    """Returns the network trained on the train split of the digits."""
    from hwsearch.data.digits import DigitsSpec
    from hwsearch.training.config import TrainingConfig
    from hwsearch.training.network_training import train_network

    torch.manual_seed(seed)
    model = ResNet()
    config = TrainingConfig(epochs=epochs, batch_size=64, learning_rate=0.004, seed=seed)
    train_network(model, DigitsSpec().open(), config)
    return model.eval()


def build():
    """Returns the trained network: what `supernet.params.model` names."""
    from safetensors.torch import load_file

    if not FILE.is_file():
        raise ValueError(f"{FILE} must exist: python {__file__} trains the network and writes it")
    model = ResNet()
    model.load_state_dict(load_file(FILE))
    return model.eval()


if __name__ == "__main__":
    from safetensors.torch import save_file

    FILE.parent.mkdir(exist_ok=True)
    model = build() if FILE.is_file() else trained()
    save_file(model.state_dict(), FILE)
    example, onnx_file = (torch.zeros(2, 1, 32, 32),), FILE.with_suffix(".onnx")
    shapes = ({0: torch.export.Dim("batch")},)  # the batch must stay open
    torch.onnx.export(model, example, onnx_file, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)
    print(f"wrote {FILE} and {onnx_file}")
