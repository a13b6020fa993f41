"""Models behind endpoints: the engine that a hosted target is to a step, the keys that a run needs, and what all may cost."""

from collections.abc import Iterable, Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.config import EndpointConfig, EngineConfig, JudgeConfig, TargetEndpointConfig
from pipelines.engines.endpoint import key_in
from pipelines.engines.protocol import GeneratorSpec
from pipelines.errors import ConfigError
from pipelines.lakehouse import Lakehouse
from pipelines.session import is_local
from schemas.digests import digest


def hosted_spec(endpoint: TargetEndpointConfig, engine: EngineConfig) -> GeneratorSpec:
    """The endpoint as each of a step's tasks asks it."""
    tasks = engine.partitions * engine.chunks_in_flight
    return GeneratorSpec(
        backend="openai",
        model=endpoint.model,
        model_digest=digest([endpoint.base_url, endpoint.model]),
        options=endpoint.options_of(tasks),
    )


def check_keys(spark: SparkSession, endpoints: Iterable[EndpointConfig | None]) -> None:
    """Look for the key of every endpoint that will be asked, where this process's host asks: elsewhere the nodes have them.

    Raises:
        ConfigError: one is not in this process's environment.
    """
    if not is_local(spark):
        return
    for endpoint in endpoints:
        if endpoint:
            key_in(endpoint.key_variable)


def cost(endpoint: EndpointConfig, prompt_tokens: int, completion_tokens: int) -> float:
    """What so many tokens cost, in the prices' currency."""
    return (prompt_tokens * endpoint.prompt_price + completion_tokens * endpoint.completion_price) / 1e6


def check_budget(lakehouse: Lakehouse, run_id: str, endpoint: EndpointConfig | None) -> None:
    """Look at what the target's committed answers have cost the run.

    Raises:
        ConfigError: the budget is spent.
    """
    if endpoint is not None and endpoint.budget is not None:
        answers = lakehouse.read("responses").where(F.col("run_id") == run_id)
        _check(endpoint, answers, "the target's answers", "target.endpoint.budget")


def check_judges_budgets(lakehouse: Lakehouse, run_id: str, judges: Sequence[JudgeConfig]) -> None:
    """Look at what the verdicts of each judge behind an endpoint have cost the run.

    Raises:
        ConfigError: a budget is spent.
    """
    for judge in judges:
        if judge.endpoint is not None and judge.endpoint.budget is not None:
            mine = (F.col("run_id") == run_id) & (F.col("scorer") == judge.name)
            verdicts = lakehouse.read("scores").where(mine)
            _check(judge.endpoint, verdicts, f"the verdicts of judge {judge.name}", "its endpoint.budget")


def cost_of_verdicts(verdicts: DataFrame, judges: Sequence[JudgeConfig]) -> dict[str, float]:
    """Tokens and cost of rows of `scores`, as a step counts them; nothing where no judge is behind an endpoint."""
    counts = {"prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0}
    hosted = {judge.name: judge.endpoint for judge in judges if judge.endpoint is not None}
    for name, endpoint in hosted.items():
        tokens = _tokens(verdicts.where(F.col("scorer") == name))
        counts["prompt_tokens"] += tokens[0]
        counts["completion_tokens"] += tokens[1]
        counts["cost"] += cost(endpoint, *tokens)
    return counts | {"cost": round(counts["cost"], 6)} if hosted else {}


def _check(endpoint: EndpointConfig, rows: DataFrame, whose: str, setting: str) -> None:
    assert endpoint.budget is not None
    spent = cost(endpoint, *_tokens(rows))
    if spent >= endpoint.budget:
        raise ConfigError(
            f"{whose} have cost {spent:.2f} of the {endpoint.budget:.2f} that {setting} allows; raise it, and the same "
            "command goes on from here"
        )


def _tokens(rows: DataFrame) -> tuple[int, int]:
    """Tokens read and written behind rows of `responses` or `scores`."""
    total = rows.agg(F.sum("prompt_tokens").alias("read"), F.sum("completion_tokens").alias("written")).head()
    return (total["read"] or 0, total["written"] or 0) if total else (0, 0)
