"""A Spark session of our own: what a user is told when its JVM dies."""

import subprocess
import sys
from pathlib import Path

_DYING = """
import sys
from pathlib import Path
from pipelines.errors import SparkDied
from pipelines.session import open_session
try:
    with open_session(Path(sys.argv[1])) as spark:
        spark.sparkContext._gateway.proc.kill()
        spark.range(1).count()
except SparkDied as error:
    print(error)
"""


def test_a_jvm_that_dies_is_told_with_its_exit_code_and_the_remedy(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _DYING, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "with code -9" in ended.stdout and "MART_DRIVER_MEMORY" in ended.stdout
