"""The process that Spark forks its Python workers from, with the slow imports of our steps done before it forks.

A worker lives for a minute without work, so that nearly every step starts new ones; each of them took ten to twenty
seconds to import pandas, torch and transformers. Spark's setting `spark.python.daemon.module` names this module; with
`MART_WORKERS=frames` in its environment it leaves out what only those need who ask models.
"""

import contextlib
import gc
import os
import sys
import zipimport

from pyspark.daemon import manager


class _NoModulesInJars:
    """The importer of a jar: finds nothing, and reads nothing."""

    def __init__(self, path: str) -> None:
        if not path.endswith(".jar"):
            raise ImportError(path)

    def find_spec(self, name: str, target: object = None) -> None:
        """No module."""


def _import_for_models() -> None:
    # transformers imports scikit-learn where it is, for a metric that nobody here asks for: four of seventeen seconds.
    sys.modules["sklearn"] = None  # type: ignore[assignment]
    with contextlib.suppress(ImportError):  # without an engine's packages, frames are computed all the same
        import accelerate  # type: ignore[import-untyped]  # noqa: F401
        import torch  # noqa: F401
        import transformers.modeling_utils
        import transformers.models.auto.modeling_auto
        import transformers.tokenization_utils_tokenizers  # noqa: F401

        import pipelines.engines.scorers
        import pipelines.engines.vllm
        import pipelines.generation  # noqa: F401
    del sys.modules["sklearn"]


if __name__ == "__main__":
    # Spark reads a port from the standard output: what an import prints must not get there.
    protocol = os.dup(1)
    os.dup2(2, 1)
    import pyspark.sql.pandas.serializers  # noqa: F401  (pandas and pyarrow, which every frame needs)

    if os.environ.get("MART_WORKERS") != "frames":
        _import_for_models()
    # After each task a worker collects garbage: half a second for half a million objects that stay.
    gc.collect()
    gc.freeze()
    # Before each it has every importer of an archive read the directory again: one for each package of pyspark.zip that was
    # imported, and for each jar of Delta's, which Spark puts on the path: a quarter of a second.
    for path, importer in list(sys.path_importer_cache.items()):
        if isinstance(importer, zipimport.zipimporter):
            del sys.path_importer_cache[path]
    sys.path_hooks.insert(0, _NoModulesInJars)
    sys.stdout.flush()
    os.dup2(protocol, 1)
    os.close(protocol)
    manager()
