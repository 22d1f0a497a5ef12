"""Keys of rows as numbers, and the cache that is joined by them, beside what Python says."""

from __future__ import annotations

from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.pipeline import row_keys
from featurestore.storage import key_hashes
from featurestore.storage.cache import Cached
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.key_hashes import hashes_of, places
from featurestore.storage.shards import view_rows as rows_of_view
from featurestore.store import cache_in_parts
from featurestore.store import view_rows as view_rows_module
from featurestore.store.view_rows import ViewRows
from featurestore.terms.snapshots import Snapshot

MOST = 600  # pairs of an example
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def grids(draw: st.DrawFn) -> list[str]:
    """Texts of one length that differ at some places: paths, numbers, places of a grid."""
    length = draw(st.sampled_from([1, 7, 8, 9, 16, 31, 32, 33, 40, 63, 64, 65, 72, 128, 300]))
    where = draw(st.sets(st.integers(0, length - 1), min_size=1, max_size=4))
    signs = draw(st.sampled_from(["01", "0123456789", "abcdef", "\0\1", "/x", "\x7f\x00@"]))
    letters = list(draw(st.sampled_from(["0", "a", "\0", "/"])) * length)
    found = []
    for some in list(product(signs, repeat=len(where)))[:MOST]:
        for at, letter in zip(sorted(where), some, strict=True):
            letters[at] = letter
        found.append("".join(letters))
    return found


@st.composite
def numbered(draw: st.DrawFn) -> list[str]:
    """A stem, a number and an ending."""
    stem = draw(st.text("abc/_", max_size=6)) * draw(st.integers(1, 20))
    start, step = draw(st.integers(0, 10**12)), draw(st.sampled_from([1, 2, 8, 256, 10**6, 2**32]))
    width = draw(st.integers(0, 24))
    ending = draw(st.sampled_from(["", ".png", "\0", "é"]))
    return [
        f"{stem}{start + step * i:0{width}d}{ending}" for i in range(draw(st.integers(2, MOST)))
    ]


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Pairs of ids and contents, of which some are equal, null or each other's the other way."""
    ids = draw(st.one_of(grids(), numbered(), st.lists(st.text(max_size=40), min_size=1)))
    others = draw(st.one_of(grids(), numbered()))
    kind = draw(st.sampled_from(["one", "own", "other", "swapped", "joined"]))
    pairs: list[tuple[str | None, str | None]]
    if kind == "one":
        pairs = [(one, "f" * 64) for one in ids]
    elif kind == "own":
        pairs = [(one, one) for one in ids]
    elif kind == "swapped":
        pairs = [*zip(ids, others, strict=False), *zip(others, ids, strict=False)]
    elif kind == "joined":  # where one ends and the other begins counts
        pairs = [(one[:at], one[at:]) for one in ids[:50] for at in range(min(9, len(one) + 1))]
    else:
        pairs = [*zip(ids, others, strict=False), (ids[0], None), (None, ids[0]), (None, "")]
    pairs += pairs[: draw(st.integers(0, 3))]
    names, contents = zip(*pairs, strict=True)
    kinds = [pa.string(), draw(st.sampled_from([pa.string(), pa.large_string()]))]
    return pa.table({
        name: pa.array(one, of)
        for name, one, of in zip(key_hashes.KEY, (names, contents), kinds, strict=True)
    })  # fmt: skip


@QUICK
@given(tables(), st.integers(1, 400), st.integers(0, 2**32))
def test_keys_are_equal_where_pairs_are_and_found_where_a_dict_finds_them(
    table: pa.Table, at_once: int, seed: int
) -> None:
    pairs = [*zip(*(one.to_pylist() for one in table.columns), strict=True)]
    cut = len(pairs) // 2
    found = hashes_of(pa.concat_tables([table.slice(0, cut), table.slice(cut)]))
    for lane in found:
        assert len(np.unique(lane)) == len({*pairs})
    first: dict[object, int] = {}
    for at, pair in enumerate(pairs):
        first.setdefault(pair, at)
    known = np.random.default_rng(seed).permutation([*first.values()])[: -(-len(first) // 2)]
    place = {pairs[at]: n for n, at in enumerate(known.tolist())}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_hashes, "_JOINED_AT_ONCE", at_once)
        patch.setattr(key_hashes, "_AT_ONCE", 1 + seed % 3000)
        again = hashes_of(table)
        assert (again == found).all()
        assert places(again[:, known], again).tolist() == [place.get(one, -1) for one in pairs]


@QUICK
@given(tables())
def test_numbers_of_a_run_are_equal_where_ids_and_pairs_are(table: pa.Table) -> None:
    table = table.cast(pa.schema([(name, pa.string()) for name in key_hashes.KEY]))
    ids = table["item_id"].to_pylist()
    assert len(np.unique(row_keys.id_keys(table))) == len({*ids})
    pairs = {*zip(ids, table["content_hash"].to_pylist(), strict=True)}
    assert len(np.unique(row_keys.pair_keys(table, row_keys.id_keys(table)))) == len(pairs)


def test_ids_of_ten_kilobytes_and_of_the_length_of_a_hash_count_to_their_end() -> None:
    for length in (64, 10_000):
        ids = [f"{'folder/' * length}"[: length - 6] + f"{i:06d}" for i in range(300)]
        table = pa.table({"item_id": ids, "content_hash": ["c" * 64] * 300})
        assert {len(one) for one in ids} == {length}
        assert len(np.unique(hashes_of(table)[0])) == 300


def _pairs_of(commit: list[tuple[int, int]], ids: list[str]) -> tuple[list[str], list[str]]:
    names = [ids[at % len(ids)] for at, _ in commit]
    return names, [f"{'0' * 60}{content:04d}" for _, content in commit]


COMMITS = st.lists(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1)), min_size=1, max_size=30),
    min_size=1, max_size=4,
)  # fmt: skip


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(COMMITS, COMMITS, st.one_of(grids(), numbered()), st.integers(1, 9))
def test_a_cache_in_parts_is_that_of_a_plain_read(
    tmp_path_factory: pytest.TempPathFactory, of_items: list[list[tuple[int, int]]],
    of_view: list[list[tuple[int, int]]], ids: list[str], at_once: int,
) -> None:  # fmt: skip
    """Items that come and change, vectors of theirs, of others and of what they were before."""
    folder = DatasetFolder(tmp_path_factory.mktemp("d") / "d")
    folder.create_tables()
    folder.create_view("v-00000000", 3)
    state: dict[str, str] = {}
    for number, commit in enumerate(of_items):
        names, contents = _pairs_of(commit, ids)
        new = dict(zip(names, contents, strict=True))
        state |= new
        rows = {
            "item_id": [*new],
            "content_hash": [*new.values()],
            "split": [f"s{number}"] * len(new),
        }
        if number:
            rows["late"] = [*range(len(new))]
        folder.items.merge(
            pa.table(rows), keys=["item_id"], widen=True,
            drop=lambda part, new=new: np.isin(part["item_id"].to_pylist(), [*new]),
        )  # fmt: skip
    made: dict[tuple[str, str], list[float]] = {}
    n = 0.0
    for commit in of_view:
        names, contents = _pairs_of(commit, ids)
        vectors = np.arange(n, n + 3 * len(commit), dtype=np.float32).reshape(-1, 3)
        n += vectors.size
        for pair, first in zip(
            zip(names, contents, strict=True), vectors[:, 0].tolist(), strict=True
        ):
            made.setdefault(pair, []).append(first)
        folder.view("v-00000000").append(rows_of_view(pa.array(names), pa.array(contents), vectors))
    wanted = {one: made[one, content] for one, content in state.items() if (one, content) in made}
    snapshot = Snapshot(folder.items.version(), folder.view("v-00000000").version())

    def read() -> Cached:
        return ViewRows(folder, "v-00000000", 3, snapshot).read()

    small = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view_rows_module, "IN_MEMORY_BYTES", -1)
        patch.setattr(cache_in_parts, "_ROWS", at_once)
        patch.setattr(key_hashes, "_JOINED_AT_ONCE", 2 * at_once)
        large = read()
        rows = ViewRows(folder, "v-00000000", 3, snapshot)
        batches = [*rows.batches(at_once, ["item_id", "split"])]
    assert large.items["item_id"].to_pylist() == sorted(wanted, key=str.encode)
    assert large.items.to_pylist() == small.items.to_pylist()
    found = dict(zip(large.items["item_id"].to_pylist(), large.vectors[:, 0].tolist(), strict=True))
    assert all(found[one] in of_equal for one, of_equal in wanted.items())  # one of them counts
    np.testing.assert_array_equal(large.vectors, small.vectors)
    parts = [*zip(*((t["item_id"].to_pylist(), v[:, 0].tolist()) for t, v in batches), strict=True)]
    names, firsts = ([one for part in some for one in part] for some in parts or ([], []))
    assert len(names) == len(wanted)
    assert dict(zip(names, firsts, strict=True)) == found
    assert ViewRows(folder, "v-00000000", 3, snapshot).count() == len(wanted)
