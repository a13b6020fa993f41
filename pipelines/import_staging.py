"""Rows of an import until its source is read whole: one batch in memory, more in the table `import_staging`."""

from collections.abc import Mapping, Sequence
from uuid import uuid4

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from pipelines.lakehouse import Lakehouse
from pipelines.readers import Row
from schemas.digests import canonical_json


class Staging:
    """The rows that one attempt at an import has read, by the table they are meant for.

    No step and no view reads `import_staging`: what a killed attempt leaves there is in nobody's sight.

    Args:
        lakehouse: the tables.
        import_id: the import.
        dataset: name of the data set.
    """

    def __init__(self, lakehouse: Lakehouse, import_id: str, dataset: str) -> None:
        self._lakehouse = lakehouse
        self._import_id = import_id
        self._dataset = dataset
        self._attempt = uuid4().hex
        self._held: Mapping[str, Sequence[Row]] = {}
        self._staged = 0

    def add(self, rows: Mapping[str, Sequence[Row]]) -> None:
        """Take a batch, table to rows; the one before it leaves the memory."""
        self._stage()
        self._held = rows

    def frame(self, table: str) -> DataFrame:
        """All rows that are meant for a table."""
        if not self._staged:
            return self._lakehouse.frame(table, self._held.get(table, ())).coalesce(1)
        self._stage()
        written = [field for field in self._lakehouse.struct(table) if field.name != "recorded_at"]
        row = F.from_json("row", StructType(written), {"mode": "FAILFAST"})
        mine = (
            (F.col("import_id") == self._import_id)
            & (F.col("attempt") == self._attempt)
            & (F.col("table_name") == table)
        )
        rows = self._lakehouse.read("import_staging").where(mine).select(row.alias("row"))
        return rows.select("row.*", F.current_timestamp().alias("recorded_at"))

    def abandon(self) -> None:
        """Remove what this attempt staged; another one may be under way."""
        if self._staged:
            self._remove({"import_id": self._import_id, "attempt": self._attempt})

    def clear(self, *, others: bool = False) -> None:
        """Remove what was staged of an import that is committed, if this attempt staged anything, or `others` may have."""
        if self._staged or others:
            self._remove({"import_id": self._import_id})

    def _remove(self, scope: Mapping[str, str | int]) -> None:
        none = self._lakehouse.frame("import_staging", [])
        self._lakehouse.replace("import_staging", none, scope)

    def _stage(self) -> None:
        rows = [(table, row) for table, some in self._held.items() for row in some]
        self._lakehouse.append_rows(
            "import_staging",
            [
                {
                    "import_id": self._import_id,
                    "attempt": self._attempt,
                    "position": position,
                    "dataset": self._dataset,
                    "table_name": table,
                    "row": canonical_json(row),
                }
                for position, (table, row) in enumerate(rows, start=self._staged)
            ],
        )
        self._staged += len(rows)
        self._held = {}


def is_begun(lakehouse: Lakehouse, table: str, dataset: str) -> bool:
    """Whether an import of a data set into a table has staged rows and not ended."""
    staged = lakehouse.read("import_staging")
    mine = (F.col("table_name") == table) & (F.col("dataset") == dataset)
    return not staged.where(mine).isEmpty()
