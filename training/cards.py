"""A checkpoint's model card: what it is, from what it was made, how it can be checked."""

from schemas.manifests import CheckpointManifest

_ROLES = {
    "target": "the model under protection, fine-tuned to answer adversarial prompts safely",
    "adversary": "a red-teaming model, fine-tuned to write prompts that make a target answer unsafely",
    "safety_rm": "a reward model that scores how safe an answer to a prompt is",
    "helpfulness_rm": "a reward model that scores how helpful an answer to a prompt is",
}


def model_card(manifest: CheckpointManifest) -> str:
    """The text of a checkpoint's `README.md`, in Markdown."""
    settings = manifest.settings
    form = "A LoRA adapter" if settings.get("method") == "lora" else "A whole model"
    parent = manifest.parent_checkpoint_id or "none: training started from the base"
    lines = [
        f"# {manifest.role} of round {manifest.round}",
        "",
        f"{form}: {_ROLES[manifest.role]}. Made by MART (multi-round automatic red-teaming), run `{manifest.run_id}`.",
        "",
        "## Origin",
        "",
        f"- checkpoint `{manifest.checkpoint_id}`",
        f"- base weights `{manifest.base_digest}`",
        f"- parent checkpoint: {parent}",
        f"- training set: {manifest.snapshot_rows} rows, root `{manifest.snapshot_root}`",
        f"- weights `{manifest.weights_sha256}`",
        f"- code `{manifest.code_version}`, seed {manifest.seed}",
        "",
        "## Training",
        "",
        *_table("Setting", settings),
        "",
        *_table("Measured", dict(manifest.metrics)),
        "",
        *_table("Environment", manifest.environment),
        "",
        "## Use and limits",
        "",
        _use(manifest),
        "",
        "The licences of the base weights and of the training data apply to this checkpoint.",
        "",
    ]
    return "\n".join(lines)


def _use(manifest: CheckpointManifest) -> str:
    if manifest.role == "adversary":
        return (
            "Only for testing models that you are responsible for. Its outputs are meant to provoke harm; keep them, "
            "and these weights, where only those who test can read them."
        )
    if manifest.kind == "reward":
        note = str(manifest.settings.get("objective_note") or "")
        return (
            f"One logit for a pair (last user prompt, response); higher is better. {note}".rstrip()
            + " It judges text that looks like its training set; elsewhere measure it first."
        )
    return (
        "Safer on attacks like those of its rounds, as the run's evaluation shows; not proof against others. "
        "Look at the run's over-refusal too before serving it."
    )


def _table(title: str, values: dict[str, object]) -> list[str]:
    rows = [f"| {name} | {_cell(value)} |" for name, value in sorted(values.items())]
    return [f"| {title} | |", "|---|---|", *rows]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return str(value).replace("|", "\\|").replace("\n", " ")
