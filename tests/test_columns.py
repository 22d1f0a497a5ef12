"""What is given apart from the source: selections of a run, labels, splits."""

import json

import numpy as np
import pyarrow as pa
import pytest

from featurestore import Selection
from featurestore.curation.labels import read_labels
from featurestore.errors import (
    BadName,
    BadQuery,
    BadSource,
    MissingColumn,
    NotEnoughData,
    UnknownItem,
)
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources.listing import SourceOptions
from heads.labels.splits import make_split, split_dataset

PIXELS = "baseline:pixels#size=1"


def embed(store, source, *, encoders=(PIXELS,), options=None, **select):
    return store.embed(
        [source] if source else [], dataset="d", encoders=list(encoders), source_options=options,
        selection=Selection(**select),
    )  # fmt: skip


def test_a_selection_is_about_one_run_and_drops_nothing(empty_store, tiny_images):
    embed(empty_store, tiny_images, where="label = 'dark'")
    assert empty_store.view("d", PIXELS).load().ids.tolist() == [f"dark/{i}.png" for i in range(3)]
    embed(empty_store, tiny_images, limit=4)
    assert empty_store.view("d", PIXELS).n_rows == 4
    (report,) = embed(empty_store, tiny_images)  # none of it is remembered
    assert (report.n_encoded, report.n_unchanged) == (2, 4)
    (report,) = empty_store.embed(
        [tiny_images], dataset="d", encoders=[PIXELS], embed_options=EmbedOptions(prune=True),
        selection=Selection(where="stem = '0'"),
    )  # fmt: skip
    assert empty_store.view("d", PIXELS).n_rows == 6  # what was not selected is not gone


def test_a_sample_depends_on_the_seed_and_not_on_the_order(empty_store):
    ids = [f"i{n}" for n in range(1000)]
    rows = pa.table({"item_id": ids, "uri": ids})
    drawn = {seed: Selection(sample=100, seed=seed).apply(rows) for seed in (0, 1)}
    names = {seed: set(one.column("item_id").to_pylist()) for seed, one in drawn.items()}
    assert [len(one) for one in names.values()] == [100, 100]
    assert len(names[0] & names[1]) < 30
    backwards = rows.take(pa.array(np.arange(999, -1, -1)))
    again = Selection(sample=100).apply(backwards).column("item_id").to_pylist()
    assert set(again) == names[0]
    more = pa.concat_tables([rows, pa.table({"item_id": ["j"] * 10, "uri": ["j"] * 10})])
    grown = set(Selection(sample=100).apply(more).column("item_id").to_pylist())
    assert len(grown & names[0]) >= 89  # a data set that grows keeps most of its sample


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ("label = 'blue'", BadSource, "no item fulfils --where label = 'blue'"),
        ("label", BadSource, "expected a condition, true or false"),
        ("colour = 1", BadQuery, "colour"),
        ("1 = 1) from items; drop table items --", BadQuery, "expected one SELECT|syntax"),
    ],
)
def test_a_condition_that_is_none_says_so(empty_store, tiny_images, where, error, message):
    with pytest.raises(error, match=message):
        embed(empty_store, tiny_images, where=where)
    assert empty_store.datasets() == []


@pytest.fixture
def grades(tmp_path):
    path = tmp_path / "grades.csv"
    path.write_text("file,grade,score\n" + "".join(f"dark/{i}.png,g{i},{i}.5\n" for i in range(3)))
    return path


def test_labels_come_later_and_stay_when_the_source_is_embedded_again(
    empty_store, tiny_images, write_image, grades
):
    embed(empty_store, tiny_images)
    dataset = empty_store.dataset("d")
    before = dataset.view(PIXELS).table.version()
    assert dataset.attach(read_labels(grades, item_id="file")) == 3
    assert dataset.label_columns == ["label", "grade", "score"]
    assert dataset.view(PIXELS).table.version() == before  # nothing was embedded
    write_image(tiny_images / "dark" / "1.png", (99, 0, 0))
    write_image(tiny_images / "dark" / "9.png", (98, 0, 0))
    (report,) = embed(empty_store, tiny_images)
    assert report.n_encoded == 2
    found = empty_store.view("d", PIXELS).load()
    kept = dict(zip(found.ids, found.column("grade"), strict=True))
    assert kept == {
        "dark/0.png": "g0", "dark/1.png": "g1", "dark/2.png": "g2", "dark/9.png": None,
        "light/0.png": None, "light/1.png": None, "light/2.png": None,
    }  # fmt: skip
    assert found.column("score")[:2].tolist() == [0.5, 1.5]
    assert dataset.folder.read().labels["score"] == {"task": "regression"}


def test_labels_of_class_folders_may_be_put_right(empty_store, tiny_images, tmp_path):
    embed(empty_store, tiny_images)
    (tmp_path / "l.csv").write_text("id,label\ndark/0.png,light\n")
    dataset = empty_store.dataset("d")
    assert dataset.attach(read_labels(tmp_path / "l.csv", item_id="id")) == 1
    embed(empty_store, tiny_images)
    assert (
        empty_store.view("d", PIXELS).load().labels.tolist()
        == ["light"] + ["dark"] * 2 + ["light"] * 3
    )
    assert dataset.attach(read_labels(tmp_path / "l.csv", item_id="id")) == 0


def test_of_a_table_that_suggest_wrote_the_label_alone_is_taken(tmp_path):
    (tmp_path / "todo.csv").write_text(
        "item_id,kind,path,why\na,hand,/x/a.png,typical\nb,,/x/b.png,typical\n"
    )
    found = read_labels(tmp_path / "todo.csv", item_id="item_id")
    assert found.to_pydict() == {"item_id": ["a", "b"], "kind": ["hand", None]}
    (tmp_path / "own.csv").write_text("item_id,why,kind\na,because,hand\n")  # not of suggest
    assert read_labels(tmp_path / "own.csv", item_id="item_id").column_names[1:] == ["why", "kind"]


def test_labels_that_do_not_fit_change_nothing(empty_store, tiny_images, tmp_path):
    embed(empty_store, tiny_images)
    dataset = empty_store.dataset("d")
    version = dataset.folder.items.version()
    for text, options, error, message in [
        ("id,x\ndark/0.pn,1\n", {}, UnknownItem, "1 of 1 ids are not in 'd'.*did you mean 'dark/0"),
        ("id,size\ndark/0.png,1\n", {}, BadSource, "columns size are used by the store itself"),
        ("id,x\na,1\na,2\n", {}, BadSource, "names an item twice"),
        ("id,x\na,1\n", {"columns": ["y"]}, MissingColumn, r"no column 'y' \(--label\)"),
        ("key,x\na,1\n", {}, MissingColumn, r"no column 'id' \(--id\)"),
        ("id\ndark/0.png\n", {}, BadSource, "no column to attach"),
    ]:
        (tmp_path / "l.csv").write_text(text)
        with pytest.raises(error, match=message):
            dataset.attach(read_labels(tmp_path / "l.csv", item_id="id", **options))
    assert dataset.folder.items.version() == version
    assert dataset.folder.read().attached == ()


def split(n, **how):
    ids = np.array([f"i{i:04}" for i in range(n)], object)
    return ids, make_split(ids, **how)


def test_a_split_has_its_shares_in_every_class():
    labels = np.array(["a"] * 600 + ["b"] * 300 + ["c"] * 100, object)
    _, found = split(1000, test=0.2, val=0.1, labels=labels)
    for name in "abc":
        parts = found[labels == name]
        n = len(parts)
        counts = [(parts == part).sum() for part in ("train", "val", "test")]
        np.testing.assert_allclose(counts, [0.7 * n, 0.1 * n, 0.2 * n], atol=1)


def test_a_split_depends_on_ids_and_seed_alone():
    ids, found = split(200, test=0.25, seed=3)
    order = np.random.default_rng(0).permutation(200)
    np.testing.assert_array_equal(make_split(ids[order], test=0.25, seed=3), found[order])
    assert (make_split(ids, test=0.25, seed=4) != found).any()


def test_groups_and_equal_content_never_part():
    rng = np.random.default_rng(0)
    patient = np.array([f"p{i}" for i in rng.integers(0, 60, 500)], object)
    content = np.array([f"h{i}" for i in rng.integers(0, 450, 500)], object)
    _, found = split(500, test=0.3, keys=(patient, content))
    for key in (patient, content):
        assert all(len(set(found[key == value])) == 1 for value in set(key))
    few = np.array([f"p{i % 40}" for i in range(500)], object)
    _, found = split(500, test=0.3, keys=(few,))
    assert abs((found == "test").mean() - 0.3) < 0.03


def test_items_that_have_a_split_keep_it_and_draw_their_group_after_them():
    _, found = split(100, test=0.2)
    more = np.array([f"i{i:04}" for i in range(200)], object)
    taken = np.concatenate([found, np.full(100, None)])
    group = np.array([f"g{i % 100}" for i in range(200)], object)
    grown = make_split(more, test=0.2, taken=taken, keys=(group,))
    np.testing.assert_array_equal(grown[:100], found)
    np.testing.assert_array_equal(grown[100:], found)  # each is of a group that is dealt already


def test_a_split_is_kept_in_the_store(empty_store, tiny_images, write_image):
    for i in range(3, 10):
        write_image(tiny_images / "dark" / f"{i}.png", (100 + i, 0, 0))
        write_image(tiny_images / "light" / f"{i}.png", (0, 100 + i, 0))
    embed(empty_store, tiny_images)
    found = split_dataset(empty_store.dataset("d"), test=0.2)
    assert sorted(found).count("test") == 4
    (report,) = embed(empty_store, tiny_images)
    assert report.n_encoded == 0
    loaded = empty_store.view("d", PIXELS).load()
    assert sorted(loaded.splits) == ["test"] * 4 + ["train"] * 16
    assert len(empty_store.view("d", PIXELS).load(split="test")) == 4
    with pytest.raises(NotEnoughData, match="every item of d has a split already: --overwrite"):
        split_dataset(empty_store.dataset("d"), test=0.2)
    again = split_dataset(empty_store.dataset("d"), test=0.5, overwrite=True)
    assert sorted(again).count("test") == 10


def test_shares_that_make_no_split_say_so(empty_store, tiny_images):
    for shares in ({"test": 0.0}, {"test": 0.6, "val": 0.4}, {"test": -0.1}):
        with pytest.raises(BadName, match="expected shares between 0 and 1, some to train"):
            split(10, **shares)
    with pytest.raises(NotEnoughData, match="nothing would be in test"):
        split(10, test=0.2, keys=(np.full(10, "same", object),))
    embed(empty_store, tiny_images)
    with pytest.raises(MissingColumn, match="d has no column 'patient'"):
        split_dataset(empty_store.dataset("d"), test=0.2, group="patient")


def test_several_encoders_and_layers_in_one_run(empty_store, tiny_images):
    vit = "builtin:tiny-image"
    specs = [PIXELS, vit, f"{vit}#layer=1", f"{vit}#layer=3"]
    reports = embed(empty_store, tiny_images, encoders=specs)
    assert [report.n_encoded for report in reports] == [6] * 4
    assert reports[0].stages["decode"][1] == 6  # once for all four
    assert reports[0].stages["encode"][1] == 12  # pixels, and one pass for the three depths
    views = empty_store.dataset("d").views()
    assert len(views) == 4
    alone = empty_store.embed([tiny_images], dataset="alone", encoders=[f"{vit}#layer=3"])
    assert alone[0].n_encoded == 6
    np.testing.assert_allclose(
        empty_store.view("d", f"{vit}#layer=3").load().vectors,
        empty_store.view("alone", f"{vit}#layer=3").load().vectors, rtol=1e-4, atol=1e-5,
    )  # fmt: skip
    (more,) = embed(empty_store, tiny_images, encoders=[f"{vit}#layer=2"])
    assert more.n_encoded == 6


def test_texts_longer_than_the_encoder_reads_are_counted(empty_store, tmp_path, minilm):
    texts = ["short", "word " * 400, "an " * 300]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"body": text}) for text in texts))
    options = SourceOptions(text="body")
    (report,) = embed(empty_store, tmp_path / "t.jsonl", encoders=[minilm], options=options)
    assert (report.n_encoded, report.n_cut) == (3, 2)
    assert "2 texts cut to what the encoder reads" in report.describe()


def test_an_estimate_writes_nothing(empty_store, tiny_images):
    what = {"dataset": "d", "encoders": [PIXELS, "baseline:pixels#size=8"]}
    first = empty_store.estimate([tiny_images], **what)
    assert [(one.n_items, one.n_todo) for one in first] == [(6, 6), (6, 6)]
    assert first[1].disk_bytes > 6 * 4 * 192
    assert not empty_store.path.exists()
    empty_store.embed([tiny_images], dataset="d", encoders=[PIXELS])
    then = empty_store.estimate([tiny_images], **what)
    assert [one.n_todo for one in then] == [0, 6]
    assert then[0].describe() == f"d@{PIXELS}: 0 of 6 to embed"
    assert then[1].describe().startswith("d@baseline:pixels#size=8: 6 of 6 to embed, about ")


def test_samples_of_two_seeds_share_no_more_than_chance(empty_store):
    ids = [f"i{n}" for n in range(2000)]
    rows = pa.table({"item_id": ids, "uri": ids})
    drawn = [
        set(Selection(sample=1000, seed=seed).apply(rows).column("item_id").to_pylist())
        for seed in range(4)
    ]
    shared = [len(drawn[a] & drawn[b]) for a in range(4) for b in range(a)]
    assert all(440 < n < 560 for n in shared), shared


def test_a_group_follows_an_item_that_is_held_elsewhere():
    group = np.repeat([f"g{i}" for i in range(20)], 2).astype(object)
    taken = np.full(40, None, object)
    taken[::2] = "val"
    taken[20:] = None
    _, found = split(40, test=0.2, keys=(group,), taken=taken)
    assert (found[:20] == "val").all()
    assert all(len(set(found[group == name])) == 1 for name in set(group))


def test_labels_attached_while_a_run_is_under_way_are_kept(empty_store, tiny_images, write_image):
    embed(empty_store, tiny_images)
    dataset = empty_store.dataset("d")

    class Meanwhile:
        version = "1"
        n_calls = 0

        def encode_images(self, images):
            self.n_calls += 1
            if self.n_calls == 2:  # the probes: the plan is made, nothing is written
                values = {"item_id": ["dark/0.png"], "grade": ["g"], "label": ["light"]}
                assert dataset.attach(pa.table(values)) == 1
            return np.stack([np.asarray(one, float).mean(axis=(0, 1)) for one in images])

    for number in range(3):
        write_image(tiny_images / "dark" / f"{number}.png", (50 + number, 0, 0))
    empty_store.embed([tiny_images], dataset="d", encoders=[Meanwhile()])
    rows = {row["item_id"]: row for row in dataset.items().to_pylist()}
    assert (rows["dark/0.png"]["grade"], rows["dark/0.png"]["label"]) == ("g", "light")
    assert (rows["dark/1.png"]["grade"], rows["dark/1.png"]["label"]) == (None, "dark")


def test_a_condition_may_name_labels_that_came_later(empty_store, tiny_images, grades):
    embed(empty_store, tiny_images)
    empty_store.dataset("d").attach(read_labels(grades, item_id="file"))
    (report,) = embed(
        empty_store, tiny_images, encoders=["baseline:pixels#size=2"], where="grade = 'g1'"
    )
    assert report.n_encoded == 1


def test_an_interrupted_attach_can_be_done_again(empty_store, tmp_path, monkeypatch):
    """What it said first, that the column is not the source's, spoils no number."""
    table = tmp_path / "t.csv"
    table.write_text("id,text,kind\na,one,x\nb,two,y\n")
    options = SourceOptions(text="text", id="id", label=("kind",))

    def again():
        empty_store.embed(
            [table], dataset="d", encoders=["baseline:hashing"], source_options=options
        )

    def stop(*_, **__):
        raise KeyboardInterrupt

    again()
    scores = pa.table({"item_id": ["a", "b"], "score": [0.5, 1.5]})
    with monkeypatch.context() as patch:
        patch.setattr("featurestore.storage.tables.Table.merge", stop)
        with pytest.raises(KeyboardInterrupt):
            empty_store.dataset("d").attach(scores)
    table.write_text("id,text,kind\na,one,z\nb,two,y\n")
    again()  # changed metadata: rows are written while the column is only announced
    assert empty_store.dataset("d").attach(scores) == 2
    items = empty_store.dataset("d").items().sort_by("item_id").to_pydict()
    assert (items["score"], items["kind"]) == ([0.5, 1.5], ["z", "y"])


@pytest.mark.parametrize(("old", "new", "value"), [
    ("options", "source_options", SourceOptions()),
    ("how", "embed_options", EmbedOptions(batch_size=2)),
    ("select", "selection", Selection(limit=2)),
])  # fmt: skip
def test_keywords_of_before_work_and_name_the_new_one(empty_store, tiny_images, old, new, value):
    known = {"dataset": "d", "encoders": [PIXELS]}
    for call in (empty_store.estimate, empty_store.embed):
        with pytest.warns(DeprecationWarning, match=f"{old} is {new} now") as warned:
            by_old = call([tiny_images], **known, **{old: value})
        assert warned[0].filename == __file__
    assert by_old[0].n_items == (2 if old == "select" else 6)
    with pytest.raises(TypeError, match=new):
        empty_store.embed([tiny_images], **known, **{old: value, new: value})


def test_a_view_tells_what_it_holds(empty_store, tiny_images):
    (tiny_images / "broken.png").write_bytes(b"no picture")
    embed(empty_store, tiny_images)
    view = empty_store.view("d", PIXELS)
    facts = view.facts()
    assert (facts.encoder, facts.n_rows, facts.n_failed, facts.n_shards) == (PIXELS, 6, 1, 1)
    assert facts.n_bytes == sum(shard.size_bytes for shard in view.table.shards())
    (run,) = view.dataset.runs("embed")
    assert (facts.embedded, facts.items_per_s) == (run["when"], run["items_per_s"])
