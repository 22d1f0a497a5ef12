"""The index that a view keeps: built, opened, and brought up to date with the items."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featurestore.errors import FeatureStoreError, StoreCorrupt
from featurestore.search.approximate import ApproximateIndex
from featurestore.search.exact import ExactIndex
from featurestore.search.factory import GRAPH, is_exact_enough
from featurestore.search.index_files import read_facts
from featurestore.storage.cache import Cached
from featurestore.storage.columns import item_keys
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.store.view_rows import ids_of

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

    def open(self, rows: Cached, metric: str) -> ApproximateIndex | None:
        """Return the index, brought up to date where it must be; None where none is usable."""
        try:
            facts = read_facts(self.path)
            if facts is None or facts.get("metric") != metric:
                return None
            return self._opened(facts, rows)
        except StoreCorrupt as error:  # it says what to do
            _log.warning("%s; searching exactly meanwhile", error)
            return None
        except (FeatureStoreError, OSError, KeyError, TypeError, RuntimeError) as error:
            _log.warning(
                "the index in %s cannot be used (%s): searching exactly; delete it, or build "
                "it anew with `featurestore store index`", self.path, error,
            )  # fmt: skip
            return None

    def build(
        self,
        rows: Cached,
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
        return self._saved(index, rows.erased_since)

    def _opened(self, facts: dict[str, Any], rows: Cached) -> ApproximateIndex:
        ids, keys, index = ids_of(rows.items), item_keys(rows.items), None
        if self._is_of_these(facts):
            index = ApproximateIndex.open(self.path, ids, keys, rows.vectors)
        if index is None:  # too many items have gone, or come
            index = ApproximateIndex.build(
                ids, keys, rows.vectors, recall=facts["wanted_recall"],
                memory_bytes=facts["memory_bytes"], metric=facts["metric"], seed=facts["seed"],
                factory=facts["factory"] if facts["is_own_choice"] else None,
                may_be_slow=facts["factory"] == GRAPH,  # who searches does not wait for a graph
            )  # fmt: skip
        if index.facts != facts:
            try:
                return self._saved(index, rows.erased_since)
            except OSError as error:  # a read-only store: the next process does it again
                _log.info("%s cannot be brought up to date: %s", self.path, error)
        return index

    def _saved(self, index: ApproximateIndex, erased_since: Callable[[], bool]) -> ApproximateIndex:
        """Save an index, unless items were erased since its rows were read."""
        index = replace(index, facts={**index.facts, "replacements": self.n_replacements})
        with self._locked():
            if not erased_since():
                index.save(self.path)
        return index

    def _is_of_these(self, facts: dict[str, Any]) -> bool:
        return bool(facts.get("replacements", 0) == self.n_replacements)

    def _locked(self) -> AbstractContextManager[None]:
        return self.folder.locked(f"index-{self.slug}")
