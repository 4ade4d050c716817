"""Odd sequences of jobs over small worlds, killed anywhere: after each the warehouse holds what the plain oracle says,
and while one is half done readers see the state before it.

Hypothesis makes the worlds and the sequences. Models are stand-ins (tiny networks with random weights): what happens to
rows is the point here. `make test-sequences` runs many more of them than CI does.
"""

import csv
import datetime as dt
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest
import timm
import torch
from deltalake import DeltaTable
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from pyspark.sql import SparkSession
from safetensors.torch import save_file

from demo.pictures import ORIGINAL, Picture, make_pictures
from demo.site import Answer, show
from jobs import maintain, nightly, redecide, reembed, review, rollback, takedown
from jobs.config.profile import load
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import TEXTS_ERASED
from lensfeed.feed_changes import changes
from lensfeed.snapshot import Snapshot, SnapshotError
from schemas.tables import TABLES
from tests import model
from tests.e2e.small import DAYS, PROFILE, SmallWorld, small_world
from tests.meeting import in_buckets
from tests.properties.killer import Killer
from tests.properties.oracle import Evidence, Manifested, Oracle, Page, Rules
from udfs.images.canonical import canonicalise

pytestmark = pytest.mark.spark

SEQUENCES = int(os.environ.get("SEQUENCES", "2"))
STEPS = int(os.environ.get("STEPS", "5"))

PATHS = ("/a.jpg", "/b.jpg", "/c.jpg", "/d.jpg", "/leads-to-a.jpg")
TITLES = ("", "A plain title", "badword here", "Another one")
STAND_IN = "test_resnet"


@dataclass(frozen=True)
class Cast:
    """What all worlds are made of: images with their facts, stand-in models, policies, an empty warehouse."""

    images: dict[str, Picture]  # by image_id
    contents: dict[str, model.Content]
    models: tuple[str, str]
    policies: tuple[Rules, ...]


def stand_in(folder: Path, seed: int) -> str:
    """The setting that names a tiny network with random weights."""
    torch.manual_seed(seed)
    path = folder / f"model-{seed}.safetensors"
    save_file(timm.create_model(STAND_IN, pretrained=False).state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return "embedding=" + json.dumps(
        {"model": STAND_IN, "weights": {"path": str(path), "sha256": digest}, "licence": "none"}
    )


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory) -> Cast:
    pictures = make_pictures()
    copied = next(p.original for p in pictures if p.variant == "jpeg50")
    same = [p for p in pictures if p.original == copied and p.variant in {ORIGINAL, "jpeg50", "half"}]
    others = [p for p in pictures if p.variant == ORIGINAL and p.original != copied][:40:14]
    images = {hashlib.sha256(p.data).hexdigest(): p for p in [*same, *others]}
    ids = list(images)
    blocked, doubtful = ids[0], ids[-1]
    policies = (
        Rules("lenient"),
        Rules("strict", frozenset({blocked}), refused_word="badword", refused_paths=frozenset({"/a.jpg"})),
        Rules("doubting", doubtful_images=frozenset({doubtful, ids[1]}), refused_licence="reserved"),
    )
    folder = tmp_path_factory.mktemp("models")
    return Cast(
        images,
        {image: facts_of(image, p) for image, p in images.items()},
        (stand_in(folder, 1), stand_in(folder, 2)),
        policies,
    )


def facts_of(image: str, picture: Picture) -> model.Content:
    """What the decoder says of a picture."""
    found = canonicalise(picture.data, load(PROFILE).images, load(PROFILE).crawl)
    return model.Content(
        image,
        "allow",
        source_pixels=found.source_width * found.source_height,
        hashes=model.stored_hashes(found.view_hashes),
        flat=found.flatness < load(PROFILE).dedup.flat_below,
    )


class Sequences(RuleBasedStateMachine):
    """One world and one warehouse; every rule is a job."""

    spark: SparkSession
    cast: Cast
    folder: Path
    empty: Path
    counts: "Counter[str]"

    def __init__(self) -> None:
        super().__init__()
        Sequences.counts["sequences"] += 1
        self.home = self.folder / f"world-{Sequences.counts['sequences']}"
        self.home.mkdir()
        self.warehouse = self.home / "warehouse"
        shutil.copytree(self.empty, self.warehouse)
        self.exit = ExitStack()
        self.small: SmallWorld = self.exit.enter_context(small_world(self.home))
        self.model = 0
        self.pending: dict[str, Effect] = {}
        """By run: what prepared runs will have done once they are published, by whoever rolls them forward."""
        self.states: dict[str, Evidence] = {}
        """By published run: what there was then."""
        self.forgotten: set[str] = set()
        """Published runs of which old files may have left the disk."""
        self.fed: dict[str, dict[int, str]] = {}
        """By published run: ids and digests of the feed."""

    def teardown(self) -> None:
        self.exit.close()
        shutil.rmtree(self.home)

    # The world ---------------------------------------------------------------------------------------------------

    @initialize(seed=st.integers(0, 2**32))
    def make_world(self, seed: int) -> None:
        """Pages that change from day to day, and a manifest for each day. By a seed, for the simplest example that
        Hypothesis knows of a world, and tries first, is one in which nothing ever happens."""
        chance = Random(seed)
        images = list(self.cast.images)
        pages = [*(Page(image=image) for image in images * 2), *map(Page, [None] * 3, ["gone", "http_5xx", "opt_out"])]
        web = {(path, day): chance.choice(pages) for path in PATHS[:-1] for day in DAYS}
        web |= {(PATHS[-1], day): Page(redirect=PATHS[0]) for day in DAYS}
        for path in PATHS:
            self.small.page(path, lambda day, _, path=path: self._answer(web[path, day]))

        def row() -> Manifested:
            licence, expected = chance.choice([None, None, None, "reserved"]), chance.choice([*[None] * 4, images[0]])
            return Manifested(chance.choice(PATHS), chance.choice(TITLES), licence, expected)

        manifests = {day: [row() for _ in range(chance.randint(2, 6))] for day in DAYS}
        for day, rows in manifests.items():
            for one in rows:
                self.small.row(day, one.path, title=one.title, license=one.licence, expected_sha256=one.expected)
        self.small.settings = ["crawl.retries=0"]
        self.oracle = Oracle(lambda path, day: web[path, day], self.cast.contents, manifests, self.cast.policies[0])

    def _answer(self, page: Page) -> Answer:
        if page.redirect:
            return Answer(302, headers=(("Location", page.redirect),))
        if page.failure == "opt_out":
            return Answer(body=b"", headers=(("X-Robots-Tag", "noai"),))
        if page.failure:
            return Answer({"gone": 410, "http_5xx": 500}[page.failure])
        return show(self.cast.images[page.image])

    # Jobs --------------------------------------------------------------------------------------------------------

    @rule(data=st.data())
    def run_a_job(self, data: st.DataObject) -> None:
        """Any of them, nights most often; one rule, for of several Hypothesis leaves some out of a whole sequence."""
        jobs = [self._night] * 3
        if self.oracle.published:
            jobs += [self._night, self._retry, self._redecide, self._redecide, self._switch, self._maintain]
            jobs += [self._roll_back, self._roll_back]
        if any(s.image_id for s in self.oracle.sightings()):
            jobs += [self._review, self._review, self._take_down, self._take_down]
        kill = data.draw(st.one_of(st.none(), st.none(), st.integers(1, 50)), "killed at")
        data.draw(st.sampled_from(jobs), "job")(data, kill)

    def _night(self, data: st.DataObject, kill: int | None) -> None:
        """A night, the first time or again."""
        day, force = data.draw(st.sampled_from(DAYS), "day"), data.draw(st.booleans(), "force")
        effects = [Effect(lambda: self.oracle.drain(day))]
        if force or day not in self.oracle.published:
            effects.append(Effect(lambda: self.oracle.run_date(day, day), of_date=True))
        self._run(
            "forced night" if force else "night",
            nightly,
            ["--date", str(day), *["--force"] * force],
            kill,
            day,
            effects,
        )

    def _retry(self, data: st.DataObject, kill: int | None) -> None:
        """`--retry-failed`, on a later day or the same."""
        day = data.draw(st.sampled_from(sorted(self.oracle.published)), "day")
        now = data.draw(st.sampled_from(DAYS), "now")
        effect = Effect(lambda: self.oracle.retry_failed(day, now))
        self._run("retry", nightly, ["--date", str(day), "--retry-failed"], kill, now, [effect])

    def _redecide(self, data: st.DataObject, kill: int | None) -> None:
        """Another policy, or the same once more."""
        rules = data.draw(st.sampled_from(self.cast.policies), "policy")
        self._run("redecide", redecide, [], kill, DAYS[0], [Effect(lambda: self.oracle.redecide(rules))], rules=rules)

    def _review(self, data: st.DataObject, kill: int | None) -> None:
        """A person's verdict on an image or a sighting."""
        about = data.draw(st.sampled_from([s for s in self.oracle.sightings() if s.image_id]), "about")
        kind = data.draw(st.sampled_from(["image", "image", "sighting"]), "kind")
        said = data.draw(st.sampled_from(["allow", "block", "withdraw"]), "said")
        subject = str(about.image_id) if kind == "image" else "/".join(map(str, about.key))
        seen = frozenset({"image_doubtful"})
        file = self.home / "verdicts.csv"
        cells = {
            "subject_kind": kind,
            "subject_id": subject,
            "reasons": "|".join(seen),
            "verdict": said,
            "reviewer": "r",
        }
        with file.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, cells)
            writer.writeheader()
            writer.writerow(cells)
        effect = Effect(lambda: self.oracle.review(kind, subject, said, seen))
        self._run("review", review, ["import", str(file)], kill, DAYS[0], [effect])

    def _take_down(self, data: st.DataObject, kill: int | None) -> None:
        """What somebody asked for by content or URL, or its lifting where something stands."""
        standing = sorted(self.oracle.taken_down)
        lift = bool(standing) and data.draw(st.booleans(), "lift")
        images = sorted({s.image_id for s in self.oracle.sightings() if s.image_id})
        every = [*(("image", image) for image in images), *(("url", path) for path in PATHS)]
        kind, subject = data.draw(st.sampled_from(standing if lift else every), "subject")
        named = subject if kind == "image" else self.small.site.url(subject)
        more = [f"--{kind}", named, "--reference", "r", *["--lift"] * lift]
        effect = Effect(lambda: self.oracle.take_down(kind, subject, lift))
        self._run("lift" if lift else "takedown", takedown, more, kill, DAYS[0], [effect])

    def _switch(self, data: st.DataObject, kill: int | None) -> None:
        """A model, most often the other one."""
        chosen = data.draw(st.sampled_from([1 - self.model, 1 - self.model, self.model]), "model")
        self._run("switch", reembed, [], kill, DAYS[0], [], model=chosen)

    def _maintain(self, data: st.DataObject, kill: int | None) -> None:
        """Small files are put together, old ones deleted, and half the time what is not shown is collected: readers of
        the feed see no difference."""
        most = data.draw(st.sampled_from(["1", "3"]), "most small")
        collect = data.draw(st.booleans(), "collect")
        self.forgotten = set(self.states)
        effects = [Effect(self.oracle.collect)] if collect else []
        more = ["--retention-hours", "0", "--most-small", most, *["--collect"] * collect]
        self._run("collect" if collect else "maintain", maintain, more, kill, DAYS[0], effects)

    def _roll_back(self, data: st.DataObject, kill: int | None) -> None:
        """To any run that was ever published. Rows that a date had may be gone; then nothing happens."""
        run_id = data.draw(st.sampled_from(list(self.states)), "to")
        to = self.states[run_id]
        effect = Effect(lambda: self.oracle.roll_back(to))
        needed = self.oracle.dates_since(to) & to.published
        may_fail = bool(needed) and run_id in self.forgotten
        self._run("rollback", rollback, ["--to", run_id], kill, DAYS[0], [effect], may_fail=may_fail)

    # Running and comparing ---------------------------------------------------------------------------------------

    def _arguments(self, job: Any, rules: Rules, chosen: int, more: Sequence[str]) -> list[str]:
        actions = more[:1] if job is review else []
        common = self.small.arguments(self.warehouse, self._policy(rules), self.cast.models[chosen])
        return [*actions, *common, *more[len(actions) :]]

    def _policy(self, rules: Rules) -> str:
        paths = [self.small.site.url(path) for path in sorted(rules.refused_paths)]
        made: list[tuple[str, str, str, dict[str, Any]]] = [
            ("nsfw", "block", "nsfw", {"at_least": 0.999}),
            ("sha256", "block", "image_blocked", {"hashes": sorted(rules.blocked_images)}),
            ("sha256", "review", "image_doubtful", {"hashes": sorted(rules.doubtful_images)}),
            ("text", "block", "word_refused", {"words": [rules.refused_word] if rules.refused_word else []}),
            ("licence", "block", "licence_refused", {"deny": [rules.refused_licence] if rules.refused_licence else []}),
            ("url", "block", "path_refused", {"urls": paths}),
        ]
        listed = [
            {"id": reason.replace("_", "-"), "kind": kind, "action": action, "reason": reason, **what}
            for kind, action, reason, what in made
            if all(what.values())
        ]
        return self.small.policy(rules.name, listed)

    def _run(
        self,
        name: str,
        job: Any,
        more: Sequence[str],
        kill: int | None,
        now: dt.date,
        effects: list["Effect"],
        rules: Rules | None = None,
        model: int | None = None,
        *,
        may_fail: bool = False,
    ) -> None:
        """Run a job. Where it is killed, readers must see what was published before; where it was to change the policy
        or the model, it is then run again, as its user would; else whatever comes next has to live with what it left.
        """
        arguments = self._arguments(job, rules or self.oracle.rules, self.model if model is None else model, more)
        for day in DAYS:
            self.small.write_manifest(day)
        self.small.site.date = now
        before = len(self._events())
        killer = Killer(kill)
        code = None
        with killer.around():
            code = job.main(arguments)
        Sequences.counts[name] += 1
        self._account(self._events()[before:], effects)
        if killer.dead:
            Sequences.counts["kills"] += 1
            self._compare(quiet=False)
            if rules is not None or model is not None:
                self._run(name, job, more, None, now, effects, rules, model)
            return
        assert code == 0 or (may_fail and code == 1), f"{name} ended with {code}"
        if code:
            Sequences.counts[f"{name} refused"] += 1
        if model is not None:
            self.model = model
        self._compare(quiet=True)

    def _events(self) -> list[dict[str, Any]]:
        files = DeltaTable(str(self.warehouse / "runs")).file_uris()
        rows = [row for file in files for row in pq.read_table(file).to_pylist()]
        return sorted(rows, key=lambda row: row["seq"])

    def _account(self, events: Sequence[Mapping[str, Any]], effects: Sequence["Effect"]) -> None:
        """Have happen what the ledger says was published."""
        for event in events:
            if event["event"] == "prepared":
                mine = [effect for effect in effects if effect.of_date == (event["inputs_digest"] is not None)]
                if event["job"] in OF_ORACLE and mine:
                    self.pending[event["run_id"]] = mine[0]
            elif event["event"] == "published":
                if event["run_id"] in self.pending:
                    self.pending.pop(event["run_id"]).happen()
                if dict(event["counts"] or {}).get(TEXTS_ERASED):
                    self.forgotten = set(self.states)
                self.states[event["run_id"]] = self.oracle.evidence()

    def _compare(self, *, quiet: bool) -> None:
        """The warehouse as published against the oracle; the disk too, where nothing is half done."""
        oracle = self.oracle
        if not oracle.published:
            with pytest.raises(SnapshotError):
                Snapshot.open(str(self.warehouse))
            return
        snapshot = Snapshot.open(str(self.warehouse))
        for table in TABLES.values():
            if table.keys and table.name in snapshot.table_versions:
                keys = snapshot.rows(table.name, table.keys)
                assert keys.group_by(list(table.keys)).aggregate([]).num_rows == keys.num_rows, table.name
        read = {name: snapshot.rows(name).to_pylist() for name in COMPARED}
        expected = oracle.sightings()
        found = {
            (row["ingest_date"], row["source_file"], row["row_number"]): (
                row["outcome"],
                row["failure_code"],
                tuple(sorted(row["reasons"])),
                row["image_id"] if row["outcome"] == "accepted" else None,
            )
            for row in read["sightings"]
        }
        assert found == {
            s.key: (s.outcome, s.failure, s.reasons, s.image_id if s.outcome == "accepted" else None) for s in expected
        }
        for row in read["sightings"]:
            key = row["ingest_date"], row["source_file"], row["row_number"]
            said = "" if key in oracle.erased else oracle.manifests[key[0]][key[2]].title
            assert (row["title"] or "") == said, key
        path_of = {row["url_id"]: row["url"].removeprefix(self.small.site.url("")) for row in read["sightings"]}
        states = model.url_states(expected)
        assert {path_of[row["url_id"]]: (row["ingest_date"], row["outcome"]) for row in read["url_state"]} == {
            path: (state.key[0], state.outcome) for path, state in states.items()
        }
        queue = {(row["ingest_date"], path_of[row["url_id"]]): row["image_id"] for row in read["refetch_queue"]}
        assert queue == oracle.owed()
        dates = oracle.live()
        rule_settings = load(PROFILE).dedup
        heads = model.clusters(dates, oracle.contents, rule_settings, in_buckets(rule_settings))
        assert {row["image_id"]: (row["representative_id"], row["first_seen"]) for row in read["clusters"]} == {
            image: (head, dates[image]) for image, head in heads.items()
        }
        feed = {
            row["image_id"]: (row["member_count"], row["first_seen"], row["title"] or "") for row in read["index_feed"]
        }
        assert feed == {
            head: (size, dates[head], self._title(expected, head)) for head, size in Counter(heads.values()).items()
        }
        shown = {path: state.image_id for path, state in states.items() if state.outcome == "accepted"}
        assert {
            path_of[row["url_id"]]: (row["image_id"], row["representative_id"]) for row in read["feed_members"]
        } == {path: (image, heads[image]) for path, image in shown.items() if image in heads}
        assert {row["image_id"] for row in read["images"]} == oracle.stored
        self._compare_changes(snapshot, {row["feed_id"]: row["row_digest"] for row in read["index_feed"]})
        if quiet:
            self._compare_disk(read)

    def _compare_changes(self, snapshot: Snapshot, now: dict[int, str]) -> None:
        """What a consumer is told that stopped at any run before, whatever has left the disk since."""
        for run_id, before in self.fed.items():
            found = changes(snapshot, run_id)
            inserted, updated, deleted = (set(ids.tolist()) for ids in (found.inserted, found.updated, found.deleted))
            assert inserted == now.keys() - before.keys(), run_id
            assert deleted == before.keys() - now.keys(), run_id
            stayed = now.keys() & before.keys()
            assert {n for n in stayed if now[n] != before[n]} <= updated <= stayed, run_id
            told = [row for batch in found.upserts(["feed_id", "row_digest"]) for row in batch.to_pylist()]
            assert {row["feed_id"]: row["row_digest"] for row in told} == {n: now[n] for n in inserted | updated}
            assert len(told) == len(inserted | updated)
        self.fed[snapshot.run_id] = now

    def _compare_disk(self, read: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        (version,) = {row["model_version"] for row in read["index_feed"]} or {None}
        vectors = {row["image_id"] for row in read["embeddings"] if version in {None, row["model_version"]}}
        assert vectors == self.oracle.stored or version is None
        files = [path for path in self.warehouse.rglob("*.parquet") if "pixels" in pq.read_schema(path).names]
        pictured = {
            image for path in files for image in pq.read_table(path, columns=["image_id"])["image_id"].to_pylist()
        }
        assert pictured == self.oracle.stored
        staging = self.warehouse / "_staging"
        assert not staging.exists() or not list(staging.iterdir())

    def _title(self, sightings: Sequence[model.Sighting], image: str) -> str:
        first = min(s.key for s in sightings if s.outcome == "accepted" and s.image_id == image)
        if first in self.oracle.erased:
            return ""
        return self.oracle.manifests[first[0]][first[2]].title


OF_ORACLE = frozenset({"nightly", "redecide", "review", "takedown", "rollback", "maintain"})
"""Jobs whose runs may change what the oracle knows; a switch of models changes nothing there."""

COMPARED = ("sightings", "url_state", "refetch_queue", "clusters", "index_feed", "feed_members", "images", "embeddings")


@dataclass(frozen=True)
class Effect:
    """What a published run does to the oracle; `of_date`: whether it is a date taken from its manifest."""

    happen: Callable[[], None]
    of_date: bool = False


@pytest.mark.timeout(3600)
def test_any_sequence_of_jobs_leaves_what_the_oracle_says(
    spark: SparkSession, cast: Cast, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    Landing(spark, str(empty)).ensure_tables()
    machine = type("Machine", (Sequences,), {"cast": cast, "folder": tmp_path, "empty": empty})
    Sequences.counts = Counter()
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=SEQUENCES,
                stateful_step_count=STEPS,
                deadline=None,
                phases=[Phase.generate],
                derandomize=not os.environ.get("SEED"),
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        with capsys.disabled():
            sys.stdout.write(f" {dict(Sequences.counts)} ")
