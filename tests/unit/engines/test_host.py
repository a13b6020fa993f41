"""One engine for a spec, owner and host; nothing of it outlives its lease or its supervisor."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.engines.homes import EngineDirectory, remove_old, uncleaned
from pipelines.engines.host import (
    ensure_engine,
    keep_alive,
    launch_engine,
    running_engines,
    stop_all,
    stop_engine,
)
from pipelines.engines.processes import find, is_alive, kill_group, members
from pipelines.engines.supervisor import decisive_lines
from pipelines.engines.uds import is_healthy
from pipelines.errors import EngineError


def eventually(condition, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def starts(tmp_path: Path) -> list[int]:
    return [int(line) for line in (tmp_path / "state" / "starts").read_text().split()]


def running_with(argument: Path) -> list[str]:
    """Processes that have a path among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found += [path.parent.name] if str(argument) in path.read_text().split("\0") else []
    return found


def temporary_files(spec, engine) -> list[Path]:
    """What an engine's server has among its temporary files."""
    return list(EngineDirectory.of(spec).temporary_path(engine.ident).glob("*"))


def test_the_engine_is_found_again_and_stopping_leaves_nothing(make_spec, tmp_path):
    spec = make_spec("child")
    engine = ensure_engine(spec)
    assert is_healthy(engine.socket)
    assert len(engine.socket) < 108
    assert ensure_engine(spec) == engine
    assert [record.ident for record in running_engines(spec.home)] == [engine.ident]
    assert eventually(lambda: len(members(engine.pgid)) >= 4)  # warden, server, its child and grandchild
    assert temporary_files(spec, engine)
    assert stop_engine(spec)
    assert members(engine.pgid) == []
    assert not Path(engine.socket).exists()
    assert not temporary_files(spec, engine)
    assert running_engines(spec.home) == []
    assert not stop_engine(spec)


def test_concurrent_calls_start_exactly_one(make_spec, tmp_path):
    spec = make_spec()
    with ThreadPoolExecutor(6) as pool:
        engines = set(pool.map(lambda _: ensure_engine(spec), range(6)))
    assert len(engines) == 1
    assert len(starts(tmp_path)) == 1


def test_a_stale_lease_ends_the_whole_group(make_spec):
    spec = make_spec("child", lease=4.0)
    with keep_alive(spec):
        engine = ensure_engine(spec)
        assert eventually(lambda: len(members(engine.pgid)) >= 4)
    assert eventually(lambda: not members(engine.pgid) and find(engine.pid) is None)
    assert not Path(engine.socket).exists()


def test_keep_alive_holds_the_lease(make_spec):
    spec = make_spec(lease=4.0)
    with keep_alive(spec):
        engine = ensure_engine(spec)
        time.sleep(5.0)
        assert is_healthy(engine.socket)


def test_sigkill_of_the_supervisor_leaves_nothing(make_spec):
    spec = make_spec("child")
    engine = ensure_engine(spec)
    os.kill(engine.pid, signal.SIGKILL)
    assert eventually(lambda: not members(engine.pgid))
    assert not temporary_files(spec, engine)
    assert eventually(lambda: not Path(engine.socket).exists())
    assert ensure_engine(spec).ident != engine.ident


def test_an_interrupted_start_leaves_no_supervisor(make_spec, monkeypatch):
    spec = make_spec(lease=60.0)

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pipelines.engines.host.time.sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            launch_engine(spec)
    assert eventually(lambda: not running_with(EngineDirectory.of(spec).path))


def test_sigkill_of_the_server_takes_its_children_and_the_next_call_starts_another(make_spec, tmp_path):
    spec = make_spec("child")
    engine = ensure_engine(spec)
    os.kill(starts(tmp_path)[0], signal.SIGKILL)
    assert eventually(lambda: not members(engine.pgid))
    other = ensure_engine(spec)
    assert other.ident != engine.ident
    assert is_healthy(other.socket)


@pytest.mark.parametrize("killed", ["server", "supervisor"])
def test_shared_memory_that_nobody_has_mapped_goes_too(make_spec, tmp_path, killed):
    engine = ensure_engine(make_spec("shares"))
    shared = Path((tmp_path / "state" / "shared").read_text())
    assert shared.exists()
    os.kill(starts(tmp_path)[0] if killed == "server" else engine.pid, signal.SIGKILL)
    assert eventually(lambda: not members(engine.pgid) and not shared.exists())


def test_an_engine_that_the_caller_knows_to_hang_is_replaced_once(make_spec, tmp_path):
    spec = make_spec()
    engine = ensure_engine(spec)
    other = ensure_engine(spec, instead_of=engine)
    assert other.ident != engine.ident
    assert ensure_engine(spec, instead_of=engine) == other
    assert len(starts(tmp_path)) == 2


def test_no_other_owner_adopts_an_engine(make_spec):
    mine = ensure_engine(make_spec())
    other = ensure_engine(make_spec(owner="run-2"))
    assert other.pid != mine.pid
    assert stop_all(make_spec().home, owner="run-2") == 1
    assert is_healthy(mine.socket)


def test_a_start_that_fails_says_why(make_spec):
    with pytest.raises(EngineError, match="CUDA out of memory") as caught:
        ensure_engine(make_spec("broken"))
    assert "server.log" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_an_assertion_without_words_is_told_by_its_source():
    theirs = ["assert blocks > 0", "       ^^^^^^^^^^", "AssertionError"]
    ours = [
        "Traceback (most recent call last):",
        *["  File 'api_server.py', line 1, in main", "    serve()"] * 3,
    ]
    last = "RuntimeError: Engine core initialization failed. See root cause above."
    log = "\n".join([*(f"(EngineCore pid=7) ERROR [core.py:1510] {line}" for line in theirs), *ours, last])
    told = decisive_lines(log)
    assert "assert blocks > 0" in told
    assert "AssertionError" in told
    assert "serve()" not in told


def test_a_start_that_stands_still_is_given_up(make_spec):
    spec = make_spec("slow", start_stall_seconds=1.0)
    with pytest.raises(EngineError, match="stands still"):
        ensure_engine(spec)


def test_a_pid_that_another_process_has_now_is_not_killed():
    me = find(os.getpid())
    assert me is not None
    assert is_alive(me.pid, me.ticks)
    assert not is_alive(me.pid, me.ticks + 1)
    assert kill_group(me.session, leader_ticks=-1)


def test_a_starting_engine_can_be_stopped(make_spec):
    spec = make_spec("slow")
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(ensure_engine, spec)
        assert eventually(lambda: running_engines(spec.home))
        assert stop_engine(spec)
        with pytest.raises(EngineError, match="stopped while it started"):
            starting.result()


def test_an_engine_that_stands_alone_ends_its_owners_others_on_the_device(make_spec, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    mine, others = make_spec(), make_spec(owner="run-2")
    with keep_alive(others):
        first, other = ensure_engine(mine), ensure_engine(others)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        with keep_alive(mine):
            beside = ensure_engine(mine)
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
            spec = replace(mine, model="another", alone=True)
            second = ensure_engine(spec)
            assert not is_healthy(first.socket)
            assert is_healthy(other.socket), "another owner's"
            assert is_healthy(beside.socket), "on another device"
            assert ensure_engine(spec) == second


def test_engines_start_one_after_the_other_on_a_gpu_and_side_by_side_on_two(make_spec, monkeypatch, tmp_path):
    state = tmp_path / "state"

    def started() -> int:
        return len((state / "starts").read_text().split()) if (state / "starts").exists() else 0

    with ThreadPoolExecutor(3) as pool, ExitStack() as stack:
        stack.callback(lambda: (state / "go").touch())
        starting = []
        for device, name, there in (("0", "first", 1), ("1", "beside", 2), ("0", "second", 2)):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", device)
            spec = replace(make_spec("held"), model=name)
            stack.enter_context(keep_alive(spec))
            starting.append(pool.submit(ensure_engine, spec))
            deadline = time.monotonic() + 60
            while started() < there and time.monotonic() < deadline:
                time.sleep(0.05)
        time.sleep(1)  # in which the second would start
        assert started() == 2
        (state / "go").touch()
        assert len({engine.result().ident for engine in starting}) == 3


def test_an_engine_of_answers_that_stands_alone_leaves_one_of_verdicts(make_spec):
    verdicts = replace(make_spec(), serves="verdicts")
    with keep_alive(verdicts):
        beside = ensure_engine(verdicts)
        ensure_engine(replace(make_spec(), model="another", alone=True))
        assert is_healthy(beside.socket)


def age(directory: EngineDirectory) -> EngineDirectory:
    """Have all of an engine's directory be eight days old."""
    then = time.time() - 8 * 86400
    for path in (*directory.path.iterdir(), directory.path):
        os.utime(path, (then, then))
    return directory


def test_a_start_removes_what_engines_left_a_week_ago_but_nothing_that_somebody_uses(make_spec):
    spec = make_spec()
    old, recent, used, given, running = (
        EngineDirectory.of(replace(spec, model=name))
        for name in ("old", "recent", "used", "given", "running")
    )
    for directory in (old, recent, used, given):
        directory.log_path.write_text("died of something")
    ensure_engine(replace(spec, model="running"))
    using = used.use()
    for directory in (old, used, given, running):
        age(directory)
    EngineDirectory.of(replace(spec, model="given"))
    ensure_engine(spec)
    os.close(using)
    assert not old.path.exists()
    assert all(directory.log_path.exists() for directory in (recent, used, given, running))


def test_nothing_is_removed_while_a_directory_is_being_given(make_spec):
    spec = make_spec()
    old = age(EngineDirectory.of(spec))
    with uncleaned(old.path.parent):
        remove_old(old.path.parent)
        assert old.path.exists()
    remove_old(old.path.parent)
    assert not old.path.exists()
