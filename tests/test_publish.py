"""`store publish`: a vector database holds what the view holds, whatever happened in between."""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
import warnings

import numpy as np
import pyarrow as pa
import pytest

from featurestore.curation.labels import attach
from featurestore.errors import BadTarget, MissingColumn, MissingExtra
from featurestore.publish import targets
from featurestore.publish.publish import publish
from featurestore.publish.rows import DIGEST
from featurestore.publish.targets import without_password
from featurestore.sources.listing import SourceOptions
from featurestore.storage.key_hashes import SortedKeys
from featurestore.storage.published import published
from featurestore.upkeep.erase import delete, erase

OTHER = "baseline:hashing"  # another encoder
KINDS = ("lancedb", "pgvector", "qdrant")
_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def postgres():
    """The address of a real server, on a socket of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pgserver

        folder = tempfile.mkdtemp(prefix="pg")  # the path of a socket is short
        server = pgserver.get_server(folder, cleanup_mode="delete")
        yield server.get_uri()
        server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=KINDS)
def target(request, tmp_path):
    """The address of an empty database."""
    if request.param != "pgvector":
        return f"{request.param}:{tmp_path / request.param}"
    import psycopg

    address, name = request.getfixturevalue("postgres"), f"test{next(_NUMBERS)}"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"pgvector:{address.replace('/postgres?', f'/{name}?')}"


def rows_in(target, table="texts"):
    """Return id → columns of a table, as the database's own client reads it."""
    kind, _, place = target.partition(":")
    if kind == "lancedb":
        import lancedb

        found = lancedb.connect(place).open_table(table).to_arrow().to_pylist()
    elif kind == "qdrant":
        from qdrant_client import QdrantClient

        client = QdrantClient(path=place)
        points = client.scroll(table, limit=10_000, with_vectors=True)[0]
        found = [{**point.payload, "vector": point.vector} for point in points]
        client.close()
    else:
        import psycopg
        from pgvector.psycopg import register_vector
        from psycopg.rows import dict_row

        with psycopg.connect(place, row_factory=dict_row) as connection:
            register_vector(connection)
            found = connection.execute(f'SELECT * FROM "{table}"').fetchall()
        for row in found:
            row["vector"] = (
                row["vector"].to_numpy() if hasattr(row["vector"], "to_numpy") else row["vector"]
            )
    assert len({row["item_id"] for row in found}) == len(found)
    return {row.pop("item_id"): row for row in found}


def check_equal(target, view, columns=("words", "topic", "content_hash")):
    """The table has the view's ids, columns and vectors, and nothing else."""
    there, own = rows_in(target), view.to_arrow()
    ids = own.column("item_id").to_pylist()
    assert sorted(there) == sorted(ids)
    for name in columns:
        name = name if name in own.column_names else "text"
        assert [there[one][name] for one in ids] == own.column(name).to_pylist()
    vectors = np.array([there[one]["vector"] for one in ids], np.float32)
    expected = np.array(own.column("vector").to_pylist(), np.float32)
    if target.startswith("qdrant"):  # which keeps directions
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
    else:
        np.testing.assert_array_equal(vectors, expected)


def add_texts(view, tmp_path, lines, encoder="builtin:tiny-text"):
    """Embed more texts; return the view."""
    path = tmp_path / ("more.csv" if lines else "texts.csv")
    if lines:
        path.write_text("\n".join(["id,words,topic", *lines]) + "\n")
    options = SourceOptions(text="words", label=("topic",), id="id")
    store = view.dataset.store
    store.embed([path], dataset="texts", encoders=[encoder], source_options=options)
    return store.view("texts", "builtin:tiny-text")


def test_a_table_follows_the_view(target, texts_view, tmp_path):
    """New items, other labels, deleted ones: the table is the view, and only these are written."""
    first = publish(texts_view, target)
    assert (first.n_rows, first.n_new, first.n_changed, first.n_gone) == (60, 60, 0, 0)
    check_equal(target, texts_view)
    again = publish(texts_view, target)
    assert (again.n_rows, again.n_new, again.n_changed, again.n_gone) == (60, 0, 0, 0)

    view = add_texts(texts_view, tmp_path, ["it's new,a new one,food", 'q"é,another one,music'])
    labels = pa.table({"item_id": ["t00", "t01"], "topic": ["sport", None]})
    view.dataset.attach(labels)
    delete(view.dataset.folder, pa.array(["t07", "t08", "t09"]))
    next_ = publish(view, target)
    assert (next_.n_rows, next_.n_new, next_.n_changed, next_.n_gone) == (59, 2, 2, 3)
    check_equal(target, view)
    delete(view.dataset.folder, pa.array(["it's new", 'q"é']))
    assert publish(view, target).n_gone == 2
    check_equal(target, view)


def test_what_is_printed_searches_the_table(target, texts_view):
    """The line of Python that is printed finds what the store finds."""
    done = publish(texts_view, target)
    kind, _, place = target.partition(":")
    query = texts_view.load().vectors[5]
    names = {"query": query}
    if kind == "lancedb":
        import lancedb

        found = eval(done.type_next, {"lancedb": lancedb, **names})["item_id"].tolist()
    elif kind == "qdrant":
        from qdrant_client import QdrantClient

        points = eval(done.type_next, {"QdrantClient": QdrantClient, **names})
        found = [point.payload["item_id"] for point in points]
    else:
        import psycopg
        from pgvector.psycopg import register_vector

        with psycopg.connect(place) as connection:
            register_vector(connection)
            rows = eval(done.type_next, {"connection": connection, **names})
        found = [row[0] for row in rows]
    ours = texts_view.search(query[None], k=10)
    assert found[0] == texts_view.load().ids[5]
    assert len({*found} & {*ours.ids[0]}) >= 9  # of equal scores either may come last


def test_a_run_that_was_cut_off_is_finished(target, texts_view, monkeypatch):
    """Rows that were written stay, rows that somebody took away come back, none is doubled."""
    monkeypatch.setattr("featurestore.publish.rows._ROWS_AT_ONCE", 16)
    monkeypatch.setattr("featurestore.publish.lance._ROWS_A_COMMIT", 16)
    whole = targets.open_target

    def cut_off(address, table):
        opened = whole(address, table)
        entered = opened.__enter__

        def enter():
            found = entered()
            upsert = found.upsert

            def some(rows):
                upsert(itertools.islice(rows, 2))
                raise KeyboardInterrupt

            found.upsert = some
            return found

        opened.__class__ = type("Cut", (opened.__class__,), {"__enter__": lambda self: enter()})
        return opened

    monkeypatch.setattr("featurestore.publish.publish.open_target", cut_off)
    with pytest.raises(KeyboardInterrupt):
        publish(texts_view, target)
    assert len(rows_in(target)) == 32
    monkeypatch.setattr("featurestore.publish.publish.open_target", whole)
    done = publish(texts_view, target)
    assert (done.n_rows, done.n_new, done.n_changed) == (60, 28, 0)
    check_equal(target, texts_view)


def test_other_columns_take_the_place_of_the_first(target, texts_view):
    publish(texts_view, target, columns=["topic"])
    before = rows_in(target)["t00"]
    assert {"topic", "content_hash", "vector", DIGEST} == before.keys()
    done = publish(texts_view, target, columns=["split", "text"])
    assert done.n_changed == 60
    after = rows_in(target)["t00"]
    assert {"split", "text", "content_hash", "vector", DIGEST} == after.keys()
    assert after["text"] == "the bread and the apple"


def test_vectors_of_two_encoders_never_meet(target, texts_view, tmp_path):
    """Nor two data sets, nor a table that somebody else made."""
    store = texts_view.dataset.store
    publish(texts_view, target)
    other = add_texts(texts_view, tmp_path, [], encoder=OTHER).dataset.view(OTHER)
    with pytest.raises(BadTarget, match=r"texts@builtin:tiny-text.*--table"):
        publish(other, target)
    assert publish(other, target, table="words").n_new == 60
    check_equal(target, texts_view)
    assert [one.table for one in published(texts_view.dataset.folder)] == ["texts", "words"]
    store.rename("texts", "renamed")
    with pytest.raises(BadTarget, match="holds texts@builtin:tiny-text, and you publish renamed@"):
        publish(store.view("renamed", "builtin:tiny-text"), target, table="texts")


def test_a_table_of_others_is_left_alone(texts_view, tmp_path):
    import lancedb

    lancedb.connect(tmp_path / "l").create_table("texts", pa.table({"a": [1]}))
    with pytest.raises(BadTarget, match="not by featurestore: name another table with --table"):
        publish(texts_view, f"lancedb:{tmp_path / 'l'}")


def test_what_is_erased_leaves_the_files_of_the_table(texts_view, tmp_path, monkeypatch):
    from featurestore.publish.lance import LanceTarget

    target = f"lancedb:{tmp_path / 'l'}"
    publish(texts_view, target)

    def holds():
        files = (path for path in (tmp_path / "l").rglob("*") if path.is_file())
        return [path for path in files if b"t33" in path.read_bytes()]

    assert holds()
    erase(texts_view.dataset.folder, pa.array(["t33"]))
    with monkeypatch.context() as patch:  # cut off before the purge, the next run does it
        patch.setattr(LanceTarget, "purge", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            publish(texts_view, target)
    assert holds()
    said = []
    assert publish(texts_view, target, say=said.append).n_gone == 0
    assert not holds()
    assert "written anew, without old versions" in said[0]


def test_values_of_all_kinds(target, empty_store, tmp_path):
    """Numbers, truth values, times, lists and texts with odd letters arrive as they are."""
    import json

    rows = [
        {"id": "a", "text": "one", "n": 1, "x": 0.5, "yes": True, "tags": ["p", "q"]},
        {"id": "b", "text": "tw\u0000o", "n": None, "x": None, "yes": False, "tags": []},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = SourceOptions(text="text", label=("tags",), id="id")
    empty_store.embed(
        [path], dataset="texts", encoders=["builtin:tiny-text"], source_options=options
    )
    view = empty_store.view("texts")
    publish(view, target)
    own = {row["item_id"]: row for row in view.to_arrow().to_pylist()}
    there = rows_in(target)
    for name in ("n", "x", "yes", "tags"):
        assert {one: there[one][name] for one in "ab"} == {one: own[one][name] for one in "ab"}
    nul = "\ufffd" if target.startswith("pgvector") else "\u0000"
    assert there["b"]["text"] == f"tw{nul}o"
    assert publish(view, target).n_changed == 0


def test_a_column_of_another_type_is_written_anew(target, texts_view):
    folder, ids = texts_view.dataset.folder, texts_view.load().ids.tolist()
    attach(folder, pa.table({"item_id": ids, "age": list(range(len(ids)))}))
    publish(texts_view, target)
    attach(folder, pa.table({"item_id": ids[:1], "age": [0.5]}))  # all of it is float64 now
    assert publish(texts_view, target).n_changed == len(ids)


def test_sorted_keys_find_what_a_dictionary_finds():
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, 9, (2, 60)).astype(np.uint64), axis=1)  # first numbers repeat
    keys = keys[:, rng.permutation(keys.shape[1])]
    asked = rng.integers(0, 9, (2, 500)).astype(np.uint64)
    known = {tuple(key): n for n, key in enumerate(keys.T.tolist())}
    expected = [known.get(tuple(key), -1) for key in asked.T.tolist()]
    assert SortedKeys(keys).places(asked).tolist() == expected


def test_the_command_says_what_it_did_and_how_to_search(fs, texts_view, tmp_path):
    store, target = str(texts_view.dataset.store.path), f"lancedb:{tmp_path / 'l'}"
    code, out, err = fs("store", "publish", "texts", target, "--store", store)
    assert code == 0
    assert out == ""
    assert f"table 'texts' of {target}: 60 new rows; it has 60 rows, as the store does" in err
    assert "Search it in Python: lancedb.connect(" in err
    _, _, err = fs("publish", "texts", target, "--store", store)
    assert "nothing to do; it has 60 rows" in err
    _, _, err = fs("store", "delete", "texts", "t05", "--erase", "-y", "--store", store)
    assert f"rows were published to {target}; `featurestore store publish texts {target}" in err
    code, _, err = fs("store", "publish", "texts", "pinecone:x", "--store", store)
    assert code == 1
    assert "expected lancedb:FOLDER, pgvector:" in err
    code, _, err = fs("store", "publish", "texts", target, "--columns", "colour", "--store", store)
    assert "no column 'colour'" in err


def test_what_cannot_be_published(texts_view, tmp_path, monkeypatch):
    target = f"lancedb:{tmp_path / 'l'}"
    with pytest.raises(MissingColumn, match=r"no column 'topik'.*topic"):
        publish(texts_view, target, columns=["topik"])
    with pytest.raises(BadTarget, match=r"cannot reach pgvector:postgresql://ann@127.0.0.1:1/x: "):
        publish(texts_view, "pgvector:postgresql://ann:secret@127.0.0.1:1/x")
    with pytest.raises(BadTarget, match=r"cannot open qdrant:http://127.0.0.1:1"):
        publish(texts_view, "qdrant:http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "lancedb", None)
    monkeypatch.delitem(sys.modules, "featurestore.publish.lance", raising=False)
    with pytest.raises(MissingExtra, match=r"pip install 'featurestore\[lancedb\]'"):
        publish(texts_view, target)


def test_no_password_is_shown_or_kept():
    assert without_password("pgvector:postgresql://ann:s@h:5/d?password=x") == (
        "pgvector:postgresql://ann@h:5/d"
    )
    socket = "pgvector:postgresql:///d"
    assert without_password(f"{socket}?user=ann&password=x") == socket
    words = "pgvector:host=db password='a b' user=ann sslpassword=y"
    assert without_password(words) == "pgvector:host=db user=ann"
    assert without_password("lancedb:/data/l") == "lancedb:/data/l"
    assert without_password("qdrant:https://k@h:6333") == "qdrant:https://k@h:6333"
    assert without_password("lancedb:s3://bucket/l") == "lancedb:s3://bucket/l"
