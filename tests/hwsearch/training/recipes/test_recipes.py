"""Recipes on the loop: exact sparsity, supports, resume, combinations, messages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from hwsearch.data.synthetic import SyntheticSpec
from hwsearch.training.checkpoint import CheckpointError, load_state
from hwsearch.training.config import TrainingConfig
from hwsearch.training.distillation import Distillation
from hwsearch.training.network_training import NetworkLearner, check_recipes, train_network
from hwsearch.training.recipes.activating import ActivatingPruning
from hwsearch.training.recipes.base import Recipe, RecipeError, prunable, sparsity_of
from hwsearch.training.recipes.compander import WeightCompander
from hwsearch.training.recipes.dynamic import DynamicSparsity
from hwsearch.training.recipes.envelope import GroupEnvelope
from hwsearch.training.recipes.gradual import GradualPruning
from hwsearch.training.recipes.jackpots import LotteryJackpots
from hwsearch.training.recipes.masking import FixedMask, GivenMask
from hwsearch.training.recipes.nested import NestedDropout
from hwsearch.training.recipes.patterns import MaskDecay, StraightThrough, StructureDecay
from hwsearch.training.recipes.trained_rank import TrainedRankPruning
from search_spaces.low_rank import factorise
from search_spaces.supernet import ChannelGroup

DATA = SyntheticSpec(shape=(1, 8, 8), n_classes=3, n=120, noise=0.5).open()
CONFIG = TrainingConfig(epochs=4, batch_size=16, learning_rate=5e-3, weight_decay=0.1)
GROUPS = [ChannelGroup((("first.weight", 0), ("first.bias", 0), ("second.weight", 1)), score=("second.weight", 1))]


def network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(1, 8, 3, stride=2, padding=1))
    model.add_module("bn", nn.BatchNorm2d(8))
    model.add_module("relu", nn.ReLU())
    model.add_module("flatten", nn.Flatten())
    model.add_module("first", nn.Linear(128, 32))
    model.add_module("relu2", nn.ReLU())
    model.add_module("second", nn.Linear(32, 16))
    model.add_module("relu3", nn.ReLU())
    model.add_module("classifier", nn.Linear(16, 3))
    return model


DENSE = ("conv", "classifier")
RECIPES: dict[str, Callable[[], Recipe]] = {
    "magnitude": lambda: FixedMask(sparsity=0.75),
    "random": lambda: FixedMask(sparsity=0.75, criterion="random"),
    "gradual": lambda: GradualPruning(sparsity=0.75, every=2),
    "activating": lambda: ActivatingPruning(sparsity=0.75, every=2),
    "rigl": lambda: DynamicSparsity(sparsity=0.75, every=2),
    "set": lambda: DynamicSparsity(sparsity=0.75, every=2, grow="random"),
    "sr-ste": lambda: StraightThrough(pattern="1:4"),
    "mask decay": lambda: MaskDecay(pattern="1:4"),
    "structure decay": lambda: StructureDecay(pattern="1:4"),
    "blocks": lambda: StraightThrough(pattern="block-4x4-0.75"),
    "envelope": lambda: GroupEnvelope(sparsity=0.75),
    "jackpots": lambda: LotteryJackpots(sparsity=0.75),
}
OTHERS: dict[str, Callable[[], Recipe]] = {
    "compander": WeightCompander,
    "nested": lambda: NestedDropout(groups=GROUPS),
    "trained rank": lambda: TrainedRankPruning(ratio=0.25, every=3),
}


def targets(model):
    return {name: p for name, p in prunable(model, DENSE).items()}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_ends_at_its_sparsity_exactly_and_learns(name):
    model, recipe = network(), RECIPES[name]()
    result = train_network(model, DATA, CONFIG.model_copy(update={"epochs": 8}), recipes=[recipe], keep_dense=DENSE)
    weights = targets(model)
    # SET may end with weights that were grown at random, where no gradient came, and are still zero.
    counted = recipe.masks if name == "set" else weights
    assert sparsity_of(counted) == pytest.approx(0.75, abs=0.5 / 4608)
    assert all(torch.count_nonzero(w) > 0 for w in weights.values())
    assert result.epoch_losses[-1] < result.epoch_losses[0]
    assert all(torch.count_nonzero(model.get_parameter(f"{n}.weight")) > 20 for n in DENSE)


@pytest.mark.parametrize("name", ["gradual", "rigl", "sr-ste", "envelope", "jackpots", "activating", "compander"])
def test_recipes_resume_bit_equal(name, tmp_path):
    make = {**RECIPES, **OTHERS}[name]

    class Stop(Exception):
        pass

    def stop(progress):
        if progress.epoch == stop_at:
            raise Stop

    config = CONFIG.model_copy(update={"ema": 0.9})
    whole, path = network(), tmp_path / "c"
    train_network(whole, DATA, config, recipes=[make()], keep_dense=DENSE)
    for epoch in (2, 4):
        stop_at = epoch
        with pytest.raises(Stop):
            train_network(network(), DATA, config, recipes=[make()], keep_dense=DENSE, checkpoint=path, progress=stop)
    resumed = network()
    train_network(resumed, DATA, config, recipes=[make()], keep_dense=DENSE, checkpoint=path)
    again = network()
    train_network(again, DATA, config, recipes=[make()], keep_dense=DENSE, checkpoint=path)  # finished: loaded
    for a, b, c in zip(*(m.state_dict().values() for m in (whole, resumed, again)), strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    with pytest.raises(CheckpointError, match="must be of this training"):
        train_network(network(), DATA, config, recipes=[FixedMask(sparsity=0.1)], keep_dense=DENSE, checkpoint=path)


KILLED = ("gradual", "rigl", "sr-ste")
SCRIPT = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[2]))  # sums depend on it
from tests.hwsearch.training.recipes.test_recipes import CONFIG, DATA, DENSE, KILLED, RECIPES, network
from hwsearch.training.network_training import train_network
config = CONFIG.model_copy(update={"epochs": 12})
for name in KILLED:
    if os.fork() == 0:  # one import for all
        path = Path(sys.argv[1]) / name
        train_network(network(), DATA, config, recipes=[RECIPES[name]()], keep_dense=DENSE, checkpoint=path)
        os._exit(0)
for _ in KILLED:
    os.wait()
"""


def test_three_recipes_go_on_bit_equal_after_kill_9(tmp_path):
    threads = str(torch.get_num_threads())
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path), threads], start_new_session=True)
    paths = [tmp_path / name for name in KILLED]
    deadline = time.monotonic() + 120
    while not all(p.exists() for p in paths) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    config = CONFIG.model_copy(update={"epochs": 12})
    # Three small trainings at once, killed when the slowest has saved its first epoch: not all can be over.
    assert any(not load_state(path).finished for path in paths)
    for name, path in zip(KILLED, paths, strict=True):
        resumed, whole = network(), network()
        train_network(resumed, DATA, config, recipes=[RECIPES[name]()], keep_dense=DENSE, checkpoint=path)
        train_network(whole, DATA, config, recipes=[RECIPES[name]()], keep_dense=DENSE)
        pairs = zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), name


class Watch(Recipe):
    """Looks at what the forward pass uses, after the other recipes."""

    name = "watch"

    def __init__(self, look):
        self.look = look

    def weights(self, weights, step):
        self.look(step, {n: weights[n].detach().clone() for n in self.session.targets})
        return weights


@pytest.mark.parametrize(
    "make", [RECIPES["sr-ste"], RECIPES["structure decay"], lambda: MaskDecay(pattern="1:4", end=0.5)]
)
def test_n_of_m_masks_hold_in_every_step_that_they_should(make):
    seen = []
    recipe = make()
    allowed = {}

    def look(step, weights):
        pattern = recipe.pattern_at(step)
        allowed[step] = pattern.n if not isinstance(recipe, MaskDecay) or recipe.beta(step) == 0.0 else 4
        seen.append((step, max(int((w.reshape(-1, 4) != 0).sum(1).max()) for w in weights.values())))

    model = network()
    train_network(model, DATA, CONFIG, recipes=[recipe, Watch(look)], keep_dense=DENSE)
    assert len(seen) == 16
    assert all(most <= allowed[step] for step, most in seen)
    assert seen[-1][1] == 1
    assert all(((w.reshape(-1, 4) != 0).sum(1) == 1).all() for w in targets(model).values())


def test_decays_reach_zero_on_time():
    recipe = MaskDecay(pattern="2:4", end=0.5)
    recipe.session = type("S", (), {"done": staticmethod(lambda step: step / 100)})()
    assert [recipe.beta(s) for s in (0, 25, 50, 99)] == [1.0, 0.5, 0.0, 0.0]
    structure = StructureDecay(pattern="1:8", end=0.5)
    structure.session = recipe.session
    assert [p.n for p in structure.stages] == [7, 4, 2]
    assert [structure.pattern_at(s).n for s in (0, 16, 17, 33, 34, 50, 99)] == [7, 7, 4, 4, 2, 1, 1]
    assert StructureDecay(pattern="2:4").stages == (type(structure.pattern)(3, 4),)


def test_gradual_pruning_follows_the_cubic_and_its_masks_only_shrink():
    found = []
    recipe = GradualPruning(sparsity=0.9, begin=0.25, end=0.75, every=2)

    class After(Recipe):
        name = "after"

        def after_step(self, step):
            found.append({n: (p != 0).clone() for n, p in self.session.targets.items()})

    train_network(network(), DATA, CONFIG, recipes=[recipe, After()], keep_dense=DENSE)
    assert all(m.all() for m in found[3].values())
    for step, done in ((6, 0.25), (8, 0.5), (12, 1.0), (15, 1.0)):
        assert sparsity_of(found[step]) == pytest.approx(0.9 - 0.9 * (1 - done) ** 3, abs=2e-4)
    for before, after in pairwise(found):
        assert all((after[n] <= before[n]).all() for n in after)


def test_dynamic_supports_move_at_constant_size_within_the_limit():
    supports = []
    recipe = DynamicSparsity(sparsity=0.8, every=4, end=0.8, fraction=0.5)

    class After(Recipe):
        name = "after"

        def after_step(self, step):
            supports.append({n: m.clone() for n, m in recipe.masks.items()})

    train_network(network(), DATA, CONFIG, recipes=[recipe, After()], keep_dense=DENSE)
    for step in range(1, 16):
        for name, mask in supports[step].items():
            left = int((supports[step - 1][name] & ~mask).sum())
            assert mask.sum() == supports[0][name].sum()
            if step % 4 == 0 and step < 12.8:
                limit = 0.25 * (1 + np.cos(np.pi * step / 12.8)) * int(mask.sum())
                assert 0 < left <= limit
            else:
                assert left == 0


def test_jackpots_change_masks_but_not_weights():
    model = network()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    start = FixedMask(sparsity=0.6, budget="global")
    recipe = LotteryJackpots(sparsity=0.6, change=0.2)
    train_network(model, DATA, CONFIG, recipes=[recipe], keep_dense=DENSE)
    for name, p in model.named_parameters():
        mask = recipe.masks.get(name, torch.ones_like(p, dtype=torch.bool))
        assert torch.equal(p, before[name].masked_fill(~mask, 0.0)), name
    magnitude = network()
    train_network(magnitude, DATA, CONFIG.model_copy(update={"epochs": 1}), recipes=[start], keep_dense=DENSE)
    assert any(not torch.equal(recipe.masks[n], start.masks[n]) for n in start.masks)


def test_the_envelope_zeroes_whole_groups():
    for groups, dim in (("outputs", 0), ("inputs", 1)):
        model = network()
        train_network(model, DATA, CONFIG, recipes=[GroupEnvelope(sparsity=0.5, groups=groups)], keep_dense=DENSE)
        for weight in targets(model).values():
            alive = (weight != 0).movedim(dim, 0).flatten(1)
            assert int(alive.any(1).sum()) == weight.shape[dim] // 2
            assert alive[alive.any(1)].float().mean() > 0.99


def test_nested_dropout_orders_channels():
    data = SyntheticSpec(shape=(1, 8, 8), n_classes=8, n=400, noise=0.3).open()
    members = (("1.weight", 0), ("1.bias", 0), ("3.weight", 1))
    groups = [ChannelGroup(members, score=("3.weight", 1))]
    config = TrainingConfig(epochs=20, batch_size=24, learning_rate=5e-3)

    def prefix_accuracy(model, kept):
        with torch.no_grad():
            cut = {n: p.clone() for n, p in model.named_parameters()}
            for name, dim in members:
                cut[name].narrow(dim, kept, cut[name].shape[dim] - kept).zero_()
            x, y = next(data.train.batches(1000))
            return float((torch.func.functional_call(model, cut, (x,)).argmax(1) == y).float().mean())

    ordered, plain = [], []
    for seed in range(3):
        for out, recipes in ((ordered, [NestedDropout(groups=groups, smallest=0.1)]), (plain, [])):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
            train_network(model, data, config.model_copy(update={"seed": seed}), recipes=recipes)
            out.append(np.mean([prefix_accuracy(model, kept) for kept in (3, 4, 5, 6)]))
    assert np.mean(ordered) > np.mean(plain) + 0.15, (ordered, plain)


def test_nested_dropout_on_ranks_cuts_both_factors():
    model = network()
    model.first = factorise(model.first, 16)
    group = ChannelGroup((("first.reduce.weight", 0), ("first.expand.weight", 1)), score=("first.expand.weight", 1))
    kept = []

    def look(step, weights):
        r, e = weights["first.reduce.weight"], weights["first.expand.weight"]
        ranks = (r != 0).any(1)
        assert torch.equal(ranks, (e != 0).any(0)) and torch.equal(ranks, ranks.sort(descending=True).values)
        kept.append(int(ranks.sum()))

    train_network(model, DATA, CONFIG, recipes=[NestedDropout(groups=[group]), Watch(look)])
    assert min(kept) < 16 and max(kept) == 16 and min(kept) >= 4


def test_the_compander_starts_where_the_weights_are_and_ends_with_plain_ones():
    model = network()
    before = {n: p.detach().clone() for n, p in targets(model).items()}
    first = {}

    def look(step, weights):
        if step == 0:
            first.update(weights)

    train_network(model, DATA, CONFIG, recipes=[WeightCompander(bound=0.2), Watch(look)], keep_dense=DENSE)
    for name, weight in targets(model).items():
        assert torch.allclose(first[name], before[name], atol=1e-5)
        assert weight.abs().max() < 0.2 * np.pi / 2


def test_trained_rank_ends_at_its_rank_and_factorises_without_loss():
    model = network()
    train_network(model, DATA, CONFIG, recipes=[TrainedRankPruning(ratio=0.25, every=3)], keep_dense=DENSE)
    x = torch.randn(5, 128)
    want = model.first(x)
    assert torch.linalg.matrix_rank(model.first.weight, atol=1e-4) == 8
    assert torch.allclose(factorise(model.first, 8)(x), want, atol=1e-4)


def test_activating_pruning_leaves_no_hooks_and_counts_zeros():
    model, recipe = network(), ActivatingPruning(sparsity=0.5)
    train_network(model, DATA, CONFIG, recipes=[recipe], keep_dense=DENSE)
    assert not any(m._forward_hooks for m in model.modules())
    assert 0.05 < recipe.off_rate() < 0.95


def test_recipes_combine():
    model = network()
    recipes = [
        WeightCompander(bound=0.3),
        GradualPruning(sparsity=0.8, every=2),
        NestedDropout(groups=GROUPS),
    ]
    train_network(model, DATA, CONFIG, recipes=recipes, keep_dense=DENSE)
    weights = targets(model)
    assert sparsity_of(weights) == pytest.approx(0.8, abs=2e-4)
    assert max(float(w.detach().abs().max()) for w in weights.values()) < 0.3 * np.pi / 2


def test_a_given_mask_stays():
    model = network()
    mask = {"first.weight": torch.rand(32, 128, generator=torch.Generator().manual_seed(0)) < 0.3}
    train_network(model, DATA, CONFIG, recipes=[GivenMask(masks=mask)])
    assert torch.equal(model.first.weight != 0, mask["first.weight"])
    with pytest.raises(ValueError, match=r"mask 'nope' must match a weight of the network, but does not"):
        train_network(network(), DATA, CONFIG, recipes=[GivenMask(masks={"nope": torch.ones(1)})])


def test_a_teacher_helps_and_its_layers_are_checked():
    teacher = network(1)
    train_network(teacher, DATA, CONFIG.model_copy(update={"epochs": 8}))
    terms = [
        Distillation(weight=0.5, temperature=2.0),
        Distillation(kind="attention", weight=0.5, layers=(("conv", "conv"),)),
        Distillation(kind="alignment", weight=0.5, layers=(("first", "second"),)),
    ]
    student = network(2)
    x, _ = next(DATA.train.batches(1000))

    def distance():
        with torch.no_grad():
            return float((student.eval()(x).softmax(1) - teacher(x).softmax(1)).abs().mean())

    before = distance()
    result = train_network(student, DATA, CONFIG, teacher=teacher, distillations=terms)
    assert result.epoch_losses[-1] < result.epoch_losses[0] and distance() < 0.8 * before
    assert not any(m._forward_hooks for m in (*student.modules(), *teacher.modules()))
    with pytest.raises(RecipeError, match="distillation must have a teacher, but none is given"):
        train_network(network(), DATA, CONFIG, distillations=terms)
    bad = [Distillation(kind="alignment", layers=(("first", "nope"),))]
    with pytest.raises(RecipeError, match="distilled layers must be modules of the teacher, but 'nope' is none"):
        train_network(network(), DATA, CONFIG, teacher=teacher, distillations=bad)


def test_accumulated_gradients_are_those_of_the_batch():
    torch.manual_seed(0)
    plain, parts = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    parts.load_state_dict(plain.state_dict())
    config = CONFIG.model_copy(update={"optimizer": "sgd", "epochs": 1})
    train_network(plain, DATA, config)
    train_network(parts, DATA, config.model_copy(update={"accumulate": 4}))
    assert torch.allclose(plain[1].weight, parts[1].weight, atol=1e-5)


def test_averaged_weights_are_the_closed_form():
    steps = []

    class Record(Recipe):
        name = "record"

        def after_step(self, step):
            steps.append(self.session.model[1].weight.detach().clone())

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    train_network(model, DATA, CONFIG.model_copy(update={"ema": 0.8}), recipes=[Record()])
    average = steps[0]
    for weight in steps[1:]:
        average = 0.8 * average + 0.2 * weight
    assert torch.allclose(model[1].weight, average, atol=1e-6)


def test_labels_are_smoothed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    x, y = next(DATA.train.batches(16))
    loss = NetworkLearner(model, CONFIG.model_copy(update={"label_smoothing": 0.3})).learn(x, y, 0)
    got = model[1].weight.grad.clone()
    model.zero_grad()
    log_p = model(x).log_softmax(1)
    # 0.7 + 0.1 on the right class, 0.1 on the two others.
    want = -(0.7 * log_p[torch.arange(len(y)), y] + 0.1 * log_p.sum(1)).mean()
    want.backward()
    assert loss == pytest.approx(want.item(), rel=1e-5) and torch.allclose(got, model[1].weight.grad, atol=1e-6)


def test_recipes_are_checked_without_touching_the_model():
    model = network()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    notes = check_recipes(model, CONFIG, [StraightThrough(pattern="2:64")], keep_dense=DENSE)
    assert notes == ("straight_through: its pattern does not fit and leaves dense: second.weight",)
    assert not check_recipes(model, CONFIG, [ActivatingPruning(sparsity=0.5)], keep_dense=DENSE)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    with pytest.raises(RecipeError, match="must fit at least one layer"):
        check_recipes(model, CONFIG, [StraightThrough(pattern="3:100")], keep_dense=DENSE)


def test_bf16_learns():
    model = network()
    result = train_network(model, DATA, CONFIG.model_copy(update={"precision": "bf16", "epochs": 6}))
    assert result.epoch_losses[-1] < 0.7 * result.epoch_losses[0]
    assert model.first.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        ([RECIPES["gradual"], RECIPES["rigl"]], "but gradual and dynamic both decide which weights are zero"),
        ([RECIPES["jackpots"], OTHERS["compander"]], "but jackpots and compander both decide how weights change"),
        ([lambda: StraightThrough(pattern="3:100")], r"pattern 3:100 must fit at least one layer, but fits none of \["),
        ([lambda: FixedMask(sparsity=0.9999)], "a budget must leave at least one weight to each of 2 layers"),
        ([lambda: NestedDropout(groups=[ChannelGroup((("x", 0),), score=("x", 0))])], "but 'x' is none"),
    ],
)
def test_contradictions_and_misfits_are_refused_before_training(recipes, message):
    calls = []
    with pytest.raises(ValueError, match=message):
        train_network(
            network(), DATA, CONFIG, recipes=[make() for make in recipes], keep_dense=DENSE, progress=calls.append
        )
    assert not calls


def test_layers_that_a_pattern_does_not_fit_stay_dense_and_are_listed():
    recipe = StraightThrough(pattern="2:64")
    model = network()
    train_network(model, DATA, CONFIG, recipes=[recipe], keep_dense=DENSE)
    assert recipe.dense_layers == ("second.weight",)
    assert (model.second.weight != 0).all() and sparsity_of({"w": model.first.weight}) == pytest.approx(1 - 2 / 64)


def test_networks_without_what_a_recipe_needs():
    with pytest.raises(RecipeError, match="keep_dense must name modules of the network, but 'stem' is none"):
        train_network(network(), DATA, CONFIG, recipes=[FixedMask(sparsity=0.5)], keep_dense=["stem"])
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(RecipeError, match="must have a conv or linear layer that may be sparse, but has none"):
        train_network(model, DATA, CONFIG, recipes=[FixedMask(sparsity=0.5)], keep_dense=["1"])
    with pytest.raises(RecipeError, match="activating pruning must watch ReLUs, but the network has none"):
        train_network(model, DATA, CONFIG, recipes=[ActivatingPruning(sparsity=0.5)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedMask(sparsity=1.0), r"sparsity must be in \[0, 1\), but got 1.0"),
        (lambda: GradualPruning(sparsity=0.5, begin=0.5, end=0.5), "gradual pruning must have 0 <= begin < end <= 1"),
        (lambda: GradualPruning(sparsity=0.5, every=0), "every must be at least 1 step, but got 0"),
        (lambda: DynamicSparsity(sparsity=0.5, fraction=0.0), r"fraction must be in \(0, 1\], but got 0.0"),
        (lambda: DynamicSparsity(sparsity=0.5, every=0), "every must be at least 1 step, but got 0"),
        (lambda: DynamicSparsity(sparsity=0.5, end=0.0), r"end must be in \(0, 1\], but got 0.0"),
        (lambda: StraightThrough(pattern="dense"), "straight_through must have a sparse pattern, but got 'dense'"),
        (lambda: StraightThrough(pattern="4:2"), "n:m sparsity must have 1 <= n < m, but got 4:2"),
        (lambda: StraightThrough(pattern="2:4", decay=-1.0), "decay must be at least 0, but got -1.0"),
        (lambda: MaskDecay(pattern="2:4", end=0.0), r"end must be in \(0, 1\], but got 0.0"),
        (lambda: StructureDecay(pattern="unstructured-0.5"), "structure decay must have an n:m pattern"),
        (lambda: StructureDecay(pattern="2:4", end=2.0), r"end must be in \(0, 1\], but got 2.0"),
        (lambda: GroupEnvelope(sparsity=1.0), r"sparsity must be in \[0, 1\), but got 1.0"),
        (lambda: GroupEnvelope(sparsity=0.5, strength=0.0), "strength must be positive, but got 0.0"),
        (lambda: GroupEnvelope(sparsity=0.5, end=0.0), "the envelope must have 0 <= begin < end <= 1"),
        (lambda: LotteryJackpots(sparsity=0.5, rate=0.0), "rate must be positive, but got 0.0"),
        (lambda: LotteryJackpots(sparsity=0.5, momentum=1.0), r"momentum must be in \[0, 1\), but got 1.0"),
        (lambda: LotteryJackpots(sparsity=0.5, change=2.0), r"change must be in \[0, 1\], but got 2.0"),
        (lambda: NestedDropout(groups=[]), "nested dropout must have at least one channel group, but got none"),
        (lambda: NestedDropout(groups=GROUPS, smallest=0.0), r"smallest must be in \(0, 1\], but got 0.0"),
        (lambda: NestedDropout(groups=GROUPS, full=2.0), r"full must be in \[0, 1\], but got 2.0"),
        (lambda: WeightCompander(bound=0.0), "bound and slope must be positive, but got 0.0 and 1.0"),
        (lambda: TrainedRankPruning(ratio=0.0), r"ratio must be in \(0, 1\], but got 0.0"),
        (lambda: TrainedRankPruning(ratio=0.5, every=0), "every must be at least 1 step, but got 0"),
        (lambda: TrainedRankPruning(ratio=0.5, strength=-1.0), "strength must be at least 0, but got -1.0"),
        (lambda: ActivatingPruning(sparsity=0.5, budget="erk"), "must have budget 'global' or 'lamp', but got 'erk'"),
        (lambda: ActivatingPruning(sparsity=0.5, strength=2.0), r"strength must be in \[0, 1\], but got 2.0"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
