"""The index that a view keeps: built, opened, and brought up to date with the items."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from featurestore.errors import FeatureStoreError, StoreCorrupt
from featurestore.search.approximate import ApproximateIndex
from featurestore.search.exact import ExactIndex, check_metric
from featurestore.search.factory import GRAPH, is_exact_enough
from featurestore.search.index_files import read_facts
from featurestore.storage.cache import Cached
from featurestore.storage.columns import item_keys
from featurestore.storage.dataset_folder import DatasetFolder, utc_now
from featurestore.store.view_rows import ids_of

SOON_ROWS = 300_000  # of so many an index is brought up to date within two seconds
Index = ExactIndex | ApproximateIndex

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ViewIndex:
    """The index files of a view; make it before the rows are read."""

    folder: DatasetFolder
    slug: str  # of the view
    n_replacements: int  # of the view's vectors; other counts mean other vectors of equal keys

    @classmethod
    def of(cls, folder: DatasetFolder, slug: str) -> ViewIndex:
        """Return a view's index as the vectors are now."""
        return cls(folder, slug, folder.n_replacements(slug))

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.folder.local / "indexes" / self.slug

    @property
    def facts(self) -> dict[str, Any] | None:
        """What index.json says; None where there is none, or its vectors were replaced since."""
        facts = read_facts(self.path)
        return facts if facts is not None and self._is_of_these(facts) else None

    def index_of(
        self, rows: Cached, state: str, metric: str, *, exact: bool, waits: bool = True
    ) -> Index:
        """Return what `open` does; an exact index where there is none, or one is asked for."""
        metric = check_metric(metric)
        found = None if exact else self.open(rows, metric, state, waits=waits)
        return found or ExactIndex.build(ids_of(rows.items), rows.vectors, metric)

    def open(
        self, rows: Cached, metric: str, state: str, *, waits: bool = True
    ) -> ApproximateIndex | None:
        """Return the index, brought up to date where it must be; None where none is usable.

        Who does not wait has none either where that would take over two seconds.
        """
        try:
            facts = read_facts(self.path)
            if facts is None or facts.get("metric") != metric:
                return None
            is_of_this = facts.get("state") == state and self._is_of_these(facts)
            if not (waits or is_of_this) and len(rows.items) > SOON_ROWS:
                _log.warning("%s", self._stale(facts, len(rows.items)))
                return None
            return self._opened(facts, rows, state)
        except StoreCorrupt as error:  # it says what to do
            _log.warning("%s; searching exactly meanwhile", error)
            return None
        except (FeatureStoreError, OSError, KeyError, TypeError, RuntimeError) as error:
            _log.warning(
                "the index in %s cannot be used (%s): searching exactly; delete it, or build "
                "it anew with `featurestore store index`", self.path, error,
            )  # fmt: skip
            return None

    def _stale(self, facts: Mapping[str, Any], n: int) -> str:
        made = f" of {facts['made']}" if "made" in facts else ""
        name = self.folder.name
        return (
            f"the index{made} is of an earlier state ({int(facts['n']):,} vectors, now {n:,}): "
            f"this search is exact; `featurestore store index {name}`, or the next run that embeds "
            "something, brings it up to date"
        )

    def build(
        self,
        rows: Cached,
        state: str,
        *,
        recall: float,
        memory_bytes: int | None,
        metric: str,
        factory: str | None,
        seed: int,
    ) -> Index:
        """Choose and tune an index, and save it; of few vectors it is exact, and none is kept."""
        ids = ids_of(rows.items)
        if factory is None and is_exact_enough(rows.vectors.size, recall, memory_bytes):
            with self._locked():
                shutil.rmtree(self.path, ignore_errors=True)
            return ExactIndex.build(ids, rows.vectors, metric)
        index = ApproximateIndex.build(
            ids, item_keys(rows.items), rows.vectors, recall=recall, memory_bytes=memory_bytes,
            metric=metric, factory=factory, seed=seed,
        )  # fmt: skip
        return self._saved(index, rows.erased_since, state)

    def _opened(self, facts: dict[str, Any], rows: Cached, state: str) -> ApproximateIndex:
        ids, index = ids_of(rows.items), None
        if self._is_of_these(facts):
            keys = partial(item_keys, rows.items)
            index = ApproximateIndex.open(self.path, ids, keys, rows.vectors, state)
        if index is None:  # too many items have gone, or come
            index = ApproximateIndex.build(
                ids, item_keys(rows.items), rows.vectors, recall=facts["wanted_recall"],
                memory_bytes=facts["memory_bytes"], metric=facts["metric"], seed=facts["seed"],
                factory=facts["factory"] if facts["is_own_choice"] else None,
                may_be_slow=facts["factory"] == GRAPH,  # who searches does not wait for a graph
            )  # fmt: skip
        if index.facts != facts or facts.get("state") != state:
            try:
                return self._saved(index, rows.erased_since, state)
            except OSError as error:  # a read-only store: the next process does it again
                _log.info("%s cannot be brought up to date: %s", self.path, error)
        return index

    def _saved(
        self, index: ApproximateIndex, erased_since: Callable[[], bool], state: str
    ) -> ApproximateIndex:
        """Save an index, unless items were erased since its rows were read."""
        known = {"replacements": self.n_replacements, "state": state, "made": utc_now()}
        index = replace(index, facts={**index.facts, **known})
        with self._locked():
            if not erased_since():
                index.save(self.path)
        return index

    def _is_of_these(self, facts: dict[str, Any]) -> bool:
        return bool(facts.get("replacements", 0) == self.n_replacements)

    def _locked(self) -> AbstractContextManager[None]:
        return self.folder.locked(f"index-{self.slug}")
