"""Short names of encoders to embed with: ``tiny-image``, or the folder that a model lies in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from featurestore.encoders.families import BUILTIN, families
from featurestore.encoders.installed import family_of_folder, known_encoders
from featurestore.errors import BadName, nearest
from featurestore.terms.names import meant_by
from featurestore.terms.specs import LOCAL_DIR, EncoderSpec


def encoder_named(text: str, used: Iterable[str] = ()) -> str:
    """Return the spec that a text means: the text itself where it is one.

    Parameters
    ----------
    text : str
        A spec, a folder that holds a model, or a name that only one encoder has: of those that
        ``used`` lists (read only if needed), that are built in, or that `known_encoders` knows.

    Raises
    ------
    BadName
        If no encoder or several have that name.
    """
    body, marker, tail = text.partition("#")
    if _is_spec(body):
        return text
    if Path(body).expanduser().is_dir() and (family := family_of_folder(Path(body).expanduser())):
        return f"{family}:{LOCAL_DIR}{text}"
    known = dict.fromkeys([*BUILTIN.values(), "baseline:pixels", "baseline:hashing", *used])
    known |= dict.fromkeys(one.spec for one in known_encoders())
    found = meant_by(text, list(known)) or (meant_by(body, list(known)) if marker else None)
    if found is None:
        if ":" in body:
            return text  # says itself what is wrong with it
        raise BadName(
            f"no encoder is called {text!r}: {nearest(text, _short(known), n=3)}; `featurestore "
            "encoders` lists them, and any model of these libraries can be named as family:model"
        )
    return f"{found}{marker}{tail}" if marker and "#" not in found else found


def _short(specs: Iterable[str]) -> set[str]:
    """Return the last part of each spec's name."""
    return {one.partition("#")[0].rpartition(":")[2].rpartition("/")[2] for one in specs}


def _is_spec(body: str) -> bool:
    """Whether a text names a family, and a model that may be there."""
    family, _, model = body.partition(":")
    if not model or family not in families():
        return False
    folder = EncoderSpec.parse(body).local_dir
    return folder is None or folder.is_dir()
