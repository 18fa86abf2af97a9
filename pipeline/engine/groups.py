"""Stages that share a process: where there are fewer cores than stages, and where one makes views for others.

Each process that runs torch takes seconds and hundreds of MB to start, and audio that stays in a process passes through
no object store. What a stage costs, what failed in it and what kills it are told by stage all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.engine.node import Node
from pipeline.errors import UserError

JOINED = "+"
AUTO, OFF = "auto", "off"


def group_stages(
    stages: Sequence[str],
    bound: Sequence[Sequence[str]],
    on_gpu: Sequence[str],
    cores: float,
    wanted: Sequence[str] = (AUTO,),
) -> tuple[list[list[str]], str]:
    """Which stages share a process, and why, in one line that is empty where none do.

    Args:
        stages: of the graph, in order.
        bound: runs of stages that have to, see `pipeline.engine.declare.Pipeline.groups`.
        on_gpu: stages that run on a card: each has its own processes.
        cores: of the cluster, each for one process.
        wanted: ``auto``; ``off``; or groups as ``decode+features``, which leave the others alone.

    Raises:
        UserError: ``wanted`` names no stage, or stages that do not follow each other.
    """
    together = {name: {*run} for run in bound for name in run if len(run) > 1}
    why = "a stage reads what another one makes" if together else ""
    if list(wanted) == [AUTO]:
        plain = [name for name in stages if name not in on_gpu]
        if len(plain) > cores:
            together = {name: {*plain} for name in plain}
            why = f"{len(plain)} stages on {cores:g} cores"
    elif list(wanted) != [OFF]:
        for group in wanted:
            names = _names(group, stages)
            for name in names:
                together[name] = together.get(name, set()) | {*names}
        why = "ray.groups"
    groups: list[list[str]] = []
    for name in stages:
        before = groups[-1][-1] if groups else None
        shares = before is not None and before in together.get(name, set()) and name not in on_gpu
        if shares and before not in on_gpu:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups, why if any(len(group) > 1 for group in groups) else ""


def _names(group: str, stages: Sequence[str]) -> list[str]:
    names = [name.strip() for name in group.split(JOINED)]
    known = [stages.index(name) for name in names if name in stages]
    if len(known) < len(names):
        # Of another config: a stage that is off is nobody's mistake.
        names = [name for name in names if name in stages]
    if known and known != list(range(known[0], known[0] + len(known))):
        raise UserError(
            f"ray.groups: {group} are stages that do not follow each other",
            f"in this run they are {', '.join(stages)}, in this order",
            f"ray.groups=[{JOINED.join(stages[known[0] : known[0] + 2])}], or ray.groups=[auto]",
        )
    return names


def name_of(group: Sequence[str]) -> str:
    """What a group is called."""
    return JOINED.join(group)


def grouped(nodes: Sequence[Node], groups: Sequence[Sequence[str]]) -> list[Node]:
    """``nodes`` with those of a group as one."""
    by_name = {node.name: node for node in nodes}
    if not groups:
        return list(nodes)
    return [
        by_name[group[0]]
        if len(group) == 1
        else Node(name_of(group), "", parts=tuple(by_name[name] for name in group))
        for group in groups
    ]


def by_group(values: Mapping[str, float], groups: Sequence[Sequence[str]]) -> dict[str, float]:
    """What belongs to stages, summed for each group of them."""
    return {name_of(group): sum(values.get(name, 0) for name in group) for group in groups}


def largest_of_group(values: Mapping[str, int], groups: Sequence[Sequence[str]]) -> dict[str, int]:
    """What is fixed for stages, for each group the largest; nothing for groups of which nothing is fixed."""
    found = {name_of(group): max(values.get(name, 0) for name in group) for group in groups}
    return {name: value for name, value in found.items() if value}
