"""Names of classes and the vectors of those words, for zero-shot heads.

Prompts are ``None`` (``a photo of a {}.`` for pictures, the bare name for texts), one template
or several with ``{}`` for the class, or a mapping of each label to what it is called: a text,
or several. In names of heads: ``zero-shot:an X-ray of {}``, ``zero-shot:@prompts.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadName, ModalityMismatch
from featurestore.terms.labels import class_name
from featurestore.terms.specs import Modality
from featurestore.terms.vectors import unit_rows
from heads.estimators.zero_shot import Prompts
from heads.labels.views import AnyView

if TYPE_CHECKING:
    from featurestore.store.view import View
    from heads.catalogue.entry import Build

_TEMPLATES = {Modality.IMAGE: "a photo of a {}.", Modality.TEXT: "{}"}
IMPORTED = "import"  # family of vectors that another program made


def reads_words(view: AnyView) -> bool:
    """Whether a view's encoder can be asked in words."""
    if not hasattr(view, "encode") or view.spec.family == IMPORTED:
        return False
    return str(Modality.TEXT) in cast("View", view).info["modalities"]


def with_words(build: Build, view: AnyView | None, classes: Sequence[str]) -> Build:
    """Return what builds a head that knows the words of each class.

    Raises
    ------
    ModalityMismatch
        If the view's encoder reads no texts.
    BadName
        If a prompt does not fit.
    """
    if view is None or not hasattr(view, "encode"):
        raise ModalityMismatch(
            "a zero-shot head needs one encoder that reads words: it cannot read the vectors of "
            "several encoders side by side"
        )
    prompts = prompts_of(build(0).prompts, classes, view.dataset.modality)
    vectors = class_vectors(cast("View", view), prompts)
    return lambda seed: build(seed).set_params(class_names=list(classes), class_vectors=vectors)


def prompts_of(
    prompts: Prompts | None, classes: Sequence[str], modality: Modality
) -> list[list[str]]:
    """Return what each class is called, one text or more.

    Raises
    ------
    BadName
        If a template has no ``{}``, or a class is not in a mapping.
    """
    if isinstance(prompts, Mapping):
        prompts = {class_name(label): texts for label, texts in prompts.items()}
        missing = [name for name in classes if not prompts.get(name)]
        if missing:
            raise BadName(f"the prompts lack the classes {missing}: expected all {classes}")
        return [_several(prompts[name]) for name in classes]
    templates = _several(_TEMPLATES[modality] if prompts is None else prompts)
    for template in templates:
        if "{}" not in template:
            raise BadName(f"template {template!r}: expected {{}} where the class is to stand")
    return [[t.replace("{}", name.replace("_", " ")) for t in templates] for name in classes]


def class_vectors(view: View, prompts: Sequence[Sequence[str]]) -> NDArray[np.float32]:
    """Return the mean direction of each class's prompts, (n_classes, dim), of length 1."""
    texts = [text for of_class in prompts for text in of_class]
    vectors = unit_rows(view.encode(texts, as_queries=True))
    ends = np.cumsum([len(texts) for texts in prompts])[:-1]
    return unit_rows(np.stack([part.mean(axis=0) for part in np.split(vectors, ends)]))


def read_prompts(text: str) -> Prompts:
    """Read the text after ``zero-shot:``, a template or ``@`` and a JSON file.

    Raises
    ------
    BadName
        If the file is not there, or holds something else.
    """
    if not text.startswith("@"):
        return text
    path = Path(text[1:])
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadName(f"{path}: expected prompts in JSON: {error}") from error
    named: dict[str, Any] = found if isinstance(found, dict) else {"": found}
    texts = [
        one for value in named.values() for one in (value if isinstance(value, list) else [value])
    ]
    if not texts or not all(isinstance(one, str) for one in texts):
        raise BadName(
            f'{path}: expected {{"label": "what it is called", …}}, several as a list, or a list '
            "of templates"
        )
    return named if isinstance(found, dict) else texts


def _several(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)
