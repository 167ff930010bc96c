"""Training a plain network: labels, a teacher if there is one, and recipes, on the one loop."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwsearch.data.dataset import Dataset
from hwsearch.training.config import TrainingConfig
from hwsearch.training.distillation import Distillation
from hwsearch.training.loop import TrainingResult, fit
from hwsearch.training.optimizer import make_optimizer
from hwsearch.training.precision import autocast
from hwsearch.training.progress import ProgressCallback
from hwsearch.training.recipes.base import Recipe, RecipeError, Session, check_combination, prunable


class NetworkLearner:
    """Cross-entropy on the labels plus the distillation terms, through the weights that the recipes want used.

    Args:
        model: learns.
        config: for label smoothing and precision.
        recipes: their `weights` are composed in order, their penalties are added.
        teacher: evaluated without gradients, in eval mode.
        distillations: terms that need the teacher.

    Raises:
        RecipeError: a distillation without teacher, or of a layer that does not exist.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        *,
        recipes: Sequence[Recipe] = (),
        teacher: nn.Module | None = None,
        distillations: Sequence[Distillation] = (),
    ) -> None:
        if distillations and teacher is None:
            raise RecipeError("distillation must have a teacher, but none is given.")
        self.model, self.config, self.recipes = model, config, tuple(recipes)
        self.teacher, self.distillations = teacher, tuple(distillations)
        pairs = [pair for term in distillations for pair in term.layers]
        self._student_layers = _existing(model, [s for s, _ in pairs], "student")
        self._teacher_layers = _existing(teacher, [t for _, t in pairs], "teacher") if teacher is not None else []
        if teacher is not None:
            teacher.eval()

    def learn(self, inputs: Tensor, targets: Tensor, step: int) -> float:
        """Adds the gradients of one batch; returns the cross-entropy on the labels."""
        own: dict[str, Tensor] = dict(self.model.named_parameters())
        used = own
        for recipe in self.recipes:
            used = recipe.weights(used, step)
        changed = {name: weight for name, weight in used.items() if weight is not own[name]}
        with autocast(self.config, inputs), captured(self.model, self._student_layers) as features:
            logits = torch.func.functional_call(self.model, changed, (inputs,)) if changed else self.model(inputs)
        logits = logits.float()
        labels = F.cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing)
        loss = labels
        if self.distillations and self.teacher is not None:
            with torch.no_grad(), captured(self.teacher, self._teacher_layers) as wanted:
                soft = self.teacher(inputs).float()
            for term in self.distillations:
                loss = loss + term.loss((logits, soft), (features, wanted))
        for recipe in self.recipes:
            penalty = recipe.penalty(used, step)
            if penalty is not None:
                loss = loss + penalty
        loss.backward()  # type: ignore[no-untyped-call]
        return float(labels.detach())


def _existing(model: nn.Module, names: list[str], whose: str) -> list[str]:
    known = dict(model.named_modules())
    for name in names:
        if name not in known:
            raise RecipeError(f"distilled layers must be modules of the {whose}, but {name!r} is none.")
    return names


@contextmanager
def captured(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Yields a dict that holds the outputs of the named modules after the model has run."""
    outputs: dict[str, Tensor] = {}
    modules = dict(model.named_modules())

    def remember(name: str, output: Tensor) -> None:
        outputs[name] = output.float()

    handles = [
        modules[name].register_forward_hook(lambda module, inputs, output, name=name: remember(name, output))
        for name in dict.fromkeys(names)
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def network_digest(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig,
    *,
    recipes: Sequence[Recipe] = (),
    teacher: nn.Module | None = None,
    distillations: Sequence[Distillation] = (),
    keep_dense: Iterable[str] = (),
) -> str:
    """Returns SHA-256 (hexadecimal) of all that decides the trained weights. Recipes must not have started."""
    digest = hashlib.sha256()
    for network in (model, teacher):
        for name, tensor in sorted(network.state_dict().items()) if network is not None else ():
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode() + _bytes(tensor))
    table = {
        "modules": [f"{name}:{type(m).__name__}" for name, m in model.named_modules()],
        "data": dataset.train.digest,
        "preprocessing": dict(dataset.preprocessing),
        "augmentation": repr(dataset.train.augmentation),
        "training": config.identity(),
        "recipes": [[recipe.name, vars(recipe)] for recipe in recipes],
        "distillations": [repr(term) for term in distillations],
        "keep_dense": sorted(keep_dense),
    }
    digest.update(json.dumps(table, sort_keys=True, default=_plain).encode())
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    data: bytes = tensor.detach().cpu().contiguous().numpy().tobytes()
    return data


def _plain(value: object) -> object:
    if isinstance(value, Tensor):
        return hashlib.sha256(_bytes(value)).hexdigest()
    return repr(value)


def check_recipes(
    model: nn.Module, config: TrainingConfig, recipes: Sequence[Recipe], *, keep_dense: Iterable[str] = ()
) -> tuple[str, ...]:
    """Raises what `train_network` would raise before its first step; returns a line per recipe about what stays dense.

    So a mistake shows before hours of pretraining. Starts the recipes on a copy: they cannot be used afterwards.

    Args:
        model: as it will be trained; left alone.
        config: of the training.
        recipes: fresh objects.
        keep_dense: modules whose weights no recipe may touch.

    Raises:
        RecipeError, ValueError: recipes that contradict each other or do not fit the model.
    """
    check_combination(recipes)
    copied = copy.deepcopy(model)
    targets = prunable(copied, keep_dense) if recipes else {}
    optimizer = make_optimizer(copied, config)
    notes = []
    for recipe in recipes:
        try:
            recipe.start(Session(copied, optimizer, config.epochs, config.seed, targets))
        finally:
            recipe.stop()
        left_out = getattr(recipe, "dense_layers", ())
        if left_out:
            notes.append(f"{recipe.name}: its pattern does not fit and leaves dense: {', '.join(left_out)}")
    return tuple(notes)


def train_network(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig,
    *,
    recipes: Sequence[Recipe] = (),
    keep_dense: Iterable[str] = (),
    teacher: nn.Module | None = None,
    distillations: Sequence[Distillation] = (),
    checkpoint: Path | None = None,
    progress: ProgressCallback | None = None,
    device: str = "cpu",
) -> TrainingResult:
    """Trains a plain network in place; only the train split is read. Afterwards its zeros are exact.

    Args:
        model: from its current weights.
        dataset: what to learn.
        config: how.
        recipes: fresh objects, combined in order.
        keep_dense: modules whose weights no recipe may touch (first layer, classifier).
        teacher: for distillation.
        distillations: terms beside the labels.
        checkpoint: written after every epoch; an existing one of the same training is continued.
        progress: called after every step.
        device: `cpu`, `cuda`; model and teacher are moved there, the model back.

    Raises:
        RecipeError: recipes that contradict each other or do not fit the model; before any training.
        CheckpointError, ValueError: as for `fit`.
    """
    targets: Mapping[str, nn.Parameter] = prunable(model, keep_dense) if recipes else {}
    digest = network_digest(
        model,
        dataset,
        config,
        recipes=recipes,
        teacher=teacher,
        distillations=distillations,
        keep_dense=keep_dense,
    )
    learner = NetworkLearner(model, config, recipes=recipes, teacher=teacher, distillations=distillations)
    model.to(device)
    if teacher is not None:
        teacher.to(device)
    try:
        return fit(
            model,
            learner,
            split=dataset.train,
            config=config,
            digest=digest,
            recipes=recipes,
            targets=targets,
            checkpoint=checkpoint,
            progress=progress,
            device=device,
        )
    finally:
        model.to("cpu")
