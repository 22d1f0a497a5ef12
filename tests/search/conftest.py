"""A view of two thousand clustered vectors, and nearest rows by NumPy alone."""

import numpy as np
import pytest

from featurestore.sources.listing import SourceOptions

DIM = 16


class Clustered:
    """A text "12" has a vector near the centre of cluster 12 % 50."""

    version = "1"

    def encode_texts(self, texts):
        centres = np.random.default_rng(0).normal(size=(50, DIM))
        numbers = [int(text) if text.isdecimal() else len(text) for text in texts]  # probes
        noise = [np.random.default_rng(n).normal(0, 0.3, DIM) for n in numbers]
        return (centres[np.array(numbers) % 50] + noise).astype(np.float32)


SPEC = f"python:{Clustered.__module__}:Clustered"


def write_table(path, numbers):
    rows = [f"i{n:05d},{n},{'even' if n % 2 == 0 else 'odd'}" for n in numbers]
    path.write_text("\n".join(["id,text,label", *rows]))
    return path


def embed(store, path, **options):
    options = SourceOptions(text="text", id="id", label=("label",))
    store.embed([path], dataset="d", encoders=[Clustered()], source_options=options)
    return store.view("d", SPEC, trust=True)


@pytest.fixture
def view(empty_store, tmp_path, monkeypatch):
    """Two thousand rows, for which an index is to be worth it."""
    monkeypatch.setattr("featurestore.search.factory.EXACT_FLOATS", 0)
    return embed(empty_store, write_table(tmp_path / "t.csv", range(2000)))


def truth(vectors, queries, metric, k, among=None):
    """Rows of the nearest by NumPy alone."""
    vectors, queries = vectors.astype(float), queries.astype(float)
    if metric == "cosine":
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    scores = queries @ vectors.T
    if metric == "l2":
        scores = -np.linalg.norm(queries[:, None] - vectors, axis=2)
    if among is not None:
        scores = np.where(among, scores, -np.inf)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(scores, rows, axis=1)
