"""The loop most people write: timm, ImageFolder, DataLoader. IMAGES WEIGHTS OUT"""

import json
import sys
import time

import numpy as np
import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from torchvision.datasets import ImageFolder

images, weights, out = sys.argv[1:4]
model = timm.create_model(f"local-dir:{weights}", pretrained=True, num_classes=0).eval()
transform = create_transform(**resolve_model_data_config(model), is_training=False)
dataset = ImageFolder(images, transform)
loader = torch.utils.data.DataLoader(dataset, batch_size=64, num_workers=2)
started = time.perf_counter()
vectors = []
with torch.no_grad():
    for batch, _ in loader:
        vectors.append(model(batch).numpy())
seconds = time.perf_counter() - started
np.savez(out, vectors=np.concatenate(vectors), files=[path for path, _ in dataset.samples])
print(json.dumps({"n": len(dataset), "seconds": seconds, "version": timm.__version__}))
