"""Files that come with the package: `conf/` and `sql/`."""

import atexit
import shutil
import tempfile
import zipfile
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


@cache
def bundled(folder: str) -> Path:
    """A folder that comes with the package.

    Where the package is a zip file, as under `spark-submit --py-files`, the folder is unpacked for the life of this
    process.
    """
    if _ROOT.is_dir():
        return _ROOT / folder
    place = Path(tempfile.mkdtemp(prefix="mart-files-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    with zipfile.ZipFile(_ROOT) as wheel:
        wheel.extractall(place, [name for name in wheel.namelist() if name.startswith(f"{folder}/")])
    return place / folder
