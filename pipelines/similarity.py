"""Near-duplicates as column expressions: word 3-grams, prefixes of them for candidates, exact Jaccard to decide."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F


def normalised(text: Column) -> Column:
    """A text's words in lower case with single spaces; punctuation goes."""
    return F.trim(F.regexp_replace(F.lower(text), r"[^\p{L}\p{N}]+", " "))


def shingles(text: Column) -> Column:
    """The distinct word 3-grams of a text as hashes; a text of fewer words is one shingle of itself."""

    def of(words: Column) -> Column:
        starts = F.sequence(F.lit(0), F.greatest(F.size(words) - 3, F.lit(0)))
        return F.transform(starts, lambda start: F.xxhash64(*(F.get(words, start + at) for at in range(3))))

    # A lambda's argument is computed once; what stands inside one is computed for every gram. So each word is hashed once.
    words = F.transform(F.split(normalised(text), " "), lambda word: F.xxhash64(word))
    return F.array_distinct(F.transform(F.array(words), of)[0])


def with_prefix(frame: DataFrame, text: str, threshold: float) -> DataFrame:
    """The frame with `grams` and one row for each `gram` of their prefix.

    The prefix of a set of n grams is its n - ceil(threshold * n) + 1 first ones in an order that all sets share: two sets of that
    Jaccard similarity or more have one of these in common (Chaudhuri et al. 2006, A Primitive Operator for Similarity Joins in Data
    Cleaning; Bayardo et al. 2007, Scaling Up All Pairs Similarity Search). The order here is that of the hashes.
    """
    size = F.size("grams")
    # A product that should be whole may come out above it by rounding, and the prefix would be one short.
    length = size - F.ceil(size * F.lit(threshold) - F.lit(1e-9)).cast("int") + 1
    grams = frame.withColumn("grams", F.sort_array(shingles(F.col(text))))
    return grams.withColumn("gram", F.explode(F.slice("grams", F.lit(1), length)))


def alike(pairs: DataFrame, threshold: float) -> DataFrame:
    """Those pairs whose sets `grams` and `other` have that Jaccard similarity or more, with their `similarity`."""
    common = F.size(F.array_intersect("grams", "other"))
    similarity = common / (F.size("grams") + F.size("other") - common)
    return pairs.withColumn("similarity", similarity).where(F.col("similarity") >= threshold)


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
    fresh, old = (with_prefix(frame.select("id", "text"), "text", threshold) for frame in (new, history))

    def earlier(frame: DataFrame, before: bool) -> DataFrame:
        return frame.select(
            "gram",
            F.col("id").alias("nearest_id"),
            F.col("grams").alias("other"),
            F.lit(before).alias("before"),
        )

    known = earlier(old, True)
    if among_new:
        known = known.unionByName(earlier(fresh, False))
    in_order = F.col("before") | (F.col("nearest_id") < F.col("id"))
    pairs = alike(fresh.join(known, on="gram").where(in_order), threshold)
    nearest = F.max_by(F.col("nearest_id"), F.struct("similarity", "nearest_id"))
    return pairs.groupBy("id").agg(nearest.alias("nearest_id"), F.max("similarity").alias("similarity"))
