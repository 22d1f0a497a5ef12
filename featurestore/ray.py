"""featurestore in pipelines of Ray Data: `Encoder` for ``map_batches``, `Datasink` to write."""

from featurestore.workers.batches import Encoder
from featurestore.workers.on_ray import Datasink

__all__ = ["Datasink", "Encoder"]
