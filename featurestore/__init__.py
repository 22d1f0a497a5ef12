"""An embedding feature store: embed once with a frozen encoder, train light heads in seconds.

>>> import featurestore
>>> store = featurestore.open_store("featurestore-data")        # doctest: +SKIP
>>> view = store.view("neu_steel", "timm:resnet18")             # doctest: +SKIP
>>> train = view.load(split="train")                            # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurestore.errors import FeatureStoreError
    from featurestore.ingest import EmbedOptions
    from featurestore.intake import Selection
    from featurestore.sources import SourceOptions
    from featurestore.store import DataSet, Store, open_store
    from featurestore.values import Embeddings, EncoderSpec, Neighbors, Snapshot
    from featurestore.view import View

__version__ = "0.1.0"

# Lazy (PEP 562): importing the package loads neither pyarrow nor torch.
_HOMES = {
    "open_store": "store",
    "Store": "store",
    "DataSet": "store",
    "View": "view",
    "EmbedOptions": "ingest",
    "SourceOptions": "sources",
    "Selection": "intake",
    "EncoderSpec": "values",
    "Embeddings": "values",
    "Neighbors": "values",
    "Snapshot": "values",
    "FeatureStoreError": "errors",
}

__all__ = [
    "DataSet",
    "EmbedOptions",
    "Embeddings",
    "EncoderSpec",
    "FeatureStoreError",
    "Neighbors",
    "Selection",
    "Snapshot",
    "SourceOptions",
    "Store",
    "View",
    "open_store",
]


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'featurestore' has no attribute {name!r}") from None
    return getattr(import_module(f"featurestore.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
