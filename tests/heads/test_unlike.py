"""Items unlike the training items: found, seldom where there are none, and said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from safetensors import SafetensorError
from scipy.stats import kstest
from sklearn.datasets import load_digits, load_iris

import heads
from featurestore.cli import run
from featurestore.cli.exit_codes import FAILED_ITEMS, UNLIKE_ITEMS
from featurestore.errors import BadBundle
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store
from heads.estimators.distance import ClassDistance, local_means, mahalanobis, squares_to
from heads.saved import unlike
from heads.saved.unlike import Familiar, Unlike


def drawn(rng, n, dim=16, n_classes=3, group_size=1):
    """Vectors of Gaussian classes, about centres of their own where there are groups."""
    means = np.random.default_rng(0).normal(size=(n_classes, dim))
    group = np.arange(n) // group_size
    centres = rng.normal(size=(group.max() + 1, dim)) * (0.0 if group_size == 1 else 1.0)
    codes = rng.integers(n_classes, size=group.max() + 1)[group]
    return means[codes] + centres[group] + rng.normal(size=(n, dim)), codes, group


def alarms(n_draws=12, n_new=100, **how):
    """The share of new items of the same kind that are called unlike, over draws of both."""
    found = []
    for draw in range(n_draws):
        rng = np.random.default_rng([5, draw])
        familiar = Familiar.fit(*drawn(rng, **how))
        found.append(familiar(drawn(rng, **{**how, "n": n_new})[0]).share)
    return float(np.mean(found)), float(np.std(found)) / n_draws**0.5


@pytest.mark.parametrize(
    "how",
    [
        {"n": 25},
        {"n": 40, "dim": 128, "n_classes": 4},  # fewer rows than columns
        {"n": 60, "n_classes": 30},  # two of a class
        {"n": 60, "n_classes": 60, "dim": 64},  # one of a class, or none
        {"n": 400},
        {"n": 100, "group_size": 10},
        {"n": 80, "dim": 100, "group_size": 8},
    ],
)
def test_at_most_one_in_twenty_of_the_same_kind_is_called_unlike(how):
    rate, error = alarms(**how)
    assert rate <= 0.05 + 2 * error


def test_without_leaving_them_out_training_items_would_lie_too_near():
    rng = np.random.default_rng(1)
    vectors, codes, _ = drawn(rng, 60, 128)
    new = drawn(rng, 200, 128)[0]
    known, means = ClassDistance.fit(vectors, codes), local_means(vectors, codes, rng)
    own = np.column_stack([known.squares(vectors), squares_to(means, vectors)])
    naive = Familiar(known, means, own)
    assert naive(new).share > 0.3
    assert Familiar.fit(vectors, codes)(new).share <= 0.08


def test_shares_of_the_same_kind_are_spread_evenly_and_far_items_are_at_one():
    rng = np.random.default_rng(2)
    familiar = Familiar.fit(*drawn(rng, 1500)[:2])
    said = familiar(drawn(rng, 800)[0])
    assert kstest(said.shares, "uniform").statistic < 0.08
    assert said.shares.min() >= 0
    assert said.shares.max() <= 1
    far = familiar(rng.normal(size=(50, 16)) / 4 - 6 * familiar.distance.means.mean(axis=0))
    assert far.shares.min() >= 1 - 1.01 / 1500
    assert far.is_unlike.all()


def test_real_digits_digits_that_were_never_taught_and_negatives_of_all():
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(3)
    is_test = rng.random(len(y)) < 0.3
    known = y < 8
    familiar = Familiar.fit(X[known & ~is_test], y[known & ~is_test])
    same, other = familiar(X[known & is_test]), familiar(X[~known])
    assert same.share <= 0.05 + 2 * (0.05 * 0.95 / len(same.shares)) ** 0.5
    assert other.share > 0.6  # 0.25 by the distance to the classes alone
    assert familiar(16 - X).share == 1


def test_the_order_of_rows_makes_no_difference():
    rng = np.random.default_rng(4)
    vectors, codes, block = drawn(rng, 90, group_size=3)
    new = drawn(rng, 40)[0]
    order, again = rng.permutation(90), rng.permutation(40)
    first = Familiar.fit(vectors, codes, block)(new).shares
    turned = Familiar.fit(vectors[order], codes[order], 7 - block[order])
    np.testing.assert_allclose(turned(new[again]).shares, first[again], atol=1 / 90)


def test_large_sets_are_sampled_and_no_class_is_lost(monkeypatch):
    monkeypatch.setattr(unlike, "MOST_ROWS", 300)
    rng = np.random.default_rng(5)
    vectors, codes, _ = drawn(rng, 3000, n_classes=3)
    rare = 9 + rng.normal(size=(4, 16)) * 0.1
    everything = np.vstack([vectors, rare]), np.append(codes, [3] * 4)
    familiar = Familiar.fit(*everything)
    assert len(familiar.reference) == 300
    assert len(familiar.distance.means) == 4
    assert familiar(9 + rng.normal(size=(20, 16)) * 0.1).share < 0.2
    assert familiar(drawn(rng, 300)[0]).share < 0.09


@pytest.mark.parametrize("n", [1, 2, 3, 30, 301])
def test_local_means_are_of_two_rows_or_more_and_of_one_class(n):
    rng = np.random.default_rng(8)
    vectors, codes = rng.normal(size=(n, 5)), rng.integers(2, size=n)
    means = local_means(vectors, codes, rng)
    assert len(np.unique(codes)) <= len(means) <= max(2, n / 3)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    if n >= 30:
        assert squares_to(means, vectors).min() > 1e-9  # none is a row
    near = squares_to(means, means)
    assert (near <= ((unit[:, None] - unit) ** 2).sum(axis=2).max() + 1e-9).all()


def test_a_class_of_several_kinds_is_known_by_its_local_means():
    rng = np.random.default_rng(9)

    def at(degrees):
        angle = np.deg2rad(degrees + rng.uniform(-8, 8, len(degrees)))
        on_circle = np.column_stack([np.cos(angle), np.sin(angle), np.zeros((len(angle), 2))])
        return on_circle + 0.03 * rng.normal(size=on_circle.shape)

    known, between = 90 * rng.integers(4, size=600), 45 + 90 * rng.integers(4, size=50)
    familiar = Familiar.fit(at(known[:400]))
    found = at(between)
    assert familiar(found).share == 1
    far = np.quantile(familiar.reference[:, 0], 0.9)  # by the distance to their middle
    assert np.median(familiar.distance.squares(found)) < far
    assert familiar(at(known[400:])).share < 0.1


def test_a_limit_on_directions_leaves_their_mean_variance():
    rng = np.random.default_rng(6)
    vectors = rng.normal(size=(500, 30)) * np.linspace(3, 0.5, 30)
    whole = ClassDistance.fit(vectors)
    part = ClassDistance.fit(vectors, most_directions=12)
    assert part.directions.shape == (30, 12)
    assert part.rest == pytest.approx(whole.variances[12:].mean())
    np.testing.assert_allclose(ClassDistance.fit(vectors).squares(vectors), mahalanobis(vectors))


@pytest.mark.parametrize("n", [10, 18, 19, 20, 100, 999])
def test_the_share_from_which_an_item_is_unlike_keeps_its_promise(n):
    least = Unlike(np.empty(0), n).least
    n_beyond = n + 1 - round(least * n)  # places, of n + 1 that are as likely
    assert n_beyond / (n + 1) <= 0.05
    assert (n_beyond + 1) / (n + 1) > 0.05
    assert (least > 1) == (n < 19)


@pytest.mark.parametrize("n", [2, 5, 30])
def test_copies_constant_columns_and_lone_blocks_give_no_nonsense(n):
    copies = np.ones((n, 4))
    assert np.isfinite(Familiar.fit(copies)(np.eye(4)).shares).all()
    assert Familiar.fit(copies, block=np.zeros(n)) is None
    assert Familiar.fit(copies, np.arange(n))(np.zeros((0, 4))).share == 0


def test_what_is_written_is_what_is_read_and_damage_is_refused():
    X, y = load_iris(return_X_y=True)
    familiar = Familiar.fit(X, y)
    again = Familiar.from_bytes(familiar.to_bytes(), 4)
    np.testing.assert_allclose(again(X).shares, familiar(X).shares, atol=0.02)
    for dim, data in ((5, familiar.to_bytes()), (4, b"no"), (4, familiar.to_bytes()[:-8])):
        with pytest.raises((ValueError, SafetensorError)):
            Familiar.from_bytes(data, dim)
    of_longer = replace(familiar, whole_dim=6)
    again = Familiar.from_bytes(of_longer.to_bytes(), 6)
    longer = np.hstack([np.ones((len(X), 2)), X])
    np.testing.assert_allclose(again(longer).shares, familiar(X).shares, atol=0.02)
    with pytest.raises(ValueError, match="not of vectors of 7 numbers"):
        Familiar.from_bytes(of_longer.to_bytes(), 7)


def test_the_sentence_says_what_chance_gives_and_what_to_do():
    shares = np.linspace(0, 0.9, 100)
    assert "0 of 100 items lie farther out than 95% of the training items: no more than chance" in (
        Unlike(shares, 500).sentence()
    )
    shares[:40] = 1
    said = Unlike(shares, 500).sentence()
    assert said.startswith("40 of 100 items are unlike anything seen in training (chance: up to")
    assert "look at those with unlike_training of 0.952 and more" in said
    assert "10 training items are too few" in Unlike(shares, 10).sentence()


WORDS = ("plate", "crack")
COLORS, PLACES = ("red", "blue", "grey"), ("left", "right", "above", "below", "between")


def text_of(word, i):
    return f"a {COLORS[i % 3]} {word} lies {PLACES[i % 5]} of it"


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A data set of texts about plates and cracks, with a number, and a class in two labels."""
    folder = tmp_path_factory.mktemp("taught")
    rows = [
        {"text": text_of(word, i), "kind": word, "width": i / 7,
         "tags": [word, "thin"][: 1 + (i % 3 > 0)]}
        for i in range(30) for word in WORDS
    ]  # fmt: skip
    table = folder / "taught.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    store = open_store(folder / "store", create=True)
    options = SourceOptions(text="text", label=("kind", "width", "tags"))
    store.embed([table], dataset="taught", source_options=options, encoders=["baseline:hashing"])
    return folder, store.dataset("taught").views()[0]


@pytest.fixture(scope="module")
def bundle(taught):
    folder, view = taught
    return str(heads.fit(view, "ridge", label="kind").save(folder / "bundle"))


def table_of(folder, texts):
    path = folder / "new.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return str(path)


ALIKE = [text_of(word, i) for i in range(10) for word in WORDS]
OTHERS = ["Wer reitet so spät durch Nacht und Wind?", "ceci n'est pas une pipe, hélas!"] * 10


def test_predict_writes_the_share_and_says_how_many(bundle, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    assert run(["predict", bundle, table_of(tmp_path, ALIKE + OTHERS), "-o", str(out)]) == 0
    shares = np.array(
        [json.loads(line)["unlike_training"] for line in out.read_text().splitlines()]
    )
    assert (shares[20:] == 1).all()
    assert shares[:20].mean() < 0.9
    said = capsys.readouterr().err
    assert "of 40 items are unlike anything seen in training (chance: up to" in said


@pytest.mark.parametrize(
    ("texts", "limit", "code"),
    [
        (ALIKE, "20%", 0),
        (ALIKE + OTHERS, "0.2", UNLIKE_ITEMS),
        (ALIKE + OTHERS, "90%", 0),
        ([*ALIKE, ""], "20%", FAILED_ITEMS),
        ([*OTHERS, ""], "20%", UNLIKE_ITEMS),
        (ALIKE, "20 percent", 2),
        (ALIKE, "120%", 2),
    ],
)
def test_a_job_that_runs_alone_fails_after_the_answers_are_written(
    bundle, tmp_path, texts, limit, code
):
    out = tmp_path / "out.csv"
    source = table_of(tmp_path, texts)
    assert run(["predict", bundle, source, "-o", str(out), "--fail-if-unlike", limit]) == code
    assert out.exists() == (code != 2)


def test_old_bundles_load_and_say_that_they_cannot_tell(bundle, tmp_path, capsys):
    loaded = heads.load_bundle(bundle)
    old = type(loaded)(loaded.head_id, loaded.estimator, loaded.card, loaded.blocks)
    place = str(old.save(tmp_path / "old"))
    again = heads.load_bundle(place)
    assert again.familiar is None
    assert "unlike_sha256" not in again.card
    assert again.ask(ALIKE).unlike is None
    loaded.save(tmp_path / "new")
    shutil.copy(tmp_path / "new" / "unlike.safetensors", place)
    assert heads.load_bundle(place).familiar is None  # no card names it
    source, out = table_of(tmp_path, ALIKE), tmp_path / "out.csv"
    assert run(["predict", place, source, "-o", str(out)]) == 0
    assert "does not know where its training items lie" in capsys.readouterr().err
    assert run(["predict", place, source, "-o", str(out), "--fail-if-unlike", "20%"]) == 1
    assert "--fail-if-unlike cannot be checked" in capsys.readouterr().err


def test_a_head_that_reads_texts_says_that_it_cannot_tell(taught):
    found = heads.fit(taught[1], "tfidf", label="kind", save=False)
    assert found.unlike_training(ALIKE) is None
    assert "reads texts, not vectors" in found.cannot_tell


def test_from_python_frames_raw_items_and_stored_views_carry_it(taught, bundle):
    loaded = heads.load_bundle(bundle)
    frame = loaded.predict_frame(pa.table({"text": [*ALIKE, None, *OTHERS]}))
    shares = frame.column("unlike_training").to_pylist()
    assert shares[20] is None
    assert shares[21:] == [1.0] * 20
    assert loaded.ask(ALIKE).unlike.shares.tolist() == shares[:20]
    stored = loaded.unlike_training(taught[1].load())
    assert stored.shares.shape == (60,)
    assert stored.share <= 0.1


@pytest.mark.parametrize("label", ["width", "tags"])
def test_numbers_and_several_labels_are_measured_without_classes(taught, label):
    fitted = heads.fit(taught[1], "ridge", label=label, save=False)
    assert len(fitted.familiar.distance.means) == 1
    assert fitted.cannot_tell is None
    assert fitted.ask(OTHERS).unlike.share == 1
    assert "unlike_training" in fitted.ask(OTHERS).to_arrow().column_names


def test_a_damaged_file_is_refused_and_verify_names_it(taught):
    folder, view = taught
    fitted = heads.fit(view, "prototype", label="kind")
    file = fitted.path / "unlike.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\1\0")
    with pytest.raises(BadBundle, match=r"unlike.safetensors is not what its card describes"):
        heads.load_head(view.dataset, fitted.head_id)
    assert run(["verify", "--store", str(folder / "store")]) == 1
