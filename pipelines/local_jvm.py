"""What the JVM of a local session starts with: Delta's jars and ours on its class path, and an archive of the classes it will load.

Without them each start asks Ivy for the jars, and reads and verifies some 20,000 classes: half of what a short command takes.
Our jar is one class, which makes a commit to a table in a plain folder exclusive among drivers (`java/LinkLogStore.java`).
`python -m jobs.prepare` makes all of it once for an environment, and they lie in it, since they are of no use to another: an archive
counts only for the very jars and the Java it was made with. Java leaves one that doesn't fit alone.
Class data sharing: https://docs.oracle.com/en/java/javase/17/vm/class-data-sharing.html
"""

import json
import re
import shutil
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pyspark
from pyspark.sql import SparkSession

# Delta asks for the class by this key, for tables of the scheme `file`.
LOG_STORE_KEY = "spark.delta.logStore.file.impl"
LOG_STORE = "mart.LinkLogStore"


@dataclass(frozen=True)
class Prepared:
    """What was prepared for this environment.

    Attributes:
        jars: Delta's jars, what they need beyond Spark's own, and ours, which are all there.
        archive: of classes; None where there is none.
    """

    jars: tuple[str, ...]
    archive: Path | None

    @property
    def settings(self) -> dict[str, str]:
        """Spark's settings for commits that are exclusive in plain folders; none where an older version was prepared."""
        return {LOG_STORE_KEY: LOG_STORE} if str(log_store_jar()) in self.jars else {}


def home() -> Path:
    """Where this environment keeps what is prepared for the Spark and the Delta that it has."""
    names = f"spark-{version('pyspark')}-delta-{version('delta-spark')}"
    return Path(sys.prefix) / "share" / "mart-redteam" / names


def _notes() -> Path:
    return home() / "prepared.json"


def archive_file() -> Path:
    """Where the archive belongs."""
    return home() / "classes.jsa"


def log_store_jar() -> Path:
    """Where our own jar belongs."""
    return home() / "mart-log-store.jar"


def prepared() -> Prepared | None:
    """What was prepared; None where nothing was, or a jar has gone since."""
    try:
        notes = json.loads(_notes().read_text(encoding="utf-8"))
        # Of another user's jars, this one may not even see whether they are there.
        if not notes["jars"] or not all(Path(jar).is_file() for jar in notes["jars"]):
            return None
    except (OSError, ValueError):
        return None
    # Java looks at the beginning of an archive only: what was cut off would end the JVM.
    archive = archive_file()
    whole = archive.is_file() and archive.stat().st_size == notes["archive_bytes"]
    return Prepared(tuple(notes["jars"]), archive if whole else None)


def forget() -> None:
    """Remove what was prepared, for any Spark and Delta; sessions that run keep what they have mapped."""
    shutil.rmtree(home().parent, ignore_errors=True)


def keep_jars(jars: Iterable[str]) -> None:
    """Keep which jars are to be on the class path of the next session.

    Args:
        jars: what a session fetched, as `spark.jars` names them, paths or file URLs; and what was compiled.

    Raises:
        OSError: the environment can't be written to.
    """
    own = {_artifact(jar.name) for jar in (Path(pyspark.__file__).parent / "jars").glob("*.jar")}
    paths = [jar.removeprefix("file://") for jar in jars]
    # Ours come first on the class path: an older copy of what Spark has would hide Spark's. Ivy puts the group first.
    kept = [path for path in paths if _artifact(Path(path).name.partition("_")[2]) not in own]
    _note(kept, 0)


def compile_log_store(spark: SparkSession) -> None:
    """Compile our one class, with the compiler that Spark has in it, into its jar.

    Args:
        spark: a session with Delta.

    Raises:
        OSError: the environment can't be written to.
    """
    assert spark._jvm is not None
    compiler = spark._jvm.org.codehaus.janino.SimpleCompiler()
    compiler.setParentClassLoader(spark._jvm.java.lang.Thread.currentThread().getContextClassLoader())
    compiler.cook((Path(__file__).parent / "java" / "LinkLogStore.java").read_text(encoding="utf-8"))
    home().mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(log_store_jar(), "w") as packed:
        for name, code in compiler.getBytecodes().items():
            packed.writestr(f"{name.replace('.', '/')}.class", bytes(code))


def keep_archive(written: Path) -> None:
    """Put an archive, made with the jars that are kept, in its place.

    Raises:
        OSError: it isn't there, or the environment can't be written to.
    """
    size = written.stat().st_size
    written.rename(archive_file())
    _note(json.loads(_notes().read_text(encoding="utf-8"))["jars"], size)


def _note(jars: list[str], archive_bytes: int) -> None:
    home().mkdir(parents=True, exist_ok=True)
    _notes().write_text(json.dumps({"jars": jars, "archive_bytes": archive_bytes}), encoding="utf-8")


def _artifact(jar: str) -> str:
    """The name of a jar without its version."""
    return re.sub(r"-\d[\w.\-]*\.jar$", "", jar)
