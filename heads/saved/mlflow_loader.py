"""What MLflow calls to open a model that `heads.saved.on_mlflow` wrote; it needs no MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.errors import BadSource
from featurestore.terms.specs import Modality
from heads.saved.beside import columns_of
from heads.saved.frames import column_of
from heads.saved.serve import modality_of

if TYPE_CHECKING:
    import pandas as pd

    from heads.saved.bundle import FittedHead


@dataclass(frozen=True, eq=False)
class Model:
    """A bundle behind the method that MLflow asks."""

    head: FittedHead
    encoder: str | None  # where the head's encoder is on this machine

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> Any:
        """Return the rows' answers as a pandas.DataFrame, without the column that was asked.

        Parameters
        ----------
        model_input : pandas.DataFrame
            Texts, or files of pictures as bytes, and the columns that the head reads beside them.

        Raises
        ------
        BadSource
            If a picture is a path.
        """
        name = column_of(self.head)
        if modality_of(self.head) is Modality.IMAGE:
            for one in model_input[name]:
                if not isinstance(one, bytes):
                    raise BadSource(
                        f"column {name!r} holds {type(one).__name__}: send the bytes of pictures "
                        "(base64 in JSON), since a server reads no paths that it is sent"
                    )
        read = [name, *(one for one in columns_of(self.head) if one in model_input)]
        answers = self.head.predict_frame(model_input[read], column=name, encoder=self.encoder)
        return answers.drop(columns=read)


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Model:
    """Open a model; ``model_config={"encoder": …}`` says where its encoder is on this machine."""
    from heads.saved.bundle import load_bundle

    return Model(load_bundle(path), (model_config or {}).get("encoder"))
