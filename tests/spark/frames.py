"""Frames of the tests' own rows."""

from collections.abc import Sequence
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from pipelines.lakehouse import local_frame


def frame_of(spark: SparkSession, rows: Sequence[Sequence[Any]], schema: StructType | str) -> DataFrame:
    """Rows, values in the order of the schema's columns, without the Python workers that `createDataFrame` starts for them."""
    struct = StructType.fromDDL(schema) if isinstance(schema, str) else schema
    return local_frame(spark, [dict(zip(struct.names, row, strict=True)) for row in rows], struct)
