"""Residual branches that may be left out: y = x + f(x) becomes y = x."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from search_spaces.from_model.capture import Captured
from search_spaces.from_model.walk import arguments, operator_name

NORMS = frozenset({"layer_norm", "rms_norm"})


@dataclass(frozen=True)
class Branch:
    """A part of the graph between a value and the sum that adds something to it.

    Args:
        name: path of the modules in it.
        entry: the value that stays in the place of `exit`.
        exit: the sum; or the normalisation or activation behind it, where the entry went through the same.
        nodes: all between, `exit` included.
    """

    name: str
    entry: fx.Node
    exit: fx.Node
    nodes: frozenset[fx.Node]


def branches(captured: Captured) -> list[Branch]:
    """Returns the branches that can be left out without changing any shape, in graph order."""
    found = []
    for node in captured.graph.nodes:
        if node.op != "call_function" or operator_name(node) != "add":
            continue
        pair = [n for n in (node.args[0], node.args[1]) if isinstance(n, fx.Node)]
        if len(pair) != 2 or arguments(node).get("alpha", 1) != 1:
            continue
        for entry, other in (pair, pair[::-1]):
            inside = _between(entry, other)
            if not inside or captured.shapes[entry] != captured.shapes[other]:
                continue
            if entry.op == "placeholder" and entry.name in captured.tensors:
                continue
            if any(user not in inside and user is not node for n in inside for user in n.users):
                continue
            exit_, nodes = _extended(entry, node, inside | {node})
            found.append((entry, exit_, nodes))
            break
    return _named(captured, found)


def _between(entry: fx.Node, end: fx.Node) -> set[fx.Node]:
    """Returns what lies on paths from `entry` to `end`, with `end`; nothing if there is no path."""
    after = {entry}
    queue = [entry]
    while queue:
        for user in queue.pop().users:
            if user not in after:
                after.add(user)
                queue.append(user)
    if end not in after or end is entry:
        return set()
    found, queue = {end}, [end]
    while queue:
        for source in queue.pop().all_input_nodes:
            if source in after and source not in found and source is not entry:
                found.add(source)
                queue.append(source)
    # What only serves these nodes (a shape, a mask of their own) disappears with them.
    return {n for n in found if n.op == "call_function"}


def _extended(entry: fx.Node, exit_: fx.Node, nodes: set[fx.Node]) -> tuple[fx.Node, frozenset[fx.Node]]:
    """Takes a norm or activation behind the sum along if the entry comes from one, and so has its effect already."""
    users = [u for u in exit_.users if u.op == "call_function"]
    source = entry
    while source.op == "call_function" and operator_name(source) in {"dropout", "contiguous"}:
        source = source.args[0]  # type: ignore[assignment]
    if len(users) == len(exit_.users) == 1 and source.op == "call_function":
        after, before = operator_name(users[0]), operator_name(source)
        if after == before and after in NORMS | {"relu"}:
            return users[0], frozenset(nodes | {users[0]})
    return exit_, frozenset(nodes)


def _common(paths: list[list[str]]) -> list[str]:
    """Returns the parts that all paths begin with."""
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared


def _named(captured: Captured, found: list[tuple[fx.Node, fx.Node, frozenset[fx.Node]]]) -> list[Branch]:
    out: list[Branch] = []
    taken: set[str] = set()
    prefixes = []
    for _, exit_, nodes in found:
        paths = [captured.paths[n].split(".") for n in nodes if n is not exit_ and captured.paths[n]]
        prefixes.append(".".join(_common(paths)))
    for (entry, exit_, nodes), name in zip(found, prefixes, strict=True):
        inner = sum(other == name or other.startswith(f"{name}.") for other in prefixes)
        if not name or inner > 1:  # as general as another branch's name: the first layer in it says more
            weighted = [n for n in captured.graph.nodes if n in nodes and captured.paths[n]]
            name = captured.paths[weighted[0]] if weighted else exit_.name
        name = name or exit_.name
        base, number = name, 2
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        taken.add(name)
        out.append(Branch(name, entry, exit_, nodes))
    return out
