"""MiniLM with a short distillation: how faithful do encoders become that are 1.5 and 2 times faster?

python -m benchmarks.own_model.distil --targets 1.2 1.35 1.5 2 [--seconds 900] [--threads 1] [--out runs/distil]

Each starts from the repaired post-training net; the one for 1.2 is not trained. All are measured in fp32 and in int8.
The training data are sentences alone: docstrings of the standard library
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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
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
    "1.35": {"feed": 0.5833, "heads": 1.0, "without": ()},
    "1.5": {"feed": 0.5, "heads": 1.0, "without": ()},
    "2": {"feed": 0.4375, "heads": 0.8333, "without": (4,)},
}
WIDTH = 384  # of an embedding
SHORT = 16  # tokens of the smaller net in training


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


class Teacher:
    """What the original says of sentences, by their numbers: kept from the first time it is asked.

    Args:
        module: the original. layers: whose outputs are kept, in half precision.
        ids: of all sentences (n, tokens).
    """

    def __init__(self, module: nn.Module, layers: list[str], *, ids: Tensor) -> None:
        self.module, self.layers = module, layers
        self.known = torch.zeros(len(ids), dtype=torch.bool)
        self.goals = torch.empty(len(ids), WIDTH)
        self.states = {name: torch.empty(*ids.shape, WIDTH, dtype=torch.float16) for name in layers}

    @torch.no_grad()
    def ask(self, ids: Tensor, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns embeddings (n, width) and the layers' outputs, each (n, tokens, width)."""
        new = ~self.known[rows]
        if bool(new.any()):
            with captured(self.module, self.layers) as said:
                self.goals[rows[new]] = self.module(ids[new])
            for name in self.layers:
                self.states[name][rows[new], : ids.shape[1]] = said[name].half()
            self.known[rows[new]] = True
        return self.goals[rows], [self.states[name][rows, : ids.shape[1]].float() for name in self.layers]


class EmbeddingLearner:
    """Cosine of the embeddings, their similarities within the batch, and states at tokens that are no padding.

    Short sentences go through a net of `SHORT` tokens that shares the student's parameters: half of the work for
    nearly half of the sentences.
    """

    def __init__(self, students: dict[int, nn.Module], teacher: Teacher, *, hidden: float) -> None:
        """`students` by number of tokens, ascending."""
        self.students, self.teacher, self.hidden = students, teacher, hidden

    def learn(self, inputs: Tensor, targets: Tensor, step: int) -> float:
        """Adds the gradients of one batch of ids, `targets` are the sentences' numbers; returns mean 1 - cosine."""
        length = (inputs != 0).sum(1)
        outs, goals, errors, powers = [], [], [], []
        least, layers = 0, self.teacher.layers
        for tokens, student in self.students.items():
            part = (length > least) & (length <= tokens)
            least = tokens
            if not bool(part.any()):
                continue
            ids = inputs[part][:, :tokens]
            goal, wanted = self.teacher.ask(ids, targets[part])
            with captured(student, layers) as got:
                outs.append(student(ids))
            goals.append(goal)
            mask = (ids != 0)[:, :, None]
            missed = [(got[name] - w).square() * mask for name, w in zip(layers, wanted, strict=True)]
            errors.append(torch.stack([m.sum() for m in missed]))
            powers.append(torch.stack([(w.square() * mask).sum() for w in wanted]))
        out, goal = torch.cat(outs), torch.cat(goals)
        missing = (1 - F.cosine_similarity(out, goal)).mean()
        pairs = torch.triu_indices(len(out), len(out), 1)
        alike = [(z @ z.T)[pairs[0], pairs[1]] for z in (out, goal)]
        unlike = 1 - torch.corrcoef(torch.stack(alike))[0, 1]
        states = (torch.stack(errors).sum(0) / torch.stack(powers).sum(0)).mean()
        (5 * missing + 3 * unlike + self.hidden * states).backward()
        return float(missing.detach())


def shared(module: nn.Module, student: nn.Module) -> nn.Module:
    """Gives `module` the parameters of `student`, which has the same names and shapes; returns it."""
    for name, parameter in student.named_parameters():
        path, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(path), leaf, parameter)
    return module


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
    parser.add_argument("--targets", choices=list(PLANS), nargs="+", default=list(PLANS))
    parser.add_argument("--seconds", type=float, default=900, help="of training each, wall time")
    parser.add_argument("--sentences", type=int, default=256, help="for criterion and repair")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--hidden", type=float, default=1.0, help="weight of the layers' states")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for the weights")
    parser.add_argument("--start", type=Path, help="folder of weights to go on from, instead of criterion and repair")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    started = time.perf_counter()

    def say(**values: Any) -> None:
        print(f"{time.perf_counter() - started:6.0f} s", json.dumps(values), flush=True)

    code = user_code("minilm_model")
    original = code.build()
    for parameter in original.parameters():
        parameter.requires_grad_(False)
    shares = {PLANS[target][part] for target in args.targets for part in ("feed", "heads")}
    plain = SpaceOptions(ratios=tuple(sorted(shares - {1.0})))
    options = plain if args.start else replace(plain, importance="obs", repair="least_squares")
    batches = [(b,) for b in torch.from_numpy(code.train()[: args.sentences]).split(64)]
    family = space_from_model(code.build(), code.example(), options=options, calibration=batches)
    net, short = (
        Supernet(f) for f in (family, space_from_model(code.build(), code.example()[:, :SHORT], options=plain))
    )
    search, holdout = torch.from_numpy(code.search()), torch.from_numpy(code.holdout())

    @torch.no_grad()
    def fidelity(module: nn.Module) -> float:
        made = [torch.cat([m(x) for x in search.split(50)]) for m in (original, module)]
        return agreement(made[0], made[1], kind="similarities")

    ids = encoded(code, sentences(code))
    split = TensorSplit("train", np.arange(len(ids)), np.arange(len(ids)), tensor=ids)
    teacher = Teacher(original, [f"bert.encoder.layer.{i}.output.LayerNorm" for i in (2, 5)], ids=ids)
    config = TrainingConfig(epochs=100, seconds=args.seconds, batch_size=32, learning_rate=args.rate, warmup_epochs=4.0)
    say(sentences=len(ids), macs=int(net.layer_costs(family.space.largest()).macs[0]))

    def progress(p: Progress) -> None:
        if p.step % 50 == 0:
            say(step=p.step, missing=round(p.loss, 4), rate=p.learning_rate)

    nets = {"original": original}
    for target in args.targets:
        arch = planned(family, PLANS[target])
        student = nets[target] = net.extract(arch)
        if args.start:
            student.load_state_dict(load_file(args.start / f"{target}.safetensors"))
        else:
            family.finish(student, arch, [])
        say(target=target, macs=int(net.layer_costs(arch).macs[0]), start=fidelity(student))
        if target == "1.2":
            continue
        for name, parameter in student.named_parameters():
            parameter.requires_grad_("embeddings.word" not in name)  # is as wide as before, and 11.7 of its 18 M
        students = {SHORT: shared(short.extract(arch), student), code.TOKENS: student}
        cpu = time.process_time()
        learner = EmbeddingLearner(students, teacher, hidden=args.hidden)
        result = fit(student, learner, split=split, config=config, progress=progress)
        cpu = time.process_time() - cpu
        say(steps=result.steps, seconds=result.seconds, cpu_s=round(cpu), distilled=fidelity(student))
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            state = {n: t.contiguous() for n, t in student.state_dict().items()}
            save_file(state, args.out / f"{target}.safetensors", metadata={"architecture": json.dumps(dict(arch))})
    for row in table(nets, holdout):
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
