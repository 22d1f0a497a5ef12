"""Light heads on frozen embeddings: trained in seconds, compared honestly.

``import heads`` is cheap: scikit-learn comes in with the first name that needs it.

>>> import heads
>>> "fit" in dir(heads)
True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heads.advice.advice import Advice
    from heads.advice.advise import advise
    from heads.estimators.layers import LayersHead, LayersRegressor
    from heads.estimators.zero_shot import ZeroShotHead, ZeroShotProbe
    from heads.experiments.compare import compare, runs
    from heads.experiments.curve import curve, curves
    from heads.experiments.fit import fit
    from heads.experiments.learning_curve import Curve
    from heads.experiments.rerun import run_again
    from heads.experiments.suggest import Suggestion, suggest
    from heads.measures.comparison import Comparison, Difference
    from heads.quality.datalab import datalab
    from heads.quality.find import find_issues, quality_reports
    from heads.quality.issues import Issue, Issues
    from heads.report_page.report import report
    from heads.saved.bundle import FittedHead, list_heads, load_bundle, load_head, read_predictions
    from heads.saved.concat import concat
    from heads.saved.export_model import export_model
    from heads.saved.export_onnx import export_onnx
    from heads.saved.mixed import mix
    from heads.saved.on_mlflow import log_to_mlflow
    from heads.serving.server import serve
    from heads.transfer.assess import assess_transfer, assessments
    from heads.transfer.assessment import Assessment

__all__ = [
    "Advice",
    "Assessment",
    "Comparison",
    "Curve",
    "Difference",
    "FittedHead",
    "Issue",
    "Issues",
    "LayersHead",
    "LayersRegressor",
    "Suggestion",
    "ZeroShotHead",
    "ZeroShotProbe",
    "advise",
    "assess_transfer",
    "assessments",
    "compare",
    "concat",
    "curve",
    "curves",
    "datalab",
    "export_model",
    "export_onnx",
    "find_issues",
    "fit",
    "list_heads",
    "load_bundle",
    "load_head",
    "log_to_mlflow",
    "mix",
    "quality_reports",
    "read_predictions",
    "report",
    "run_again",
    "runs",
    "serve",
    "suggest",
]

_HOMES = {
    "Advice": "heads.advice.advice",
    "advise": "heads.advice.advise",
    "Assessment": "heads.transfer.assessment",
    "assess_transfer": "heads.transfer.assess",
    "assessments": "heads.transfer.assess",
    "Comparison": "heads.measures.comparison",
    "Curve": "heads.experiments.learning_curve",
    "Difference": "heads.measures.comparison",
    "FittedHead": "heads.saved.bundle",
    "Issue": "heads.quality.issues",
    "Issues": "heads.quality.issues",
    "LayersHead": "heads.estimators.layers",
    "LayersRegressor": "heads.estimators.layers",
    "Suggestion": "heads.experiments.suggest",
    "ZeroShotHead": "heads.estimators.zero_shot",
    "ZeroShotProbe": "heads.estimators.zero_shot",
    "datalab": "heads.quality.datalab",
    "find_issues": "heads.quality.find",
    "quality_reports": "heads.quality.find",
    "suggest": "heads.experiments.suggest",
    "compare": "heads.experiments.compare",
    "concat": "heads.saved.concat",
    "curve": "heads.experiments.curve",
    "curves": "heads.experiments.curve",
    "export_model": "heads.saved.export_model",
    "export_onnx": "heads.saved.export_onnx",
    "fit": "heads.experiments.fit",
    "list_heads": "heads.saved.bundle",
    "load_bundle": "heads.saved.bundle",
    "load_head": "heads.saved.bundle",
    "log_to_mlflow": "heads.saved.on_mlflow",
    "mix": "heads.saved.mixed",
    "read_predictions": "heads.saved.bundle",
    "report": "heads.report_page.report",
    "run_again": "heads.experiments.rerun",
    "runs": "heads.experiments.compare",
    "serve": "heads.serving.server",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
