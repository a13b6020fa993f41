"""The runner: puts the steps in order and is alone in touching tables."""

import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import cached_property, partial
from itertools import groupby
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.artifacts import Artifacts
from pipelines.busy import BusyClock
from pipelines.config import RunConfig, TargetEndpointConfig
from pipelines.engines.of_run import HANDOVER_SECONDS, RunEngines, owner_of
from pipelines.engines.protocol import Adapter, GeneratorSpec, ScorerSpec
from pipelines.errors import ConfigError, GateBlocked, MartError, RunHeld, raised_in_task
from pipelines.gates.keeper import GateKeeper
from pipelines.generation import Ask, Chunk, ask_all, chunks_of, write_requests
from pipelines.history import History, now
from pipelines.hosted import check_budget, check_judges_budgets, cost, cost_of_verdicts, hosted_spec
from pipelines.lakehouse import Lakehouse
from pipelines.lease import RunLease
from pipelines.merging import merged_model
from pipelines.models import LocalModel, check_reads_text, local_model
from pipelines.origins import keep_origins, tables_of
from pipelines.plan import TRAINED_BY, needs, side_by_side, steps_of
from pipelines.scorers import judge_spec, judges_options, reward_model_spec, scorer_rows
from pipelines.session import is_local
from pipelines.step import (
    Counts,
    CurateStep,
    GenerationStep,
    Inputs,
    RoundContext,
    Step,
    TableStep,
    TrainStep,
)
from pipelines.training_jobs import (
    REWARD_ROLES,
    WARM_RUN,
    Order,
    Trainers,
    base_source,
    checkpoint_row,
    mark_fitting,
    number_examples,
    prove_registered,
    recipe_of,
    settings_for,
    train,
    training_root,
)
from pipelines.version import code_version
from schemas.digests import canonical_json, digest

log = logging.getLogger(__name__)


def engines_owner(lakehouse: Lakehouse, artifacts: Artifacts, run_id: str) -> str:
    """Whose a run's engines are, the same for every process of the run; see `owner_of`."""
    return owner_of(run_id, lakehouse.schema, lakehouse.folder or artifacts.root)


class Runner:
    """Runs the steps of one run.

    Args:
        lakehouse: the tables.
        artifacts: the artifact root.
        config: the run's configuration.
        run_id: the run, which `begin` has made.
        home: host-local folder for engines' sockets and locks; the system's when None.
        single_step: this process runs one step: it leaves engines to the next one's, and makes nothing else ready for it.
        tracking_uri: where trainers log to MLflow; empty for nowhere.
        lease: of who drives the run: checked between steps, which name its holder.
    """

    def __init__(
        self,
        lakehouse: Lakehouse,
        artifacts: Artifacts,
        config: RunConfig,
        run_id: str,
        *,
        home: str = "",
        lease: RunLease | None = None,
        single_step: bool = False,
        tracking_uri: str = "",
    ) -> None:
        self.lakehouse = lakehouse
        self.artifacts = artifacts
        self.config = config
        self.run_id = run_id
        self.home = home
        self.history = History(lakehouse, run_id)
        self._gates = GateKeeper(lakehouse, config, run_id)
        self._lease = lease
        self.single_step = single_step
        owner = engines_owner(lakehouse, artifacts, run_id)
        self.engines = RunEngines(owner, home, handover=HANDOVER_SECONDS if single_step else 0.0)
        self._busy = BusyClock()
        self._ended_a_step = False
        self._stopping = threading.Event()
        self.trainers = Trainers(tracking_uri)
        self._checkpoints: dict[str, dict[str, Any]] = {}

    def close(self) -> None:
        """End the run's engines on this host, or leave them to the next step's process or the driver that has the run now."""
        if self.single_step or (self._lease is not None and self._lease.lost):
            self.engines.let_go()
        else:
            self.engines.end()
        self.trainers.close()

    def run_round(self, round: int) -> None:
        """Run every step of a round that is not published yet; those that may, side by side.

        Raises:
            MartError: of the first step that failed, once those beside it have ended.
        """
        steps = steps_of(self.config, round)
        if any(self._asks_engine(step) and not self.history.is_done(round, step.name) for step in steps):
            self._check_lease()
            self._start_ahead()
        for group in side_by_side(steps):
            left = [step for step in group if not self.history.is_done(round, step.name)]
            if len(left) > 1 and self._is_ready_for_several(left, round):
                self._run_together(left, round)
            else:
                for step in group:
                    self.run_step(step, round)

    def _start_ahead(self) -> None:
        """Have the engine begin to start beside what comes before its first request, most of which waits for Spark.

        Not on a GPU, whose memory a training in between may need, nor engines that take turns.
        """
        from pipelines.engines.launch import has_gpu

        engine = self.config.engine
        if engine.backend == "vllm" and engine.serving == "adapters" and not has_gpu():
            with suppress(MartError, OSError):  # the step that meets it again has it on record
                self._start_engine(self.generator_spec, ahead=True)

    def _asks_engine(self, step: Step) -> bool:
        """Whether a step asks the run's own generator, and no endpoint."""
        return isinstance(step, GenerationStep) and self.config.endpoint_of(step.role) is None

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def _is_ready_for_several(self, steps: Sequence[Step], round: int) -> bool:
        """Have ready, once, what each step would otherwise find missing and make; False where they must take turns."""
        engine = self.config.engine
        ask = any(map(self._asks_engine, steps))
        if ask and (engine.backend == "transformers" or engine.serving == "merged"):
            return False  # each would load a model
        try:
            self._check_lease()
            self.context(round)
            if ask:
                self._start_engine(self.generator_spec)
        except (MartError, OSError):
            return False  # the step that meets it again has it on record
        return True

    def _run_together(self, steps: Sequence[Step], round: int) -> None:
        """Run the first step here, where an interruption ends it, and the others in threads."""
        with ThreadPoolExecutor(len(steps) - 1, thread_name_prefix="step") as pool:
            others = [pool.submit(self.run_step, step, round) for step in steps[1:]]
            try:
                self.run_step(steps[0], round)
                wait(others)
            except Exception:
                _log_failed(others)
                raise
            except BaseException:
                self._stopping.set()
                raise
        if failed := [other for other in others if other.exception() is not None]:
            _log_failed(failed[1:])
            failed[0].result()

    def _before_chunk(self, endpoint: TargetEndpointConfig | None) -> None:
        if self._stopping.is_set():
            raise KeyboardInterrupt
        check_budget(self.lakehouse, self.run_id, endpoint)

    def run_step(self, step: Step, round: int) -> None:
        """Run one step, unless it is published.

        Raises:
            GateBlocked: a gate refused its batch.
            ConfigError: a step that it builds on is not published.
        """
        if self.history.is_done(round, step.name):
            log.info("round %d %s: published already", round, step.name)
            return
        self._check_lease()
        if self.single_step and is_local(self.lakehouse.spark):
            self.engines.keep_found()
        # Several at a time; `context` reads the first two.
        self.lakehouse.ready("checkpoints", "scorers", *step.inputs, step.writes, *step.also_writes)
        self._check_predecessors(step, round)
        attempt = self.history.next_attempt(round, step.name)
        versions = {table: self.lakehouse.version(table) for table in step.inputs}
        started, clock = now(), time.monotonic()
        event = {
            "run_id": self.run_id,
            "round": round,
            "step": step.name,
            "attempt": attempt,
            "started_at": started,
            "driven_by": self._lease and self._lease.holder,
        }
        counts = Counts()
        try:
            if step.gates:
                _ = self._gates.suites  # a suite that is not right is told before the step's work
            inputs = Inputs(self.context(round), self._frames(step, versions))
            batch = self._execute(step, inputs, versions, counts)
            if batch is not None:
                for gate in step.gates:
                    self._gates.pass_through(gate, inputs, batch, attempt, counts)
        except RunHeld:
            raise  # the step is another driver's now
        except Exception as error:
            ours = error if isinstance(error, MartError) else raised_in_task(error)
            state = "blocked" if isinstance(ours, GateBlocked) else "failed"
            why = f"{type(error).__name__}: {error}" if ours is None else str(ours)
            with suppress(Exception) if ours is None else nullcontext():  # Spark itself may have died
                self._record(event, state, versions, {}, counts, why)
            if ours is None or ours is error:
                raise
            raise ours from error
        written = () if batch is None else (step.writes, *step.also_writes)
        writes = {table: self.lakehouse.version(table) for table in written}
        self._check_lease()
        self._record(event, "done", versions, writes, counts, None)
        self.history.record_done(round, step.name, counts.values)
        self._ended_a_step = True
        shown = ", ".join(f"{key} {value}" for key, value in counts.values.items() if isinstance(value, int))
        log.info("round %d %s: %s (%.1f s)", round, step.name, shown or "done", time.monotonic() - clock)

    def _frames(self, step: Step, versions: Mapping[str, int]) -> dict[str, DataFrame]:
        if isinstance(step, TrainStep):  # reads what led to its set, whichever run that was of
            return {}
        return {table: self.history.published(table, version) for table, version in versions.items()}

    def context(self, round: int) -> RoundContext:
        """Where the run stands at the next step of a round."""
        current = {role: self.history.checkpoint(role, round, steps) for role, steps in TRAINED_BY.items()}
        return RoundContext(
            spark=self.lakehouse.spark,
            config=self.config,
            run_id=self.run_id,
            round=round,
            checkpoints=current,
            targets=self.targets(round),
            scorers=self.scorers if self._scorers_known() else {},
            base=self.base.path,
            began_in=self.history.began_in,
        )

    def targets(self, round: int) -> dict[int, str | None]:
        """Each round up to this one to the target in force at its end."""
        trained_by = TRAINED_BY["target"]
        return {n: self.history.checkpoint("target", n, trained_by) for n in range(round + 1)}

    @cached_property
    def base(self) -> LocalModel:
        """The base of adversary and target."""
        if self.config.engine.backend == "scripted" and not self.config.model:
            raise ConfigError("model is empty")
        base = local_model(self.config.model)
        check_reads_text(base)
        return base

    @cached_property
    def generator_spec(self) -> GeneratorSpec:
        """The engine that serves the base and every adapter of this run."""
        engine = self.config.engine
        lora = engine.backend in ("vllm", "transformers")
        return replace(
            self._own_engine,
            backend=engine.backend,
            model=self.base.path,
            model_digest=self.base.digest,
            dtype=engine.dtype,
            max_model_len=engine.max_model_len,
            memory_share=engine.memory_share,
            max_adapters=4 if lora else 0,
            max_lora_rank=max(engine.max_lora_rank, *self.config.lora_ranks()),
            lora_modules=self.config.lora_modules(),
            options={**engine.options, "in_flight": engine.in_flight},
        )

    @property
    def _own_engine(self) -> GeneratorSpec:
        """What engines of this run have in common: whose they are, where, and how much they do at a time."""
        engine = self.config.engine
        return GeneratorSpec(
            backend="",
            model="",
            model_digest="",
            max_num_seqs=engine.max_num_seqs,
            kv_cache_gib=engine.kv_cache_gib,
            threads=engine.threads,
            owner=self.engines.owner,
            home=self.home,
            lease_seconds=engine.lease_seconds,
        )

    @cached_property
    def scorers(self) -> dict[str, ScorerSpec]:
        """The run's judges, reward models first."""
        trained = {
            aspect: self._checkpoint_row(self._reward_checkpoint(aspect))
            for aspect in ("safety", "helpfulness")
        }
        specs = {
            aspect: reward_model_spec(self.config, aspect, row, self.artifacts, self._own_engine)
            for aspect, row in trained.items()
        }
        specs |= self.judges()
        self.enter_scorers(specs, trained)
        return specs

    def judges(self) -> dict[str, ScorerSpec]:
        """The configuration's evaluation judges."""
        place = replace(self._own_engine, options=judges_options(self.config.engine))
        tasks = self.config.engine.partitions
        return {judge.name: judge_spec(judge, tasks, place) for judge in self.config.judges}

    def enter_scorers(
        self, specs: Mapping[str, ScorerSpec], checkpoints: Mapping[str, Mapping[str, Any] | None]
    ) -> None:
        """Have a row of `scorers` for each judge, and for each reward model with its checkpoint's row."""
        runs = [part.run_id for part in self.history.parts]
        known = self.lakehouse.read("scorers").where(F.col("run_id").isin(runs)).collect()
        have = {(row["scorer_digest"], row["name"]) for row in known if row["run_id"] == self.run_id}
        for name, spec in specs.items():
            before = {row["scorer_digest"] for row in known if row["name"] == name}
            if before and spec.digest not in before:
                log.warning(
                    "judge %s is another than before (%s, and it was %s): no change is told between the verdicts of the two",
                    name, spec.digest[:12], ", ".join(sorted(item[:12] for item in before)),
                )  # fmt: skip
        rows = [
            row
            for row in scorer_rows(self.run_id, specs, checkpoints)
            if (row["scorer_digest"], row["name"]) not in have
        ]
        # Steps that a scheduler runs side by side may all be the first to look.
        entered = sorted((row["scorer_digest"], row["name"]) for row in rows)
        self.lakehouse.append_rows("scorers", rows, once=digest(["scorers", self.run_id, entered]))

    def _reward_checkpoint(self, aspect: str) -> str | None:
        return self.history.checkpoint(f"{aspect}_rm", 0, TRAINED_BY[f"{aspect}_rm"])

    def _scorers_known(self) -> bool:
        return all(
            self.config.reward_models[aspect].dataset is None or self._reward_checkpoint(aspect)
            for aspect in ("safety", "helpfulness")
        )

    def _check_predecessors(self, step: Step, round: int) -> None:
        order = [*steps_of(self.config, round)]
        if step.name not in [item.name for item in order]:
            raise ConfigError(
                f"step {step.name} is no part of round {round} under this configuration; `mart describe` lists them"
            )
        earlier = [(round, item.name) for item in order[: [item.name for item in order].index(step.name)]]
        if round:
            earlier = [(round - 1, item.name) for item in steps_of(self.config, round - 1)] + earlier
        needed = needs(step)
        missing = [
            f"round {at} {name}"
            for at, name in earlier
            if not self.history.is_done(at, name) and (at < round or name in needed)
        ]
        if missing:
            raise ConfigError(
                f"step {step.name} of round {round} needs {missing[0]} first; run `mart step {missing[0].split()[-1]}`"
            )

    def _record(
        self,
        event: Mapping[str, Any],
        state: str,
        reads: Mapping[str, int],
        writes: Mapping[str, int],
        counts: Counts,
        error: str | None,
    ) -> None:
        row = {
            **event,
            "state": state,
            "ended_at": now(),
            "reads": json.dumps(reads, sort_keys=True),
            "writes": json.dumps(writes, sort_keys=True),
            "counts": canonical_json(counts.values),
            "busy_seconds": counts.busy_seconds,
            "error": error and error[:2000],
        }
        self.lakehouse.append_rows("steps", [row])

    def _execute(
        self, step: Step, inputs: Inputs, versions: Mapping[str, int], counts: Counts
    ) -> DataFrame | None:
        """What the step wrote; None where its role sits the round out."""
        match step:
            case GenerationStep():
                return self._generate(step, inputs, counts)
            case CurateStep():
                return self._curate(step, inputs, counts)
            case TrainStep():
                return self._train(step, inputs, versions, counts)
            case TableStep():
                return self._build(step, inputs, counts)
        raise TypeError(f"no way to run {type(step).__name__}")

    def _build(self, step: TableStep, inputs: Inputs, counts: Counts) -> DataFrame:
        names: dict[str, str | int] = {
            "run_id": self.run_id,
            "round": inputs.context.round,
            "step": step.name,
        }
        scope = {name: names[name] for name in step.scope}
        judges = self.config.judges if step.asks_judges else ()
        check_judges_budgets(self.lakehouse, self.run_id, judges)
        if step.gpu:
            for scorer in inputs.context.scorers.values():
                if scorer.engine is not None and (step.asks_judges or scorer.kind == "classifier"):
                    self._start_engine(scorer.engine)
        with self._busy.running(counts) if step.gpu else nullcontext():
            self.lakehouse.replace(step.writes, step.build(inputs), scope, may=self._check_lease)
        written = self._written(step.writes, scope)
        counts.values["rows"] = written.count()
        counts.values |= cost_of_verdicts(written, judges)
        return written

    def _written(self, table: str, scope: Mapping[str, Any]) -> DataFrame:
        frame = self.lakehouse.read(table)
        for name, value in scope.items():
            frame = frame.where(F.col(name) == value)
        return frame

    def _generate(self, step: GenerationStep, inputs: Inputs, counts: Counts) -> DataFrame:
        context = inputs.context
        ids = {
            "run_id": self.run_id,
            "round": context.round,
            "base": self.base.path,
            "chunk_rows": self.config.engine.chunk_rows,
            "partitions": self.config.engine.partitions,
        }
        scope = {"run_id": self.run_id, "round": context.round, "step": step.name}
        # All requests are one commit under one id, so there are all or none, and a second commit is skipped: that is what
        # makes it safe not to look where a killed process has hardly been, after a step that this one ended.
        chunks = [] if self._ended_a_step else chunks_of(self.lakehouse, step, ids)
        if not chunks:
            write_requests(self.lakehouse, step, step.plan(inputs), ids)
            chunks = chunks_of(self.lakehouse, step, ids)
        asked = sum(chunk.requests for chunk in chunks)
        endpoint = self.config.endpoint_of(step.role)
        for spec, adapters, some in self._served(endpoint, [chunk for chunk in chunks if chunk.left]):
            if endpoint is None:
                self._start_engine(spec)
            ask = Ask(spec=spec, adapters=adapters, outcome=step.outcome)
            with self._busy.running(counts):
                ask_all(
                    self.lakehouse,
                    step,
                    ask,
                    ids,
                    some,
                    self.config.engine.chunks_in_flight,
                    before_chunk=partial(self._before_chunk, endpoint),
                )
        written = self._written(step.writes, scope)
        total = written.agg(
            F.count("*").alias("rows"),
            F.count_if(F.col("status") == "ok").alias("ok"),
            F.count_if(F.col("status") == "error").alias("errors"),
            F.count_if(F.col("error_kind") == "too_long").alias("too_long"),
            F.coalesce(F.sum("prompt_tokens"), F.lit(0)).alias("prompt_tokens"),
            F.coalesce(F.sum("completion_tokens"), F.lit(0)).alias("completion_tokens"),
        ).head()
        found = total.asDict() if total else {}
        too_long = found.pop("too_long", 0)
        counts.values |= {"requests": asked, **found}
        if endpoint:
            tokens = counts.values["prompt_tokens"], counts.values["completion_tokens"]
            counts.values["cost"] = round(cost(endpoint, *tokens), 6)
        if counts.values["rows"] != asked:
            raise MartError(
                f"step {step.name} asked {asked} times and has {counts.values['rows']} outcomes: report this"
            )
        if asked and too_long == asked:
            raise ConfigError(
                f"not one of the {asked} prompts of step {step.name} leaves room for an answer of its max_tokens within "
                f"engine.max_model_len, {self.config.engine.max_model_len} tokens: begin another run with shorter answers or more room"
            )
        return written

    def _served(
        self, endpoint: TargetEndpointConfig | None, chunks: Sequence[Chunk]
    ) -> Iterator[tuple[GeneratorSpec, Mapping[str, Adapter] | None, Sequence[Chunk]]]:
        """The engines that answer a step's chunks, one after the other, each with its adapters and its chunks."""
        if endpoint:
            yield hosted_spec(endpoint, self.config.engine), {}, chunks
        elif self.config.engine.serving == "adapters":
            names = sorted({name for chunk in chunks for name in chunk.checkpoints})
            yield self.generator_spec, {name: self._adapter(name) for name in names}, chunks
        else:
            for (checkpoint,), some in groupby(chunks, lambda chunk: tuple(chunk.checkpoints) or (None,)):
                yield self._merged_spec(checkpoint), None, list(some)

    def _merged_spec(self, checkpoint_id: str | None) -> GeneratorSpec:
        """The engine that serves one checkpoint, without adapters; a device has room for one such engine."""
        model = self.base
        if checkpoint_id is not None:
            model = merged_model(self.artifacts, self._registered(checkpoint_id), self.base)
        return replace(
            self.generator_spec, model=model.path, model_digest=model.digest, max_adapters=0, alone=True
        )

    def _free_device(self) -> None:
        """On a GPU the engine gives its memory back to who needs it next; a CPU has room for both."""
        from pipelines.engines.launch import has_gpu

        config = self.config
        backends = {config.engine.backend, *(model.backend for model in config.reward_models.values())}
        if ("vllm" in backends or any(judge.model for judge in config.judges)) and has_gpu():
            self.engines.free_device()

    def _start_engine(self, spec: GeneratorSpec, *, ahead: bool = False) -> None:
        """Have the engine run, or begin to, before the first task asks for it, where tasks run on this host.

        On a cluster the hosts of the tasks find or start their own, and the driver's may have no device at all.
        """
        if spec.backend == "vllm" and is_local(self.lakehouse.spark):
            self.engines.start(spec, ahead=ahead)

    def _checkpoint_row(self, checkpoint_id: str | None) -> dict[str, Any] | None:
        if checkpoint_id is None:
            return None
        if checkpoint_id not in self._checkpoints:  # a registered row never changes
            row = self.lakehouse.read("checkpoints").where(F.col("checkpoint_id") == checkpoint_id).head()
            if row is None:
                return None
            self._checkpoints[checkpoint_id] = row.asDict()
        return self._checkpoints[checkpoint_id]

    def _registered(self, checkpoint_id: str) -> dict[str, Any]:
        row = self._checkpoint_row(checkpoint_id)
        if row is None:
            raise ConfigError(
                f"checkpoint {checkpoint_id} is not registered in {self.lakehouse.schema}.checkpoints"
            )
        if row["base_digest"] != self.base.digest:
            raise ConfigError(
                f"checkpoint {checkpoint_id} was trained on {row['base']} (weights {row['base_digest'][:12]}), but model is "
                f"{self.config.model} (weights {self.base.digest[:12]}): set model to the one it was trained on"
            )
        return row

    def _adapter(self, checkpoint_id: str) -> Adapter:
        row = self._registered(checkpoint_id)
        return Adapter(name=row["weights_sha256"], path=str(self.artifacts.root / row["path"]))

    def _curate(self, step: CurateStep, inputs: Inputs, counts: Counts) -> DataFrame | None:
        context = inputs.context
        if reason := step.reason_to_sit_out(inputs):
            log.warning("round %d %s: %s", context.round, step.name, reason)
            counts.values |= {"rows": 0, "role": step.role, "sat_out": reason}
            return None
        run_id = WARM_RUN if step.warm else self.run_id
        if not self.single_step:
            self.trainers.start()
        base = local_model(base_source(self.config, step.role))
        numbered, too_long = number_examples(self._fitting(step, inputs, base.path), step.role)
        root, rows = training_root(numbered)
        parent_role = self._parent_role(step)
        parent = context.checkpoints[parent_role] if parent_role else None
        recipe = recipe_of(self.config, step.role, context.round, run_id, base, parent, root, rows)
        checkpoint_id = digest(recipe)
        shaped = numbered.select(
            "*",
            F.lit(run_id).alias("run_id"),
            F.lit(context.round).alias("round"),
            F.lit(checkpoint_id).alias("checkpoint_id"),
            F.lit(step.role).alias("role"),
        )
        # With the columns that the table is partitioned by, so that Delta can tell it from what other runs write.
        scope: dict[str, str | int] = {
            "run_id": run_id, "round": context.round, "checkpoint_id": checkpoint_id,
        }  # fmt: skip
        if self._written("training_examples", scope).count() != rows:
            self.lakehouse.replace("training_examples", shaped, scope, may=self._check_lease)
        counts.values |= {"rows": rows, "role": step.role, "checkpoint_id": checkpoint_id, "recipe": recipe}
        if left_out := too_long.count():
            counts.values["too_long"] = left_out
            some = [row["source_ids"][0] for row in too_long.select("source_ids").limit(3).collect()]
            log.warning(
                "round %d %s: %d rows are left out, whose prompts fill max_length (%d tokens), such as from %s",
                context.round, step.name, left_out, recipe["settings"]["max_length"], ", ".join(some),
            )  # fmt: skip
        return self._written("training_examples", scope)

    def _fitting(self, step: CurateStep, inputs: Inputs, base: str) -> DataFrame:
        rows = step.build(inputs)
        if step.role in REWARD_ROLES:  # whose trainer keeps the head of what is too long
            return rows.withColumn("fits", F.lit(True))
        settings = settings_for(self.config, step.role, inputs.context.round)
        return mark_fitting(rows, base, settings.max_length)

    def _parent_role(self, step: CurateStep) -> str | None:
        """The role whose checkpoint in force the step's training goes on from."""
        if step.role == "helpfulness_rm" and self.config.reward_models["helpfulness"].begins_with:
            return "safety_rm"
        return None if step.warm else step.role

    def _train(
        self, step: TrainStep, inputs: Inputs, versions: Mapping[str, int], counts: Counts
    ) -> DataFrame | None:
        curated = self.history.counts(inputs.context.round, step.curated_by)
        if "sat_out" in curated:
            counts.values |= curated
            return None
        recipe = curated["recipe"]
        checkpoint_id = digest(recipe)
        counts.values |= {"rows": recipe["training_rows"], "role": step.role, "checkpoint_id": checkpoint_id}
        known = self._checkpoint_row(checkpoint_id)
        if known is not None:
            prove_registered(self.artifacts, known)
            counts.values["reused"] = True
            return self._written("checkpoints", {"checkpoint_id": checkpoint_id})
        source = base_source(self.config, step.role)
        order = Order(
            checkpoint_id=checkpoint_id,
            recipe=recipe,
            base=local_model(source),
            parent=self._checkpoint_row(recipe["parent"]),
            settings=settings_for(self.config, step.role, recipe["round"]),
            code_version=code_version(),
        )
        self._free_device()
        version = versions["training_examples"]

        def keep() -> None:
            keep_origins(self.lakehouse, tables_of(self.lakehouse, versions), [checkpoint_id])

        manifest, counts.busy_seconds = train(
            self.lakehouse, self.artifacts, self.trainers, order, version, keep
        )
        row = checkpoint_row(self.artifacts, order, manifest, version, source)
        self.lakehouse.append_rows("checkpoints", [row], once=digest(["checkpoint", checkpoint_id]))
        return self._written("checkpoints", {"checkpoint_id": checkpoint_id})


def _log_failed(others: Iterable[Future[None]]) -> None:
    for other in others:
        if (error := other.exception()) is not None:
            log.error("another step beside it failed as well", exc_info=error)
