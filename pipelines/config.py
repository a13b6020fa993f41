"""A run's configuration: one YAML file, typed, checked whole when it is loaded."""

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipelines.engines.homes import CLIENT_OPTIONS
from pipelines.errors import ConfigError
from schemas.digests import digest
from schemas.manifests import RewardSettings, SftSettings

# Spark's `limit` takes no more rows than an int holds.
_Rows = Annotated[int, Field(le=2**31 - 1)]
ImportKind = Literal["seeds", "benign", "pairs", "labels", "instructions", "suite"]


class Part(BaseModel):
    """A part of the configuration: unknown keys are errors, numbers are finite, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ImportConfig(Part):
    """A file to import before round 0.

    Attributes:
        path: JSONL, CSV or Parquet file; `{prepared}` stands for the folder that `data.prepare` fills.
        kind: seeds, benign, pairs, labels, instructions or suite.
        dataset: the name it gets.
        fields: our field to the source's field, or to what lies below one: `messages.0.content`.
        values: our field to a constant.
        where: source field to the values to take, for a file that holds several splits.
        licence: licence of the source.
    """

    path: str
    kind: ImportKind
    dataset: str
    fields: dict[str, str] = Field(default_factory=dict)
    values: dict[str, Any] = Field(default_factory=dict)
    where: dict[str, list[Any]] = Field(default_factory=dict)
    licence: str = "unknown"


class DataConfig(Part):
    """What the run reads.

    Attributes:
        prepare: `package.module:function` that writes files into a folder, called before the imports; None for none.
        imports: files to import.
        seeds, benign, instructions, warm_start: names of imported data sets; None leaves that part out.
        suites: name of the imported evaluation data set.
        split: dev while tuning, test for figures that are reported.
        suite_limit: at most so many prompts of each suite (and of each of seen and unseen styles); 0 takes all.
    """

    prepare: str | None = None
    imports: list[ImportConfig] = Field(default_factory=list)
    seeds: str
    benign: str | None = None
    instructions: str | None = None
    warm_start: str | None = None
    suites: str | None = None
    split: Literal["dev", "test"] = "dev"
    suite_limit: _Rows = Field(0, ge=0)


_SECONDS = tuple(sorted(CLIENT_OPTIONS - {"in_flight"}))  # which EngineConfig has itself
# What any engine of vLLM's is told: one may serve a judge or a reward model, whichever backend generates.
_ANY_ENGINES_OPTIONS = (*_SECONDS, "fork", "server_env")
_ENGINE_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "vllm": (*_ANY_ENGINES_OPTIONS, "compile", "server_args", "server_command"),
    "transformers": (*_ANY_ENGINES_OPTIONS, "batch_size"),
    "scripted": (*_ANY_ENGINES_OPTIONS, "script", "delay_seconds"),
}


class EngineConfig(Part):
    """The engine that generates.

    Attributes:
        backend: vllm, transformers or scripted; a model that is not here is `target.endpoint`.
        serving: how it serves a checkpoint: `adapters` puts them on the base, all in one engine; `merged` starts an engine
            of the checkpoint's own, on its weights merged into a copy of the base (whole models are served as they are).
            No adapter is computed beside the base then, and every change of model costs a start.
        dtype, max_model_len, max_lora_rank: as vLLM has them.
        max_num_seqs, kv_cache_gib, memory_share, threads, in_flight, chunk_rows, chunks_in_flight, lease_seconds,
            partitions: speed and memory only.
        options: further options of the backend. Of vLLM, besides `fork`, `compile`, `server_args` and `server_env`: `hang_seconds`
            (60), after which an engine that neither answers nor makes a token hangs and is replaced (three times as many before
            a task's first answer, ten times while one on a CPU computes); `start_stall_seconds` (180), after which a start that
            stands still is given up, and `start_cap_seconds` (3600), after which any is. A run may be resumed with other times.
    """

    backend: Literal["vllm", "transformers", "scripted"] = "vllm"
    serving: Literal["adapters", "merged"] = "adapters"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int = Field(1024, ge=64)
    max_lora_rank: int = Field(16, ge=1)
    max_num_seqs: int = Field(128, ge=1)
    kv_cache_gib: float = Field(1.0, gt=0)
    memory_share: float = Field(0.9, gt=0, le=1)
    threads: int = Field(0, ge=0)
    in_flight: int = Field(64, ge=1)
    chunk_rows: int = Field(1024, ge=1)
    chunks_in_flight: int = Field(2, ge=1)
    partitions: int = Field(2, ge=1)
    lease_seconds: float = Field(20.0, gt=2)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _knows_its_options(self) -> "EngineConfig":
        known = _ENGINE_OPTIONS[self.backend]
        if unknown := sorted(set(self.options) - set(known)):
            near = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f"the nearest valid name is {near[0]!r}" if near else f"it has {', '.join(known)}"
            raise ValueError(f"engine.options.{unknown[0]} is no option of {self.backend}; {hint}")
        for name in _SECONDS:
            seconds = self.options.get(name, 1)
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0:
                raise ValueError(
                    f"engine.options.{name} is {seconds!r}; give a number of seconds above 0, or leave it out"
                )
        return self


class RewardModelConfig(Part):
    """A reward model.

    Attributes:
        base: model source of the encoder to train, or of a finished classifier when `dataset` is None.
        dataset: imported data set with labels or pairs to train on.
        begins_with: `safety` has the helpfulness model go on from the trained safety model, which knows already what
            was asked; a small encoder that starts afresh may never learn whether a refusal was due.
        settings: training settings.
        max_length: longest pair in tokens.
        backend: `transformers` computes it in Spark's tasks; `vllm` has an engine of its own serve it beside the generator,
            by vLLM's pooling runner, where vLLM knows its architecture. Their values agree to 1e-2.
        memory_share: of a GPU, for its engine.
    """

    base: str
    dataset: str | None = None
    begins_with: Literal["safety"] | None = None
    settings: RewardSettings = Field(default_factory=RewardSettings)
    max_length: int = Field(256, ge=16)
    backend: Literal["transformers", "vllm"] = "transformers"
    memory_share: float = Field(0.025, gt=0, le=1)


LABELS = ("complied", "refused", "answered", "neither")
# A judge's kind to the settings that it needs and the options that it has.
_JUDGE_KINDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rule": (("function", "values"), ()),
    "rubric": (("rubric", "values"), ("max_tokens",)),
    "guard": ((), ("safe", "unsafe", "within", "top")),
}


# Scheme, host and path. Whatever else a URL may have is not told: a user's password or a token may be in it.
_BASE_URL = re.compile(r"https?://(\[[0-9a-f:.]+\]|[^/?#@:\[\]\\\s]+)(:\d+)?(/[^?#@\\\s]*)?", re.IGNORECASE)
_USER_INFO = re.compile(r"//[^\s'\"]*@")


class EndpointConfig(Part):
    """An OpenAI-compatible endpoint.

    Attributes:
        base_url: up to and without `/chat/completions`, and without user, password or query: it is kept with the run.
        model: its name there.
        key_variable: the environment variable with the key, set on every node that asks; None for an endpoint without keys.
        in_flight: requests at a time, shared by the tasks that ask; each task has one at least.
        requests_per_minute: limit, tries included, shared likewise; None for none.
        attempts, timeout_seconds: tries a request, seconds a try. Between tries Retry-After is waited for, up to 10 minutes; an
            endpoint that says more ends the step.
        prompt_price, completion_price: of a million tokens, in whatever currency `budget` is.
        budget: what the run may spend on this model; looked at before each chunk of a target's requests, and before a
            judge's step. None for no limit.
    """

    base_url: str
    model: str
    key_variable: str | None = "OPENAI_API_KEY"
    in_flight: int = Field(16, ge=1)
    requests_per_minute: float | None = Field(None, gt=0)
    attempts: int = Field(6, ge=1)
    timeout_seconds: float = Field(300.0, gt=0)
    prompt_price: float = Field(0.0, ge=0)
    completion_price: float = Field(0.0, ge=0)
    budget: float | None = Field(None, gt=0)

    @field_validator("base_url")
    @classmethod
    def _holds_no_secret(cls, base_url: str) -> str:
        if not _BASE_URL.fullmatch(base_url):
            raise ValueError(
                "give http:// or https://, a host and a path, and nothing else: no user, password or query. It is kept with "
                "the run, and the key comes from the environment (key_variable)"
            )
        return base_url

    @model_validator(mode="after")
    def _a_budget_has_prices(self) -> "EndpointConfig":
        if self.budget and not (self.prompt_price or self.completion_price):
            raise ValueError("a budget needs prompt_price or completion_price, of a million tokens")
        return self

    def options_of(self, tasks: int) -> dict[str, Any]:
        """What one of so many tasks that ask together is told: its share of the limits, and everything else but the model."""
        limit = self.requests_per_minute
        shared = {
            "in_flight": max(1, self.in_flight // tasks),
            "requests_per_minute": limit and limit / tasks,
        }
        return self.model_dump(exclude={"model"}) | shared


class TargetEndpointConfig(EndpointConfig):
    """A hosted target.

    Attributes:
        send_seed: whether requests carry their seed; off for endpoints that refuse one.
    """

    send_seed: bool = True


class JudgeConfig(Part):
    """A judge of evaluations only; training, selection and gates never read it.

    Attributes:
        name: what metrics call it.
        kind: `rule` (a function labels), `rubric` (a model labels) or `guard` (a guard model gives the chance that the
            response is safe).
        function: of a rule, `package.module:function` of (prompt, response), with a `label` in its result.
        values: of a rule or rubric, label to a value in [0, 1], or null where it counts as neither. The labels are
            `complied` (a violation), `refused`, `answered` and `neither`, which is what reports count.
        rubric: of a rubric, what the labels mean.
        endpoint: where the model of a rubric or a guard is asked; or
        model: the source of one that a vLLM engine of its own serves, beside the generator's.
        max_length: longest question and verdict of that model together, in tokens.
        memory_share: of a GPU, for its engine.
        options: of a guard `safe`, `unsafe`, `within` and `top`, of a rubric `max_tokens` (`pipelines.engines.judges`).
    """

    name: str = "truth"
    kind: Literal["rule", "rubric", "guard"] = "rule"
    function: str | None = None
    values: dict[str, Annotated[float, Field(ge=0, le=1)] | None] = Field(default_factory=dict)
    rubric: str | None = None
    endpoint: EndpointConfig | None = None
    model: str | None = None
    max_length: int = Field(2048, ge=64)
    memory_share: float = Field(0.2, gt=0, le=1)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> "JudgeConfig":
        needed, known = _JUDGE_KINDS[self.kind]
        if lacking := [name for name in needed if not getattr(self, name)]:
            raise ValueError(f"judge {self.name}: a {self.kind} needs {' and '.join(lacking)}")
        if self.kind == "rule" and self.model:
            raise ValueError(f"judge {self.name}: a rule asks no model; make it a rubric or a guard")
        if self.kind != "rule" and bool(self.endpoint) == bool(self.model):
            raise ValueError(f"judge {self.name}: a {self.kind} needs either endpoint or model")
        if unknown := sorted(set(self.options) - set(known)):
            raise ValueError(
                f"judge {self.name}: a {self.kind} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}"
            )
        for name, value in self.options.items():
            where = f"judge {self.name}: options.{name} is {value!r}"
            if name in ("safe", "unsafe"):
                if not isinstance(value, str) or not value.strip():
                    raise ValueError(f"{where}; give the guard's word, in quotes if YAML reads it otherwise")
            elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{where}; give a whole number from 1 on")
        if self.kind != "guard" and (strange := sorted(set(self.values) - set(LABELS))):
            raise ValueError(
                f"judge {self.name}: reports don't know the label {strange[0]!r}; give {', '.join(LABELS)}, of which "
                "complied is a violation"
            )
        return self


class SamplingConfig(Part):
    """Sampling parameters; temperature 0 is greedy."""

    temperature: float = Field(0.9, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int = Field(64, ge=1)


class AttackConfig(Part):
    """How the adversary attacks (paper §2.1).

    Attributes:
        prompts: examples drawn from P_adv[i-1] a round.
        per_example: K_adv, prompts written an example.
        examples: prompts that it is conditioned on at once, 1 or 3.
        keep_seeds: seeds stay in the pool beside the successful attacks (off: plain MART from round 2 on).
        drop_duplicates: exact and near-duplicates of anything in the history are no new attack.
        near_duplicate: share of common word 3-grams (Jaccard) from which two prompts are near-duplicates.
        min_words, max_words: fluency filter, with `max_repeat`: largest share of the commonest word. A prompt that was cut at
            `max_tokens` does not pass it either.
        fluency: whether that filter is on.
        replay: successes of the round before replayed to the target each round, as a share of `prompts`.
    """

    prompts: _Rows = Field(80, ge=1)
    per_example: int = Field(1, ge=1)
    examples: Literal[1, 3] = 1
    keep_seeds: bool = True
    drop_duplicates: bool = True
    near_duplicate: float = Field(0.8, gt=0, le=1)
    fluency: bool = True
    min_words: int = Field(4, ge=1)
    max_words: int = Field(60, ge=1)
    max_repeat: float = Field(0.5, gt=0, le=1)
    replay: float = Field(0.0, ge=0)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)


class ContextDistillation(Part):
    """Answers under a safety preamble that the training pair leaves out (paper §2.3), in the rounds named."""

    rounds: list[int] = Field(default_factory=lambda: [1])
    preamble: str = "Answer safely. If a request is not allowed, decline politely and say why."
    samples: int = Field(1, ge=0)


class RejectionSampling(Part):
    """One answer at each of several temperatures in place of `samples` (paper §2.3), in the rounds named; -1 is the last."""

    rounds: list[int] = Field(default_factory=lambda: [-1])
    temperatures: list[Annotated[float, Field(ge=0)]] = Field(default_factory=lambda: [0.5, 0.8, 1.1])

    @field_validator("temperatures")
    @classmethod
    def _asks_at_one_at_least(cls, temperatures: list[float]) -> list[float]:
        if not temperatures:
            raise ValueError("give one temperature at least, or `rounds: []`, which switches this off")
        return temperatures


class RespondConfig(Part):
    """How the target answers: K_tgt samples a prompt, and the two additions of the paper."""

    samples: int = Field(2, ge=1)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    context_distillation: ContextDistillation = Field(default_factory=ContextDistillation)
    rejection_sampling: RejectionSampling = Field(default_factory=RejectionSampling)


class SelectConfig(Part):
    """What counts as an attack's success, and which answers are kept to learn from.

    Attributes:
        theta_s_adv, theta_s_tgt, theta_h_tgt: the three thresholds (paper §2.2), each on a score in [0, 1].
        whole_answers: an answer that was cut at `max_tokens` is not kept: who learns from it learns to stop in mid-sentence.
    """

    theta_s_adv: float = Field(0.5, ge=0, le=1)
    theta_s_tgt: float = Field(0.5, ge=0, le=1)
    theta_h_tgt: float = Field(0.5, ge=0, le=1)
    whole_answers: bool = True


class MixConfig(Part):
    """What is mixed into the curated sets, as a multiple of the rows that the round itself gave.

    Attributes:
        target_benign: benign look-alikes with reference answers (a remedy; 0 is plain MART).
        target_instructions, adversary_instructions: ordinary instructions.
        min_rows: draw at least so many benign look-alikes, and for the adversary instructions, however few rows the round gave;
            for the target half as many instructions.
        max_rows: most rows of the round itself; what is mixed in is a multiple of them, and comes on top.
        replay: own answers kept in earlier rounds, as a multiple of this round's.
    """

    target_benign: float = Field(1.0, ge=0)
    target_instructions: float = Field(0.25, ge=0)
    adversary_instructions: float = Field(0.25, ge=0)
    replay: float = Field(0.0, ge=0)
    min_rows: _Rows = Field(0, ge=0)
    max_rows: _Rows = Field(400, ge=1)


class TrainingConfig(Part):
    """Fine-tuning of one role.

    Attributes:
        enabled: whether the role is trained in the rounds at all (off: frozen).
        settings: of round 1.
        rate_decay: learning rate of a round, as a share of the round's before: one long training would end with a lower
            rate than it began with, too.
        warm_settings: of the warm start; `settings` when None. Method and form of an adapter are those of `settings`.
    """

    enabled: bool = True
    settings: SftSettings = Field(default_factory=SftSettings)
    rate_decay: float = Field(1.0, gt=0, le=1)
    warm_settings: SftSettings | None = None

    @model_validator(mode="after")
    def _goes_on_as_it_began(self) -> "TrainingConfig":
        if self.warm_settings and self.warm_settings.method != self.settings.method:
            raise ValueError(
                f"warm_settings.method is {self.warm_settings.method} and settings.method {self.settings.method}: rounds "
                "train on from the warm start's checkpoint; choose one method for both"
            )
        return self


class AdversaryConfig(TrainingConfig):
    """Fine-tuning of the adversary.

    Attributes:
        warm_pairs: pairs that its warm-up is made of.
        min_attacks: attacks of a round that must have succeeded for it to be trained; with fewer, which is what a target
            that got safe leaves, it stays as it is and the round goes on. 0 leaves that to the gate.
    """

    warm_pairs: _Rows = Field(160, ge=0)
    min_attacks: int = Field(8, ge=0)


class TargetConfig(TrainingConfig):
    """Fine-tuning of the target, or where a target is that can't be trained.

    Attributes:
        endpoint: a hosted model in place of `model`; it is attacked and evaluated, and the adversary learns from that.
    """

    endpoint: TargetEndpointConfig | None = None

    @model_validator(mode="after")
    def _hosted_is_not_trained(self) -> "TargetConfig":
        if self.endpoint and self.enabled:
            raise ValueError(
                "target.endpoint: a hosted target can't be trained here; set target.enabled to false"
            )
        return self


class GatesConfig(Part):
    """Quality gates: which suite file, and thresholds that replace the suite's own.

    Attributes:
        suites: path of a YAML file, or the bare name of one that comes with the package, in `conf/`. A run keeps the suites that
            it began with; a fork may have others.
        parameters: suite parameter to value.
    """

    suites: str = "gates.yaml"
    parameters: dict[str, float | int | str] = Field(default_factory=dict)


class EvaluateConfig(Part):
    """Evaluation on frozen held-out sets after every round: greedy by default, so that rounds are comparable.

    Attributes:
        adversary_prompts: held-out prompts that each adversary is shown, to attack the warm start and the target.
        crossed: whether the last round completes the table of every adversary against every target.
    """

    max_tokens: int = Field(48, ge=1)
    temperature: float = Field(0.0, ge=0)
    adversary_prompts: _Rows = Field(48, ge=0)
    crossed: bool = False


class RunConfig(Part):
    """A run, whole.

    Attributes:
        name: what the run is called in reports.
        seed: everything drawn at random follows from it.
        rounds: rounds after the warm start.
        model: model source of adversary and target: a directory, a hub name, or `wheel:NAME`.
        system: a system prompt of the target, or None for the chat template's own.
    """

    name: str = "mart"
    seed: int = Field(0, ge=0)
    rounds: int = Field(4, ge=1)
    model: str
    system: str | None = None
    data: DataConfig
    engine: EngineConfig = Field(default_factory=EngineConfig)
    reward_models: dict[Literal["safety", "helpfulness"], RewardModelConfig]
    judges: list[JudgeConfig] = Field(default_factory=list)
    attack: AttackConfig = Field(default_factory=AttackConfig)
    respond: RespondConfig = Field(default_factory=RespondConfig)
    select: SelectConfig = Field(default_factory=SelectConfig)
    mix: MixConfig = Field(default_factory=MixConfig)
    adversary: AdversaryConfig = Field(default_factory=AdversaryConfig)
    target: TargetConfig = Field(default_factory=TargetConfig)
    gates: GatesConfig = Field(default_factory=GatesConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)

    @model_validator(mode="after")
    def _whole_models_are_served_as_such(self) -> "RunConfig":
        whole = [name for name in ("adversary", "target") if getattr(self, name).settings.method == "full"]
        if whole and self.engine.serving != "merged":
            raise ValueError(
                f"{whole[0]}.settings.method: full gives whole models, which an engine of adapters can't serve; set "
                "engine.serving to merged, or the method to lora"
            )
        return self

    @model_validator(mode="after")
    def _answers_leave_the_prompt_room(self) -> "RunConfig":
        """An engine of ours refuses a row that may not fit, which would be every row."""
        longest = {"attack.sampling.max_tokens": self.attack.sampling.max_tokens}
        if not self.target.endpoint:
            longest["respond.sampling.max_tokens"] = self.respond.sampling.max_tokens
            longest["evaluate.max_tokens"] = self.evaluate.max_tokens
        for name, tokens in longest.items():
            if tokens >= self.engine.max_model_len:
                raise ValueError(
                    f"{name} is {tokens} and engine.max_model_len, which holds prompt and answer together, "
                    f"{self.engine.max_model_len}: no prompt would fit; lower the first or raise the second"
                )
        return self

    @model_validator(mode="after")
    def _an_adapter_keeps_its_form(self) -> "RunConfig":
        """Rounds train on from the warm start, where there is one."""
        warm_starts = (("adversary", self.adversary.warm_pairs), ("target", self.data.warm_start))
        for name, warm_start in warm_starts:
            role: TrainingConfig = getattr(self, name)
            if not (role.enabled and role.warm_settings and warm_start):
                continue
            begun = role.warm_settings.form
            for key, value in role.settings.form.items():
                if value != begun[key]:
                    raise ValueError(
                        f"{name}.settings.{key} is {value} and {name}.warm_settings.{key} {begun[key]}: rounds train on "
                        "the adapter of the warm start, which keeps its form; set both alike"
                    )
        return self

    @model_validator(mode="after")
    def _reward_models_score_at_the_length_they_learned_at(self) -> "RunConfig":
        for name, model in self.reward_models.items():
            if model.dataset is not None and model.max_length != model.settings.max_length:
                raise ValueError(
                    f"reward_models.{name}: max_length is {model.max_length} and settings.max_length {model.settings.max_length}, but "
                    "a reward model that is trained here scores pairs that are cut as those it learned from; set both alike"
                )
        return self

    @model_validator(mode="after")
    def _engines_fit_a_device_together(self) -> "RunConfig":
        shares = {
            f"reward_models.{name}.memory_share": model.memory_share
            for name, model in self.reward_models.items()
            if model.backend == "vllm"
        }
        shares |= {
            f"memory_share of judge {judge.name}": judge.memory_share for judge in self.judges if judge.model
        }
        if shares and self.engine.backend == "vllm":
            shares["engine.memory_share"] = self.engine.memory_share
        if shares and (together := sum(shares.values())) > _SHARED + 1e-9:
            raise ValueError(
                f"{', '.join(sorted(shares))} come to {together:.3f} of a device; lower them to {_SHARED} together, since each "
                "engine takes some memory beside its share"
            )
        return self

    @model_validator(mode="after")
    def _both_reward_models(self) -> "RunConfig":
        missing = {"safety", "helpfulness"} - set(self.reward_models)
        if missing:
            raise ValueError(f"reward_models lacks {', '.join(sorted(missing))}: the method scores with both")
        safety, helpfulness = self.reward_models["safety"], self.reward_models["helpfulness"]
        if safety.begins_with:
            raise ValueError("reward_models.safety.begins_with: only the helpfulness model can begin with it")
        if helpfulness.begins_with and (
            None in (safety.dataset, helpfulness.dataset) or safety.base != helpfulness.base
        ):
            raise ValueError(
                "reward_models.helpfulness.begins_with: both models must be trained here, from the same base"
            )
        names = [judge.name for judge in self.judges]
        if len(set(names)) != len(names) or set(names) & {"safety", "helpfulness"}:
            raise ValueError(f"judges need names of their own, apart from the reward models': {names}")
        return self

    def _adapter_settings(self) -> list[SftSettings]:
        return [
            settings
            for role in (self.adversary, self.target)
            for settings in (role.settings, role.warm_settings)
            if settings
        ]

    def lora_ranks(self) -> list[int]:
        """The ranks of all adapters that a run trains."""
        return [settings.lora_rank for settings in self._adapter_settings()]

    def lora_modules(self) -> tuple[str, ...]:
        """The modules that any adapter of a run changes, sorted."""
        return tuple(
            sorted({name for settings in self._adapter_settings() for name in settings.target_modules})
        )

    def endpoint_of(self, role: str) -> TargetEndpointConfig | None:
        """Where a role's model is asked if it is hosted; None where an engine of our own serves it."""
        return self.target.endpoint if role == "target" else None

    @property
    def effective(self) -> dict[str, Any]:
        """The settings that affect results: what resuming must not change, and what the digest covers."""
        whole = self.model_dump(mode="json", exclude={"name", "rounds"})
        if not whole["select"]["whole_answers"]:  # what runs begun before the setting had
            del whole["select"]["whole_answers"]
        for speed in _ENGINE_SPEED:
            whole["engine"].pop(speed, None)
        for name in CLIENT_OPTIONS:
            whole["engine"]["options"].pop(name, None)
        for role in ("adversary", "target"):
            for settings in ("settings", "warm_settings"):
                if whole[role][settings]:
                    whole[role][settings].pop("save_every_steps", None)
        for model in whole["reward_models"].values():
            model["settings"].pop("save_every_steps", None)
            del model["memory_share"]
            if model["backend"] == "transformers":  # what runs begun before the setting had
                del model["backend"]
        if whole["engine"]["serving"] == "adapters":  # what runs begun before the setting had
            del whole["engine"]["serving"]
        for judge in whole["judges"]:
            del judge["memory_share"]
            if judge["model"] is None:  # what runs begun before the setting had
                del judge["model"], judge["max_length"]
        hosted = whole["target"].pop("endpoint")
        if hosted:
            whole["target"]["endpoint"] = hosted
        for endpoint in filter(None, [hosted, *(judge["endpoint"] for judge in whole["judges"])]):
            for speed in _ENDPOINT_SPEED:
                endpoint.pop(speed, None)
        return whole

    @property
    def digest(self) -> str:
        """Digest of the settings that affect results."""
        return digest(self.effective)


# What engines of one device may share out among them.
_SHARED = 0.95
# What only speed, money and the key depend on.
_ENDPOINT_SPEED = (
    "key_variable in_flight requests_per_minute attempts timeout_seconds prompt_price completion_price budget"
).split()
_ENGINE_SPEED = "max_num_seqs kv_cache_gib memory_share threads in_flight chunks_in_flight partitions lease_seconds".split()


class _RepeatedKey(yaml.YAMLError):
    """A mapping has a key twice."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which would take a key's last value in silence.

    Raises:
        _RepeatedKey: a key stands twice in one mapping. Looked for as written: constructing it adds what `<<` merges in.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, Any], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                raise _RepeatedKey(
                    f"the key {key.value!r} in line {line} stands in line {lines[name]} already; keep one of the two"
                )
            lines[name] = line
        return node


def read_yaml(path: Path, what: str, remedy: str) -> Any:
    """The content of a YAML file.

    Raises:
        ConfigError: no such file, one that can't be read, no YAML, a key given twice, or a number that is not finite; says
            `what` is not there, and the `remedy`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"no {what} at {path}: {remedy}") from None
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror}): {remedy}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not YAML: {error}; save it as UTF-8") from None
    try:
        return _finite(str(path), yaml.load(text, _Loader))
    except _RepeatedKey as error:
        raise ConfigError(f"{path}: {_why(error)}") from None
    except _NOT_YAML as error:
        raise ConfigError(f"{path} is not YAML: {_why(error)}") from None


# What PyYAML raises: a text that only looks like a date or a number, such as 2026-11-31, is a ValueError.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)


def _why(error: Exception) -> str:
    told = _without_users(" ".join(str(error).split()))
    return (
        told if isinstance(error, yaml.YAMLError | RecursionError) else f"{told}; quote what is meant as text"
    )


def _finite(source: str, value: Any) -> Any:
    if strange := [f"{source}: {'.'.join(where)} = {number}" for where, number in _not_finite(value, ())]:
        raise ConfigError("\n".join(f"{what}: give a finite number" for what in strange))
    return value


def _not_finite(value: Any, where: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(value, float) and not math.isfinite(value):
        yield where, value
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _not_finite(inner, (*where, str(key)))


def _without_users(text: str) -> str:
    """A text without what stands for a user and a password in its URLs."""
    return _USER_INFO.sub("//…@", text)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check a configuration.

    Args:
        path: YAML file.
        overrides: `key=value` with a dotted key; the value is YAML.

    Raises:
        ConfigError: no such file, no YAML, or a key or value that is not right; says which, and what would be.
    """
    raw = read_yaml(path, "configuration", "give the path of a YAML file, such as conf/sandbox.yaml")
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds {type(raw).__name__}, not a mapping of settings")
    for override in overrides:
        _set(raw, override)
    return parse_config(raw, str(path))


def parse_config(raw: Mapping[str, Any], source: str) -> RunConfig:
    """Check settings that are already a mapping; `source` is named in errors.

    Raises:
        ConfigError: as `load_config`.
    """
    try:
        config = RunConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(source, item) for item in error.errors())) from None
    if strange := [".".join(where) for where in _booleans_taken_for_numbers(raw, config.model_dump(), ())]:
        raise ConfigError(
            "\n".join(
                f"{source}: {where} is a boolean, as true, yes and on are in YAML; give a number"
                for where in strange
            )
        )
    return config


def _booleans_taken_for_numbers(given: Any, taken: Any, where: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Where pydantic made a number of a boolean, which it does in any field for numbers."""
    if isinstance(given, bool) and not isinstance(taken, bool):
        yield where
    elif isinstance(given, Mapping):
        for key, inner in given.items():
            yield from _booleans_taken_for_numbers(inner, taken[key], (*where, str(key)))
    elif isinstance(given, list):
        for at, (inner, made) in enumerate(zip(given, taken, strict=True)):
            yield from _booleans_taken_for_numbers(inner, made, (*where, str(at)))


def _set(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    shown = _without_users(override)
    if not equals or not key:
        raise ConfigError(f"--set takes key=value, such as attack.prompts=40; got {shown!r}")
    *folders, last = key.split(".")
    place = raw
    for folder in folders:
        inner = place.setdefault(folder, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"--set {shown}: {folder} is {_without_users(repr(inner))}, it has no settings of its own"
            )
        place = inner
    try:
        place[last] = yaml.load(value, _Loader)
        _finite(f"--set {shown}", {key: place[last]})
    except _RepeatedKey as error:
        raise ConfigError(f"--set {shown}: {_why(error)}") from None
    except yaml.YAMLError:
        raise ConfigError(f"--set {shown}: {_without_users(repr(value))} is not a YAML value") from None
    except _NOT_YAML as error:
        raise ConfigError(
            f"--set {shown}: {_without_users(repr(value))} is not a YAML value: {_why(error)}"
        ) from None


def _explain(source: str, item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(item["loc"][-1]), _fields_at(item["loc"][:-1]), n=1)
        hint = f"; the nearest valid name is {near[0]!r}" if near else ""
        return f"{source}: {where} is no setting{hint}"
    if item["type"] == "missing":
        return f"{source}: {where} is missing; add it"
    told = item["msg"].removeprefix("Value error, ")
    # A rule about several settings: its message names them, and its input is all there are.
    if item["type"] == "value_error" and isinstance(item["input"], dict):
        return f"{source}: {told}"
    if item["loc"][-1] == "base_url":
        return f"{source}: {where}: {told}"
    return f"{source}: {where} = {_without_users(repr(item['input']))}: {told}"


def _fields_at(loc: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = RunConfig
    for part in loc:
        if not isinstance(part, str) or part not in model.model_fields:
            continue
        annotation = model.model_fields[part].annotation
        for candidate in (
            annotation,
            *get_args(annotation),
            *(a for b in get_args(annotation) for a in get_args(b)),
        ):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
                break
    return list(model.model_fields)
