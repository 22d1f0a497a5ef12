"""Vectors for PyTorch."""

import numpy as np
import pyarrow as pa
import pytest
import torch

import heads
from featurestore.curation.labels import attach
from featurestore.errors import MissingColumn
from featurestore.torch_data import EmbeddingDataset, as_tensor


def test_the_tensor_shares_the_memory_of_the_vectors(texts_view):
    loaded = texts_view.load()
    found = as_tensor(loaded)
    assert found.dtype == torch.float32
    assert found.data_ptr() == loaded.vectors.ctypes.data


def test_a_loader_gives_every_labelled_item_its_vector_and_class(texts_view):
    table = pa.table({"item_id": ["t00"], "topic": pa.array([None], pa.string())})
    attach(texts_view.dataset.folder, table)
    loaded = texts_view.load()
    data = EmbeddingDataset(loaded)
    assert data.classes == ["food", "music", "travel"]
    assert "t00" not in data.ids
    seen = []
    for vectors, codes in torch.utils.data.DataLoader(data, batch_size=16):
        assert vectors.shape[1] == loaded.dim
        seen += zip(vectors.numpy(), codes.tolist(), strict=True)
    assert len(seen) == len(data) == 59
    place = {item: row for row, item in enumerate(loaded.ids)}
    for item, (vector, code) in zip(data.ids, seen, strict=True):
        np.testing.assert_array_equal(vector, loaded.vectors[place[item]])
        assert data.classes[code] == loaded.labels[place[item]]
    vector, code = data[3]
    np.testing.assert_array_equal(vector.numpy(), seen[3][0])
    assert code == seen[3][1]


def test_classes_of_another_split_keep_their_order(texts_view):
    classes = ["travel", "food", "music", "sport"]
    data = EmbeddingDataset(texts_view.load(), classes=classes)
    assert data.classes[data[0][1]] == texts_view.load().labels[0]
    with pytest.raises(MissingColumn, match=r"labels \['food'\] are not among"):
        EmbeddingDataset(texts_view.load(), classes=["travel", "music"])


def test_classes_are_named_as_heads_name_them(texts_view):
    ids = texts_view.load().ids.tolist()
    numbers = pa.array([float(n % 3) for n in range(len(ids))])
    attach(texts_view.dataset.folder, pa.table({"item_id": ids, "num": numbers}), are_labels=True)
    head = heads.fit(texts_view, "prototype", label="num")
    data = EmbeddingDataset(texts_view.load(), label="num", classes=head.card["classes"])
    assert data.classes == ["0", "1", "2"]
