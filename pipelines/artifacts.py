"""The artifact root: weights, snapshots and reports under one folder, named by ids, written with the manifest last."""

import shutil
from pathlib import Path

from pipelines.errors import IntegrityError


class Artifacts:
    """Files under one root that drivers, trainers and executors share: a local folder, or a mounted volume.

    Nothing is renamed, locked or appended there; a folder counts once its manifest is in it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def checkpoint(self, checkpoint_id: str) -> Path:
        """The folder of a checkpoint."""
        return self.root / "checkpoints" / checkpoint_id

    def snapshot(self, checkpoint_id: str) -> Path:
        """The folder of the training set that a checkpoint is made from."""
        return self.root / "snapshots" / checkpoint_id

    def merged(self, checkpoint_id: str) -> Path:
        """The folder of an adapter's checkpoint merged into a copy of its base, which can be made again."""
        return self.root / "merged" / checkpoint_id

    def relative(self, path: Path) -> str:
        """A path as tables hold it."""
        return path.relative_to(self.root).as_posix()

    def publish(self, source: Path, target: Path, manifest: str) -> None:
        """Copy a finished folder, its manifest last, over whatever a killed copy left there.

        Raises:
            IntegrityError: the source has no manifest.
        """
        if not (source / manifest).is_file():
            raise IntegrityError(
                f"{source} has no {manifest}: whoever wrote it did not finish; run the step again"
            )
        if target.exists():
            shutil.rmtree(target)
        target.mkdir(parents=True)
        for item in sorted(source.iterdir()):
            if item.name != manifest and item.is_file():
                shutil.copyfile(item, target / item.name)
        shutil.copyfile(source / manifest, target / manifest)
