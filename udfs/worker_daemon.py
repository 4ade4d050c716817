"""PySpark's worker daemon with the heavy libraries already imported: what it forks starts at once.

A stage of a small night costs less than the imports of its Python workers (torch and timm alone: seconds of CPU in each
of them). The daemon imports once; workers share the pages. Nothing is loaded or started here that a fork would break:
no model, no thread, no CUDA context. Named by `spark.python.daemon.module` in local mode, where the daemon has the
driver's environment; it is started as `python -m udfs.worker_daemon pyspark.worker`.
"""

import contextlib
import gc
import importlib

PRELOADED = (
    "pyspark.worker",
    "pyspark.sql.pandas.serializers",
    "pandas",
    "pyarrow.parquet",
    "scipy.fft",
    "onnxruntime",
    "torch",
    "timm",
    "tokenizers",
    "transformers.models.bert.modeling_bert",
    "udfs.gate.content",
    "udfs.crawl.fetch",
    "udfs.gate.pregate",
    "udfs.images.minhash",
    "udfs.embedding.embed",
    "udfs.embedding.text",
    "udfs.gate.nsfw",
)

if __name__ == "__main__":
    gc.disable()  # of what is imported nothing is garbage: looking for some is a seventh of the time
    for name in PRELOADED:
        # What cannot be imported is not needed, or will be missed by name where it is.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # keeps the garbage collector from touching, and so copying, the shared pages
    gc.enable()
    importlib.import_module("pyspark.daemon").manager()
