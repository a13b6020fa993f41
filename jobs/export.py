"""`mart export`: a registered checkpoint as a plain Hugging Face directory."""

import shutil
from pathlib import Path

from pyspark.sql import functions as F

from jobs.place import Place
from pipelines.errors import DataError, IntegrityError
from pipelines.merging import only_one
from pipelines.models import local_model
from pipelines.training_jobs import prove_registered
from schemas.manifests import MERGED_FILE
from training.errors import ProofError
from training.merge import merge

_UNFINISHED = "unfinished-export"  # lies in a folder while files are moved there, so that the next try knows it for ours


def export_merged(place: Place, checkpoint: str, folder: Path) -> dict[str, str]:
    """Merge an adapter into its base and write both as one model.

    Args:
        place: the lakehouse.
        checkpoint: id of a checkpoint, or the beginning of one.
        folder: where to; must not exist or be empty, or hold what an export that was killed left.

    Raises:
        DataError: there is no such checkpoint, or several; or the folder holds something.
        IntegrityError: checkpoint or base are not what they were when it was trained.
    """
    rows = place.lakehouse.read("checkpoints").where(F.col("checkpoint_id").startswith(checkpoint)).collect()
    if len(rows) != 1:
        raise DataError(
            f'{len(rows)} checkpoints begin with {checkpoint!r}; `mart sql "SELECT * FROM checkpoints"` lists them'
        )
    source = place.artifacts.root / rows[0]["path"]
    prove_registered(place.artifacts, rows[0].asDict())
    write_merged(source, Path(local_model(rows[0]["base"]).path), rows[0]["checkpoint_id"], folder)
    return {"checkpoint": rows[0]["checkpoint_id"], "folder": str(folder)}


def write_merged(source: Path, base: Path, checkpoint_id: str, folder: Path) -> None:
    """Merge on this host's disk and bring the result to `folder`, which may lie on a volume: that takes no renames.

    Raises:
        DataError: the folder holds something.
        IntegrityError: checkpoint or base are not what they were when it was trained.
    """
    if folder.exists() and not _is_free(folder):
        raise DataError(f"{folder} is not an empty directory; choose another")
    with only_one(checkpoint_id) as work:
        try:
            merge(source, base, work)
        except ProofError as error:
            raise IntegrityError(str(error)) from error
        _bring(work, folder)


def _is_free(folder: Path) -> bool:
    return folder.is_dir() and (not any(folder.iterdir()) or (folder / _UNFINISHED).exists())


def _bring(work: Path, folder: Path) -> None:
    """Move a model to where it belongs: by renames, or by copies where that is another disk; `merged.json` last."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / _UNFINISHED
    for left in folder.iterdir():  # of an export that was killed
        if left != note:
            left.unlink()
    note.write_text("mart export was moving a model here; run it again if it was killed\n")
    for file in sorted(work.iterdir(), key=lambda file: (file.name == MERGED_FILE, file.name)):
        shutil.move(file, folder / file.name, copy_function=shutil.copyfile)
    note.unlink()
