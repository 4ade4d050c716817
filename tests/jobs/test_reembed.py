"""What a re-embedding finds missing, in which parts it fills it, and which model it takes a name for."""

from types import SimpleNamespace
from typing import Any

import pytest

from jobs.config.errors import UsageError
from jobs.config.profile import Config, load
from jobs.reembed import towards
from jobs.run.models import _part, _waiting_images
from jobs.warehouse.landing import Landing
from tests.lensfeed.tiny_warehouse import image_id, image_row


@pytest.fixture
def stored(landing: Landing) -> Landing:
    """A warehouse, under a name that is easily mistaken, with five pictures in two files; one has a vector of `new`.
    None of them is shown by any URL."""
    landing.ensure_tables(["images", "embeddings", "clusters"])
    landing.append("images", [image_row(number) for number in range(3)])
    landing.append("images", [image_row(number) for number in range(3, 5)])
    vectors = [(0, "old"), (1, "old"), (1, "new"), (2, "other")]
    landing.append(
        "embeddings",
        [
            {"image_id": image_id(number), "model_version": model, "vector": [1.0], "run_id": "run"}
            for number, model in vectors
        ],
    )
    return landing


def waiting(landing: Landing, model_version: str) -> dict[str, tuple[int, int]]:
    work: Any = SimpleNamespace(landing=landing, versions=SimpleNamespace(model_version=model_version))
    return _waiting_images(work)


@pytest.mark.spark
def test_stored_pictures_without_a_vector_are_found_by_file_whether_shown_or_not(stored: Landing) -> None:
    assert sorted(count for count, _ in waiting(stored, "new").values()) == [2, 2]
    assert sorted(count for count, _ in waiting(stored, "old").values()) == [1, 2]


@pytest.mark.spark
def test_a_part_reads_just_its_files(stored: Landing) -> None:
    found = {
        tuple(sorted(row.image_id for row in stored.read_files("images", [file]).collect()))
        for file in waiting(stored, "new")
    }
    expected = (range(3), range(3, 5))
    assert found == {tuple(sorted(image_id(number) for number in numbers)) for numbers in expected}


@pytest.mark.parametrize(
    ("batch", "places", "left"), [(1, ["a"], 9), (5, ["a"], 9), (9, ["a", "b"], 5), (99, ["a", "b", "c"], 0)]
)
def test_a_part_holds_a_batch_and_one_place_at_least(batch: int, places: list[str], left: int) -> None:
    assert _part({"a": (5, 1), "b": (4, 2), "c": (5, 3)}, {}, batch) == (places, left)


def test_what_was_tried_is_left_alone_until_something_else_is_missing_there() -> None:
    counted = {"a": (2, 7), "b": (1, 8)}
    assert _part(counted, {"a": (2, 7)}, 10) == (["b"], 0)
    assert _part(counted, {"a": (2, 7), "b": (1, 8)}, 10) == ([], 0)
    assert _part(counted | {"a": (2, 9)}, {"a": (2, 7), "b": (1, 8)}, 10) == (["a"], 0)
    assert _part(counted | {"a": (3, 7)}, {"a": (2, 7), "b": (1, 8)}, 10) == (["a"], 0)


def config(beside: dict[str, Any] | None) -> Config:
    plain = load("conf/local.yaml")
    return plain.model_copy(update={"embedding_beside": beside and plain.embedding.model_copy(update=beside)})


def test_a_name_picks_the_model_of_that_name_and_leaves_the_other_beside() -> None:
    both = config({"model": "resnet50"})
    assert towards(both, None) is both
    assert towards(both, "tf_efficientnet_lite0") is both
    switched = towards(both, "resnet50")
    assert (switched.embedding, switched.embedding_beside) == (both.embedding_beside, both.embedding)


@pytest.mark.parametrize(
    ("beside", "name", "problem"),
    [
        (None, "resnet50", "neither embedding nor embedding_beside is that; they are tf_efficientnet_lite0$"),
        ({"model": "vit"}, "resnet50", "they are tf_efficientnet_lite0, vit$"),
        (
            {"dtype": "bfloat16"},
            "tf_efficientnet_lite0",
            "embedding and embedding_beside both are; name the wanted one",
        ),
    ],
)
def test_a_name_that_picks_none_or_both_is_refused(beside: dict[str, Any] | None, name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        towards(config(beside), name)
