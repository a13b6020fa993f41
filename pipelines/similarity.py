"""Near-duplicates as column expressions: word 3-grams, MinHash bands for candidates, exact Jaccard to decide."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

_BANDS, _ROWS = 16, 2  # a pair at Jaccard 0.8 is missed with probability (1 - 0.8**2)**16 = 8e-8


def normalised(text: Column) -> Column:
    """A text's words in lower case with single spaces; punctuation goes."""
    return F.trim(F.regexp_replace(F.lower(text), r"[^\p{L}\p{N}]+", " "))


def shingles(text: Column) -> Column:
    """The distinct word 3-grams of a text as hashes; a text of fewer words is one shingle of itself."""
    words = F.split(normalised(text), " ")
    grams = F.transform(
        F.sequence(F.lit(1), F.greatest(F.size(words) - 2, F.lit(1))),
        lambda start: F.xxhash64(F.array_join(F.slice(words, start, 3), " ")),
    )
    return F.array_distinct(grams)


def _smallest(salt: int) -> Column:
    """The MinHash of `grams` under one hash function."""
    return F.array_min(F.transform("grams", lambda gram: F.xxhash64(F.lit(salt), gram)))


def with_bands(frame: DataFrame, text: str) -> DataFrame:
    """The frame with `grams` and one row for each MinHash `band`."""
    grams = frame.withColumn("grams", shingles(F.col(text)))
    mins = [_smallest(salt) for salt in range(_BANDS * _ROWS)]
    bands = [F.xxhash64(F.lit(band), *mins[band * _ROWS : (band + 1) * _ROWS]) for band in range(_BANDS)]
    return grams.withColumn("band", F.explode(F.array(*bands)))


def near_duplicates(
    new: DataFrame, history: DataFrame, threshold: float, *, among_new: bool = True
) -> DataFrame:
    """For each new text, the nearest text that comes before it, where one is near enough.

    Args:
        new: `id`, `text`; among themselves, the one with the smaller id comes first.
        history: `id`, `text`; all of it comes before.
        among_new: whether new texts are compared with each other, too.
        threshold: least Jaccard similarity of word 3-grams, in (0, 1].

    Returns:
        `id`, `nearest_id`, `similarity`: at most one row for each new text.
    """
    old = with_bands(history.select("id", "text"), "text").select(
        "band", F.col("id").alias("nearest_id"), F.col("grams").alias("other"), F.lit(True).alias("before")
    )
    fresh = with_bands(new.select("id", "text"), "text")
    siblings = fresh.select(
        "band", F.col("id").alias("nearest_id"), F.col("grams").alias("other"), F.lit(False).alias("before")
    )
    earlier = old.unionByName(siblings) if among_new else old
    common = F.size(F.array_intersect("grams", "other"))
    pairs = (
        fresh.join(earlier, on="band", how="inner")
        .where(F.col("before") | (F.col("nearest_id") < F.col("id")))
        .dropDuplicates(["id", "nearest_id"])
        .withColumn("similarity", common / (F.size("grams") + F.size("other") - common))
        .where(F.col("similarity") >= threshold)
    )
    nearest = F.max_by(F.col("nearest_id"), F.struct("similarity", "nearest_id"))
    return pairs.groupBy("id").agg(nearest.alias("nearest_id"), F.max("similarity").alias("similarity"))
