"""Light heads on frozen embeddings: trained in seconds, compared honestly.

``import heads`` is cheap: scikit-learn comes in with the first name that needs it.

>>> import heads
>>> "fit" in dir(heads)
True
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heads.again import run_again
    from heads.bundle import FittedHead, list_heads, load_bundle, load_head, read_predictions
    from heads.compare import compare, runs
    from heads.comparison import Comparison, Difference
    from heads.concat import concat
    from heads.estimators.zero_shot import ZeroShotHead, ZeroShotProbe
    from heads.fewshot import Curve, curve, curves
    from heads.fit import fit
    from heads.quality.datalab import datalab
    from heads.quality.find import find_issues, quality_reports
    from heads.quality.issues import Issue, Issues
    from heads.suggest import Suggestion, suggest
    from heads.transfer.assess import assess_transfer, assessments
    from heads.transfer.assessment import Assessment

__all__ = [
    "Assessment",
    "Comparison",
    "Curve",
    "Difference",
    "FittedHead",
    "Issue",
    "Issues",
    "Suggestion",
    "ZeroShotHead",
    "ZeroShotProbe",
    "assess_transfer",
    "assessments",
    "compare",
    "concat",
    "curve",
    "curves",
    "datalab",
    "find_issues",
    "fit",
    "list_heads",
    "load_bundle",
    "load_head",
    "quality_reports",
    "read_predictions",
    "run_again",
    "runs",
    "suggest",
]

_HOMES = {
    "Assessment": "heads.transfer.assessment",
    "assess_transfer": "heads.transfer.assess",
    "assessments": "heads.transfer.assess",
    "Comparison": "heads.comparison",
    "Curve": "heads.fewshot",
    "Difference": "heads.comparison",
    "FittedHead": "heads.bundle",
    "Issue": "heads.quality.issues",
    "Issues": "heads.quality.issues",
    "Suggestion": "heads.suggest",
    "ZeroShotHead": "heads.estimators.zero_shot",
    "ZeroShotProbe": "heads.estimators.zero_shot",
    "datalab": "heads.quality.datalab",
    "find_issues": "heads.quality.find",
    "quality_reports": "heads.quality.find",
    "suggest": "heads.suggest",
    "compare": "heads.compare",
    "concat": "heads.concat",
    "curve": "heads.fewshot",
    "curves": "heads.fewshot",
    "fit": "heads.fit",
    "list_heads": "heads.bundle",
    "load_bundle": "heads.bundle",
    "load_head": "heads.bundle",
    "read_predictions": "heads.bundle",
    "run_again": "heads.again",
    "runs": "heads.compare",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `heads.fit`, `heads.compare` and their like functions.

    Importing the submodules that they live in would otherwise bind the modules to their names.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name, as plain modules are: cloudpickle knows a module by its exact type."""
        return import_module, (__name__,)


sys.modules[__name__].__class__ = _Package
