"""`mart export`: a registered checkpoint as a plain Hugging Face directory."""

from pathlib import Path

from pyspark.sql import functions as F

from jobs.place import Place
from pipelines.errors import DataError, IntegrityError
from pipelines.models import local_model
from pipelines.training_jobs import prove_checkpoint
from training.errors import JobError, ProofError
from training.merge import merge


def export_merged(place: Place, checkpoint: str, folder: Path) -> dict[str, str]:
    """Merge an adapter into its base and write both as one model.

    Args:
        place: the lakehouse.
        checkpoint: id of a checkpoint, or the beginning of one.
        folder: where to; must not exist or be empty.

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
    prove_checkpoint(source)
    base = local_model(rows[0]["base"])
    try:
        merge(source, Path(base.path), folder)
    except JobError as error:
        raise DataError(str(error)) from error
    except ProofError as error:
        raise IntegrityError(str(error)) from error
    return {"checkpoint": rows[0]["checkpoint_id"], "folder": str(folder)}
