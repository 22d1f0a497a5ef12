"""Work in a thread of the server, while the page goes on: heads that learn as people label."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import streamlit as st

R = TypeVar("R")


@st.cache_resource(show_spinner=False)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="featurestore-labels")


class Kept(Generic[R]):
    """The latest result of some work in this session, and the work that is under way."""

    def __init__(self) -> None:
        self.result: R | None = None
        self.of: Hashable = None  # what the result is about
        self._future: Future[R] | None = None
        self._asked: Hashable = None

    @property
    def is_busy(self) -> bool:
        """Whether work is under way."""
        return self._future is not None

    def ask(self, about: Hashable, work: Callable[[], R]) -> None:
        """Begin work, unless it was done or is under way."""
        self.take()
        if about != self.of and self._future is None:
            self._asked, self._future = about, _pool().submit(work)

    def take(self, *, wait: bool = False) -> None:
        """Take the result of work that has ended; an error of it is raised here."""
        if self._future is not None and (wait or self._future.done()):
            future, self._future = self._future, None
            self.of = self._asked
            self.result = future.result()
