"""What a sentence encoder puts before texts: before items, and before queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from featurestore.errors import BadName
from featurestore.terms.specs import EncoderSpec, ResolvedEncoder, literal_prompt

# The names under which sentence-transformers' encode_query and encode_document look, in order.
_OF_QUERIES = ("query",)
_OF_ITEMS = ("document", "passage", "corpus")


@dataclass(frozen=True)
class Prompts:
    """The texts that are put before items and queries; None: nothing."""

    items: str | None = None
    queries: str | None = None


def prompts_of(spec: EncoderSpec, named: Mapping[str, str | None]) -> Prompts:
    """Return the prompts that a spec asks for, of those that a model has by name.

    Without ``#prompt=`` they are those of the library's ``encode_document`` and
    ``encode_query``. A prompt that is named or written in quotes is the items', and that of
    queries where the model has none for them; an empty one means none for both.

    Raises
    ------
    BadName
        If the spec names a prompt that the model does not have.
    """
    written = dict(spec.options).get("prompt")
    query = _first(named, _OF_QUERIES)
    if written is None:
        return Prompts(_first(named, _OF_ITEMS), query)
    if written == "":
        return Prompts()
    text = literal_prompt(written)
    if text is None:
        if written not in named:
            with_text = [name for name, one in named.items() if one]
            names = f"expected one of {', '.join(with_text)}" if with_text else "it has none"
            raise BadName(
                f"the model of {spec} has no prompt named {written!r}: {names}; a text of your own "
                f'stands in quotes, within those of the shell: "#prompt={quoted(written)}"'
            )
        text = named[written] or ""
    return Prompts(text or None, query or text or None)


def prompts_of_0_1(
    spec: EncoderSpec, named: Mapping[str, str | None], default: str | None
) -> Prompts:
    """Return the prompts as specs were read before they could name one.

    Views and heads made then keep this meaning: an option was the items' text itself, and an
    empty one, or none, the model's default prompt.
    """
    text = spec.option("prompt", "") or named.get(default or "") or None
    return Prompts(text, _first(named, _OF_QUERIES) or text)


def quoted(text: str) -> str:
    """Return a text as an option of a spec has it."""
    return f"'{text}'"


def said(one: str | None) -> str:
    """Say a prompt: in quotes, or that there is none."""
    return "no prompt" if not one else f"the prompt {one!r}"


def prompt_note(encoder: ResolvedEncoder, *, is_new: bool) -> str | None:
    """Say in a sentence what is put before texts, and how many numbers are kept of a vector.

    None where there is nothing to say: no prompt at all, or a view that was told of before.
    """
    told, spec = encoder.prompts, encoder.spec.label
    if "now" in told:
        return (
            f"{spec}: this view keeps {said(told['items'])}, which its vectors were made with "
            f"({told['now']}); to embed anew as the spec is read now: --overwrite"
        )
    cut = encoder.chosen.get("truncate_dim")
    parts = [f"vectors are cut to {cut} numbers (truncate_dim)"] if cut else []
    if told.get("items") or told.get("queries"):
        parts.insert(0, f"items get {said(told['items'])}, queries {said(told['queries'])}")
    others = [name for name in told.get("named", ()) if name != "query"]
    if told and not told["items"] and others and encoder.spec.option("prompt", "-") != "":
        parts.append(f"#prompt=NAME would put another before items: {', '.join(others)}")
    return f"{spec}: {'; '.join(parts)}" if parts and is_new else None


def _first(named: Mapping[str, str | None], names: tuple[str, ...]) -> str | None:
    """Return the text of the first name that there is, though it be empty."""
    return next((named[name] or None for name in names if name in named), None)
