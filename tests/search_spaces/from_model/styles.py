"""Small networks of the styles that a user may bring, random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 16), nn.MaxPool2d(2), conv(16, 24), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(24 * 4, 20), nn.ReLU(), nn.Linear(20, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.down = None
        if stride != 1 or inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.down is None else self.down(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 24, 2), Block(24, 24, 1))
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


class Grouped(nn.Module):
    """Grouped and depthwise convolutions, squeeze and excitation, GroupNorm, PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.grouped = conv(16, 32, groups=4)
        self.expand = nn.Conv2d(32, 24, 1)
        self.act = nn.PReLU(24)
        self.depthwise = nn.Conv2d(24, 24, 5, padding=2, groups=24)
        self.multiplied = nn.Conv2d(24, 48, 3, padding=1, groups=24)
        self.squeeze, self.excite = nn.Conv2d(48, 8, 1), nn.Conv2d(8, 48, 1)
        self.norm = nn.GroupNorm(6, 48)
        self.head = nn.Conv2d(48, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.multiplied(self.depthwise(self.act(self.expand(self.grouped(self.stem(x))))))
        x = x * torch.sigmoid(self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(self.norm(x)).mean((2, 3))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 6 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 6 * i, 6, 3, padding=1) for i in range(3))
        self.transition = nn.Conv2d(26, 12, 1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, layer(torch.relu(norm(x)))], 1)
        return self.fc(F.avg_pool2d(self.transition(x), 2).flatten(2).mean(-1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = conv(3, 8), conv(8, 12), conv(12, 16)
        self.up2 = nn.ConvTranspose2d(16, 12, 2, 2)
        self.dec2 = conv(24, 12)
        self.up1 = nn.Upsample(scale_factor=2)
        self.dec1 = conv(20, 8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        b = self.dec2(torch.cat((self.up2(c), b), 1))
        return self.out(self.dec1(torch.cat((self.up1(b), a), 1)))


class C2f(nn.Module):
    """The YOLOv8 building block: a split, a chain of bottlenecks, everything concatenated."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv(inputs, outputs, 1), conv(outputs * 2, outputs, 1)
        self.m = nn.ModuleList(
            nn.Sequential(conv(outputs // 2, outputs // 2), conv(outputs // 2, outputs // 2)) for _ in "ab"
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        for m in self.m:
            parts.append(parts[-1] + m(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class Neck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p3, self.p4, self.p5 = conv(3, 12, stride=2), conv(12, 16, stride=2), conv(16, 24, stride=2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.lateral = conv(48, 16, 1)
        self.top = C2f(32, 16)
        self.bottom = C2f(28, 12)
        self.heads = nn.ModuleList([nn.Conv2d(12, 7, 1), nn.Conv2d(16, 7, 1)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p3 = self.p3(x)
        p4 = self.p4(p3)
        p5 = self.p5(p4)
        p5 = self.lateral(torch.cat([p5, self.pool(p5)], 1))
        p4 = self.top(torch.cat([F.interpolate(p5, scale_factor=2.0), p4], 1))
        p3 = self.bottom(torch.cat([F.interpolate(p4, scale_factor=2.0), p3], 1))
        return self.heads[0](p3), self.heads[1](p4)


class Separate(nn.Module):
    """Post-norm attention with separate projections, written out."""

    def __init__(self, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        scores = (q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
        x = self.norm1(x + self.o(mixed))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 32)
        self.position = nn.Parameter(torch.randn(1, 6, 32))
        self.norm = nn.LayerNorm(32)
        self.layers = nn.Sequential(Separate(), Separate())
        self.out = nn.Linear(32, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.layers(self.norm(self.embed(ids) + self.position))[:, 0])


class Fused(nn.Module):
    """Pre-norm ViT blocks: one linear layer for query, key and value."""

    def __init__(self, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 48), nn.GELU(), nn.Linear(48, dim))

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, 32))
        self.blocks = nn.ModuleList([Fused(), Fused()])
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


class GroupedQuery(nn.Module):
    """Grouped queries, RMSNorm, rotary positions and a gated feed-forward layer (LLaMA)."""

    def __init__(self, dim: int = 32, heads: int = 4, shared: int = 2) -> None:
        super().__init__()
        self.heads, self.shared, self.size = heads, shared, dim // heads
        self.q, self.o = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.k, self.v = (nn.Linear(dim, shared * self.size, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.gate, self.up = nn.Linear(dim, 48, bias=False), nn.Linear(dim, 48, bias=False)
        self.down = nn.Linear(48, dim, bias=False)
        angle = torch.arange(6)[:, None] / 10.0 ** torch.arange(0, 1, 2 / self.size)
        self.register_buffer("cos", torch.cat([angle, angle], -1).cos())
        self.register_buffer("sin", torch.cat([angle, angle], -1).sin())

    def rotate(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat([-b, a], -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        y = self.norm1(x)
        q = self.rotate(self.q(y).view(b, n, self.heads, self.size).transpose(1, 2))
        k = self.rotate(self.k(y).view(b, n, self.shared, self.size).transpose(1, 2))
        v = self.v(y).view(b, n, self.shared, self.size).transpose(1, 2)
        times = self.heads // self.shared
        k = k[:, :, None].expand(b, self.shared, times, n, self.size).reshape(b, self.heads, n, self.size)
        v = v[:, :, None].expand(b, self.shared, times, n, self.size).reshape(b, self.heads, n, self.size)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).reshape(b, n, d))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 32)
        self.blocks = nn.Sequential(GroupedQuery(), GroupedQuery())
        self.out = nn.Linear(32, 30, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.blocks(self.embed(ids)))


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(8, 12)
        self.rnn = nn.LSTM(12, 16, 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, (h, _) = self.rnn(torch.tanh(self.read(x)))
        return self.out(y[:, -1]) + self.out(torch.cat([h[-2], h[-1]], -1))


class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 12, 3, padding=1)
        self.rnn = nn.GRU(12, 16)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, h = self.rnn(F.relu(self.conv(x.transpose(1, 2))).permute(2, 0, 1))
        return self.out(y.mean(0) + h[0])


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.numbers = conv(3, 12), nn.Linear(5, 16)
        self.joined = nn.Linear(28, 20)
        self.out = nn.Linear(20, 3)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        x = torch.cat([self.image(image).mean((2, 3)), torch.relu(self.numbers(numbers))], -1)
        return self.out(torch.relu(self.joined(x)))


class Tied(nn.Module):
    """A language model whose output layer is its embedding, and one layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 24)
        self.up, self.again, self.down = nn.Linear(24, 40), nn.Linear(40, 40), nn.Linear(40, 24)
        self.out = nn.Linear(24, 30, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.relu(self.up(self.embed(ids)))
        return self.out(self.down(torch.relu(self.again(torch.relu(self.again(x))))))


def hugging_face() -> nn.Module:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return BertModel(BertConfig(vocab_size=40, max_position_embeddings=16, **sizes))


def _ids() -> Tensor:
    return torch.randint(0, 30, (3, 6), generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Style:
    name: str
    make: Callable[[], nn.Module]
    example: Callable[[], Tensor | tuple[Tensor, ...] | dict[str, Tensor]]
    depth: int = 0  # branches that can be left out


def _images() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _steps() -> Tensor:
    return torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))


STYLES = [
    Style("plain", Plain, _images),
    Style("residual", Residual, _images, depth=3),
    Style("grouped", Grouped, _images),
    Style("densenet", Dense, _images),
    Style("unet", UNet, _images),
    Style("neck", Neck, lambda: torch.randn(3, 3, 16, 16), depth=4),
    Style("separate_qkv", Encoder, _ids, depth=4),
    Style("fused_qkv", ViT, _images, depth=4),
    Style("grouped_query", Decoder, _ids, depth=4),
    Style("lstm", Lstm, _steps),
    Style("gru", Gru, _steps),
    Style("two_inputs", TwoInputs, lambda: (_images(), torch.randn(3, 5))),
    Style("tied", Tied, _ids),
    Style(
        "hf_dict",
        hugging_face,
        lambda: {"input_ids": _ids(), "attention_mask": torch.ones(3, 6, dtype=torch.long)},
        depth=4,
    ),
]


def made(style: Style) -> nn.Module:
    """The network of a style, in eval mode, with BatchNorm statistics and biases that are not trivial."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = style.make().eval()
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if "running_mean" in name or name.endswith("bias"):
                torch.nn.init.normal_(tensor, std=0.2)
            if "running_var" in name:
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
    return module
