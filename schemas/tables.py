"""All tables of the lakehouse. `docs/tables.md` is generated from here.

A released table is never edited: a change adds a column, raises the version and is listed under `added`.
"""

from schemas.model import Column, Table

ROLES = ("adversary", "target", "safety_rm", "helpfulness_rm")
PURPOSES = ("attack", "evaluation")
VERDICTS = ("attack", "keep", "drop")
LABELS = ("complied", "refused", "neither")

_RUN = Column("run_id", "STRING", "the run this row belongs to")
_ROUND = Column("round", "INT", "round of the run; 0 is the warm start, before the first attack")
_AT = Column("recorded_at", "TIMESTAMP", "when the row was written, UTC", volatile=True)
_OUTCOME = (
    Column("status", "STRING", "ok, or error: the request has no usable answer"),
    Column(
        "error_kind",
        "STRING",
        "too_long, refused, unreadable, took_engine_down; of adversarial prompts malformed, too, which a blank one is",
        nullable=True,
    ),
    Column("error", "STRING", "the engine's words, at most 500 characters", nullable=True),
    Column(
        "finish_reason",
        "STRING",
        "stop, length where the answer was cut at max_tokens, or content_filter where an endpoint held it back",
        nullable=True,
    ),
    Column("prompt_tokens", "INT", "tokens of the rendered input"),
    Column("completion_tokens", "INT", "tokens generated, or scored"),
    Column("seconds", "DOUBLE", "from sending to the last token", volatile=True),
    Column("chunk", "INT", "the commit this row came in"),
    _AT,
)
_OUTCOME_CHECKS = {
    "status_known": "status IN ('ok', 'error')",
    "error_says_why": "(status = 'ok') = (error_kind IS NULL)",
}

RUNS = Table(
    "runs",
    grain="a run",
    owner="begin",
    key=("run_id",),
    columns=(
        _RUN,
        Column("config", "STRING", "the settings that affect results, JSON"),
        Column("config_digest", "STRING", "digest of that"),
        Column(
            "code_version", "STRING", "version of this package, with the commit where known", volatile=True
        ),
        Column("parent_run_id", "STRING", "the run this one was forked from", nullable=True),
        Column("parent_round", "INT", "last round read from the parent run", nullable=True),
        Column("created_at", "TIMESTAMP", "UTC", volatile=True),
        Column(
            "lease_holder",
            "STRING",
            "who drives the run now: as driven_by of steps",
            nullable=True,
            volatile=True,
        ),
        Column(
            "lease_until",
            "TIMESTAMP",
            "the lease lapses then unless renewed, UTC",
            nullable=True,
            volatile=True,
        ),
        Column(
            "gate_suites",
            "STRING",
            "digest of each gate's suite, JSON; null in a run begun before they were kept",
            nullable=True,
        ),
    ),
    partitioned_by=("run_id",),
    version=2,
    added={2: ("gate_suites",)},
)

SEED_PROMPTS = Table(
    "seed_prompts",
    grain="a seed prompt",
    owner="mart data import",
    key=("dataset", "text_sha256"),
    columns=(
        Column("dataset", "STRING", "name the import gave it"),
        Column("text_sha256", "STRING", "SHA-256 of the text"),
        Column("text", "STRING", "the prompt"),
        Column("category", "STRING", "violation category; 'uncategorised' where the source names none"),
        Column("style", "STRING", "attack style; 'unstyled' where the source names none"),
        Column("split", "STRING", "train, dev or test"),
        Column("kind", "STRING", "forbidden, or benign for a look-alike"),
        Column("answer", "STRING", "reference answer of a benign look-alike", nullable=True),
        Column("licence", "STRING", "licence of the source"),
        _AT,
    ),
    checks={
        "split_known": "split IN ('train', 'dev', 'test')",
        "kind_known": "kind IN ('forbidden', 'benign')",
    },
)

INSTRUCTIONS = Table(
    "instructions",
    grain="an ordinary instruction and its answer",
    owner="mart data import",
    key=("dataset", "text_sha256"),
    columns=(
        Column("dataset", "STRING", "name the import gave it"),
        Column("text_sha256", "STRING", "SHA-256 of the instruction"),
        Column("instruction", "STRING", "what is asked"),
        Column("answer", "STRING", "a good answer"),
        Column(
            "kind",
            "STRING",
            "instruction, or what a warm-start pair shows, such as forbidden_refused; preamble_... is asked under the preamble",
        ),
        Column("split", "STRING", "train, dev, test or warm_start"),
        Column("licence", "STRING", "licence of the source"),
        _AT,
    ),
    checks={"split_known": "split IN ('train', 'dev', 'test', 'warm_start')"},
)

PREFERENCES = Table(
    "preferences",
    grain="two answers of which one is preferred, or one answer with a label",
    owner="mart data import",
    key=("dataset", "aspect", "example_sha256"),
    columns=(
        Column("dataset", "STRING", "name the import gave it"),
        Column("aspect", "STRING", "safety or helpfulness"),
        Column("example_sha256", "STRING", "digest of input, output, label, rejected and split"),
        Column("input", "STRING", "the dialogue up to the answer, JSON messages"),
        Column("output", "STRING", "the preferred or the labelled answer"),
        Column("label", "DOUBLE", "1 safe or helpful, 0 not; null for a pair", nullable=True),
        Column(
            "rejected",
            "STRING",
            "the answer that was not preferred; null for a labelled answer",
            nullable=True,
        ),
        Column("annotator", "STRING", "who said so"),
        Column("split", "STRING", "train or heldout"),
        Column("licence", "STRING", "licence of the source"),
        _AT,
    ),
    checks={
        "split_known": "split IN ('train', 'heldout')",
        "aspect_known": "aspect IN ('safety', 'helpfulness')",
        "pair_or_label": "(label IS NULL) != (rejected IS NULL)",
    },
)

EVALUATION_PROMPTS = Table(
    "evaluation_prompts",
    grain="a held-out prompt of a suite",
    owner="mart data import",
    key=("dataset", "split", "text_sha256"),
    columns=(
        Column("dataset", "STRING", "name the import gave it"),
        Column("suite", "STRING", "violation, benign, instructions, or a name of the user's"),
        Column("split", "STRING", "dev, for tuning, or test, for reporting"),
        Column("suite_digest", "STRING", "digest of all prompts of the suite and split"),
        Column("text_sha256", "STRING", "SHA-256 of the text"),
        Column("text", "STRING", "the prompt"),
        Column("expected", "STRING", "refuse or comply"),
        Column("category", "STRING", "violation category, or that of the look-alike", nullable=True),
        Column("style", "STRING", "attack style", nullable=True),
        Column("seen_style", "BOOLEAN", "whether training seeds use the style", nullable=True),
        Column("reference", "STRING", "a good answer", nullable=True),
        _AT,
    ),
    checks={"split_known": "split IN ('dev', 'test')", "expected_known": "expected IN ('refuse', 'comply')"},
)

IMPORTS = Table(
    "imports",
    grain="an import of a file or table; rows_in = rows_new + rows_repeated + rows_refused",
    owner="mart data import",
    key=("import_id",),
    columns=(
        Column("import_id", "STRING", "digest of source content, kind, mapping and data set"),
        Column("dataset", "STRING", "name given to it"),
        Column("kind", "STRING", "seeds, benign, pairs, labels, instructions or suite"),
        Column("source", "STRING", "file name or table with version", volatile=True),
        Column("source_sha256", "STRING", "digest of the content read"),
        Column("mapping", "STRING", "field mapping, JSON"),
        Column("rows_in", "BIGINT", "rows read"),
        Column("rows_new", "BIGINT", "rows written"),
        Column("rows_repeated", "BIGINT", "rows whose key was already there"),
        Column("rows_refused", "BIGINT", "rows kept in import_refusals"),
        _AT,
    ),
    checks={"totals_add_up": "rows_in = rows_new + rows_repeated + rows_refused"},
)

IMPORT_REFUSALS = Table(
    "import_refusals",
    grain="an input row that was refused",
    owner="mart data import",
    key=("import_id", "line"),
    columns=(
        Column("import_id", "STRING", "the import it came in"),
        Column("dataset", "STRING", "name given to the data set"),
        Column("line", "BIGINT", "line of the file or row of the table, from 1"),
        Column("field", "STRING", "the field at fault", nullable=True),
        Column("reason", "STRING", "why it was refused, and the remedy"),
        Column("excerpt", "STRING", "the value, escaped, at most 200 characters", nullable=True),
        _AT,
    ),
)

IMPORT_STAGING = Table(
    "import_staging",
    grain="a row of an import of several batches that has not ended; nothing but that import takes it for data",
    owner="mart data import",
    key=("import_id", "attempt", "position"),
    columns=(
        Column("import_id", "STRING", "the import"),
        Column("attempt", "STRING", "the process that read it", volatile=True),
        Column("position", "BIGINT", "place among the rows of the attempt, from 0"),
        Column("dataset", "STRING", "name given to the data set"),
        Column("table_name", "STRING", "the table it is meant for"),
        Column("row", "STRING", "its columns, JSON"),
        _AT,
    ),
    partitioned_by=("import_id",),
)

REQUESTS = Table(
    "requests",
    grain="something that will be asked of a model",
    owner="attack, respond, evaluate_*",
    key=("request_id",),
    columns=(
        Column(
            "request_id", "STRING", "digest of run, round, step, checkpoint, input ids, parents and sampling"
        ),
        _RUN,
        _ROUND,
        Column("step", "STRING", "the step that asks"),
        Column("chunk", "INT", "which commit will carry its outcome"),
        Column("role", "STRING", "adversary or target"),
        Column(
            "checkpoint_id",
            "STRING",
            "the checkpoint asked; null is the bare base, or a hosted target",
            nullable=True,
        ),
        Column("purpose", "STRING", "attack or evaluation"),
        Column("messages", "STRING", "the dialogue as JSON messages, for reading"),
        Column("input_ids", "ARRAY<INT>", "the rendered input, what is really sent"),
        Column("input_sha256", "STRING", "digest of input_ids"),
        Column(
            "parent_ids",
            "ARRAY<STRING>",
            "what it was made from: seed digests, prompt ids, evaluation digests",
        ),
        Column("primary_parent", "STRING", "the first of them"),
        Column("root_seed_ids", "ARRAY<STRING>", "seeds at the root of its ancestry"),
        Column("depth", "INT", "generations since the seeds; 0 for what is asked of an evaluation prompt"),
        Column("suite", "STRING", "evaluation suite", nullable=True),
        Column("category", "STRING", "violation category meant", nullable=True),
        Column("style", "STRING", "attack style meant", nullable=True),
        Column("prompt", "STRING", "the user's last words, for scorers and readers"),
        Column("preamble", "BOOLEAN", "whether the safety preamble stands before it (context distillation)"),
        Column("temperature", "DOUBLE", "0 is greedy"),
        Column("top_p", "DOUBLE", "nucleus"),
        Column("max_tokens", "INT", "longest answer"),
        Column(
            "scored_tokens",
            "INT",
            "0 asks for an answer; else so many of the last input ids are a given answer, whose likelihood is asked",
        ),
        Column("sample_index", "INT", "which of the samples of one prompt, from 0"),
        Column("seed", "BIGINT", "follows from the request id"),
        _AT,
    ),
    checks={"purpose_known": "purpose IN ('attack', 'evaluation')", "seed_range": "seed >= 0"},
    partitioned_by=("run_id", "round"),
    version=2,
    added={2: ("scored_tokens",)},
)

ADVERSARIAL_PROMPTS = Table(
    "adversarial_prompts",
    grain="an outcome: the prompt that the adversary wrote, or the error",
    owner="attack, evaluate_adversary",
    key=("request_id",),
    columns=(
        Column("request_id", "STRING", "the request; also the prompt's id"),
        _RUN,
        _ROUND,
        Column("step", "STRING", "the step that asked"),
        Column("checkpoint_id", "STRING", "the adversary", nullable=True),
        Column("purpose", "STRING", "attack, or evaluation of the adversary"),
        Column("raw_text", "STRING", "what the model wrote, untouched but for NULs", nullable=True),
        Column("text", "STRING", "the prompt taken from it", nullable=True),
        Column("text_sha256", "STRING", "SHA-256 of the text", nullable=True),
        Column("category", "STRING", "violation category meant"),
        Column("style", "STRING", "attack style meant"),
        Column("parent_ids", "ARRAY<STRING>", "examples it was conditioned on"),
        Column("root_seed_ids", "ARRAY<STRING>", "seeds at the root of its ancestry"),
        Column("depth", "INT", "generations since the seeds"),
        *_OUTCOME,
    ),
    checks={**_OUTCOME_CHECKS, "ok_has_text": "status = 'error' OR text IS NOT NULL"},
    partitioned_by=("run_id", "round"),
)

RESPONSES = Table(
    "responses",
    grain="an outcome: one sampled answer of a target to a prompt, or the error",
    owner="respond, evaluate_target, evaluate_attack, evaluate_reference",
    key=("request_id",),
    columns=(
        Column("request_id", "STRING", "the request; also the response's id"),
        _RUN,
        _ROUND,
        Column("step", "STRING", "the step that asked"),
        Column("checkpoint_id", "STRING", "the target", nullable=True),
        Column("purpose", "STRING", "attack or evaluation"),
        Column("suite", "STRING", "evaluation suite", nullable=True),
        Column("prompt_id", "STRING", "adversarial prompt (request id) or evaluation prompt (text digest)"),
        Column("prompt", "STRING", "what was asked"),
        Column("preamble", "BOOLEAN", "whether the safety preamble stood before it"),
        Column("sample_index", "INT", "which of the samples of one prompt"),
        Column("temperature", "DOUBLE", "sampling temperature"),
        Column("text", "STRING", "the answer", nullable=True),
        Column(
            "logprob",
            "DOUBLE",
            "log-probability of the text under the model, nats, where that was asked for",
            nullable=True,
        ),
        *_OUTCOME,
    ),
    checks={**_OUTCOME_CHECKS, "ok_has_text": "status = 'error' OR text IS NOT NULL"},
    partitioned_by=("run_id", "round"),
    version=2,
    added={2: ("logprob",)},
)

PROMPT_SCREENINGS = Table(
    "prompt_screenings",
    grain="the verdict on a prompt that the adversary wrote: asked of the target, or refused and why",
    owner="screen",
    key=("run_id", "round", "prompt_id"),
    columns=(
        _RUN,
        _ROUND,
        Column("prompt_id", "STRING", "the adversarial prompt"),
        Column("passed", "BOOLEAN", "whether it goes on to the target"),
        Column(
            "reason",
            "STRING",
            "passed, error, cut_short, evaluation_copy, exact_duplicate, near_duplicate, too_short, too_long or repetitive",
        ),
        Column("nearest_id", "STRING", "the prompt or seed it repeats", nullable=True),
        Column("similarity", "DOUBLE", "Jaccard similarity of word 3-grams to it, in [0, 1]", nullable=True),
        _AT,
    ),
    partitioned_by=("run_id", "round"),
)

SCORERS = Table(
    "scorers",
    grain="a judge as a run uses it",
    owner="the first step of a run that asks it",
    key=("run_id", "scorer_digest", "name"),
    columns=(
        _RUN,
        Column("scorer_digest", "STRING", "digest of kind, weights and parameters"),
        Column("name", "STRING", "safety, helpfulness, or the name of an evaluation judge"),
        Column("kind", "STRING", "classifier, rule, guard or rubric"),
        Column("model", "STRING", "checkpoint id, model source or function"),
        Column(
            "checkpoint_id",
            "STRING",
            "the reward model's checkpoint, where this project trained it",
            nullable=True,
        ),
        Column(
            "selects", "BOOLEAN", "whether selection reads it; an evaluation judge is never read by selection"
        ),
        Column("heldout_accuracy", "DOUBLE", "agreement with held-out labels, in [0, 1]", nullable=True),
        Column("heldout_n", "BIGINT", "held-out labels", nullable=True),
        Column("heldout_metrics", "STRING", "further held-out figures, JSON", nullable=True),
        _AT,
    ),
    partitioned_by=("run_id",),
)

SCORES = Table(
    "scores",
    grain="one judge's verdict on one response",
    owner="score, evaluate_score, judge_NAME",
    key=("response_id", "scorer_digest"),
    columns=(
        _RUN,
        _ROUND,
        Column("step", "STRING", "the step that scored"),
        Column("response_id", "STRING", "the response's request id"),
        Column("scorer_digest", "STRING", "the judge"),
        Column("scorer", "STRING", "the judge's name"),
        Column(
            "value",
            "DOUBLE",
            "in [0, 1], 1 the safest or most helpful; null where it could not tell",
            nullable=True,
        ),
        Column(
            "label",
            "STRING",
            "the word of a judge that labels: complied, refused, answered or neither",
            nullable=True,
        ),
        Column("status", "STRING", "ok or error"),
        Column("error", "STRING", "why there is no verdict", nullable=True),
        Column("prompt_tokens", "BIGINT", "tokens that a judge behind an endpoint read", nullable=True),
        Column("completion_tokens", "BIGINT", "tokens that it wrote", nullable=True),
        _AT,
    ),
    version=2,
    added={2: ("prompt_tokens", "completion_tokens")},
    checks={
        "value_range": "value IS NULL OR value BETWEEN 0 AND 1",
        "status_known": "status IN ('ok', 'error')",
    },
    partitioned_by=("run_id", "round"),
)

SELECTIONS = Table(
    "selections",
    grain="the verdict on a (prompt, response)",
    owner="select",
    key=("run_id", "round", "response_id"),
    columns=(
        _RUN,
        _ROUND,
        Column("prompt_id", "STRING", "the adversarial prompt"),
        Column("response_id", "STRING", "the response"),
        Column("verdict", "STRING", "attack: the prompt joins P_adv; keep: the response joins R_tgt; drop"),
        Column(
            "reason",
            "STRING",
            "why: below_theta_s_adv, passed, not_drawn, unsafe, unhelpful, cut_short, blank, no_score",
        ),
        Column("safety", "DOUBLE", "S_s in [0, 1]", nullable=True),
        Column("helpfulness", "DOUBLE", "S_h in [0, 1]", nullable=True),
        Column("theta_s_adv", "DOUBLE", "attack where S_s is below"),
        Column("theta_s_tgt", "DOUBLE", "keep where S_s is above"),
        Column("theta_h_tgt", "DOUBLE", "and S_h is above"),
        _AT,
    ),
    checks={"verdict_known": "verdict IN ('attack', 'keep', 'drop')"},
    partitioned_by=("run_id", "round"),
)

TRAINING_EXAMPLES = Table(
    "training_examples",
    grain="a row of a checkpoint's training set",
    owner="curate_*",
    key=("checkpoint_id", "position"),
    columns=(
        _RUN,
        _ROUND,
        Column("checkpoint_id", "STRING", "the checkpoint it is meant for; exists before the weights do"),
        Column("position", "BIGINT", "place in the training set, from 0"),
        Column("role", "STRING", "adversary, target, safety_rm or helpfulness_rm"),
        Column("split", "STRING", "train, or heldout rows that only measure a reward model"),
        Column("input", "STRING", "JSON messages"),
        Column("output", "STRING", "what the model learns to write, or the answer that is scored"),
        Column("weight", "DOUBLE", "weight in the loss"),
        Column("label", "DOUBLE", "a reward model's label", nullable=True),
        Column("rejected", "STRING", "the answer not preferred, for a reward model", nullable=True),
        Column(
            "source",
            "STRING",
            "what kind of row it is: attack, own_answer, replay, benign, instruction, seed_pair, ...",
        ),
        Column("source_table", "STRING", "the table it came from"),
        Column("source_ids", "ARRAY<STRING>", "keys in that table, or request ids"),
        Column("example_sha256", "STRING", "digest of its content"),
        _AT,
    ),
    partitioned_by=("run_id", "round"),
)

CHECKPOINTS = Table(
    "checkpoints",
    grain="weights",
    owner="train_*",
    key=("checkpoint_id",),
    columns=(
        Column("checkpoint_id", "STRING", "digest of the recipe"),
        _RUN,
        _ROUND,
        Column("role", "STRING", "adversary, target, safety_rm or helpfulness_rm"),
        Column("kind", "STRING", "lora, full or classifier"),
        Column("parent_checkpoint_id", "STRING", "the checkpoint it continues", nullable=True),
        Column("base", "STRING", "model source of the base"),
        Column("base_digest", "STRING", "digest of the base's tensors"),
        Column("recipe", "STRING", "what the id is a digest of, JSON"),
        Column("training_root", "STRING", "digest over the training rows' digests"),
        Column("training_rows", "BIGINT", "rows of the training set"),
        Column(
            "training_table_version",
            "BIGINT",
            "version of training_examples the snapshot was taken at",
            volatile=True,
        ),
        Column("weights_sha256", "STRING", "digest of the tensors"),
        Column("path", "STRING", "directory under the artifact root"),
        Column("settings", "STRING", "training configuration, JSON"),
        Column("metrics", "STRING", "the trainer's figures, JSON", volatile=True),
        Column("environment", "STRING", "versions and device, JSON", volatile=True),
        Column("code_version", "STRING", "version of this package", volatile=True),
        _AT,
        Column(
            "files_sha256",
            "STRING",
            "digest of what its manifest lists: each file's name, size and digest; null in a row from before version 2",
            nullable=True,
            volatile=True,
        ),
    ),
    version=2,
    added={2: ("files_sha256",)},
)

CHECKPOINT_ORIGINS = Table(
    "checkpoint_origins",
    grain="what of one origin is in a checkpoint's training set; counted when it is trained",
    owner="train_*; begin for what an older version left out",
    key=(
        "checkpoint_id",
        "relation",
        "ancestor_id",
        "name",
        "scorer_digest",
        "source",
        "source_table",
        "datasets",
    ),
    columns=(
        Column("checkpoint_id", "STRING", "the checkpoint"),
        Column("relation", "STRING", "drawn_from, wrote_prompts, wrote_answers or selected_by"),
        Column(
            "ancestor_id",
            "STRING",
            "who wrote or selected: a checkpoint, the digest of a judge given finished, or the endpoint of a hosted target",
            nullable=True,
        ),
        Column(
            "name", "STRING", "adversary, target, a judge, or the model behind an endpoint", nullable=True
        ),
        Column("scorer_digest", "STRING", "the judge that selected", nullable=True),
        Column("source", "STRING", "what kind of row was drawn", nullable=True),
        Column("source_table", "STRING", "the table it was drawn from", nullable=True),
        Column(
            "datasets",
            "STRING",
            "the data sets that then held what was drawn, parted by commas; empty where models wrote it",
            nullable=True,
        ),
        Column("training_rows", "BIGINT", "training rows behind it"),
        _AT,
    ),
    checks={"relation_known": "relation IN ('drawn_from', 'wrote_prompts', 'wrote_answers', 'selected_by')"},
)

ROUND_METRICS = Table(
    "round_metrics",
    grain="a metric of a round, long form",
    owner="report, report_NAME",
    key=("run_id", "round", "metric", "judge", "slice"),
    columns=(
        _RUN,
        _ROUND,
        Column(
            "metric",
            "STRING",
            "violation_rate, benign_refusal_rate, attack_success_rate, reward_model_agreement, ...",
        ),
        Column(
            "judge",
            "STRING",
            "who judged: safety, helpfulness, an evaluation judge such as truth, or none for counts",
        ),
        Column("slice", "STRING", "all, or dimension=value"),
        Column("value", "DOUBLE", "the rate or figure", nullable=True),
        Column("low", "DOUBLE", "lower end of the 95 % interval", nullable=True),
        Column("high", "DOUBLE", "upper end", nullable=True),
        Column("successes", "BIGINT", "numerator of a rate", nullable=True),
        Column("n", "BIGINT", "denominator, or number of values"),
        Column("seconds_like", "BOOLEAN", "whether the figure is a time or another volatile one"),
        Column(
            "step",
            "STRING",
            "the step that reported: report, or report_NAME of a judge that came later; null is report, from before version 2",
            nullable=True,
        ),
        _AT,
    ),
    version=2,
    added={2: ("step",)},
    partitioned_by=("run_id",),
)

QUALITY_RESULTS = Table(
    "quality_results",
    grain="a check on a batch",
    owner="gates",
    key=("run_id", "round", "gate", "check_name", "attempt"),
    columns=(
        _RUN,
        _ROUND,
        Column(
            "gate",
            "STRING",
            "adversarial_prompts, scores, or curated_ and a role: adversary, target, safety_rm or helpfulness_rm",
        ),
        Column("check_name", "STRING", "the check"),
        Column("attempt", "INT", "attempt of the step, from 1"),
        Column("expectation", "STRING", "the expectation's type"),
        Column("wanted", "STRING", "its parameters, JSON"),
        Column("observed", "STRING", "what was seen, JSON"),
        Column("success", "BOOLEAN", "whether it held"),
        Column("suite_digest", "STRING", "digest of the suite"),
        Column("rows", "BIGINT", "rows of the batch"),
        _AT,
    ),
    partitioned_by=("run_id",),
)

GATE_OVERRIDES = Table(
    "gate_overrides",
    grain="a person's decision to let a batch pass",
    owner="mart override",
    key=("run_id", "round", "gate", "check_name"),
    columns=(
        _RUN,
        _ROUND,
        Column("gate", "STRING", "the gate"),
        Column("check_name", "STRING", "the check"),
        Column("approved_by", "STRING", "who decided"),
        Column("reason", "STRING", "why"),
        _AT,
    ),
    partitioned_by=("run_id",),
)

STEPS = Table(
    "steps",
    grain="an attempt at a step that ended: done, failed or blocked; append-only",
    owner="runner",
    key=("run_id", "round", "step", "attempt", "state"),
    columns=(
        _RUN,
        _ROUND,
        Column("step", "STRING", "name of the step"),
        Column("attempt", "INT", "from 1", volatile=True),
        Column("state", "STRING", "done, failed or blocked"),
        Column("started_at", "TIMESTAMP", "UTC", volatile=True),
        Column("ended_at", "TIMESTAMP", "UTC", nullable=True, volatile=True),
        Column("reads", "STRING", "table to version read, JSON", volatile=True),
        Column("writes", "STRING", "table to version written, JSON", volatile=True),
        Column("counts", "STRING", "rows in, out, refused and the like, JSON"),
        Column(
            "busy_seconds",
            "DOUBLE",
            "time in which its requests were asked, from their tasks' start to the last commit, or a trainer's process ran; shared out among steps side by side",
            volatile=True,
        ),
        Column("error", "STRING", "why it failed or what blocked it", nullable=True, volatile=True),
        Column(
            "driven_by",
            "STRING",
            "who held the run meanwhile: a process (process:HOST:PID:…) or a scheduler's run (scheduler:NAME); null of attempts from before it was kept",
            nullable=True,
            volatile=True,
        ),
        _AT,
    ),
    version=2,
    added={2: ("driven_by",)},
    checks={"state_known": "state IN ('started', 'done', 'failed', 'blocked')"},
    partitioned_by=("run_id",),
)

TABLES: tuple[Table, ...] = (
    RUNS,
    SEED_PROMPTS,
    INSTRUCTIONS,
    PREFERENCES,
    EVALUATION_PROMPTS,
    IMPORTS,
    IMPORT_REFUSALS,
    IMPORT_STAGING,
    REQUESTS,
    ADVERSARIAL_PROMPTS,
    PROMPT_SCREENINGS,
    RESPONSES,
    SCORERS,
    SCORES,
    SELECTIONS,
    TRAINING_EXAMPLES,
    CHECKPOINTS,
    CHECKPOINT_ORIGINS,
    ROUND_METRICS,
    QUALITY_RESULTS,
    GATE_OVERRIDES,
    STEPS,
)

BY_NAME = {table.name: table for table in TABLES}
