"""Fake data sets that know their views."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest


@dataclass(frozen=True)
class Family:
    """A fake data set that knows its views."""

    inner: object
    known: tuple

    def views(self):
        return list(self.known)

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.fixture
def family(make_view):
    """Make views of one data set from a mapping of spec to vectors."""

    def make(vectors, labels, **columns):
        views = [make_view(v, labels, spec=spec, **columns) for spec, v in vectors.items()]
        dataset = Family(views[0].dataset, tuple(views))
        return {str(v.spec): replace(v, dataset=dataset) for v in views}

    return make
