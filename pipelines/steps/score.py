"""Score (paper §2.2): judges give verdicts on (prompt, response), each a row of its own."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.engines.protocol import ScorerSpec
from pipelines.step import Inputs, TableStep

_TYPES = {
    "response_id": "string", "value": "double", "label": "string", "error": "string", "prompt_tokens": "long",
    "completion_tokens": "long",
}  # fmt: skip
_COLUMNS = list(_TYPES)
_SCHEMA = ", ".join(f"{name} {kind}" for name, kind in _TYPES.items())
_TOKENS = {name: "Int64" for name, kind in _TYPES.items() if kind == "long"}  # which may be missing
_ROWS_A_BATCH = 64  # verdicts that leave a task together
REWARD_MODELS = ("safety", "helpfulness")
JUDGE = "judge_"  # what the steps of judges that came later begin with


def scored(responses: DataFrame, scorer: ScorerSpec, partitions: int) -> DataFrame:
    """Verdicts of one judge on responses (`response_id`, `prompt`, `text`): value, label, error and tokens for each."""
    return responses.repartition(partitions, "response_id").mapInPandas(judging(scorer), _SCHEMA)


def judging(scorer: ScorerSpec) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """The function that a Spark task runs over its rows: the scorer is asked once for all, and reads them as it needs them."""

    def judge(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        from pipelines.engines.factory import open_scorer

        items = (
            item
            for batch in batches
            for item in zip(batch["response_id"], batch["prompt"], batch["text"], strict=True)
        )
        with open_scorer(scorer) as opened:
            scores = opened.score(items)
            while some := list(islice(scores, _ROWS_A_BATCH)):
                rows = [[getattr(score, name) for name in _COLUMNS] for score in some]
                yield pd.DataFrame(rows, columns=_COLUMNS).astype(_TOKENS)

    return judge


def verdicts(inputs: Inputs, responses: DataFrame, names: Iterable[str], step: str) -> DataFrame:
    """Rows for `scores`: every named judge on every usable response."""
    context = inputs.context
    items = responses.where("status = 'ok'").select(
        F.col("request_id").alias("response_id"), "prompt", "text"
    )
    frames = []
    for name in names:
        scorer = context.scorers[name]
        frames.append(
            scored(items, scorer, context.config.engine.partitions).select(
                F.lit(context.run_id).alias("run_id"),
                F.lit(context.round).alias("round"),
                F.lit(step).alias("step"),
                "response_id",
                F.lit(scorer.digest).alias("scorer_digest"),
                F.lit(scorer.name).alias("scorer"),
                "value",
                "label",
                F.when(F.col("error").isNull(), "ok").otherwise("error").alias("status"),
                "error",
                "prompt_tokens",
                "completion_tokens",
            )
        )
    first, *others = frames
    for other in others:
        first = first.unionByName(other)
    return first


def _attack_verdicts(inputs: Inputs) -> DataFrame:
    # Evaluation judges are left out on purpose: what selects must not be what reports.
    return verdicts(inputs, inputs.this_round("responses").where("step = 'respond'"), REWARD_MODELS, "score")


def _answers(inputs: Inputs) -> DataFrame:
    """What evaluation judges read: the round's answers to held-out prompts, to the adversary's, and to the attacks."""
    return inputs.this_round("responses").where("logprob IS NULL")  # a reference answer is no one's answer


def _evaluation_verdicts(inputs: Inputs) -> DataFrame:
    answers = _answers(inputs)
    judges = [name for name in inputs.context.scorers if name not in REWARD_MODELS]
    evaluated = verdicts(inputs, answers.where("purpose = 'evaluation'"), REWARD_MODELS, "evaluate_score")
    if not judges:
        return evaluated
    # The attacks themselves are judged for the report; selection is over by now and reads its own step's rows only.
    return evaluated.unionByName(verdicts(inputs, answers, judges, "evaluate_score"))


SCORE = TableStep(
    name="score",
    reads=("responses",),
    writes="scores",
    section="§2.2: S_s and S_h on every (prompt, response)",
    gates=("scores",),
    gpu=True,
    scope=("run_id", "round", "step"),
    build=_attack_verdicts,
)

EVALUATE_SCORE = TableStep(
    name="evaluate_score",
    reads=("responses",),
    writes="scores",
    section="§3: every judge on the evaluation answers; evaluation judges come in only here",
    gpu=True,
    scope=("run_id", "round", "step"),
    build=_evaluation_verdicts,
    asks_judges=True,
)


def judge_step(judge: str) -> TableStep:
    """The step in which a judge that came later reads a round's answers, as `evaluate_score` has the others do."""
    name = JUDGE + judge
    return TableStep(
        name=name,
        reads=("responses",),
        writes="scores",
        section="§3: a further judge on the evaluation answers",
        gpu=True,
        scope=("run_id", "round", "step"),
        build=lambda inputs: verdicts(inputs, _answers(inputs), (judge,), name),
        asks_judges=True,
    )
