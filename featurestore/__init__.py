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
    from featurestore.pipeline.listing_run import Selection
    from featurestore.pipeline.options import EmbedOptions
    from featurestore.sources.listing import SourceOptions
    from featurestore.store.dataset import DataSet
    from featurestore.store.store import Store, open_store
    from featurestore.store.view import View
    from featurestore.terms.embeddings import Embeddings, Neighbors
    from featurestore.terms.snapshots import Snapshot
    from featurestore.terms.specs import EncoderSpec

__version__ = "0.2.0"

# Lazy (PEP 562): importing the package loads neither pyarrow nor torch.
_HOMES = {
    "open_store": "store.store",
    "Store": "store.store",
    "DataSet": "store.dataset",
    "View": "store.view",
    "EmbedOptions": "pipeline.options",
    "SourceOptions": "sources.listing",
    "Selection": "pipeline.listing_run",
    "EncoderSpec": "terms.specs",
    "Embeddings": "terms.embeddings",
    "Neighbors": "terms.embeddings",
    "Snapshot": "terms.snapshots",
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
