"""A target behind an endpoint: the engine that it is to a step, the keys that a run needs, and what it may cost."""

from pyspark.sql import functions as F

from pipelines.config import EngineConfig, RunConfig, TargetEndpointConfig
from pipelines.engines.endpoint import key_in
from pipelines.engines.protocol import GeneratorSpec
from pipelines.errors import ConfigError
from pipelines.lakehouse import Lakehouse
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


def check_keys(config: RunConfig) -> None:
    """Look for the key of every endpoint that the run will ask.

    Raises:
        ConfigError: one is not in this process's environment.
    """
    for endpoint in (config.target.endpoint, *(judge.endpoint for judge in config.judges)):
        if endpoint:
            key_in(endpoint.key_variable)


def cost(endpoint: TargetEndpointConfig, prompt_tokens: int, completion_tokens: int) -> float:
    """What so many tokens cost, in the prices' currency."""
    return (prompt_tokens * endpoint.prompt_price + completion_tokens * endpoint.completion_price) / 1e6


def check_budget(lakehouse: Lakehouse, run_id: str, endpoint: TargetEndpointConfig | None) -> None:
    """Look at what the run's committed answers have cost.

    Raises:
        ConfigError: the budget is spent.
    """
    if endpoint is None or endpoint.budget is None:
        return
    total = (
        lakehouse.read("responses")
        .where(F.col("run_id") == run_id)
        .agg(F.sum("prompt_tokens").alias("read"), F.sum("completion_tokens").alias("written"))
        .head()
    )
    spent = cost(endpoint, total["read"] or 0, total["written"] or 0) if total else 0.0
    if spent >= endpoint.budget:
        raise ConfigError(
            f"the target's answers have cost {spent:.2f} of the {endpoint.budget:.2f} that target.endpoint.budget "
            "allows; raise it, and the same command goes on from here"
        )
