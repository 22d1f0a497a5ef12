"""Label errors, twins and what to label next: measured on planted faults in real data.

Run: python -m benchmarks.quality [labels] [twins] [active] [large]   (all by default)
labels, twins and active need ../shared and keep a store in featurestore-data-bench
(FEATURESTORE_BENCH); labels compares with cleanlab (pip install cleanlab) where it is installed.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from benchmarks.report import SHARED, Row, at_least, run_sections
from benchmarks.ten import ten
from featurestore.maps.graph import neighbor_graph
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store
from featurestore.terms.embeddings import Embeddings
from heads.catalogue.table import HEADS
from heads.experiments.suggest import automatic, choose
from heads.labels.folds import make_folds
from heads.labels.tasks import Task
from heads.quality.find import find_issues, witnesses
from heads.quality.labels import judge_labels, pooled
from heads.twins.twins import find_twins

LABELLED = {
    "neu_steel": "builtin:tiny-image", "sign_digits": "builtin:tiny-image",
    "banking77": "builtin:tiny-text", "snips": "builtin:tiny-text",
}  # fmt: skip
# Without banking77: its 77 classes make batches that take an hour.
ACTIVE = {
    "neu_steel": "builtin:tiny-image", "sign_digits": "builtin:tiny-image",
    "mednist": "builtin:tiny-image", "snips": "builtin:tiny-text",
}  # fmt: skip
N_SEEDS = 3


def labels() -> list[Row]:
    """Flip labels and look for them."""
    store = ten()
    rows = []
    for name, encoder in LABELLED.items():
        view = store.view(name, encoder)
        embeddings, graph = view.load(), neighbor_graph(view)
        for kind in ("uniform", "class-dependent"):
            for rate in (0.05, 0.10):
                found = [_flipped(embeddings, graph, kind, rate, seed) for seed in range(N_SEEDS)]
                mean = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
                what = f"{name}, {rate:.0%} flipped, {kind}"
                bar = name == "neu_steel" and rate == 0.05
                for key in ("precision", "recall"):
                    text, value = f"{what}: {key} at the flipped number", mean[key]
                    rows.append(
                        at_least(text, value, "share", 0.8) if bar else Row(text, value, "share")
                    )
                text, ours = f"{what}: average precision", mean["ours"]
                rows.append(at_least(text, ours, "AP", 0.8) if bar else Row(text, ours, "AP"))
                for method in ("self_confidence", "normalized_margin"):
                    if method not in mean:
                        continue  # cleanlab is not installed
                    text = f"{what}: ours − cleanlab {method}"
                    rows.append(at_least(text, ours - mean[method], "AP", 0.0))
                    text = f"{text}, given head and neighbours as well"
                    rows.append(Row(text, ours - mean[f"{method} on our pool"], "AP"))
                said = f"share; of the named {mean['named right']:.2f} were flipped"
                rows.append(Row(f"{what}: flipped labels that were named", mean["named"], said))
                print(what, ours, file=sys.stderr, flush=True)
    return rows


def _flipped(
    embeddings: Embeddings, graph: Any, kind: str, rate: float, seed: int
) -> dict[str, float]:
    """Flip labels, judge all, and score the order against what was flipped."""
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(seed)
    names, codes = np.unique(embeddings.labels.astype(str), return_inverse=True)
    flipped = codes.copy()
    chosen = rng.permutation(len(codes))[: int(rate * len(codes))]
    step = rng.integers(1, len(names), len(chosen)) if kind == "uniform" else 1
    flipped[chosen] = (codes[chosen] + step) % len(names)
    column = embeddings.label_column or ""
    changed = Embeddings(
        embeddings.ids, embeddings.vectors, embeddings.encoder,
        {**embeddings.columns, column: names[flipped].astype(object)}, column,
    )  # fmt: skip
    plan = _one_repeat(changed)
    said, votes, _ = witnesses(plan, changed, graph, seed=seed)
    assert said is not None
    given = plan.target.values
    both = pooled(said, votes, given)
    judged = judge_labels(both, given)
    wrong, named = judged.doubt, judged.is_named
    is_wrong = (flipped != codes)[plan.rows]
    n = int(is_wrong.sum())
    first = np.argsort(-wrong, kind="stable")[:n]
    hits = float(is_wrong[first].mean())
    found = {
        "ours": average_precision_score(is_wrong, wrong),
        "precision": hits,
        "recall": hits,  # at the flipped number they are one
        "named": float(is_wrong[named].sum() / n),
        "named right": float(is_wrong[named].mean()) if named.any() else 1.0,
    }
    if find_spec("cleanlab"):
        from cleanlab.rank import get_label_quality_scores

        for method in ("self_confidence", "normalized_margin"):
            for which, proba in (("", said), (" on our pool", both)):
                quality = get_label_quality_scores(given, proba, method=method)
                found[method + which] = average_precision_score(is_wrong, -quality)
    return found


def _one_repeat(embeddings: Embeddings) -> Any:
    from dataclasses import replace

    from heads.labels.options import PlanOptions
    from heads.labels.plan import make_plan

    plan = make_plan(embeddings, PlanOptions(evaluation="folds"))
    assert plan.folds is not None
    return replace(plan, folds=replace(plan.folds, number=plan.folds.number[:1]))


# -- twins ------------------------------------------------------------------------------------


def twins() -> list[Row]:
    """Plant copies, whole and altered, and look for them."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        rows += _planted_pictures(Path(temporary))
        rows += _planted_texts(Path(temporary))
    return rows


def _cropped(one: Image.Image, rng: np.random.Generator) -> Image.Image:
    share = rng.uniform(0.8, 0.95)
    width, height = int(one.width * share), int(one.height * share)
    x, y = rng.integers(0, one.width - width + 1), rng.integers(0, one.height - height + 1)
    return one.crop((int(x), int(y), int(x) + width, int(y) + height))


ALTERED: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "crop": _cropped,
    "jpeg": lambda one, rng: one,  # saved at quality 30 below
    "brightness": lambda one, rng: ImageEnhance.Brightness(one).enhance(
        float(rng.choice([0.7, 0.85, 1.2, 1.4]))
    ),
}


def _planted_pictures(folder: Path) -> list[Row]:
    rng = np.random.default_rng(1)
    source = SHARED / "data" / "neu_steel"
    files = sorted(source.rglob("*.jpg"))
    target = folder / "steel"
    for path in files:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    planted: dict[str, tuple[str, str]] = {}  # copy → original, how
    for path in (files[i] for i in rng.permutation(len(files))[:100]):
        original = str(path.relative_to(source))
        with Image.open(path) as opened:
            picture = opened.convert("L")
        for how, alter in ALTERED.items():
            copy = f"{path.parent.name}/{how}-{path.name}"
            sink = io.BytesIO()
            alter(picture, rng).save(sink, "JPEG", quality=30 if how == "jpeg" else 90)
            (target / copy).write_bytes(sink.getvalue())
            planted[copy] = original, how
        (target / path.parent.name / f"exact-{path.name}").write_bytes(path.read_bytes())
        planted[f"{path.parent.name}/exact-{path.name}"] = original, "exact"
    store = open_store(folder / "store", create=True)
    store.embed([target], dataset="steel", encoders=["builtin:tiny-image"])
    return _twin_rows("neu_steel", store.view("steel", "builtin:tiny-image"), planted)


def _planted_texts(folder: Path) -> list[Row]:
    import csv

    rng = np.random.default_rng(1)
    path = SHARED / "data" / "sms_spam" / "sms.tsv"
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    planted: dict[str, tuple[str, str]] = {}
    rows = [[f"s{n}", label, text] for n, (label, text) in enumerate(lines)]
    first: dict[str, str] = {}
    for key, _, text in rows:
        if text in first:
            planted[key] = first[text], "exact (known)"
        else:
            first[text] = key
    long_enough = [n for n, (_, text) in enumerate(lines) if len(text) >= 20]
    for n in rng.permutation(long_enough)[:300].tolist():
        label, text = lines[n]
        key = f"typo{n}"
        rows.append([key, label, _mistyped(text, max(1, len(text) // 40), rng)])
        planted[key] = f"s{n}", "typos"
    target = folder / "sms.csv"
    with target.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "label", "text"], *rows])
    store = open_store(folder / "store", create=True)
    options = SourceOptions(text="text", label=("label",), id="id")
    store.embed([target], dataset="sms", encoders=["builtin:tiny-text"], source_options=options)
    return _twin_rows("sms_spam", store.view("sms", "builtin:tiny-text"), planted)


def _mistyped(text: str, n: int, rng: np.random.Generator) -> str:
    letters = list(text)
    for _ in range(n):
        at, kind = int(rng.integers(0, len(letters) - 1)), rng.integers(0, 4)
        letter = chr(97 + int(rng.integers(0, 26)))
        if kind == 0:
            letters[at] = letter
        elif kind == 1:
            letters.insert(at, letter)
        elif kind == 2 and len(letters) > 5:
            del letters[at]
        else:
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return "".join(letters)


def _twin_rows(name: str, view: Any, planted: dict[str, tuple[str, str]]) -> list[Row]:
    """Score the clusters of `heads.twins.twins`, which `find_issues` reports."""
    cluster = find_twins(view).cluster
    ids = view.items().column("item_id").to_numpy()
    members = [ids[cluster == c].tolist() for c in range(cluster.max() + 1)]
    twins_of = {one: set(own) - {one} for own in members for one in own}
    rows = []
    for how in dict.fromkeys(how for _, how in planted.values()):
        own = [copy for copy, (_, one) in planted.items() if one == how]
        share = np.mean([planted[copy][0] in twins_of.get(copy, ()) for copy in own])
        rows.append(at_least(f"{name}, {len(own)} planted, {how}: recall", share, "share", 0.95))
    # The original of a copy with typos may itself be a copy that was known.
    family = {copy: planted.get(original, (original, ""))[0]
              for copy, (original, _) in planted.items()}  # fmt: skip
    pairs = {tuple(sorted((one, other))) for one, others in twins_of.items() for other in others}
    own = {pair for pair in pairs if pair[0] not in family and pair[1] not in family}
    with_copy = pairs - own

    def is_right(a: str, b: str) -> bool:
        """Whether two are copies of one, or of two that were called twins before any copy."""
        one, other = sorted((family.get(a, a), family.get(b, b)))
        return one == other or (one, other) in own

    right_copy = sum(is_right(a, b) for a, b in with_copy)
    rows.append(
        at_least(f"{name}: precision of the {len(with_copy):,} pairs with a planted copy",
                 right_copy / max(1, len(with_copy)), "share", 0.95)
    )  # fmt: skip
    rows.append(Row(f"{name}: pairs among the items as they came", len(own), "pairs, "
                    "near-duplicates of the data set's own or mistakes"))  # fmt: skip
    return rows


# -- what to label next -----------------------------------------------------------------------


def active() -> list[Row]:
    """Label by suggestion or at random, and compare the test accuracy, paired over draws.

    The test parts overlap, so the interval is the corrected t's.
    """
    from heads.measures.intervals import corrected_t

    store = ten()
    rows = []
    for name, encoder in ACTIVE.items():
        embeddings = store.view(name, encoder).load()
        names, codes = np.unique(embeddings.labels.astype(str), return_inverse=True)
        start, batch = 2 * len(names), 2 * len(names)
        results: dict[str, list[float]] = {}
        for seed in range(10):
            folds = make_folds(embeddings.ids, codes, np.arange(len(codes)), n_repeats=1, seed=seed)
            pool, test = next(iter(folds.parts()))
            for strategy in ("random", "uncertainty", "coreset", "typiclust", "auto"):
                accuracy = _simulated(
                    embeddings.vectors, codes, pool, test, strategy, start, batch, seed
                )
                results.setdefault(strategy, []).append(accuracy)
        for strategy, values in results.items():
            if strategy == "random":
                rows.append(Row(f"{name}, {start + 3 * batch} labels at random: accuracy",
                                100 * float(np.mean(values)), "%"))  # fmt: skip
                continue
            gains = np.subtract(values, results["random"])
            low, high = corrected_t(gains, 0.25) or (0.0, 0.0)
            mean = 100 * float(gains.mean())
            said = f"points ({100 * low:+.1f} to {100 * high:+.1f}; 10 draws)"
            what = f"{name}, {start + 3 * batch} labels, {strategy} − random"
            rows.append(Row(what, mean, said))
        print(rows[-1].what, rows[-1].value, file=sys.stderr, flush=True)
    return rows


def _simulated(
    vectors: NDArray[np.float32],
    codes: NDArray[np.intp],
    pool: NDArray[np.intp],
    test: NDArray[np.intp],
    strategy: str,
    start: int,
    batch: int,
    seed: int,
) -> float:
    """Label a first batch and three more by one strategy; return ridge's test accuracy."""
    known = np.full(len(pool), -1)
    for n in (start, batch, batch, batch):
        first = (known < 0).all()
        how = strategy
        if how == "auto":
            how = automatic(known)
        elif first and how in ("uncertainty", "coreset"):
            how = "random"  # they need something to start from
        chosen, _ = choose(vectors[pool], known, known < 0, n, how, seed=seed)
        known[chosen] = codes[pool[chosen]]
    rows = pool[known >= 0]
    builder = HEADS["ridge"].builder(Task.MULTICLASS)
    assert builder is not None
    head = builder(seed).fit(vectors[rows], codes[rows])
    return float((head.predict(vectors[test]) == codes[test]).mean())


# -- size -------------------------------------------------------------------------------------


def large() -> list[Row]:
    """Time the kNN graph of 100,000 x 512 and every report from it."""
    from featurestore.exchange.imports import import_vectors
    from featurestore.terms.vectors import unit_rows

    rng = np.random.default_rng(0)
    n, dim = 100_000, 512
    centres = rng.normal(size=(20, dim)).astype(np.float32)
    codes = rng.integers(0, 20, n)
    vectors = unit_rows(centres[codes] + rng.normal(size=(n, dim)).astype(np.float32) * 1.5)
    with tempfile.TemporaryDirectory() as temporary:
        view = _imported(Path(temporary), vectors, codes, import_vectors)
        begin = time.perf_counter()
        neighbor_graph(view)
        graph_s = time.perf_counter() - begin
        begin = time.perf_counter()
        found = find_issues(view)
        report_s = time.perf_counter() - begin
    print(found.summary(), file=sys.stderr)
    return [
        Row("100,000 x 512: the kNN graph, exact", graph_s, "s"),
        Row("100,000 x 512: every report from it", report_s, "s"),
        Row("100,000 x 512: reports ÷ graph", report_s / graph_s, "×"),
    ]


def _imported(folder: Path, vectors: Any, codes: Any, import_vectors: Any) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from featurestore.exchange.imports import read_vectors

    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    ids = [f"i{n:06d}" for n in range(len(vectors))]
    texts = [f"item {n}" for n in range(len(vectors))]
    table = pa.table({"id": ids, "text": texts, "label": codes.astype(str), "vector": flat})
    path = folder / "vectors.parquet"
    pq.write_table(table, path)
    store = open_store(folder / "store", create=True)
    incoming = read_vectors(path, item_id="id")
    import_vectors(
        store, incoming, dataset="large", name="made", origin=path, text="text", labels=("label",)
    )
    return store.view("large", "import:made")


SECTIONS = {"labels": labels, "twins": twins, "active": active, "large": large}

if __name__ == "__main__":
    sys.exit(run_sections("quality", SECTIONS, sys.argv[1:]))
