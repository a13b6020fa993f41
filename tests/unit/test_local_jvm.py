"""What is prepared for a local session's JVM: used where it is whole, done without where it is not."""

from pathlib import Path

import pytest

from pipelines import local_jvm


@pytest.fixture
def jar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Delta's jar as Ivy keeps it, kept for an environment of its own."""
    monkeypatch.setattr("sys.prefix", str(tmp_path / "environment"))
    found = tmp_path / "io.delta_delta-spark_4.1_2.13-4.4.0.jar"
    found.touch()
    local_jvm.keep_jars([f"file://{found}"])
    return found


def archive(tmp_path: Path) -> None:
    """Keep an archive of ten bytes."""
    written = tmp_path / "new.jsa"
    written.write_bytes(b"0123456789")
    local_jvm.keep_archive(written)


def test_nothing_is_prepared_in_a_new_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    assert local_jvm.prepared() is None


def test_what_was_kept_is_found(tmp_path: Path, jar: Path) -> None:
    assert local_jvm.prepared() == local_jvm.Prepared((str(jar),), None)
    archive(tmp_path)
    assert local_jvm.prepared() == local_jvm.Prepared((str(jar),), local_jvm.archive_file())


def test_a_jar_that_spark_has_itself_is_not_put_before_spark_s_own(tmp_path: Path, jar: Path) -> None:
    old = tmp_path / "com.fasterxml.jackson.core_jackson-databind-2.13.5.jar"
    old.touch()
    local_jvm.keep_jars([f"file://{jar}", f"file://{old}"])
    assert local_jvm.prepared() == local_jvm.Prepared((str(jar),), None)


def test_without_any_jar_nothing_is_prepared(tmp_path: Path, jar: Path) -> None:
    local_jvm.keep_jars([])
    assert local_jvm.prepared() is None


def test_without_one_of_its_jars_nothing_is_prepared(tmp_path: Path, jar: Path) -> None:
    archive(tmp_path)
    jar.unlink()
    assert local_jvm.prepared() is None


def test_an_archive_that_was_cut_off_is_not_used(tmp_path: Path, jar: Path) -> None:
    archive(tmp_path)
    local_jvm.archive_file().write_bytes(b"012345")
    assert local_jvm.prepared() == local_jvm.Prepared((str(jar),), None)


def test_other_jars_make_an_archive_worthless(tmp_path: Path, jar: Path) -> None:
    archive(tmp_path)
    local_jvm.keep_jars([str(jar)])
    assert local_jvm.prepared() == local_jvm.Prepared((str(jar),), None)


def test_what_is_forgotten_is_gone(tmp_path: Path, jar: Path) -> None:
    local_jvm.forget()
    assert local_jvm.prepared() is None


def test_commits_are_delta_s_own_where_our_jar_was_not_prepared(jar: Path) -> None:
    found = local_jvm.prepared()
    assert found is not None and found.settings == {}
    local_jvm.log_store_jar().touch()
    local_jvm.keep_jars([str(jar), str(local_jvm.log_store_jar())])
    found = local_jvm.prepared()
    assert found is not None and found.settings == {local_jvm.LOG_STORE_KEY: local_jvm.LOG_STORE}
