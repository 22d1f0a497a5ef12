"""thingsvision's own dataset, loader and extractor. IMAGES WEIGHTS OUT"""

import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np

setattr(np, "AxisError", np.exceptions.AxisError)  # noqa: B010 - 2.7.3 expects numpy below 2
# thingsvision imports tensorflow; where torch._dynamo comes after it, Triton crashes.
import timm
import torch._dynamo  # noqa: F401
import torchvision  # noqa: F401
from timm.data import create_transform, resolve_model_data_config

import thingsvision
from thingsvision import get_extractor_from_model
from thingsvision.utils.data import DataLoader, ImageDataset

images, weights, out = sys.argv[1:4]
model = timm.create_model(f"local-dir:{weights}", pretrained=True, num_classes=0).eval()
transform = create_transform(**resolve_model_data_config(model), is_training=False)
with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
    extractor = get_extractor_from_model(
        model=model, device="cpu", backend="pt", preprocess=transform
    )
    started = time.perf_counter()
    dataset = ImageDataset(root=images, out_path=folder, backend="pt", transforms=transform)
    batches = DataLoader(dataset=dataset, batch_size=32, backend="pt")
    vectors = extractor.extract_features(  # an Identity over the pooled features
        batches=batches, module_name="classifier", flatten_acts=True, output_type="ndarray"
    )
    seconds = time.perf_counter() - started
    files = (Path(folder) / "file_names.txt").read_text().splitlines()
np.savez(out, vectors=np.asarray(vectors, np.float32), files=files)
version = thingsvision.__version__
print(json.dumps({"n": len(files), "seconds": seconds, "version": version}))
