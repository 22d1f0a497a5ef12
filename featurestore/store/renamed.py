"""Keywords that have another name now: the old one works for one more release."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed(**new_names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Forward old keywords of a function (``old="new"``), each with a DeprecationWarning."""

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in new_names.keys() & kwargs.keys():
                new = new_names[old]
                if new in kwargs:
                    raise TypeError(
                        f"{function.__qualname__}: {old} is the old name of {new}: give one"
                    )
                warnings.warn(
                    f"{function.__qualname__}: the keyword {old} is {new} now; {old} goes with the "
                    "next release", DeprecationWarning, stacklevel=2,
                )  # fmt: skip
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorated
