"""The arms of an ablation: each is another value of one option of a run, the rest as in the reference where it can be.

The reference is the method with the settings that were given: the crop where attention falls. Controls see as many
pixels and train as long, but look elsewhere, so the difference from them is what attention itself adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from agcxr import config
from agcxr.config import Train, parts_of, starts_from_global
from agcxr.experiments.cost import film_cost, side_of_cost, sized
from agcxr.inference.prediction import VIEWS, Branch, ViewSet
from agcxr.training.run_folder import differences, recipe

Group = Literal[
    "controls",
    "tau",
    "heatmap",
    "normalise",
    "where",
    "crop-source",
    "attention-per",
    "start",
    "strategies",
    "views",
    "budget",
]
GROUPS: tuple[Group, ...] = get_args(Group)
USUAL = tuple(group for group in GROUPS if group != "budget")
"""Run where none is named; the budget is a study of its own."""
TITLES: dict[str, str] = {
    "controls": "Where the crop lies",
    "tau": "Threshold tau",
    "heatmap": "Heatmap statistic",
    "normalise": "Scale before tau",
    "where": "Where tau is applied",
    "crop-source": "What the crop is cut from",
    "attention-per": "When attention is taken",
    "start": "First weights of the local branch",
    "strategies": "What is trained together",
    "views": "Views averaged in testing",
    "budget": "The same arithmetic, spent otherwise",
}
REFERENCE = "attention"
"""Folder of the reference run."""
LARGER, TWICE, LONGER, ALONE = "whole view, larger", "two networks", "longer training", "global branch"
"""Arms of the budget that have no crops."""
NAMES = {"whole": "whole view", "random": "random box", "centre": "centre box", "attention": "attention"}
"""Arms of the controls, as people say them."""

TAUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Paper:
    """Mean test AUROC in the paper's own ablation (ResNet-50, split by image); NaN: not published."""

    global_: float
    local: float
    fusion: float


NAN = float("nan")
PAPER_REFERENCE = Paper(0.841, 0.817, 0.868)
PAPER: dict[tuple[Group, str], Paper] = {
    ("controls", "attention"): PAPER_REFERENCE,
    ("controls", "whole"): Paper(NAN, NAN, 0.851),
    ("heatmap", "max"): Paper(0.841, 0.8171, 0.8680),
    ("heatmap", "l1"): Paper(0.841, 0.8210, 0.8681),
    ("heatmap", "l2"): Paper(0.841, 0.8213, 0.8672),
    ("strategies", "GL_F"): Paper(0.831, 0.800, 0.833),
    ("strategies", "GLF"): Paper(0.847, 0.815, 0.849),
    ("strategies", "G_LF"): Paper(0.841, 0.809, 0.843),
    ("strategies", "G_L_F-finetune"): Paper(0.852, 0.819, 0.854),
    ("strategies", "G_L_F"): PAPER_REFERENCE,
}
_TAU_LOCAL = (0.828, 0.831, 0.822, 0.822, 0.819, 0.825, 0.817, 0.804, 0.751)
_TAU_FUSION = (0.861, 0.865, 0.859, 0.858, 0.858, 0.867, 0.868, 0.866, 0.863)
PAPER |= {
    ("tau", f"{tau:g}"): Paper(0.841, local, fusion)
    for tau, local, fusion in zip(TAUS, _TAU_LOCAL, _TAU_FUSION, strict=True)
}


@dataclass(frozen=True)
class Arm:
    """One row of an ablation. Arms with equal settings share a run, and so a folder."""

    group: Group
    name: str
    settings: Train
    folder: str
    views: ViewSet = "plain"
    """Of the films in testing; the trained run is the same."""
    branch: Branch = "fusion"
    """Whose answer it is, in the group `budget`."""

    @property
    def reference(self) -> bool:
        """The arm is the method with the settings that were given."""
        return self.folder == REFERENCE and self.views == "plain"

    @property
    def key(self) -> tuple[str, ViewSet]:
        """Arms of the same key have the same predictions."""
        return self.folder, self.views

    @property
    def paper(self) -> Paper | None:
        """What the paper's own ablation found for it."""
        return PAPER.get((self.group, self.name))

    def changes(self, base: Train) -> tuple[str, ...]:
        """What it changes, as `local.threshold: 0.7 -> 0.1`."""
        return (*differences(base, self.settings), *[f"views: plain -> {self.views}"] * (self.views != "plain"))


def arms(base: Train, groups: Sequence[Group] = USUAL) -> tuple[Arm, ...]:
    """All arms of the groups, the reference's group first. `base`: the settings of the reference.

    Raises ValueError for an unknown group, and for a base that is itself a control.
    """
    if unknown := sorted(set(groups) - set(GROUPS)):
        raise ValueError(f"unknown ablation {unknown[0]!r}; there are {', '.join(GROUPS)}")
    if base.local.look != "attention":
        raise ValueError(
            f"local.look is {base.local.look!r}, but the reference of an ablation is the method itself: leave "
            "--local.look out, the controls set it"
        )
    rows: list[Arm] = []
    for group in (group for group in GROUPS if group in groups):
        if group == "views":
            rows += [Arm(group, views, base, REFERENCE, views) for views in VIEWS if _has(views, base)]
            continue
        for name, settings, branch in _answers(group, base):
            folder = f"{group}-{name.replace(', ', '-').replace(' ', '-')}"
            same = next((arm.folder for arm in rows if arm.settings == settings), folder)
            rows.append(Arm(group, name, settings, REFERENCE if settings == base else same, branch=branch))
    return tuple(rows)


def _has(views: ViewSet, base: Train) -> bool:
    """A view of the whole film has no corners."""
    return views != "five" or base.image_size < base.resize


def _answers(group: Group, base: Train) -> Iterator[tuple[str, Train, Branch]]:
    """(name, settings, branch) of each arm of a group."""
    if group == "budget":
        yield from _budget(base)
    else:
        yield from ((name, settings, "fusion") for name, settings in _values(group, base))


def _budget(base: Train) -> Iterator[tuple[str, Train, Branch]]:
    """Answers that cost as much as the method's, and what explains a difference: see experiments/budget.py.

    A local branch that looks at the whole view starts from the global one of the same view or from its weights, as the
    method's does, and learns as long: alone, it is a network that has had the method's steps.
    """
    alone: dict[str, Any] = {"look": "whole", "crop_source": "view"} | ONE_VIEW
    whole, cost = _local(base, **alone), film_cost(base)
    larger, twice = (sized(whole, side_of_cost(base, cost // networks)) for networks in (1, 2))
    yield REFERENCE, base, "fusion"
    for statistic in ("l2", "cam"):
        if statistic != base.local.statistic:
            yield f"{REFERENCE}, {statistic}", _local(base, statistic=statistic), "fusion"
    for look in ("random", "centre", "oracle"):
        yield look, _local(base, look=look), "fusion"
    yield LARGER, larger, "local"
    yield TWICE, twice, "fusion"
    yield LONGER, whole, "local"
    yield ALONE, base, "global"


ONE_VIEW: dict[str, Any] = {"crops": 1, "window": 0.0, "pool": "max", "gradient": "none"}
"""Settings of the crops that a branch without any has."""


def _values(group: Group, base: Train) -> Iterator[tuple[str, Train]]:
    """(name, settings) of each value of a group's option."""
    if group == "strategies":
        for strategy in get_args(config.Strategy):
            yield strategy, _trained_as(base, strategy)
        return
    if group == "tau":
        # the threshold of the base is an arm too, where it is another one
        for tau in sorted({*TAUS, base.local.threshold}):
            yield f"{tau:g}", _local(base, threshold=tau)
        return
    option: dict[Group, str] = {
        "controls": "look",
        "heatmap": "statistic",
        "normalise": "normalise",
        "where": "at",
        "crop-source": "crop_source",
        "attention-per": "attention_per",
        "start": "start",
    }
    field = option[group]
    for value in get_args(type(base.local).model_fields[field].annotation):
        if value == "oracle":  # no control: it knows more than attention does
            continue
        settings = _local(base, **{field: value})
        if value == "image" and base.augment.rotation:  # a box found once does not turn with the views
            settings = settings.model_copy(update={"augment": base.augment.model_copy(update={"rotation": 0.0})})
        yield value, settings


def _local(base: Train, **changes: Any) -> Train:
    return base.model_copy(update={"local": base.local.model_copy(update=changes)})


def _trained_as(base: Train, strategy: config.Strategy) -> Train:
    """Another strategy; what needs a frozen or a trained branch is left out where it has none: features and boxes that
    are computed once, a local branch or a fusion that starts from the global branch."""
    if strategy == base.strategy:
        return base
    changes: dict[str, Any] = {"strategy": strategy}
    joint = [parts_of(stage) for stage in config.STRATEGIES[strategy] if len(parts_of(stage)) > 1]
    if any("fusion" in parts for parts in joint):
        changes["fusion"] = base.fusion.model_copy(update={"cached_views": 0, "start": "random"})
    local: dict[str, Any] = {"attention_per": "view"} if any("global" in parts for parts in joint) else {}
    if not any(map(starts_from_global, config.STRATEGIES[strategy])):
        local["start"] = "weights"
    return base.model_copy(update=changes | {"local": base.local.model_copy(update=local)})


def runs(rows: Iterable[Arm], base: Train) -> dict[str, Train]:
    """Folder -> settings of every run that the arms need, the reference first."""
    return {REFERENCE: base} | {arm.folder: arm.settings for arm in rows}


def stage_epochs(needed: Iterable[Train]) -> dict[str, int]:
    """Epochs of each stage that one seed costs when runs share the stages that they would train alike."""
    recipes: list[dict[str, Any]] = []
    cost: dict[str, int] = {}
    for settings in needed:
        for i, stage in enumerate(settings.stages):
            wanted = recipe(settings, i)
            if wanted not in recipes:
                recipes.append(wanted)
                cost[stage] = cost.get(stage, 0) + settings.stage(stage).epochs
    return cost
