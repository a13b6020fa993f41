"""The order of the steps: what a round is made of. `mart describe` prints it, `resources/` schedules it."""

from collections.abc import Sequence

from pipelines.config import RunConfig
from pipelines.origins import READS
from pipelines.step import CurateStep, GenerationStep, Step, TrainStep
from pipelines.steps.attack import ATTACK
from pipelines.steps.curate import (
    CURATE_ADVERSARY,
    CURATE_HELPFULNESS,
    CURATE_SAFETY,
    CURATE_TARGET,
    CURATE_WARM_ADVERSARY,
    CURATE_WARM_TARGET,
)
from pipelines.steps.evaluate import EVALUATE_ADVERSARY, EVALUATE_ATTACK, EVALUATE_REFERENCE, EVALUATE_TARGET
from pipelines.steps.report import REPORT
from pipelines.steps.respond import RESPOND
from pipelines.steps.score import EVALUATE_SCORE, SCORE
from pipelines.steps.screen import SCREEN
from pipelines.steps.select import SELECT


def _train(name: str, role: str, curated_by: str, section: str) -> TrainStep:
    return TrainStep(
        name=name,
        role=role,  # type: ignore[arg-type]
        reads=READS,
        writes="checkpoints",
        also_writes=("checkpoint_origins",),
        section=section,
        gpu=True,
        curated_by=curated_by,
    )


TRAIN_SAFETY = _train("train_safety", "safety_rm", "curate_safety", "§3.1: S_s")
TRAIN_HELPFULNESS = _train("train_helpfulness", "helpfulness_rm", "curate_helpfulness", "§3.1: S_h")
TRAIN_WARM_TARGET = _train(
    "train_warm_target", "target", "curate_warm_target", "§3.1: the base of both models"
)
TRAIN_WARM_ADVERSARY = _train("train_warm_adversary", "adversary", "curate_warm_adversary", "§2.1: M_adv[0]")
TRAIN_ADVERSARY = _train("train_adversary", "adversary", "curate_adversary", "§2.1: M_adv[i]")
TRAIN_TARGET = _train("train_target", "target", "curate_target", "§2.2: M_tgt[i]")

BOOTSTRAP: tuple[Step, ...] = (
    CURATE_SAFETY,
    TRAIN_SAFETY,
    CURATE_HELPFULNESS,
    TRAIN_HELPFULNESS,
    CURATE_WARM_TARGET,
    TRAIN_WARM_TARGET,
    CURATE_WARM_ADVERSARY,
    TRAIN_WARM_ADVERSARY,
)
ROUND: tuple[Step, ...] = (
    ATTACK,
    SCREEN,
    RESPOND,
    SCORE,
    SELECT,
    CURATE_ADVERSARY,
    TRAIN_ADVERSARY,
    CURATE_TARGET,
    TRAIN_TARGET,
)
EVALUATION: tuple[Step, ...] = (
    EVALUATE_REFERENCE,
    EVALUATE_TARGET,
    EVALUATE_ADVERSARY,
    EVALUATE_ATTACK,
    EVALUATE_SCORE,
    REPORT,
)
ALL = {step.name: step for step in (*BOOTSTRAP, *ROUND, *EVALUATION)}
# The steps that train a role.
TRAINED_BY = {
    "adversary": ("train_warm_adversary", "train_adversary"),
    "target": ("train_warm_target", "train_target"),
    "safety_rm": ("train_safety",),
    "helpfulness_rm": ("train_helpfulness",),
}

_DEPENDS: dict[str, tuple[str, ...]] = {
    "screen": ("attack",),
    "respond": ("screen",),
    "score": ("respond",),
    "select": ("score",),
    "curate_adversary": ("select",),
    "curate_target": ("select",),
    "train_adversary": ("curate_adversary",),
    "train_target": ("curate_target",),
    "train_safety": ("curate_safety",),
    "curate_helpfulness": ("train_safety",),  # whose model it may begin with
    "train_helpfulness": ("curate_helpfulness",),
    "train_warm_target": ("curate_warm_target",),
    "train_warm_adversary": ("curate_warm_adversary",),
    "evaluate_target": ("train_warm_target", "train_target"),
    "evaluate_reference": ("train_warm_target", "train_target"),
    "evaluate_adversary": ("train_warm_adversary", "train_adversary"),
    "evaluate_attack": ("evaluate_adversary", "train_target", "train_warm_target"),
    "evaluate_score": ("evaluate_target", "evaluate_attack", "train_safety", "train_helpfulness"),
    "report": ("evaluate_score", "evaluate_reference", "select", "curate_adversary", "curate_target"),
}


def needs(step: Step) -> set[str]:
    """All steps of the same round that a step builds on, directly or not."""
    needed: set[str] = set()
    waiting = list(_DEPENDS.get(step.name, ()))
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += _DEPENDS.get(name, ())
    return needed


def side_by_side(steps: Sequence[Step]) -> list[list[Step]]:
    """The steps in order, and together those that may run at a time, none of which builds on another.

    These are steps that ask an engine, where what one spends before its first request and after its last answer hides behind
    the requests of the others; and a training with the curation that comes next, which hides behind it.
    """
    groups: list[list[Step]] = []
    for step in steps:
        beside = groups[-1] if groups else []
        if beside and _hides(step, beside) and not needs(step) & {item.name for item in beside}:
            beside.append(step)
        else:
            groups.append([step])
    return groups


def _hides(step: Step, beside: Sequence[Step]) -> bool:
    if isinstance(step, GenerationStep):
        return isinstance(beside[0], GenerationStep)
    return isinstance(step, CurateStep) and [type(item) for item in beside] == [TrainStep]


def steps_of(config: RunConfig, round: int) -> tuple[Step, ...]:
    """The steps of a round as this configuration has them, in order.

    Left out are: the training of a reward model that is given finished, the warm start of a model that needs none,
    the training of a role that is frozen, and all that needs a hosted target's weights.
    """
    left_out: set[str] = set()
    if config.reward_models["safety"].dataset is None:
        left_out |= {"curate_safety", "train_safety"}
    if config.reward_models["helpfulness"].dataset is None:
        left_out |= {"curate_helpfulness", "train_helpfulness"}
    if config.data.warm_start is None:
        left_out |= {"curate_warm_target", "train_warm_target"}
    if not config.adversary.warm_pairs:
        left_out |= {"curate_warm_adversary", "train_warm_adversary"}
    for role in ("adversary", "target"):
        if round > 0 and not getattr(config, role).enabled:
            left_out |= {f"curate_{role}", f"train_{role}"}
    if config.data.suites is None:
        left_out |= {"evaluate_target", "evaluate_reference"}
    if config.target.endpoint:
        left_out |= {"curate_warm_target", "train_warm_target", "evaluate_reference"}
    if not config.evaluate.adversary_prompts:
        left_out |= {"evaluate_adversary", "evaluate_attack"}
    body = (*BOOTSTRAP, *EVALUATION) if round == 0 else (*ROUND, *EVALUATION)
    return tuple(step for step in body if step.name not in left_out)
