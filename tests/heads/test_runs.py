"""Runs are kept, printed again, run again, and read instead of computed twice."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import heads
from featurestore.cli import run
from featurestore.demo.data import write_pictographs
from featurestore.errors import BadName
from featurestore.sources.listing import SourceOptions
from featurestore.storage.files import read_sealed, write_sealed
from featurestore.store.store import open_store
from featurestore.upkeep.versions import _named_versions


def some_names(folder):
    table = write_pictographs(folder / "names.jsonl")
    table.write_text("".join(table.read_text().splitlines(keepends=True)[::3]))
    return table


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    table = some_names(folder)
    store = open_store(folder / "store", create=True)
    options = SourceOptions(text="text", label=("kind",), id="id")
    store.embed([table], dataset="names", source_options=options)
    return store.dataset("names")


def test_a_run_card_run_again_gives_the_same_numbers(dataset):
    first = heads.compare(dataset.views(), ["prototype", "ridge"], seed=3)
    (stored,) = heads.runs(dataset)
    again = heads.run_again(dataset, stored)
    for one, other in zip(first.heads, again.heads, strict=True):
        assert (one.encoder, one.head) == (other.encoder, other.head)
        for metric, scores in one.report.scores.items():
            np.testing.assert_array_equal(scores, other.report.scores[metric])
        np.testing.assert_array_equal(one.report.predicted, other.report.predicted)
    assert [{**r, "seconds": 0} for r in again.rows()] == [
        {**r, "seconds": 0} for r in first.rows()
    ]


def test_a_curve_run_again_gives_the_same_numbers(dataset):
    first = heads.curve(dataset.views(), "ridge", per_class=(1, 2, 4), n_draws=3, seed=5)
    again = heads.run_again(dataset, heads.curves(dataset)[0])
    assert again.rows() == first.rows()
    for one, other in zip(first.budgets, again.budgets, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
    changed = replace(first, card=replace(first.card, search_space="another grid"))
    with pytest.raises(BadName, match="ridge: the settings to choose from"):
        heads.run_again(dataset, changed)


def test_what_was_found_is_not_computed_twice_and_other_choices_are(dataset, monkeypatch):
    from heads.experiments import cells

    fits = []
    plain = cells.Exam.take

    def counted(exam, inputs, *args, **options):
        fits.extend(build for _, builds in inputs for build in builds)
        return plain(exam, inputs, *args, **options)

    monkeypatch.setattr(cells.Exam, "take", counted)
    first = heads.compare(dataset.views(), ["prototype"], seed=11)
    n = len(fits)
    assert n == 4  # prototype, knn, majority, TF-IDF
    seen = []
    second = heads.compare(
        dataset.views(), ["prototype"], seed=11, progress=lambda *now: seen.append(now)
    )
    assert len(fits) == n
    assert seen[-1][0] == seen[-1][1] == 4 * 25
    assert second.rows() == first.rows()
    np.testing.assert_array_equal(first.heads[0].report.repeats, second.heads[0].report.repeats)
    heads.compare(dataset.views(), ["prototype"], seed=12)  # other folds
    assert len(fits) == 2 * n
    heads.compare(dataset.views(), ["prototype", "ridge"], seed=11)  # one head more
    assert len(fits) == 2 * n + 1
    for file in (dataset.path / "cache" / "heads").glob("*.json"):
        file.write_text("{")  # damaged
    heads.compare(dataset.views(), ["prototype"], seed=11)
    assert len(fits) == 2 * n + 1 + n


def test_show_lists_runs_and_prints_each_kind_again(dataset, capsys):
    store = str(dataset.store.path)
    heads.compare(dataset.views(), ["prototype"])
    assert run(["show", "names", "latest", "--store", store]) == 0
    assert "prototype" in capsys.readouterr().out
    heads.curve(dataset.views(), "prototype", per_class=(1, 2), n_draws=2)
    assert run(["show", "names", "latest", "--store", store]) == 0
    assert "labels in all" in capsys.readouterr().out
    heads.assess_transfer(dataset.views(), heads=("prototype",), blend=False)
    assert run(["show", "names", "latest", "--store", store]) == 0
    assert "What to do with builtin:tiny-text" in capsys.readouterr().out
    assert run(["show", "names", "--store", store, "--json"]) == 0
    kinds = [row["kind"] for row in json.loads(capsys.readouterr().out)]
    assert kinds[:3] == ["transfer", "curve", "compare"]
    assert kinds[-1] == "embed"
    assert run(["show", "names", "latest", "--store", store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "transfer"
    assert run(["show", "names", "yesterday", "--store", store]) == 1
    assert "no run 'yesterday'" in capsys.readouterr().err


def test_commands_that_compute_are_quiet_keep_a_log_and_stop(dataset, capsys, tmp_path):
    compare = ["compare", "names", "--head", "prototype", "--seed", "31", "--quiet"]
    compare += ["--store", str(dataset.store.path), "--log", str(tmp_path / "work.log")]
    assert run([*compare, "--minutes", "1e-9"]) == 1
    assert "minutes were not enough" in capsys.readouterr().err
    assert run(compare) == 0
    told = capsys.readouterr()
    assert "fit (s): the median of one fit alone" in told.out
    assert told.err == ""
    assert (tmp_path / "work.log").read_text().count("begin: compare") == 2


def test_show_runs_a_card_again_and_says_what_differs(dataset, capsys):
    store = str(dataset.store.path)
    heads.curve(dataset.views(), "ridge", per_class=(1, 2), n_draws=2, seed=9)
    heads.compare(dataset.views(), ["prototype"], seed=9)
    assert run(["show", "names", "latest", "--again", "--store", store]) == 0
    assert "every row of the table is as it was" in capsys.readouterr().out
    path = next(iter(sorted((dataset.path / "runs").glob("*curve.json"), reverse=True)))
    assert run(["show", "names", path.stem, "--again", "--json", "--store", store]) == 0
    assert json.loads(capsys.readouterr().out)["differ"] == []
    card = read_sealed(path)
    card["budgets"][0]["scores"][0] += 0.5
    card["card"]["versions"]["numpy"] = "1.0"
    write_sealed(path, card)
    assert run(["show", "names", path.stem, "--again", "--store", store]) == 1
    out = capsys.readouterr().out
    assert "rows that differ: 1 (other libraries: numpy 1.0 → " in out
    path = next(iter(sorted((dataset.path / "runs").glob("*compare.json"), reverse=True)))
    card = read_sealed(path)
    wrong = next(one for one in card["heads"] if one["head"] == "knn")
    before = wrong["scores"]["balanced_accuracy"]
    wrong["scores"]["balanced_accuracy"] = [0.01 * x for x in before]  # the last row now
    card["heads"] = [one for one in card["heads"] if one["head"] != "majority"]
    write_sealed(path, card)
    assert run(["show", "names", path.stem, "--again", "--store", store]) == 1
    told = capsys.readouterr().out.split("rows that differ: 2: ")[1]
    assert told.startswith(f"builtin:tiny-text knn: {0.01 * np.mean(before):.6g}, now ")
    assert "majority: none, now" in told
    assert run(["show", "names", "--again", "--store", store]) == 2
    embed = next((dataset.path / "runs").glob("*embed.json")).stem
    assert run(["show", "names", embed, "--again", "--store", store]) == 1
    assert "comparisons and curves can be run again" in capsys.readouterr().err


def test_versions_of_one_number_that_hold_other_vectors_are_told_apart(make_view, blobs):
    """A table restored from a backup may come to the same version with other rows."""
    vectors, labels = blobs(n=60)
    good = heads.compare(make_view(vectors, labels), ["prototype"])
    noise = np.random.default_rng(0).normal(size=vectors.shape)
    bad = heads.compare(make_view(noise, labels), ["prototype"])
    assert good.rows()[0]["value"] > 0.9 > 0.6 > bad.rows()[0]["value"]


def test_vacuum_keeps_what_reports_of_every_kind_name(tmp_path):
    table = some_names(tmp_path)
    store = open_store(tmp_path / "store", create=True)
    options = SourceOptions(text="text", label=("kind",), id="id")
    encoders = ["builtin:tiny-text", "baseline:hashing"]
    store.embed([table], dataset="names", encoders=encoders, source_options=options)
    dataset = store.dataset("names")
    folder = dataset.folder

    def named():
        return {place.name[:17]: sorted(found) for place, found in _named_versions(folder).items()}

    assert named() == {}
    view = dataset.view("builtin:tiny-text")
    at = view.snapshot
    expected = {"items": [at.items], "builtin-tiny-text": [at.view]}
    for make in (
        lambda: heads.curve(view, "prototype", per_class=(1, 2), n_draws=2),
        lambda: heads.assess_transfer(view, heads=("prototype",), blend=False),
    ):
        make()
        assert named() == expected
        for path in (dataset.path / "runs").glob("*.json"):
            path.unlink()
    heads.fit(heads.concat(dataset.views()), "prototype")
    assert set(named()) == {"items", "builtin-tiny-text", "baseline-hashing-"[:17]}
    assert named()["builtin-tiny-text"] == [at.view]
