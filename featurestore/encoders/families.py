"""The table of encoder families: what a user may write, and where the code is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version

from featurestore.errors import BadName, UnknownEncoder, nearest
from featurestore.terms.specs import EncoderSpec, Modality

ENTRY_POINTS = "featurestore.encoders"  # group: another package's families


@dataclass(frozen=True)
class Family:
    """A kind of encoder: where its code is and what a user may write.

    The module has ``load(specs, load_options)``: given specs that differ in layer and pooling
    alone, it returns one `Encoder` for each, all on one network. Another package adds a family
    with an entry point of the group ``featurestore.encoders`` that names a `Family`.
    """

    module: str
    packages: tuple[str, ...]  # distributions whose versions are recorded with the vectors
    options: frozenset[str]
    example: str
    about: str
    has_revisions: bool = False  # weights on a hub, where @revision means something
    is_remembered: bool = True  # whether name, files and versions decide what it is
    extra: str = ""  # of ours, that brings the packages

    @property
    def to_install(self) -> str:
        """The line that installs what the family needs."""
        if self.extra:
            return f"pip install 'featurestore[{self.extra}]'"
        return f"pip install {' '.join(self.packages)}"


_DEPTH = frozenset({"layer", "pool"})
_TAP = frozenset({"tap", "variants"})
_IMAGES = frozenset({"precision", "decode"})
# What `embed` uses where no encoder is named.
BUILTIN = {Modality.IMAGE: "builtin:tiny-image", Modality.TEXT: "builtin:tiny-text"}
FAMILIES = {
    "builtin": Family(
        "featurestore.encoders.builtin",
        ("featurestore", "torch", "pillow", "tokenizers", "safetensors"),
        _IMAGES | _DEPTH | _TAP,
        "builtin:tiny-image",
        "small, pretrained, in the package: builtin:tiny-image and builtin:tiny-text",
    ),
    "baseline": Family(
        "featurestore.encoders.baselines",
        ("pillow", "numpy", "scikit-learn"),
        frozenset({"size"}),
        "baseline:pixels",
        "no pretraining: baseline:pixels (32 × 32, #size=…) and, for texts, baseline:hashing",
    ),
    "timm": Family(
        "featurestore.encoders.timm_models",
        ("torch", "timm", "torchvision", "pillow"),
        _IMAGES | _DEPTH | _TAP | {"size"},
        "timm:vit_small_patch14_dinov2.lvd142m",
        "any timm model by name, or timm:local-dir:/path; #size=224 for another input size",
        has_revisions=True,
        extra="timm",
    ),
    "open_clip": Family(
        "featurestore.encoders.open_clip_models",
        ("torch", "open_clip_torch", "timm", "torchvision", "pillow"),
        _IMAGES | _DEPTH | _TAP,
        "open_clip:ViT-B-32/laion2b_s34b_b79k",
        "any open_clip model with its weights (a tag, or the path of a checkpoint), "
        "open_clip:hf-hub:org/name or open_clip:local-dir:/path; images and texts",
        extra="open_clip",
    ),
    "st": Family(
        "featurestore.encoders.sentence_models",
        ("torch", "sentence-transformers", "transformers", "tokenizers"),
        frozenset({"max_length", "prompt", "truncate_dim", "precision"}) | _TAP,
        "st:all-MiniLM-L6-v2",
        "any sentence-transformers text model by name, or st:local-dir:/path",
        has_revisions=True,
        extra="sentence-transformers",
    ),
    "hf": Family(
        "featurestore.encoders.transformers_models",
        ("torch", "transformers", "tokenizers", "torchvision", "pillow"),
        _IMAGES | _DEPTH | _TAP | {"max_length"},
        "hf:facebook/dinov2-small",
        "any Hugging Face image or text model by name, or hf:local-dir:/path",
        has_revisions=True,
        extra="hf",
    ),
    "random": Family(
        "featurestore.encoders.random_weights",
        ("torch", "timm", "open_clip_torch", "torchvision", "pillow"),
        frozenset({"seed", "size"}) | _IMAGES | _DEPTH | _TAP,
        "random:timm:mobilenetv2_100#seed=0",
        "the same architecture with random weights: random:timm:… or random:open_clip:…",
        extra="open_clip",
    ),
    "import": Family(
        "featurestore.encoders.imported",
        (),
        frozenset(),
        "import:clip-from-elsewhere",
        "vectors that another program made: featurestore store import",
        is_remembered=False,
    ),
    "python": Family(
        "featurestore.encoders.custom",
        (),
        frozenset(),
        "python:my_package.my_module:MyEncoder",
        "your own: an object, or a class without arguments, with encode_images or encode_texts",
        is_remembered=False,
    ),
}


@cache
def families() -> dict[str, Family]:
    """Return our families and those that installed packages add."""
    added = {}
    for one in entry_points(group=ENTRY_POINTS):
        if one.name not in FAMILIES:
            added[one.name] = one.load()
    return FAMILIES | added


def family_of(spec: EncoderSpec) -> Family:
    """Look up the family of a spec, and check its options.

    Raises
    ------
    UnknownEncoder
        If there is no such family.
    BadName
        If the family does not know one of the options.
    """
    known = FAMILIES if spec.family in FAMILIES else families()
    try:
        family = known[spec.family]
    except KeyError:
        raise UnknownEncoder(
            f"no encoder family {spec.family!r} in {spec}: {nearest(spec.family, known, n=9)}"
        ) from None
    if spec.revision and not family.has_revisions:
        raise BadName(f"{spec.family} encoders have no revisions: write {spec} without @…")
    for key, _ in spec.options:
        if key in _TAP and key not in family.options:
            raise has_no_blocks(spec)
        if key not in family.options:
            raise BadName(
                f"{spec.family} encoders have no option {key!r} ({spec}); "
                f"they have: {', '.join(sorted(family.options))}"
            )
    return family


def has_no_blocks(spec: EncoderSpec) -> BadName:
    """Return the error for a tap of an encoder that is not cut anywhere."""
    able = [name for name, one in families().items() if one.options >= _TAP and name != "builtin"]
    return BadName(
        f"tap={spec.option('tap', '')} in {spec}: this encoder has no blocks to cut between, or "
        f"they share more than what one hands to the next; most of {', '.join(sorted(able))} can "
        f"be cut, and {BUILTIN[Modality.IMAGE]}"
    )


def versions(spec: EncoderSpec) -> dict[str, str]:
    """Return the installed versions of the packages that run this encoder."""
    return versions_of(family_of(spec))


def versions_of(family: Family) -> dict[str, str]:
    """Return the installed versions of a family's packages."""
    installed = {}
    for package in family.packages:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed
