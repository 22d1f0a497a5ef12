"""Make the weights of ``builtin:tiny-image``: distil an ImageNet network into a smaller one.

Run: python -m tools.distil_image --photos PATH/cifar10-*.tar --teacher PATH --work FOLDER

Views of photographs and of drawn pictures go through the frozen teacher at 224 pixels; the
student, whose early stages start as the teacher's, learns at 128 pixels to say the same. Seeds
are fixed; what is done lies in FOLDER (some 4 GB) and is not done again after an interruption.
"""

import argparse
import hashlib
import io
import json
import multiprocessing
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tools import pictures

SEED = 0
TEACHER_PX, STUDENT_PX = 224, 128
CHUNK = 1000  # views in one file
STAGES = (3, 4, 5)  # whose pooled features the student keeps as they are in the teacher
BATCH, EPOCHS, WARM_UP = 64, 3, 300
LEARNING_RATE = {"new": 1e-3, "old": 2e-4}


def main() -> None:
    """Draw views, train, write the weights; each step goes on where it was left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", nargs="+", required=True, help="WebDataset tars of JPEGs")
    parser.add_argument("--teacher", required=True, help="a timm local-dir of MobileNetV2 1.0")
    parser.add_argument("--work", type=Path, required=True, help="where steps are kept")
    parser.add_argument("--views", type=int, default=60_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("featurestore/weights"))
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    make_views(asked)
    state = train(asked)
    write_weights(state, asked.out / "tiny-image.safetensors")


def make_views(asked: argparse.Namespace) -> None:
    """Draw views and ask the teacher about them; one file per thousand."""
    missing = [i for i in range(asked.views // CHUNK) if not _chunk(asked.work, i).exists()]
    if not missing:
        return
    import torch

    teacher = load_teacher(asked.teacher).to(asked.device)
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawned, _open_photos, (asked.photos,)) as pool:
        ahead = [pool.submit(_draw_views, i) for i in missing[:2]]
        for position, i in enumerate(missing):
            if position + 2 < len(missing):
                ahead.append(pool.submit(_draw_views, missing[position + 2]))
            large, small = ahead.pop(0).result()
            with torch.inference_mode():
                answers = [
                    ask(teacher, to_input(large[at : at + 50], asked.device)).cpu().numpy()
                    for at in range(0, CHUNK, 50)
                ]
            path = _chunk(asked.work, i)
            with path.with_suffix(".part").open("wb") as file:
                np.savez(file, pixels=small, answers=np.concatenate(answers).astype(np.float16))
            path.with_suffix(".part").rename(path)
            print(f"views {(i + 1) * CHUNK:,} of {asked.views:,}", flush=True)


def load_teacher(folder: str) -> Any:
    """Load the frozen network."""
    import timm
    import torch

    from featurestore.encoders.torch_setup import keep_freed_memory

    keep_freed_memory()
    network = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    return network.requires_grad_(False).to(memory_format=torch.channels_last)


def ask(teacher: Any, pixels: Any) -> Any:
    """Return the teacher's pooled stages and its final features, (n, 64 + 96 + 160 + 1280)."""
    import torch

    x, found = teacher.bn1(teacher.conv_stem(pixels)), []
    for i, stage in enumerate(teacher.blocks):
        x = stage(x)
        if i in STAGES:
            found.append(x.mean((2, 3)))
    found.append(teacher.bn2(teacher.conv_head(x)).mean((2, 3)))
    return torch.cat(found, dim=1)


def to_input(pixels: NDArray[np.uint8], device: str) -> Any:
    """Return (n, 3, side, side) float32 in [-1, 1]."""
    import torch

    moved = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
    return moved.to(torch.float32).div_(127.5).sub_(1)


_photos: list[bytes] = []


def _open_photos(paths: list[str]) -> None:
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith((".jpg", ".jpeg")):
                    file = tar.extractfile(member)
                    assert file is not None
                    _photos.append(file.read())


def _draw_views(chunk: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return CHUNK views as the teacher and as the student see them, uint8."""
    large = np.empty((CHUNK, TEACHER_PX, TEACHER_PX, 3), np.uint8)
    small = np.empty((CHUNK, STUDENT_PX, STUDENT_PX, 3), np.uint8)
    for i in range(CHUNK):
        rng = np.random.default_rng([SEED, chunk, i])
        picture = pictures.jittered(rng, _view(rng))
        large[i] = pictures.to_bytes(picture)
        seen = Image.fromarray(large[i])
        small[i] = seen.resize((STUDENT_PX, STUDENT_PX), Image.Resampling.BILINEAR)
    return large, small


def _view(rng: np.random.Generator) -> pictures.Picture:
    """Return a photograph, several, a collage, or a drawn picture: 3, 2, 1 and 4 in ten."""
    kind = rng.random()
    if kind < 0.3:
        photo = _photo(rng)
        side = 32 * rng.uniform(0.6, 1)
        left, top = rng.uniform(0, 32 - side, 2)
        box = (left, top, left + side, top + side)
        size = (TEACHER_PX, TEACHER_PX)
        return pictures.to_floats(photo.resize(size, Image.Resampling.BICUBIC, box))
    if kind < 0.5:
        photos = [_photo(rng) for _ in range(16)]
        return pictures.mosaic(rng, photos, TEACHER_PX, int(rng.integers(2, 5)))
    if kind < 0.6:
        fillings = [
            pictures.mosaic(rng, [_photo(rng) for _ in range(9)], TEACHER_PX, n) for n in (1, 3)
        ]
        return pictures.leaves(rng, TEACHER_PX, fillings, n_most=60)
    return pictures.draw(rng, TEACHER_PX)


def _photo(rng: np.random.Generator) -> Image.Image:
    return Image.open(io.BytesIO(_photos[int(rng.integers(len(_photos)))])).convert("RGB")


def _chunk(work: Path, i: int) -> Path:
    return work / f"views-{i:04d}.npz"


def train(asked: argparse.Namespace) -> dict[str, Any]:
    """Teach the student what the teacher said; returns its state and that of its features."""
    import torch

    from featurestore.encoders.tiny_image import TinyImage

    finished = asked.work / "student.pt"
    if finished.exists():
        return torch.load(finished, weights_only=True)
    pixels, answers = _read_views(asked.work, asked.views // CHUNK)
    n = len(pixels) - CHUNK  # the last thousand only measures
    mean, std = answers[:n].mean(axis=0), answers[:n].std(axis=0) + 1e-3
    answers = (answers - mean) / std
    torch.manual_seed(SEED)
    student = TinyImage()
    start_as(student, load_teacher(asked.teacher))
    say = torch.nn.Linear(student.top.out_channels, answers.shape[1] - sum(_widths(student)))
    student.to(asked.device, memory_format=torch.channels_last)
    say.to(asked.device)
    stage_mean, stage_std = (
        torch.from_numpy(one[: sum(_widths(student))]).to(asked.device) for one in (mean, std)
    )
    new = [*say.parameters(), *student.top.parameters()]
    old = [p for name, p in student.named_parameters() if not name.startswith("top.")]
    optimizer = torch.optim.AdamW(
        [{"params": new, "lr": LEARNING_RATE["new"]}, {"params": old, "lr": LEARNING_RATE["old"]}],
        weight_decay=1e-4,
    )
    n_steps = n // BATCH * EPOCHS
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1, (step + 1) / WARM_UP) * 0.5 * (1 + np.cos(np.pi * min(step / n_steps, 1)))
        ),
    )
    parts = {"student": student, "say": say, "optimizer": optimizer, "schedule": schedule}
    saved, first = asked.work / "training.pt", 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        first = state.pop("step")
        for name, part in parts.items():
            part.load_state_dict(state[name])

    def predict(batch: NDArray[np.uint8]) -> Any:
        pools = student.pools(to_input(batch, asked.device))
        stages = torch.cat([pools[i] for i in STAGES], dim=1)
        return torch.cat([(stages - stage_mean) / stage_std, say(pools[-1])], dim=1)

    def loss_of(said: Any, answer: NDArray[np.float32]) -> Any:
        wrong = (said - torch.from_numpy(answer).to(asked.device)) ** 2
        cut = sum(_widths(student))
        return wrong[:, cut:].mean() + 0.3 * wrong[:, :cut].clamp(max=25).mean()

    def held_out() -> float:
        with torch.inference_mode():
            at = range(n, n + CHUNK, BATCH)
            losses = [loss_of(predict(pixels[i : i + BATCH]), answers[i : i + BATCH]) for i in at]
        return float(torch.stack(losses).mean())

    began = time.monotonic()
    for step, rows in _batches(n, first, n_steps):
        mirrored = np.random.default_rng([SEED, step]).random(len(rows)) < 0.5
        batch = pixels[rows]
        batch[mirrored] = batch[mirrored, :, ::-1]
        loss = loss_of(predict(batch), answers[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(new + old, 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 250 == 0 or step + 1 == n_steps:
            rate = (step + 1 - first) * BATCH / (time.monotonic() - began)
            line = {"step": step + 1, "of": n_steps, "loss": round(float(loss), 4),
                    "held_out": round(held_out(), 4), "images_per_s": round(rate)}  # fmt: skip
            print(json.dumps(line), flush=True)
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save(state | {"step": step + 1}, saved.with_suffix(".part"))
            saved.with_suffix(".part").rename(saved)
    with torch.inference_mode():
        pooled = [
            torch.cat(found)
            for found in zip(
                *(
                    student.pools(to_input(pixels[i : i + 50], asked.device))
                    for i in range(0, 8000, 50)
                ),
                strict=True,
            )
        ]
    state = {
        "student": {name: value.cpu() for name, value in student.state_dict().items()},
        "mean": [one.mean(0).cpu() for one in pooled],
        "std": [one.std(0).cpu() for one in pooled],
    }
    torch.save(state, finished)
    return state


def start_as(student: Any, teacher: Any) -> None:
    """Copy the teacher's convolutions, normalisation folded in; the student's top is new."""
    import torch

    ours = [one for one in student.stages.modules() if isinstance(one, torch.nn.Conv2d)]
    with torch.no_grad():
        for convolution, (weight, bias) in zip(
            [student.stem, *ours], _folded(teacher), strict=False
        ):
            convolution.weight.copy_(weight)
            convolution.bias.copy_(bias)


def _folded(network: Any) -> Iterator[tuple[Any, Any]]:
    import torch

    convolution = None
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            convolution = module
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert convolution is not None
            factor = module.weight / torch.sqrt(module.running_var + module.eps)
            weight = convolution.weight * factor[:, None, None, None]
            yield weight, module.bias - module.running_mean * factor


def _widths(student: Any) -> list[int]:
    return [student.stages[i][-1].narrow.out_channels for i in STAGES]


def _batches(n: int, first: int, n_steps: int) -> Iterator[tuple[int, NDArray[np.intp]]]:
    per_epoch = n // BATCH
    for step in range(first, n_steps):
        epoch, position = divmod(step, per_epoch)
        order = np.random.default_rng([SEED, 1, epoch]).permutation(n)
        yield step, order[position * BATCH : (position + 1) * BATCH]


def _read_views(work: Path, n_chunks: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    pixels = np.empty((n_chunks * CHUNK, STUDENT_PX, STUDENT_PX, 3), np.uint8)
    answers = []
    for i in range(n_chunks):
        with np.load(_chunk(work, i)) as chunk:
            pixels[i * CHUNK : (i + 1) * CHUNK] = chunk["pixels"]
            answers.append(chunk["answers"].astype(np.float32))
    return pixels, np.concatenate(answers)


def write_weights(state: dict[str, Any], path: Path) -> None:
    """Write float16 safetensors, with what standardises the features; print the SHA-256."""
    import torch
    from safetensors.torch import save_file

    from featurestore.encoders.tiny_image import EMBEDDED

    tensors = {
        name: value.to(torch.float16).contiguous() for name, value in state["student"].items()
    }
    for name in ("mean", "std"):
        tensors[name] = torch.cat([state[name][i] for i in EMBEDDED]).to(torch.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    print(
        path,
        f"{path.stat().st_size:,} bytes, SHA-256",
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )


if __name__ == "__main__":
    main()
