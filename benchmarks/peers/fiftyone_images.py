"""FiftyOne's `Dataset.compute_embeddings`. IMAGES WEIGHTS OUT"""

import contextlib
import json
import os
import sys
import tempfile
import time

images, weights, out = sys.argv[1:4]
folder = tempfile.mkdtemp(prefix="fiftyone_bench_")
os.environ.update(
    FIFTYONE_DATABASE_DIR=f"{folder}/db", FIFTYONE_CONFIG_PATH=f"{folder}/config.json",
    FIFTYONE_DO_NOT_TRACK="true", FIFTYONE_SHOW_PROGRESS_BARS="false", HOME=folder,
)  # fmt: skip
import numpy as np
import timm
from timm.data import create_transform, resolve_model_data_config

with contextlib.redirect_stdout(sys.stderr):
    import fiftyone
    from fiftyone.utils.torch import TorchImageModel, TorchImageModelConfig

    module = timm.create_model(f"local-dir:{weights}", pretrained=True, num_classes=0).eval()
    transform = create_transform(**resolve_model_data_config(module), is_training=False)
    config = {
        "model": module, "transforms": transform, "ragged_batches": False, "raw_inputs": False,
        "embeddings_layer": "classifier", "device": "cpu",
    }  # fmt: skip
    model = TorchImageModel(TorchImageModelConfig(config))
    dataset = fiftyone.Dataset.from_images_dir(images, recursive=True)
    started = time.perf_counter()
    vectors = dataset.compute_embeddings(model, batch_size=32, skip_failures=False)
    seconds = time.perf_counter() - started
    files = dataset.values("filepath")
    dataset.delete()
np.savez(out, vectors=np.asarray(vectors, np.float32), files=files)
version = fiftyone.__version__
print(json.dumps({"n": len(files), "seconds": seconds, "version": version}))
