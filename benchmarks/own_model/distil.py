"""MiniLM with a short distillation: how faithful do encoders become that are 1.5 and 2 times faster?

python -m benchmarks.own_model.distil --target 1.5 [--seconds 600] [--threads 1] [--out runs/distil_1.5.safetensors]

Starts from the repaired post-training net; a net for 1.2 that is not trained is measured beside it. All in fp32 and
in int8. The training data are sentences alone: docstrings of the standard library
(no file with the name of a search or hold-out file, no sentence that occurs there) and Python's reference as
`pydoc_data` holds it.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import sysconfig
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.own_model.measuring import table, user_code
from hwsearch.data.callables import TensorSplit
from hwsearch.own_model import agreement
from hwsearch.training.config import TrainingConfig
from hwsearch.training.loop import fit
from hwsearch.training.network_training import captured
from hwsearch.training.progress import Progress
from search_spaces.architecture import Architecture
from search_spaces.from_model import FromModel, SpaceOptions, space_from_model
from search_spaces.supernet import Supernet

PLANS: dict[str, dict[str, Any]] = {  # shares of feed-forward width and heads; layers that go as a whole
    "1.2": {"feed": 0.6875, "heads": 1.0, "without": ()},
    "1.5": {"feed": 0.4375, "heads": 0.9166, "without": ()},
    "2": {"feed": 0.46875, "heads": 0.8333, "without": (4,)},
}


def sentences(code: Any) -> list[str]:
    """Returns training sentences that share no file and no sentence with the search and hold-out ones."""
    from pydoc_data.topics import topics

    texts = list(topics.values())
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        number = int(hashlib.sha256(path.name.encode()).hexdigest(), 16) % 10  # as minilm_model.py parts them
        if number < 4 or {"site-packages", "test", "tests"} & set(path.parts):
            continue
        try:
            tree = ast.parse(path.read_text())
        except (SyntaxError, UnicodeDecodeError):
            continue
        documented = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef))
        texts += [ast.get_docstring(node) or "" for node in documented]
    parts = (s for text in texts for s in re.split(r"(?<=[.!?]) ", " ".join(text.split())))
    found = {s for s in parts if 25 <= len(s) <= 200}
    return sorted(found - set(code.sentences("search")) - set(code.sentences("holdout")))


class EmbeddingLearner:
    """Cosine of the embeddings, and relative error of every layer's states at tokens that are no padding."""

    def __init__(self, student: nn.Module, teacher: nn.Module, layers: list[str], *, hidden: float) -> None:
        self.student, self.teacher, self.layers, self.hidden = student, teacher, layers, hidden

    def learn(self, inputs: Tensor, targets: Tensor, step: int) -> float:
        """Adds the gradients of one batch of ids; returns the mean of 1 - cosine."""
        with torch.no_grad(), captured(self.teacher, self.layers) as wanted:
            goal = self.teacher(inputs)
        with captured(self.student, self.layers) as got:
            out = self.student(inputs)
        missing = (1 - F.cosine_similarity(out, goal)).mean()
        loss = 5 * missing
        mask = (inputs != 0)[:, :, None]
        for name in self.layers:
            error = ((got[name] - wanted[name]).square() * mask).sum()
            loss = loss + self.hidden / len(self.layers) * error / (wanted[name].square() * mask).sum()
        loss.backward()
        return float(missing.detach())


def planned(family: FromModel, plan: dict[str, Any]) -> Architecture:
    """Returns the architecture of a plan."""
    values = dict(family.space.largest())
    for group in family.groups:
        share = plan["heads"] if group.gene.endswith(".heads") else plan["feed"]
        values[group.gene] = min(group.counts, key=lambda c: abs(c - share * len(group.units)))
    for gene in values:
        if gene.endswith(".keep") and any(f"layer.{i}." in gene for i in plan["without"]):
            values[gene] = 0
    return family.space.architecture(values)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", choices=list(PLANS), default="1.5")
    parser.add_argument("--seconds", type=float, default=600, help="of training, wall time")
    parser.add_argument("--sentences", type=int, default=512, help="for criterion and repair")
    parser.add_argument("--rate", type=float, default=4e-4)
    parser.add_argument("--hidden", type=float, default=1.0, help="weight of the layers' states")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    started = time.perf_counter()

    def say(**values: Any) -> None:
        print(f"{time.perf_counter() - started:6.0f} s", json.dumps(values), flush=True)

    code, plan = user_code("minilm_model"), PLANS[args.target]
    teacher = code.build()
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    calibration = torch.from_numpy(code.train()[: args.sentences])
    without_training = PLANS["1.2"]
    shares = {p[part] for p in (plan, without_training) for part in ("feed", "heads")}
    options = SpaceOptions(ratios=tuple(sorted(shares - {1.0})), importance="obs", repair="least_squares")
    family = space_from_model(
        code.build(), code.example(), options=options, calibration=[(b,) for b in calibration.split(64)]
    )
    net = Supernet(family)

    def repaired(plan: dict[str, Any]) -> tuple[Architecture, nn.Module]:
        arch = planned(family, plan)
        made = net.extract(arch)
        family.finish(made, arch, [])
        return arch, made

    arch, student = repaired(plan)
    search, holdout = torch.from_numpy(code.search()), torch.from_numpy(code.holdout())

    @torch.no_grad()
    def fidelity(ids: Tensor) -> float:
        made = [torch.cat([m(x) for x in ids.split(50)]) for m in (teacher, student)]
        return agreement(made[0], made[1], kind="similarities")

    macs = [int(net.layer_costs(a).macs[0]) for a in (family.space.largest(), arch)]
    say(target=args.target, plan=plan, macs=macs, repaired=fidelity(search))
    nets = {"original": teacher, "without training": repaired(without_training)[1]}
    nets[f"distilled {args.target}"] = student
    for row in table(nets, holdout, calibration=calibration[:96], rounds=5):
        say(before_training=True, **row)
    texts = sentences(code)
    say(sentences=len(texts))
    rows = encoded(code, texts)
    split = TensorSplit("train", np.arange(len(rows)), np.zeros(len(rows), dtype=np.int64), tensor=rows)
    named = dict(student.named_modules())
    layers = [n for n in named if re.fullmatch(r"bert\.encoder\.layer\.\d+\.output\.LayerNorm", n)]
    learner = EmbeddingLearner(student, teacher, layers, hidden=args.hidden)
    config = TrainingConfig(epochs=100, seconds=args.seconds, batch_size=32, learning_rate=args.rate, warmup_epochs=4.0)

    def progress(p: Progress) -> None:
        if p.step % 50 == 0:
            say(step=p.step, missing=round(p.loss, 4), rate=p.learning_rate)

    cpu = time.process_time()
    result = fit(student, learner, split=split, config=config, progress=progress)
    cpu = time.process_time() - cpu
    say(steps=result.steps, seconds=result.seconds, cpu_s=round(cpu), search=fidelity(search))
    if args.out:
        from safetensors.torch import save_file

        args.out.parent.mkdir(exist_ok=True)
        state = {n: t.contiguous() for n, t in student.state_dict().items()}
        save_file(state, args.out, metadata={"architecture": json.dumps(dict(arch))})
    for row in table(nets, holdout, calibration=calibration[:96]):
        say(**row)


def encoded(code: Any, texts: list[str]) -> Tensor:
    """Returns token ids of sentences, (n, tokens)."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(code.folder() / "tokenizer.json"))
    tokenizer.enable_truncation(code.TOKENS)
    tokenizer.enable_padding(length=code.TOKENS)
    return torch.tensor([e.ids for e in tokenizer.encode_batch(texts)])


if __name__ == "__main__":
    main()
