"""Which columns of a view are those of which layer, for heads that weigh layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore.encoders.families import families
from featurestore.errors import BadName
from heads.catalogue.words import with_words
from heads.estimators.per_label import PerLabel
from heads.labels.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heads.catalogue.entry import Build, HeadEntry
    from heads.labels.views import AnyView


def build_for(entry: HeadEntry, task: Task, view: AnyView | None, classes: Sequence[str]) -> Build:
    """Return what builds a head for a view: with the words of classes or the layers that it needs.

    Raises
    ------
    ModalityMismatch, BadName
        If the view's encoder reads no words, or the view has one layer.
    """
    build = entry.builder(task)
    assert build is not None, "checked by head_entries"
    if entry.reads == "words":
        return with_words(build, view, classes)
    return with_layers(build, view) if entry.reads == "layers" else build


def layers_of(view: AnyView | None) -> dict[str, int]:
    """Return the layers of a view, name → number of columns; none where it has one layer."""
    found: dict[str, int] = getattr(view, "layers", {})
    return found if len(found) > 1 else {}


def with_layers(build: Build, view: AnyView | None) -> Build:
    """Return what builds a head that knows which columns are those of which layer.

    Raises
    ------
    BadName
        If the view has one layer.
    """
    layers = layers_of(view)
    if not layers:
        raise BadName(no_layers(view))

    def make(seed: int) -> Any:
        head = build(seed)
        return head.set_params(
            **{"estimator__layers" if isinstance(head, PerLabel) else "layers": layers}
        )

    return make


def no_layers(view: AnyView | None) -> str:
    """Say that a view has one layer, and how to embed several."""
    if view is None or view.spec.family not in families():
        return "the head 'layers' reads one encoder's view of several layers"
    spec, name = view.spec, view.dataset.name
    said = f"the head 'layers' needs several layers side by side, and {view.name} has one"
    if "layer" in families()[spec.family].options:
        all_of_them = spec.with_option("layer", "all").with_option("pool", None)
        return f"{said}: featurestore embed --dataset {name} -e '{all_of_them}'"
    able = ", ".join(key for key, one in families().items() if "layer" in one.options)
    more = "; its folder can be read with hf:local-dir:…#layer=all" if spec.family == "st" else ""
    return f"{said}; encoders of {spec.family}: have no layers, those of {able} do{more}"
