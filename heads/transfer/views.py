"""The views that a verdict needs: layers of an encoder, random weights of it, raw pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeAlias

from featurestore.encoders.trust import asked_for
from featurestore.errors import FeatureStoreError
from featurestore.pipeline.listing_run import Selection
from featurestore.pipeline.options import EmbedOptions
from featurestore.terms.specs import EncoderSpec, Modality, encoder_label, parse_specs

if TYPE_CHECKING:
    from featurestore.pipeline.report import Progress
    from featurestore.store.dataset import DataSet
    from featurestore.store.view import View

PIXELS = "baseline:pixels"
ProgressCallback: TypeAlias = "Callable[[Progress], None] | None"


def no_bar() -> AbstractContextManager[ProgressCallback]:
    """Show no progress."""
    return nullcontext()


def embed_views(
    dataset: DataSet,
    encoders: Sequence[str] = (),
    *,
    layers: Sequence[str] = (),
    n_random: int = 0,
    pixels: bool = True,
    progress_bar: Callable[[], AbstractContextManager[ProgressCallback]] = no_bar,
    say: Callable[[str], None] = lambda message: None,
) -> list[View]:
    """Embed what `heads.assess_transfer` needs and the store lacks; return the views to judge.

    Parameters
    ----------
    encoders : sequence of str
        By default those of the data set's views, without baselines and random weights; where
        there are no others, all views are returned.
    layers : sequence of str
        Layers of each encoder to judge beside it, such as ``("3", "6", "-1")``.
    n_random : int
        Seeds of random weights of each architecture. An encoder that cannot be had with random
        weights is left out, and ``say`` is told so.
    pixels : bool
        Embed raw pixels, the baseline of images, where vectors are not all imported.
    progress_bar : callable, optional
        Opens what hears of each item (`Store.embed`'s ``progress``), around each embedding.
    say : callable, optional
        As of `Store.embed`.
    """
    views = dataset.views()
    named = [EncoderSpec.parse(dataset.spec_named(one)) for one in encoders] or [
        view.spec for view in views if view.spec.family not in ("baseline", "random")
    ]
    of_layers = [spec.with_option("layer", layer) for spec in named for layer in layers]
    judged = parse_specs(map(str, [*named, *of_layers]))
    needed = list(of_layers)
    is_imported = all(view.spec.family == "import" for view in views)
    if pixels and dataset.modality == Modality.IMAGE and not is_imported:
        needed.append(EncoderSpec.parse(PIXELS))
    known = {str(view.spec) for view in views}

    def embed(specs: Iterable[EncoderSpec]) -> None:
        missing = [str(spec) for spec in dict.fromkeys(specs) if str(spec) not in known]
        if not missing:
            return
        say(f"embedding what the verdict needs: {', '.join(map(encoder_label, missing))}")
        with progress_bar() as progress:
            reports = dataset.store.embed(
                [],
                dataset=dataset.name,
                encoders=missing,
                embed_options=EmbedOptions(trust=dataset.store.trust),
                selection=Selection(known=True),
                progress=progress,
                say=say,
            )
        for report in reports:
            say(report.describe())

    embed(needed)
    random = [
        EncoderSpec.parse(f"random:{spec}").with_option("seed", str(seed))
        for spec in judged
        for seed in range(n_random)
    ]
    try:
        embed(random)  # in one pass over the data
    except FeatureStoreError:
        for spec in random:
            try:
                embed([spec])
            except FeatureStoreError as error:
                say(f"not embedded: {error}")
    trust = asked_for(*encoders)
    return [dataset.view(str(spec), trust=trust) for spec in judged] or dataset.views()
