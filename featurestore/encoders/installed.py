"""Which encoders this machine has: families, well-known models, what the hub's cache holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from featurestore.encoders.families import families
from featurestore.storage import user_cache


@dataclass(frozen=True)
class KnownEncoder:
    """An encoder by name, with what is known of it."""

    spec: str
    reads: str  # images, texts, or both
    dim: int | None = None
    licence: str | None = None
    where: str = ""  # cached: how large; used on this machine; in the package; else how to get it


SHIPPED = (
    KnownEncoder("builtin:tiny-image", "images", 320, "apache-2.0", "in the package"),
    KnownEncoder("builtin:tiny-text", "texts", 256, "apache-2.0", "in the package"),
)

# From the model cards, November 2026. A start, not a list of what works: that is everything
# that the libraries know.
WELL_KNOWN = (
    KnownEncoder("timm:mobilenetv3_small_100.lamb_in1k", "images", 1024, "apache-2.0"),
    KnownEncoder("timm:resnet18.a1_in1k", "images", 512, "apache-2.0"),
    KnownEncoder("timm:vit_small_patch14_dinov2.lvd142m", "images", 384, "apache-2.0"),
    KnownEncoder("hf:facebook/dinov2-small", "images", 384, "apache-2.0"),
    KnownEncoder("open_clip:ViT-B-32/laion2b_s34b_b79k", "images and texts", 512, "mit"),
    KnownEncoder("open_clip:ViT-L-14/laion2b_s32b_b82k", "images and texts", 768, "mit"),
    KnownEncoder("hf:google/siglip-base-patch16-224", "images and texts", 768, "apache-2.0"),
    KnownEncoder("st:all-MiniLM-L6-v2", "texts", 384, "apache-2.0"),
    KnownEncoder("st:BAAI/bge-small-en-v1.5", "texts", 384, "mit"),
)


def missing_packages(family: str) -> list[str]:
    """Return the packages of a family that are not installed."""
    absent = []
    for package in families()[family].packages:
        try:
            version(package)
        except PackageNotFoundError:
            absent.append(package)
    return absent


def known_encoders() -> list[KnownEncoder]:
    """Return what is shipped, cached from the hub, used here, and well-known ones besides."""
    found: dict[str, KnownEncoder] = {one.spec: one for one in (*SHIPPED, *_cached())}
    for spec, entry in user_cache.recall_all("encoders").items():
        if spec not in found:
            reads = " and ".join(f"{one}s" for one in sorted(entry["modalities"]))
            found[spec] = KnownEncoder(spec, reads, entry["dim"], None, "used on this machine")
    for one in WELL_KNOWN:
        found.setdefault(one.spec, one)
    return list(found.values())


def _cached() -> Iterator[KnownEncoder]:
    """Read the Hugging Face cache: names, sizes, dims and licences from the files themselves."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repository in sorted(repositories, key=lambda one: one.repo_id):
        if repository.repo_type != "model":
            continue
        for revision in repository.revisions:
            root = revision.snapshot_path
            files = {str(f.file_path.relative_to(root)): f.file_path for f in revision.files}
            spec, reads, dim = _what(repository.repo_id, files)
            if spec is not None:
                size = f"cached, {repository.size_on_disk / 1e6:,.0f} MB"
                yield KnownEncoder(spec, reads, dim, _licence(files), size)
                break


def family_of_folder(folder: Path) -> str | None:
    """Return the family that reads the model in a folder; None where its files do not say."""
    files = {one.name: one for one in folder.iterdir()}
    spec, _, _ = _what(folder.name, files)
    return None if spec is None else spec.partition(":")[0]


def _what(name: str, files: dict[str, Path]) -> tuple[str | None, str, int | None]:
    """Tell family, modalities and dim of a cached model from its configuration files."""
    if "open_clip_config.json" in files:
        config = _json(files["open_clip_config.json"])
        dim = config.get("model_cfg", {}).get("embed_dim")
        return f"open_clip:hf-hub:{name}", "images and texts", dim
    config = _json(files["config.json"]) if "config.json" in files else {}
    if "modules.json" in files:
        return f"st:{name}", "texts", config.get("hidden_size")
    if "pretrained_cfg" in config:
        return f"timm:hf-hub:{name}", "images", config.get("num_features")
    if "model_type" in config:
        reads = (
            "images" if "image_size" in config or "preprocessor_config.json" in files else "texts"
        )
        return f"hf:{name}", reads, config.get("hidden_size")
    return None, "", None


def _licence(files: dict[str, Path]) -> str | None:
    if "README.md" not in files:
        return None
    text = files["README.md"].read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^license:\s*(\S+)", text.partition("\n---")[0], re.MULTILINE)
    return found.group(1) if found else None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # a damaged cache: what it holds is then simply not known
    return value if isinstance(value, dict) else {}
