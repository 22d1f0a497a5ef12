"""Make the weights of ``builtin:tiny-image``: cut an ImageNet network off, and set its scales.

Run: python -m tools.cut_image --photos PATH/cifar10-*.tar --teacher PATH

The convolutions up to the last block but one are the teacher's, normalisation folded in. What
their pools give on photographs and drawn pictures sets the scale of each feature. Seeds are
fixed; two minutes on 2 cores. docs/decisions/0008 tells why nothing is trained.
"""

import argparse
import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from featurestore.encoders.tiny_image import EMBEDDED, SIZE_PX, WEIGHTS, TinyImage
from tools import pictures

SEED = 0
DRAWN_PX = 224
N_PICTURES = 4000


def main() -> None:
    """Cut, measure, write; print the SHA-256 for featurestore/encoders/weights.py."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", nargs="+", required=True, help="WebDataset tars of JPEGs")
    parser.add_argument("--teacher", required=True, help="a timm local-dir of MobileNetV2 1.0")
    parser.add_argument("--out", type=Path, default=Path("featurestore/weights"))
    asked = parser.parse_args()
    network = TinyImage().eval()
    teacher = timm.create_model(f"local-dir:{asked.teacher}", pretrained=True).eval()
    take_convolutions(network, teacher)
    photos = list(read_photos(asked.photos))
    found = []
    for start in range(0, N_PICTURES, 50):
        batch = np.stack([draw(photos, number) for number in range(start, start + 50)])
        pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
        with torch.inference_mode():
            pools = network(pixels)
        found.append(torch.cat([pools[i] for i in EMBEDDED], dim=1))
    features = torch.cat(found)
    state = {name: one.to(torch.float16) for name, one in network.state_dict().items()}
    state |= {"mean": features.mean(0), "std": features.std(0)}
    save_file({name: one.contiguous() for name, one in state.items()}, asked.out / WEIGHTS)
    content = (asked.out / WEIGHTS).read_bytes()
    print(WEIGHTS, f"{len(content):,} bytes, SHA-256", hashlib.sha256(content).hexdigest())


def take_convolutions(network: TinyImage, teacher: Any) -> None:
    """Copy the teacher's convolutions, each with its normalisation folded in."""
    ours = [one for one in network.stages.modules() if isinstance(one, torch.nn.Conv2d)]
    with torch.no_grad():
        for convolution, (weight, bias) in zip(
            [network.stem, *ours], folded(teacher), strict=False
        ):
            convolution.weight.copy_(weight)
            convolution.bias.copy_(bias)


def folded(network: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield weight and bias of each convolution together with the normalisation behind it."""
    weight = torch.empty(0)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            weight = module.weight
        elif isinstance(module, torch.nn.BatchNorm2d):
            factor = module.weight / torch.sqrt(module.running_var + module.eps)
            yield weight * factor[:, None, None, None], module.bias - module.running_mean * factor


def read_photos(paths: list[str]) -> Iterator[bytes]:
    """Yield the JPEGs of the shards."""
    for path in sorted(paths):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.name.endswith(".jpg") else None
                if file is not None:
                    yield file.read()


def draw(photos: list[bytes], number: int) -> np.ndarray:
    """Return a photograph, several, a collage, or a drawn picture, 3, 2, 1 and 4 in ten; uint8."""
    rng = np.random.default_rng([SEED, number])
    some = [photos[i] for i in rng.integers(len(photos), size=16)]
    opened = [Image.open(io.BytesIO(one)).convert("RGB") for one in some]
    kind = rng.random()
    if kind < 0.3:
        picture = pictures.mosaic(rng, opened, DRAWN_PX, 1)
    elif kind < 0.5:
        picture = pictures.mosaic(rng, opened, DRAWN_PX, int(rng.integers(2, 5)))
    elif kind < 0.6:
        fillings = [pictures.mosaic(rng, opened, DRAWN_PX, n) for n in (1, 3)]
        picture = pictures.leaves(rng, DRAWN_PX, fillings, n_most=60)
    else:
        picture = pictures.draw(rng, DRAWN_PX)
    seen = Image.fromarray(pictures.to_bytes(pictures.jittered(rng, picture)))
    return np.asarray(seen.resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR))


if __name__ == "__main__":
    main()
