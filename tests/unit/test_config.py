"""The configuration says what is wrong with it, and what resuming may change."""

import re
import textwrap
from pathlib import Path

import pytest

from jobs.flags import config_path
from pipelines.config import EndpointConfig, load_config, read_yaml
from pipelines.errors import ConfigError
from pipelines.plan import steps_of
from pipelines.training_jobs import settings_for

SANDBOX = config_path("sandbox")
README = Path(__file__).parents[2] / "README.md"


def test_an_unknown_key_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(
        ConfigError, match=r"attack\.promts is no setting; the nearest valid name is 'prompts'"
    ):
        load_config(SANDBOX, ["attack.promts=3"])


def test_the_examples_of_the_readme_are_taken(tmp_path: Path) -> None:
    indented = re.findall(r"(?:^    .*\n)+", README.read_text(), re.MULTILINE)
    own, hosted = (
        next(block for block in map(textwrap.dedent, indented) if block.startswith(key))
        for key in ("model:", "target:")
    )
    path = tmp_path / "my.yaml"
    path.write_text(own + hosted)
    config = load_config(path)
    assert [judge.name for judge in config.judges] == ["guard", "local"]
    assert config.target.endpoint is not None


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(SANDBOX, ["select.theta_s_adv=3", "respond.samples=none"])
    assert "select.theta_s_adv = 3" in str(raised.value)
    assert "respond.samples = 'none'" in str(raised.value)


@pytest.mark.parametrize(
    "setting",
    [
        "engine.in_flight=7",
        "engine.max_num_seqs=3",
        "rounds=9",
        "name=other",
        "engine.lease_seconds=99",
        "engine.options.hang_seconds=600",
    ],
)
def test_settings_of_speed_and_length_leave_the_digest_alone(setting: str) -> None:
    assert load_config(SANDBOX, [setting]).digest == load_config(SANDBOX).digest


@pytest.mark.parametrize(
    "setting", ["seed=9", "select.theta_s_adv=0.1", "engine.max_model_len=300", "engine.chunk_rows=9"]
)
def test_settings_that_affect_results_change_the_digest(setting: str) -> None:
    assert load_config(SANDBOX, [setting]).digest != load_config(SANDBOX).digest


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration at .*nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"can't be read \(Is a directory\): give the path of a YAML file"):
        load_config(tmp_path)


def test_a_file_that_is_not_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("a: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not YAML"):
        load_config(path)


def test_a_reward_model_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.yaml"
    path.write_text("model: m\ndata: {seeds: s}\nreward_models: {safety: {base: b}}\n")
    with pytest.raises(ConfigError, match="reward_models lacks helpfulness"):
        load_config(path)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("reward_models.safety.begins_with=safety", "only the helpfulness model can begin with it"),
        ("reward_models.helpfulness.dataset=null", "both models must be trained here"),
        ("reward_models.helpfulness.base=another", "from the same base"),
    ],
)
def test_a_reward_model_that_can_not_begin_with_the_other_is_refused(setting: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(SANDBOX, ["reward_models.helpfulness.begins_with=safety", setting])


FULL = ["target.settings.method=full", "target.warm_settings.method=full"]


def test_whole_models_need_an_engine_that_serves_them() -> None:
    with pytest.raises(
        ConfigError, match="target.settings.method: full gives whole models.*serving to merged"
    ):
        load_config(SANDBOX, FULL)
    assert load_config(SANDBOX, [*FULL, "engine.serving=merged"]).target.settings.method == "full"


def test_a_role_is_trained_on_as_its_warm_start_was() -> None:
    with pytest.raises(ConfigError, match="choose one method for both"):
        load_config(SANDBOX, ["adversary.warm_settings.method=full", "engine.serving=merged"])


def test_merged_serving_is_part_of_what_decides_results_and_the_default_is_not() -> None:
    plain, merged = load_config(SANDBOX), load_config(SANDBOX, ["engine.serving=merged"])
    assert "serving" not in plain.effective["engine"]
    assert merged.digest != plain.digest


POOLED = [f"reward_models.{aspect}.backend=vllm" for aspect in ("safety", "helpfulness")]


def test_what_computes_a_reward_model_is_part_of_what_decides_results_and_the_default_is_not() -> None:
    plain, pooled = load_config(SANDBOX), load_config(SANDBOX, POOLED)
    assert "backend" not in plain.effective["reward_models"]["safety"]
    assert pooled.digest != plain.digest
    assert load_config(SANDBOX, [*POOLED, "reward_models.safety.memory_share=0.01"]).digest == pooled.digest


def test_a_reward_model_that_is_trained_scores_at_the_length_it_learned_at() -> None:
    with pytest.raises(
        ConfigError,
        match=r"reward_models\.safety: max_length is 128 and settings\.max_length 64, .*set both alike",
    ):
        load_config(SANDBOX, ["reward_models.safety.settings.max_length=64"])
    finished = [
        "reward_models.safety.max_length=64",
        "reward_models.safety.dataset=null",
        "reward_models.helpfulness.begins_with=null",
    ]
    assert load_config(SANDBOX, finished), "whose training is not ours to know"


def test_engines_of_one_device_must_leave_each_other_room() -> None:
    with pytest.raises(ConfigError, match=r"come to 0\.975 of a device; lower them to 0\.95 together"):
        load_config(SANDBOX, [*POOLED, "reward_models.safety.memory_share=0.05"])
    assert load_config(SANDBOX, ["reward_models.safety.memory_share=0.9"]), "which is no engine"
    with pytest.raises(ConfigError, match=r"memory_share of judge g come to 1\.000 of a device"):
        load_config(SANDBOX, ["judges=[{name: g, kind: guard, model: m, memory_share: 0.1}]"])


def test_a_judges_model_is_part_of_what_decides_results_and_its_share_is_not() -> None:
    guard = "judges=[{{name: g, kind: guard, model: {}, memory_share: {}}}]"
    config, *others = (
        load_config(SANDBOX, [guard.format(*values)]) for values in (("m", 0.05), ("m", 0.04), ("n", 0.05))
    )
    assert [config.digest == other.digest for other in others] == [True, False]
    assert {"model", "max_length", "memory_share"}.isdisjoint(load_config(SANDBOX).effective["judges"][0])


def test_an_engine_serves_the_ranks_of_both_roles() -> None:
    ranks = {"adversary.settings": 32, "adversary.warm_settings": 32, "target.settings": 8}
    sets = [f"{settings}.lora_rank={rank}" for settings, rank in ranks.items()]
    config = load_config(SANDBOX, [*sets, "target.enabled=false"])
    assert set(config.lora_ranks()) == {8, 16, 32}


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (
            "target.settings.lora_rank=8",
            "target.settings.lora_rank is 8 and target.warm_settings.lora_rank 16: .*set both alike",
        ),
        (
            "adversary.warm_settings.lora_alpha=8",
            "adversary.settings.lora_alpha is 32.* 8.0: rounds train on",
        ),
        ("target.settings.target_modules=[q_proj]", "target.settings.target_modules is .'q_proj'. and"),
    ],
)
def test_an_adapter_that_would_not_keep_the_form_of_its_warm_start_is_refused(
    setting: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(SANDBOX, [setting])


@pytest.mark.parametrize(
    "settings",
    [
        ["target.settings.lora_rank=8", "data.warm_start=null"],
        ["adversary.settings.lora_rank=8", "adversary.warm_pairs=0"],
        ["target.settings.lora_rank=8", "target.enabled=false"],
        ["target.settings.lora_rank=8", "target.warm_settings=null"],
        ["target.settings.lora_dropout=0.1"],
        [
            "target.settings={method: full, lora_rank: 8}",
            "target.warm_settings.method=full",
            "engine.serving=merged",
        ],
    ],
)
def test_where_no_round_trains_on_an_adapter_of_the_warm_start_its_form_is_free(settings: list[str]) -> None:
    assert load_config(SANDBOX, settings)


HOSTED = "target.endpoint={base_url: 'http://host/v1', model: m}"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ([HOSTED], "set target.enabled to false"),
        (
            [HOSTED, "target.enabled=false", "target.endpoint.budget=5"],
            "a budget needs prompt_price or completion_price",
        ),
    ],
)
def test_a_hosted_target_that_can_not_be_is_refused(settings: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(SANDBOX, settings)


def test_a_hosted_target_is_never_trained_nor_asked_for_likelihoods() -> None:
    config = load_config(SANDBOX, [HOSTED, "target.enabled=false"])
    names = {step.name for round in (0, 1) for step in steps_of(config, round)}
    assert "respond" in names and "train_adversary" in names
    assert not names & {"train_warm_target", "curate_target", "train_target", "evaluate_reference"}


def test_prices_and_limits_of_a_hosted_target_leave_the_digest_alone() -> None:
    sets = [HOSTED, "target.enabled=false"]
    more = [
        "target.endpoint.requests_per_minute=9",
        "target.endpoint.prompt_price=1",
        "target.endpoint.budget=3",
    ]
    assert load_config(SANDBOX, [*sets, *more]).digest == load_config(SANDBOX, sets).digest
    assert (
        load_config(SANDBOX, [*sets, "target.endpoint.model=n"]).digest != load_config(SANDBOX, sets).digest
    )


def test_an_override_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="--set takes key=value"):
        load_config(SANDBOX, ["seed"])


def test_the_learning_rate_falls_from_round_to_round_and_the_warm_start_has_its_own() -> None:
    config = load_config(SANDBOX, ["target.rate_decay=0.5", "target.settings.learning_rate=0.008"])
    rates = [settings_for(config, "target", round).learning_rate for round in range(4)]
    assert config.target.warm_settings is not None
    assert rates == [config.target.warm_settings.learning_rate, 0.008, 0.004, 0.002]
    assert settings_for(config, "safety_rm", 3) == config.reward_models["safety"].settings


def test_a_rule_about_several_settings_is_told_without_all_of_them() -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(SANDBOX, ["reward_models.helpfulness.base=another"])
    assert "from the same base" in str(raised.value) and "sandbox_labels" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2@host/v1",
        "https://user:hunter2/x@host/v1",
        "user:hunter2@host/v1",
        "https://host/v1?token=hunter2",
        "https://host/v1#hunter2",
    ],
)
def test_a_url_with_more_than_host_and_path_is_refused_and_not_shown(url: str) -> None:
    endpoint = f"target.endpoint={{base_url: '{url}', model: m}}"
    with pytest.raises(ConfigError, match=r"target\.endpoint\.base_url: give http:// or https://") as raised:
        load_config(SANDBOX, [endpoint, "target.enabled=false"])
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "https://[::1]:8443", "HTTPS://my-host.example/serving-endpoints/"]
)
def test_a_plain_url_of_an_endpoint_is_taken(url: str) -> None:
    assert EndpointConfig(base_url=url, model="m").base_url == url


@pytest.mark.parametrize(
    "setting", ["target.endpoint=https://user:hunter2@host", "seed.a.b=https://user:hunter2@host"]
)
def test_a_password_in_a_url_that_stands_in_the_wrong_place_is_not_shown(setting: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(SANDBOX, [setting])
    assert "hunter2" not in str(raised.value) and "//…@host" in str(raised.value)


@pytest.mark.parametrize("value", ["7", "-0.5"])
def test_a_verdict_has_a_value_from_0_to_1(value: str) -> None:
    judge = f"judges=[{{name: j, function: 'a:b', values: {{complied: 0, refused: {value}}}}}]"
    with pytest.raises(ConfigError, match=r"judges\.0\.values\.refused = .* (less|greater) than or equal to"):
        load_config(SANDBOX, [judge])


@pytest.mark.parametrize(
    "setting",
    [
        "gates.parameters.max_repeated=.inf",
        "attack.sampling.temperature=.inf",
        "engine.options={x: [.nan]}",
        "target.settings.lora_alpha=.inf",
    ],
)
def test_a_number_that_is_not_finite_is_told_in_one_line(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"= (inf|nan): give a finite number$") as raised:
        load_config(SANDBOX, [setting])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("setting", ["attack.sampling.temperature=inf", "target.settings.lora_alpha=inf"])
def test_a_number_that_is_not_finite_is_refused_as_a_word_too(setting: str) -> None:
    with pytest.raises(ConfigError, match="should be a finite number"):
        load_config(SANDBOX, [setting])


@pytest.mark.parametrize("value", ["2026-11-31", "0x_", "[" * 5000])
def test_a_setting_that_yaml_can_not_make_a_value_of_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="is not a YAML value: "):
        load_config(SANDBOX, [f"name={value}"])


def test_a_file_with_a_date_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "dated.yaml"
    path.write_text("name: 2026-11-31\n")
    with pytest.raises(
        ConfigError, match=r"dated\.yaml is not YAML: day is out of range.*; quote what is meant"
    ):
        load_config(path)


@pytest.mark.parametrize(
    "setting",
    [
        "data.suite_limit",
        "attack.prompts",
        "mix.min_rows",
        "mix.max_rows",
        "adversary.warm_pairs",
        "evaluate.adversary_prompts",
    ],
)
def test_more_rows_than_spark_can_limit_to_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=rf"{re.escape(setting)} = .* less than or equal to 2147483647"):
        load_config(SANDBOX, [f"{setting}=2147483648"])
    assert load_config(SANDBOX, [f"{setting}=2147483647"])


@pytest.mark.parametrize(
    ("temperatures", "says"),
    [
        ("[]", r"temperatures = \[\]: give one .* `rounds: \[\]`"),
        ("[0.5, -1]", r"temperatures\.1 = -1: .* equal to 0"),
    ],
)
def test_rejection_sampling_needs_a_temperature_and_none_below_0(temperatures: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(SANDBOX, [f"respond.rejection_sampling.temperatures={temperatures}"])


@pytest.mark.parametrize(
    ("kind", "option", "says"),
    [
        ("guard", "safe: true", "options.safe is True; give the guard's word, in quotes"),
        ("guard", "unsafe: ' '", "options.unsafe is ' '; give the guard's word"),
        ("guard", "within: three", "options.within is 'three'; give a whole number from 1"),
        ("guard", "top: 0", "options.top is 0; give a whole number from 1"),
        ("rubric", "max_tokens: 2.5", "options.max_tokens is 2.5; give a whole number from 1"),
        ("rubric", "max_tokens: true", "options.max_tokens is True; give a whole number from 1"),
    ],
)
def test_an_option_of_a_judge_has_the_type_that_the_judge_reads(kind: str, option: str, says: str) -> None:
    judge = f"{{name: j, kind: {kind}, model: m, memory_share: 0.01, rubric: r, values: {{complied: 0}}, options: {{{option}}}}}"
    with pytest.raises(ConfigError, match=f"judge j: {says}"):
        load_config(SANDBOX, [f"judges=[{judge}]"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["engine.options.hang_second=9"], "hang_second is no option of vllm; the nearest .* 'hang_seconds'"),
        (
            ["engine.options.in_flight=9"],
            "in_flight is no option of vllm; it has hang_seconds, .*server_args",
        ),
        (["engine.options.batch_size=9"], "batch_size is no option of vllm"),
        (["engine.backend=transformers", "engine.options.compile=true"], "is no option of transformers"),
        (
            ["engine.backend=scripted", "engine.options.delay_second=1"],
            "the nearest valid name is 'delay_seconds'",
        ),
    ],
)
def test_an_option_that_the_engine_would_not_read_is_refused(settings: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(SANDBOX, settings)


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("vllm", "{compile: true, server_args: {}, server_command: [], start_cap_seconds: 0.5}"),
        ("transformers", "{batch_size: 4, fork: true, hang_seconds: 9}"),
        ("scripted", "{script: 'a:b', delay_seconds: 0, server_env: {}, start_stall_seconds: 9}"),
    ],
)
def test_each_backend_has_its_own_options_and_those_of_a_judges_engine(backend: str, options: str) -> None:
    assert load_config(SANDBOX, [f"engine.backend={backend}", f"engine.options={options}"])


@pytest.mark.parametrize("name", ["hang_seconds", "start_stall_seconds", "start_cap_seconds"])
@pytest.mark.parametrize("value", ["0", "-1", "soon", "true", "null"])
def test_the_seconds_that_an_engine_is_given_are_a_positive_number(name: str, value: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"engine\.options\.{name} is .*; give a number of seconds above 0"
    ):
        load_config(SANDBOX, [f"engine.options.{name}={value}"])


@pytest.mark.parametrize(
    "name", ["attack.sampling.max_tokens", "respond.sampling.max_tokens", "evaluate.max_tokens"]
)
def test_an_answer_must_leave_room_for_its_prompt(name: str) -> None:
    sets = ["engine.max_model_len=100"]
    with pytest.raises(ConfigError, match=rf"{re.escape(name)} is 100 and .* 100: no prompt would fit"):
        load_config(SANDBOX, [*sets, f"{name}=100"])
    assert load_config(SANDBOX, [*sets, f"{name}=99"])


def test_what_a_hosted_target_answers_need_not_fit_our_engine() -> None:
    sets = [HOSTED, "target.enabled=false", "respond.sampling.max_tokens=9999", "evaluate.max_tokens=9999"]
    assert load_config(SANDBOX, sets)
    with pytest.raises(ConfigError, match=r"attack\.sampling\.max_tokens is 9999"):
        load_config(SANDBOX, [*sets, "attack.sampling.max_tokens=9999"])


def test_a_key_that_a_file_has_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("model: m\nattack:\n  prompts: 1\n  per_example: 2\n  prompts: 3\n")
    with pytest.raises(
        ConfigError, match=r"twice\.yaml: the key 'prompts' in line 5 stands in line 3 already; keep one"
    ):
        load_config(path)


def test_a_key_that_an_override_has_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="--set attack=.*: the key 'prompts' in line 1 stands in line 1"):
        load_config(SANDBOX, ["attack={prompts: 1, prompts: 2}"])


def test_what_a_mapping_merges_in_may_have_the_keys_that_it_has(tmp_path: Path) -> None:
    path = tmp_path / "merged.yaml"
    path.write_text("outer: {inner: &a {<<: &b {x: 1, y: 1}, x: 2}}\nmerged: {<<: *a, x: 3}\n")
    assert read_yaml(path, "", "") == {"outer": {"inner": {"x": 2, "y": 1}}, "merged": {"x": 3, "y": 1}}


@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ("seed=true", "seed"),
        ("attack.replay=yes", "attack.replay"),
        ("attack.examples=on", "attack.examples"),
        ("target.settings.epochs=true", "target.settings.epochs"),
        ("respond.rejection_sampling.temperatures=[0.5, true]", "respond.rejection_sampling.temperatures.1"),
        ("gates.parameters.max_repeated=true", "gates.parameters.max_repeated"),
    ],
)
def test_a_boolean_is_not_taken_for_a_number(setting: str, where: str) -> None:
    with pytest.raises(ConfigError, match=rf"{re.escape(where)} is a boolean, .*; give a number$"):
        load_config(SANDBOX, [setting])
