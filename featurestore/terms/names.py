"""Which encoder a name means: any name that is printed, or a part that only one of them has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from featurestore.errors import BadName
from featurestore.terms.specs import LOCAL_DIR, EncoderSpec, encoder_label


def meant_by(text: str, specs: Sequence[str], names: Mapping[str, str] | None = None) -> str | None:
    """Return the spec that a text means; None if it means none of them.

    A name of its own, a number (``@2``: the second), a spec, its label, the end of one
    (``tiny-image``), the start of a word in one (``mobilenetv2``), in this order. What is said
    after ``#`` must be the same; where nothing is said, a spec without options comes first, and
    random weights come last.

    Raises
    ------
    BadName
        If it means several.

    Examples
    --------
    >>> meant_by("mobilenetv2", ["baseline:pixels", "timm:local-dir:/a/mobilenetv2_100-imagenet"])
    'timm:local-dir:/a/mobilenetv2_100-imagenet'
    """
    if names and text in names:
        return names[text]
    if number := re.fullmatch(r"@?(\d+)", text):
        n = int(number[1])
        return specs[n - 1] if 1 <= n <= len(specs) else None
    if (canonical := _canonical(text)) in specs:
        return canonical
    body, marker, tail = text.partition("#")
    said = _options(tail) if marker else ()
    named = {spec: encoder_label(spec) for spec in specs}
    for is_named in (_is_label, _is_end, _is_part):
        hits = [one for one, label in named.items() if body and is_named(body, one, label)]
        hits = [one for one in hits if _options_of(one) == said] or ([] if marker else hits)
        if len(hits) > 1:
            hits = [one for one in hits if not one.startswith("random:")] or hits
        if len(hits) > 1:
            raise BadName(f"{text!r} may mean {', '.join(hits)}: write more of the one you mean")
        if hits:
            return hits[0]
    return None


def _is_label(body: str, _: str, label: str) -> bool:
    return body == label.partition("#")[0]


def _is_end(body: str, spec: str, label: str) -> bool:
    ends = (f":{body}", f"/{body}")
    return not _names_a_family(body) and any(
        one.partition("#")[0].endswith(ends) for one in (spec, label)
    )


def _is_part(body: str, _: str, label: str) -> bool:
    starts = rf"(?<![a-z0-9]){re.escape(body)}"
    return ":" not in body and re.search(starts, label.partition("#")[0], re.IGNORECASE) is not None


def _names_a_family(body: str) -> bool:
    """Whether a text is a spec of its own: the end of another one would be something else."""
    return ":" in body and not body.startswith(LOCAL_DIR)


def _canonical(text: str) -> str | None:
    try:
        return str(EncoderSpec.parse(text))
    except BadName:
        return None


def _options(tail: str) -> tuple[tuple[str, str], ...]:
    return EncoderSpec.parse(f"any:model#{tail}").options


def _options_of(spec: str) -> tuple[tuple[str, str], ...]:
    return EncoderSpec.parse(spec).options
