"""upgrade: from one encoder to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from featurestore.cli.exit_codes import FAILED_ITEMS
from featurestore.cli.layout import command
from featurestore.cli.options import (
    dataset_of,
    json_option,
    label_option,
    seed_option,
    store_option,
    trust_option,
)
from featurestore.cli.printing import print_json, say, tell
from featurestore.cli.watching import Watch, watched
from featurestore.store.commands import command_line

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet


@command(epilog="Example: featurestore store upgrade photos tiny-image timm:resnet18.a1_in1k")
@click.argument("dataset")
@click.argument("old")
@click.argument("new", required=False)
@click.option("--go", is_flag=True, help="Embed everything by NEW, then make it the default.")
@click.option("--rollback", is_flag=True, help="Make OLD the default again; all vectors stay.")
@click.option(
    "--sample", default=2000, show_default=True, type=click.IntRange(80), metavar="N",
    help="Items of the trial; labeled ones first.",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="Of --go, as of embed.")
@label_option
@seed_option
@trust_option
@store_option
@json_option
@watched()
def upgrade(
    dataset: str,
    old: str,
    new: str | None,
    go: bool,
    rollback: bool,
    sample: int,
    device: str,
    label: str | None,
    seed: int,
    trust: bool,
    store_path: str,
    as_json: bool,
    watch: Watch,
) -> int:
    """Try another encoder on a sample, or go over to it.

    Without --go it is a trial on a sample, and nothing of the store's views changes. With --go
    everything is embedded by NEW while OLD is in use; NEW becomes the default once it is whole.
    A run that was stopped goes on with the same line. --rollback needs OLD alone.
    """
    found = dataset_of(store_path, dataset, None, trust=trust)
    if rollback:
        if new is not None or go:
            raise click.UsageError("--rollback takes DATASET and OLD alone")
        return _roll_back(found, old)
    if new is None:
        raise click.UsageError("name the new encoder: upgrade DATASET OLD NEW")
    if go:
        return _go(found, old, new, device, trust, watch)
    from featurestore.encoders.named import encoder_named
    from heads.upgrade.trial import try_encoder

    view = found.view(old, trust=trust)
    spec = encoder_named(found.spec_named(new))
    trial = try_encoder(
        view, spec, n_items=sample, label=label, seed=seed, trust=trust,
        progress=watch.fits,
    )  # fmt: skip
    watch.finish()
    if as_json:
        print_json(trial.to_json())
        return 0
    for line in trial.sentences():
        tell(line)
    words = ("store", "upgrade", dataset, old, new, "--go")
    what = "Type next, to go over to it" if trial.verdict == "better" else "If you want it still"
    tell(f"{what}: {command_line(*words, store=found.store.path)}")
    return 0


def _go(found: DataSet, old: str, new: str, device: str, trust: bool, watch: Watch) -> int:
    """Embed everything by the new encoder, then make it the default."""
    from featurestore.errors import BadName
    from featurestore.pipeline.options import EmbedOptions
    from featurestore.store.upgrading import begin, finish

    before = found.view(old, trust=trust).spec
    after = _meant(found, new, trust)
    if str(before) == after:
        raise BadName(f"{after} is the encoder that is used now: name another")
    begin(found, str(before), after)
    encoders = [after] if before.family == "import" else [after, str(before)]
    reports = found.store.embed(
        [], dataset=found.name, encoders=encoders, embed_options=EmbedOptions(device, trust=trust),
        **watch.hears,
    )  # fmt: skip
    watch.finish()
    for report in reports:
        say(report.describe())
    done = finish(found)
    if done.n_failed:
        say(f"{done.n_failed:,} items cannot be read by {after}: searches by it do not find them")
    tell(f"{found.name} uses {after} from now on; the vectors by {before} are kept.")
    store = found.store.path
    back = command_line("store", "upgrade", found.name, str(before), "--rollback", store=store)
    tell(f"To go back: {back}")
    tell(f"Heads that were trained on {before} go on with it.")
    train = command_line("compare", found.name, "-e", after, store=store)
    tell(f"Type next, for heads on the new vectors: {train}")
    return FAILED_ITEMS if done.n_failed else 0


def _meant(found: DataSet, new: str, trust: bool) -> str:
    """Return the spec of the new encoder, which is loaded: so nothing is begun in vain."""
    from featurestore.encoders.encode_now import check_reads
    from featurestore.encoders.loading import load_encoder
    from featurestore.encoders.named import encoder_named
    from featurestore.encoders.trust import asked_for, either
    from featurestore.terms.specs import EncoderSpec

    spec = encoder_named(found.spec_named(new), [])
    known = load_encoder(EncoderSpec.parse(spec), trust=either(trust, asked_for(spec))).resolved
    check_reads(known.spec, known.modalities, found.modality)
    return str(known.spec)


def _roll_back(found: DataSet, old: str) -> int:
    from featurestore.errors import BadName
    from featurestore.store.upgrading import read_upgrade, roll_back

    upgrade = read_upgrade(found.folder)
    if upgrade is not None and found.spec_named(old) != upgrade.old:
        raise BadName(f"the upgrade of {found.name!r} was from {upgrade.old}, not from {old}")
    back = roll_back(found)
    tell(f"{found.name} uses {back.old} again; the vectors by {back.new} are kept.")
    return 0
