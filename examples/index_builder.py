"""An index of a published feed with FAISS: built, asked, and brought up to date after every night. Copy what you need.

    python examples/index_builder.py WAREHOUSE INDEX                          # build, or bring up to date
    python examples/index_builder.py WAREHOUSE INDEX --image shoe.jpg --assets .assets
    python examples/index_builder.py WAREHOUSE INDEX --text "red shoe" --assets .assets

INDEX is a folder: an index of pictures, one of texts if any row has one, and a receipt that says which run's live rows
are in them. Needs `pip install 'lensfeed[encoder]' faiss-cpu`; no Spark, no Java. Exit codes: 0 done, 1 an error, in
one line, 2 bad usage.
"""

import argparse
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from lensfeed import (
    Changes,
    ChangesGoneError,
    Snapshot,
    SnapshotError,
    changes,
    feed_vectors,
    lookup,
    open_feed,
    search,
)
from lensfeed.feed import vector_matrix
from lensfeed.rerank import Query, RerankError, check_models, feed_signals, load_weights, rerank_ids

Column = Literal["vector", "text_vector"]
TRAINED_ON = 100_000
PROBED = 16
Index = Any  # FAISS has no types


def recipe(count: int, dimension: int) -> str:
    """FAISS's name of an index for so many vectors: an eighth of a byte a dimension, or one where there are too few to
    learn that from. Both kinds can forget rows."""
    lists = max(1, min(math.isqrt(count), min(count, TRAINED_ON) // 39))  # FAISS wants 39 rows a list to learn from
    return f"IVF{lists},PQ{dimension // 8}" if count >= 10_000 else f"IVF{lists},SQ8"


def rows_of(column: Column) -> pc.Expression | None:
    """Which rows of the feed belong into the index of a column: without a text there is no vector of it."""
    return pc.field("has_text") if column == "text_vector" else None


def columns_of(snapshot: Snapshot) -> list[Column]:
    """Of which columns there is an index: of texts only where some row has one."""
    has_texts = any(snapshot.batches("index_feed", ["feed_id"], rows_of("text_vector")))
    return ["vector", "text_vector"] if has_texts else ["vector"]


def train(snapshot: Snapshot, column: Column = "vector") -> Index:
    """An empty index that knows how the feed's vectors are spread. Ids are digests: the least are a fair sample."""
    count = snapshot.row_count("index_feed")
    sample = pc.field("feed_id") <= min(2**63 - 1, 2**63 * TRAINED_ON // max(count, 1))
    rows = snapshot.rows("index_feed", [column], sample if column == "vector" else sample & pc.field("has_text"))
    if not len(rows):
        raise RuntimeError(f"run {snapshot.run_id}: the feed has no {column} to build an index from")
    vectors = vector_matrix(rows[column].combine_chunks(), column)
    index = faiss.index_factory(vectors.shape[1], recipe(count, vectors.shape[1]), faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.nprobe = PROBED
    return index


def build(snapshot: Snapshot, column: Column = "vector", trained: Index | None = None) -> Index:
    """An index of the whole feed, batch by batch."""
    index = train(snapshot, column) if trained is None else faiss.clone_index(trained)
    index.reset()
    for batch in snapshot.batches("index_feed", ["feed_id", column], rows_of(column)):
        index.add_with_ids(vector_matrix(batch.column(column), column), batch.column("feed_id").to_numpy())
    return index


def update(index: Index, found: Changes, column: Column = "vector") -> None:
    """Bring an index up to the run that the changes lead to."""
    index.remove_ids(np.concatenate([found.deleted, found.updated]))
    for batch in found.upserts(["feed_id", "has_text", column]):
        kept = batch if column == "vector" else batch.filter(batch.column("has_text"))
        if kept.num_rows:
            index.add_with_ids(vector_matrix(kept.column(column), column), kept.column("feed_id").to_numpy())


def ids_in(index: Index) -> NDArray[np.int64]:
    """Every id that an IVF index holds, ascending."""
    lists = index.invlists
    held = [faiss.rev_swig_ptr(lists.get_ids(n), lists.list_size(n)) for n in range(index.nlist) if lists.list_size(n)]
    return np.sort(np.concatenate(held)) if held else np.empty(0, np.int64)


def receipt(index: Index, snapshot: Snapshot, column: Column = "vector") -> dict[str, Any]:
    """What proves that the index holds exactly the live rows of the run: nothing is missing, and nothing in it that was
    blocked or taken down. Raises RuntimeError where that is not so."""
    rows = snapshot.rows("index_feed", ["feed_id"], rows_of(column))
    live, held = np.sort(rows["feed_id"].to_numpy()), ids_in(index)
    if not np.array_equal(live, held):
        missing, extra = np.setdiff1d(live, held), np.setdiff1d(held, live)
        raise RuntimeError(f"index of {column}: {len(missing)} live rows are missing, {len(extra)} are not live")
    return {"count": len(held), "feed_ids_sha256": hashlib.sha256(held.astype("<i8").tobytes()).hexdigest()}


def recall(index: Index, snapshot: Snapshot, k: int = 10, queries: int = 200) -> float:
    """Share of the k exact nearest that the index finds too, asked with rows of the feed."""
    vectors = feed_vectors(snapshot)[1][:queries]
    exact, _ = search(snapshot, vectors, k)
    _, found = index.search(vectors, k)
    return float(np.mean([len(np.intersect1d(*pair)) / len(pair[0]) for pair in zip(exact, found, strict=True)]))


def ask(index: Index, snapshot: Snapshot, query: Query, weights: Path, k: int = 10) -> NDArray[np.int64]:
    """The k best of a hundred that the index finds, by all the signals that the feed has of them."""
    asked = query.vector if query.vector is not None else query.text
    _, found = index.search(asked[None], 100)  # filled up with -1 where there are fewer
    known = load_weights(weights)
    check_models(known, snapshot)
    return rerank_ids(query, found[0], *feed_signals(snapshot, found[0]), known)[:k]


def bring_up_to_date(warehouse: str, folder: Path) -> tuple[Snapshot, dict[Column, Index]]:
    """The indices of the newest run: from those in the folder and what has changed since, or else built anew."""
    snapshot = open_feed(warehouse)
    note = folder / "receipt.json"
    try:
        before = json.loads(note.read_text())
    except (FileNotFoundError, ValueError):  # a ValueError: it was not written to its end
        before = {}
    models = {"model_version": snapshot.model_version, "text_model_version": snapshot.text_model_version}
    indices: dict[Column, Index] = {}
    try:
        if models.items() <= before.items():  # vectors of two models do not mix
            found = changes(snapshot, before["run_id"])
            for column in before.keys() & columns_of(snapshot):
                indices[column] = faiss.read_index(str(folder / f"{column}.faiss"))
                update(indices[column], found, column)
    except ChangesGoneError:
        indices = {}
    indices = {column: indices.get(column) or build(snapshot, column) for column in columns_of(snapshot)}
    folder.mkdir(parents=True, exist_ok=True)
    note.unlink(missing_ok=True)  # an index without a receipt is built anew
    proven = {column: receipt(index, snapshot, column) for column, index in indices.items()}
    for column, index in indices.items():
        faiss.write_index(index, str(folder / f"{column}.faiss"))
    note.write_text(json.dumps({"run_id": snapshot.run_id, **models, **proven}, indent=1) + "\n")
    return snapshot, indices


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("warehouse")
    parser.add_argument("index", type=Path)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--text")
    parser.add_argument("--assets", type=Path, help="folder with the models' weights")
    parser.add_argument("--weights", type=Path, default=Path("conf/rerank.yaml"), help="of the re-ranker")
    options = parser.parse_args()
    if (options.image or options.text) and not options.assets:
        parser.error("--image and --text need --assets, the folder with the models' weights")
    if options.image and not options.image.is_file():
        parser.error(f"--image {options.image}: there is no such file")
    try:
        run(options)
    except (SnapshotError, RerankError, RuntimeError, ImportError, OSError) as error:
        sys.exit(f"error: {error}")


def run(options: argparse.Namespace) -> None:
    snapshot, indices = bring_up_to_date(options.warehouse, options.index)
    print((options.index / "receipt.json").read_text(), end="")
    if indices["vector"].ntotal:
        print(f"recall of 10 against exact search: {recall(indices['vector'], snapshot):.3f}")
    else:
        print("the feed is empty, and so is the index")
    column: Column = "vector" if options.image or not options.text else "text_vector"
    if "text_vector" not in indices:
        print("no index of texts: no row of the feed has one")
        if column == "text_vector":
            raise RuntimeError("--text: no row of the feed has a text to be found by; ask by --image")
    if options.image or options.text:
        query = query_of(options, snapshot)
        print(
            f"\nFound for {' and '.join(str(asked) for asked in (options.image, options.text) if asked)}, best first:"
        )
        for entry in lookup(snapshot, ask(indices[column], snapshot, query, options.weights)):
            print(entry.feed_id, entry.title, entry.urls[0].url)


def query_of(options: argparse.Namespace, snapshot: Snapshot) -> Query:
    from lensfeed.encoder import Encoder, EncoderError

    try:
        encoder = Encoder.of(snapshot, options.assets)
        return Query(
            vector=encoder.image(options.image) if options.image else None,
            text=encoder.text(options.text) if options.text else None,
        )
    except EncoderError as error:
        raise RuntimeError(str(error)) from error


if __name__ == "__main__":
    main()
