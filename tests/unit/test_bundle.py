"""The Databricks bundle: valid job resources that schedule the plan, whole, in an order that its steps can bear."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from databricks.bundles.jobs import Job

from pipelines.plan import ALL, BOOTSTRAP, EVALUATION, ROUND, needs
from pipelines.step import GenerationStep, Step, TrainStep

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = yaml.safe_load((ROOT / "databricks.yml").read_text(encoding="utf-8"))
FILES = sorted((ROOT / "resources").glob("*.job.yml"))
JOBS: dict[str, dict[str, Any]] = {
    name: job
    for path in FILES
    for name, job in yaml.safe_load(path.read_text(encoding="utf-8"))["resources"]["jobs"].items()
}
PLANS: dict[str, tuple[Step, ...]] = {
    "mart_round": (*ROUND, *EVALUATION),
    "mart_bootstrap": (*BOOTSTRAP, *EVALUATION),
}
LEASE_SECONDS = 86400  # of jobs/main_job.py: from the last step on
each_job = pytest.mark.parametrize("name", sorted(PLANS))


def tasks_of(name: str) -> dict[str, dict[str, Any]]:
    return {task["task_key"]: task for task in JOBS[name]["tasks"]}


def step_tasks(name: str) -> dict[str, dict[str, Any]]:
    return {key: task for key, task in tasks_of(name).items() if "python_wheel_task" in task}


def parents(task: dict[str, Any]) -> set[str]:
    return {item["task_key"] for item in task.get("depends_on", [])}


def ancestors(name: str, key: str) -> set[str]:
    """All tasks that a task waits for, directly or not; fails on a cycle."""
    tasks, found, waiting = tasks_of(name), set[str](), [key]
    while waiting:
        for parent in parents(tasks[waiting.pop()]) - found:
            assert parent != key, f"{key} waits for itself"
            found.add(parent)
            waiting.append(parent)
    return found


def texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield str(key)
            yield from texts(value)
    elif isinstance(node, list):
        for item in node:
            yield from texts(item)
    elif node is not None:
        yield str(node)


def test_bundle_has_exactly_the_jobs_of_the_plan() -> None:
    assert set(JOBS) == set(PLANS)
    assert BUNDLE["bundle"]["name"] == "mart"
    assert BUNDLE["include"] == ["resources/*.job.yml"]


@each_job
def test_job_resource_is_valid(name: str) -> None:
    job = Job.from_dict(JOBS[name])
    assert job.max_concurrent_runs == 1
    assert isinstance(job.timeout_seconds, int) and 0 < job.timeout_seconds < LEASE_SECONDS


@each_job
def test_every_task_is_a_step_and_no_step_is_missing(name: str) -> None:
    steps = [task["python_wheel_task"]["parameters"][1] for task in step_tasks(name).values()]
    assert steps == list(step_tasks(name)), "a task is called as its step"
    assert set(steps) <= {*ALL, "begin", "end"}
    assert steps == ["begin", *(step.name for step in PLANS[name]), "end"]


@each_job
def test_tasks_call_the_entry_point_with_the_jobs_parameters(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {parameter["name"] for parameter in JOBS[name]["parameters"]}
    round = "0" if name == "mart_bootstrap" else "next"
    for key, task in step_tasks(name).items():
        call = task["python_wheel_task"]
        assert call["package_name"] == project["name"]
        assert call["entry_point"] in project["scripts"]
        door, step, *flags = call["parameters"]
        assert (door, step) == ("step", key)
        fork = {"--fork": "{{job.parameters.fork}}"} if (name, key) == ("mart_round", "begin") else {}
        assert dict(zip(flags[::2], flags[1::2], strict=True)) == fork | {
            "--run-id": "{{job.parameters.run_id}}",
            "--round": round,
            "--schema": "{{job.parameters.catalog}}.{{job.parameters.schema}}",
            "--artifacts": "{{job.parameters.artifacts}}",
            "--config": "{{job.parameters.config}}",
            "--holder": "{{job.run_id}}",
        }
        used = set(re.findall(r"\{\{job\.parameters\.(\w+)\}\}", " ".join(flags)))
        assert used <= declared


@each_job
def test_command_line_takes_what_the_tasks_say(name: str) -> None:
    cli = pytest.importorskip("jobs.cli")
    for task in step_tasks(name).values():
        options = cli.parser().parse_args(task["python_wheel_task"]["parameters"])
        assert options.name == task["task_key"]


@each_job
def test_dependencies_exist_and_have_no_cycle(name: str) -> None:
    tasks = tasks_of(name)
    assert len(tasks) == len(JOBS[name]["tasks"]), "a task key is there twice"
    for key, task in tasks.items():
        assert parents(task) <= set(tasks)
        assert key == "begin" or "begin" in ancestors(name, key)


@each_job
def test_steps_wait_for_the_steps_whose_tables_they_read(name: str) -> None:
    plan = PLANS[name]
    for index, reader in enumerate(plan):
        # What a later step of the plan writes is read from the round before.
        writers = {step.name for step in plan[:index] if step.writes in reader.reads}
        missing = writers - ancestors(name, reader.name)
        assert not missing, f"{reader.name} reads what {', '.join(sorted(missing))} writes, and does not wait"


@each_job
def test_steps_wait_for_all_that_the_runner_asks_of_them(name: str) -> None:
    here = {step.name for step in PLANS[name]}
    for step in PLANS[name]:
        assert needs(step) & here <= ancestors(name, step.name)


@each_job
def test_data_edges_are_there_by_themselves(name: str) -> None:
    tasks = tasks_of(name)
    for step in PLANS[name]:
        if isinstance(step, TrainStep):
            assert step.curated_by in parents(tasks[step.name])
    if name == "mart_round":
        assert "select" in parents(tasks["curate_adversary"]) & parents(tasks["curate_target"])
        assert "train_target" in parents(tasks["evaluate_target"])
        assert "train_adversary" in parents(tasks["evaluate_adversary"])
        assert {"evaluate_adversary", "train_target"} <= parents(tasks["evaluate_attack"])
        assert {"evaluate_target", "evaluate_attack"} <= parents(tasks["evaluate_score"])


def _at_once(name: str, steps: list[Step]) -> list[tuple[str, str]]:
    """Pairs of steps of which neither waits for the other."""
    above = {step.name: ancestors(name, step.name) for step in steps}
    return [
        (one.name, two.name)
        for index, one in enumerate(steps)
        for two in steps[index + 1 :]
        if one.name not in above[two.name] and two.name not in above[one.name]
    ]


@each_job
def test_no_two_steps_use_the_device_at_once(name: str) -> None:
    assert not _at_once(name, [step for step in PLANS[name] if step.gpu])


@each_job
def test_no_two_steps_replace_rows_of_a_table_at_once(name: str) -> None:
    replacing = [step for step in PLANS[name] if not isinstance(step, GenerationStep | TrainStep)]
    for table in {step.writes for step in replacing}:
        assert not _at_once(name, [step for step in replacing if step.writes == table])


@each_job
def test_training_runs_beside_curation_where_data_allow_it(name: str) -> None:
    assert _at_once(name, list(PLANS[name])), (
        "the order of the plan alone would do: every step waits for all before it"
    )


@each_job
def test_gpu_steps_run_on_the_gpu_cluster_and_no_others(name: str) -> None:
    for key, task in step_tasks(name).items():
        wanted = "gpu" if key in ALL and ALL[key].gpu else "cpu"
        assert task["job_cluster_key"] == wanted, key


@each_job
def test_clusters_are_dedicated_and_only_one_has_a_gpu_runtime(name: str) -> None:
    clusters = {item["job_cluster_key"]: item["new_cluster"] for item in JOBS[name]["job_clusters"]}
    assert set(clusters) == {"cpu", "gpu"}
    assert all(cluster["data_security_mode"] == "SINGLE_USER" for cluster in clusters.values())
    assert "-gpu-ml-" in clusters["gpu"]["spark_version"]
    assert "gpu" not in clusters["cpu"]["spark_version"]
    # An engine stands beside Spark: with the default of 1, a single task at a time could be its client.
    assert clusters["gpu"]["spark_conf"]["spark.task.resource.gpu.amount"] == "0"


@each_job
def test_tasks_install_the_wheel_and_pins_that_exist(name: str) -> None:
    for key, task in step_tasks(name).items():
        pins = "databricks-gpu.txt" if task["job_cluster_key"] == "gpu" else "databricks.txt"
        assert task["libraries"] == [{"requirements": f"../requirements/{pins}"}, {"whl": "../dist/*.whl"}], (
            key
        )
        text = (ROOT / "requirements" / pins).read_text(encoding="utf-8")
        assert not re.search(r"^(pyspark|delta-spark)==", text, re.MULTILINE), "the cluster has its own Spark"
        assert ("\nvllm==" in text) == (task["job_cluster_key"] == "gpu")
    assert BUNDLE["artifacts"]["mart"] == {"type": "whl", "path": ".", "build": "uv build --wheel"}


@each_job
def test_a_gate_is_never_tried_again(name: str) -> None:
    for key, task in step_tasks(name).items():
        if key in ALL and ALL[key].gates:
            assert task["max_retries"] == 0, key


@each_job
def test_end_releases_the_run_after_every_step_however_it_went(name: str) -> None:
    end = tasks_of(name)["end"]
    assert end["run_if"] == "ALL_DONE"
    assert parents(end) == {"begin", *(step.name for step in PLANS[name])}


@each_job
def test_a_failed_step_fails_the_job(name: str) -> None:
    # A job run counts by its leaves, and a leaf with run_if ALL_DONE hides what failed before it.
    tasks = tasks_of(name)
    inner = {parent for task in tasks.values() for parent in parents(task)}
    strict = {key for key, task in tasks.items() if task.get("run_if", "ALL_SUCCESS") == "ALL_SUCCESS"}
    for step in PLANS[name]:
        reached, waiting = {step.name}, [step.name]
        while waiting:
            key = waiting.pop()
            found = {other for other in strict if key in parents(tasks[other])} - reached
            reached |= found
            waiting += found
        assert (reached - inner) & strict, f"no leaf of the job fails when {step.name} does"


@each_job
def test_failures_are_mailed_and_runs_are_tagged(name: str) -> None:
    assert JOBS[name]["email_notifications"] == {"on_failure": ["${var.notify}"]}
    assert JOBS[name]["tags"] == {"project": "mart"}


def test_targets_are_a_paused_dev_and_a_production_under_its_own_identity() -> None:
    dev, prod = BUNDLE["targets"]["dev"], BUNDLE["targets"]["prod"]
    assert set(BUNDLE["targets"]) == {"dev", "prod"}
    assert dev["default"] is True and dev["mode"] == "development"
    assert "schedule_status" not in dev["variables"]
    assert BUNDLE["variables"]["schedule_status"]["default"] == "PAUSED"
    schedule = JOBS["mart_round"]["schedule"]
    assert schedule["pause_status"] == "${var.schedule_status}"
    assert schedule["quartz_cron_expression"] == "${var.schedule}"
    assert "schedule" not in JOBS["mart_bootstrap"]
    assert prod["mode"] == "production"
    assert prod["run_as"] == {"service_principal_name": "${var.service_principal}"}
    assert prod["permissions"]
    # A bundle's own permissions know only these, and map CAN_RUN to a job's CAN_MANAGE_RUN.
    assert {item["level"] for item in prod["permissions"]} <= {"CAN_VIEW", "CAN_RUN", "CAN_MANAGE"}
    assert len(BUNDLE["variables"]["schedule"]["default"].split()) in (6, 7)


def test_each_developer_has_a_schema_and_prod_another() -> None:
    assert BUNDLE["targets"]["dev"]["variables"]["schema"] == "mart_${workspace.current_user.short_name}"
    assert "schema" not in BUNDLE["targets"]["prod"]["variables"]
    assert BUNDLE["variables"]["schema"]["default"] == "mart"


def test_variables_that_are_used_are_declared_and_declared_ones_are_used() -> None:
    used = set(re.findall(r"\$\{var\.(\w+)\}", " ".join([*texts(BUNDLE), *texts(JOBS)])))
    assert used == set(BUNDLE["variables"])
    for target in BUNDLE["targets"].values():
        assert set(target["variables"]) <= set(BUNDLE["variables"])
    assert all(variable["description"] for variable in BUNDLE["variables"].values())
    assert {"catalog", "schema", "artifacts", "config", "run_id"} <= set(BUNDLE["variables"])


def test_no_host_secret_or_file_outside_the_artifact_root_is_written_down() -> None:
    for path in (ROOT / "databricks.yml", *FILES):
        text = "\n".join(line.partition(" #")[0] for line in path.read_text(encoding="utf-8").splitlines())
        assert not re.search(r"https?:|\.(com|net|io)\b|\b(dbfs|s3a?|abfss|gs):", text), path.name
        assert not re.search(r"(?i)token|password|secret|dapi[0-9a-f]{8}|@", text), path.name
    assert not any(key in target for target in BUNDLE["targets"].values() for key in ("host", "profile"))
    for job in JOBS.values():
        assert not [
            text for text in texts(job) if text.startswith(("/Volumes", "/Workspace", "/dbfs", "/mnt"))
        ]
