"""quality, review, suggest: what is wrong with the data, what people decide, what to label next."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from featurestore.cli.layout import command, option
from featurestore.cli.options import (
    LIMIT,
    check_free,
    encoder_option,
    json_option,
    label_option,
    open_given,
    overwrite_option,
    say_likely_groups,
    seed_option,
    slice_option,
    store_option,
    trust_option,
    view_of,
)
from featurestore.cli.printing import (
    contents_of,
    print_items,
    print_json,
    print_table,
    say,
    tell,
)
from featurestore.cli.show_results import KINDS, show_issues
from featurestore.cli.watching import Watch, watched
from featurestore.store.commands import command_line
from featurestore.terms.words import counted

if TYPE_CHECKING:
    from featurestore.curation.reviews import Review
    from featurestore.store.dataset import DataSet
    from heads.experiments.suggest import Suggestion


@command(epilog="Example: featurestore quality photos -e baseline:pixels")
@click.argument("dataset")
@encoder_option
@label_option
@click.option("--head", default="logistic", show_default=True, help="Head that judges the labels.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Show these alone.")
@click.option(*LIMIT, default=10, show_default=True, metavar="N", help="Rows of each kind to show.")
@slice_option
@seed_option
@trust_option
@store_option
@json_option
@watched(stops=False)
def quality(
    dataset: str,
    encoder: str | None,
    label: str | None,
    head: str,
    kinds: tuple[str, ...],
    limit: int,
    slice_name: str | None,
    seed: int,
    trust: bool,
    store_path: str,
    as_json: bool,
    watch: Watch,
) -> None:
    """Look for wrong labels, near-duplicates, leaks and outliers."""
    import heads

    view = view_of(store_path, dataset, encoder, slice_name, label=label, trust=trust)
    say_likely_groups(view.dataset, label)
    found = heads.find_issues(
        view, label=label, head=head, seed=seed,
        progress=watch.steps,
    )  # fmt: skip
    watch.finish()
    if as_json:
        print_json(found.to_json())
        return
    show_issues(found, kinds or KINDS, limit, contents_of(view.dataset))
    if found.issues:
        say(f"review them on the dashboard's Quality page, or with `featurestore review {dataset}`")


@command(epilog="Example: featurestore review photos --export reviews.csv")
@click.argument("dataset")
@click.option("--item", metavar="ITEM", help="Item to review.")
@click.option("--confirm", is_flag=True, help="Its label is right.")
@click.option("--relabel", metavar="CLASS", help="It is of this class.")
@click.option(
    "--new-class", is_flag=True, help="Let --relabel and --import use classes that no item has yet."
)
@click.option("--exclude", is_flag=True, help="Do not train on it.")
@click.option("--duplicate-of", metavar="ITEM", help="It is a twin of another item.")
@click.option("--undo", "undone", metavar="REVIEW", help="Take back a decision, by its id.")
@click.option(
    "--import", "source", metavar="FILE", help="CSV, Parquet, or what Label Studio exports."
)
@click.option("--export", "target", metavar="FILE", help=".csv, .parquet, or .json (Label Studio).")
@overwrite_option
@click.option("--who", help="Who decides; your user name by default.")
@click.option("--note", default="", help="Why.")
@label_option
@store_option
@json_option
def review(
    dataset: str,
    item: str | None,
    confirm: bool,
    relabel: str | None,
    new_class: bool,
    exclude: bool,
    duplicate_of: str | None,
    undone: str | None,
    source: str | None,
    target: str | None,
    overwrite: bool,
    who: str | None,
    note: str,
    label: str | None,
    store_path: str,
    as_json: bool,
) -> None:
    """Decide on items, and see what was decided."""
    from featurestore.curation.reviews import (
        NO_LABEL,
        Action,
        Review,
        add_reviews,
        known_class,
        read_reviews,
        undo,
    )
    from featurestore.errors import BadName

    found = open_given(store_path).dataset(dataset)
    column = label or next(iter(found.label_columns), NO_LABEL)
    if column == NO_LABEL and (confirm or relabel is not None):
        raise click.UsageError(f"{dataset} has no labels: say which column with --label")
    if relabel is not None and not new_class:
        try:
            relabel = known_class(found.folder, column, relabel)
        except BadName as error:
            raise BadName(f"{error}; --new-class makes one") from None
    decided = [
        (action, value)
        for action, value, is_it in (
            (Action.CONFIRM, None, confirm),
            (Action.RELABEL, relabel, relabel is not None),
            (Action.EXCLUDE, None, exclude),
            (Action.DUPLICATE, duplicate_of, duplicate_of is not None),
        )
        if is_it
    ]
    if sum(one is not None for one in (item, undone, source, target)) > 1:
        raise click.UsageError("give one of --item, --undo, --import and --export at a time")
    if len(decided) > 1 or bool(decided) != (item is not None):
        raise click.UsageError("say --item ITEM and one of --confirm, --relabel, --exclude, …")
    if item is not None:
        ((action, value),) = decided
        [made] = add_reviews(
            found.folder, [Review(item, action, column, value, note=note)], who=who
        )
        say(f"{made.id}: {item}: {action} {value or ''}".rstrip())
    elif undone is not None:
        undo(found.folder, undone, who=who)
        say(f"{undone} is undone")
    elif source is not None:
        _import(found, Path(source), column, who=who, new_class=new_class)
    elif target is not None:
        check_free(target, overwrite=overwrite)
        _export(found, Path(target))
    else:
        _show(read_reviews(found.folder), as_json)


def _export(dataset: DataSet, path: Path) -> None:
    from featurestore.curation.reviews import read_reviews, standing
    from featurestore.errors import BadName
    from featurestore.exchange import review_files

    kept = list(standing(read_reviews(dataset.folder)).values())
    if not kept:
        raise BadName(
            f"nothing of {dataset.name} was decided yet, so there is nothing to export: "
            "--item ITEM with --confirm, --relabel or --exclude decides"
        )
    n = review_files.write(path, kept, dataset)
    gone = f"; {len(kept) - n:,} items are gone" if n < len(kept) else ""
    say(f"{counted(n, 'decision')} in {path}{gone}")
    if path.suffix == ".json":
        _say_how_to_show(dataset, [one.item_id for one in kept])


def _import(dataset: DataSet, path: Path, column: str, *, who: str | None, new_class: bool) -> None:
    from featurestore.curation.reviews import add_reviews, read_reviews, with_known_classes
    from featurestore.errors import BadName
    from featurestore.exchange.review_files import read_noted

    history = read_reviews(dataset.folder)
    read, notes = read_noted(path, column, dataset.label_columns, history)
    if not new_class:
        try:
            read = with_known_classes(dataset.folder, read)
        except BadName as error:
            raise BadName(f"{path}: {error}; --new-class takes new ones") from None
    kept = add_reviews(dataset.folder, read, who=who)
    known = f"; {len(read) - len(kept):,} were there already" if len(kept) < len(read) else ""
    say(f"{counted(len(kept), 'decision')} from {path}{known}")
    for line in notes:
        say(line)


def _say_how_to_show(dataset: DataSet, ids: list[str]) -> None:
    from featurestore.exchange.label_studio import served_folder

    folder = served_folder(dataset, ids)
    if folder:
        say(
            "to show the pictures, start Label Studio with "
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true "
            f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={shlex.quote(str(Path(folder).parent))}, "
            f"and add {folder} to the project as a source storage of local files"
        )


def _show(reviews: list[Review], as_json: bool) -> None:
    from featurestore.curation.reviews import Action, contested_sentences, standing

    stands = {one.id for one in standing(reviews).values()}
    if as_json:
        print_json([{**vars(one), "stands": one.id in stands} for one in reviews])
        return
    rows = [
        [one.id, one.item_id, one.action, one.value, one.who, one.when[:16].replace("T", " "),
         "yes" if one.id in stands else ""]
        for one in reviews
        if one.action is not Action.UNDO
    ]  # fmt: skip
    print_table(["review", "item", "decision", "value", "who", "when (UTC)", "stands"], rows)
    for line in contested_sentences(reviews):
        tell(line)


@command(epilog="Example: featurestore suggest photos -e baseline:pixels -n 20")
@click.argument("dataset")
@encoder_option
@option(
    *LIMIT, old=["--number"], default=20, show_default=True, type=click.IntRange(1), metavar="N",
    help="How many items.",
)  # fmt: skip
@click.option(
    "--strategy",
    default="auto",
    show_default=True,
    help="uncertainty, typiclust, coreset, random; auto: typiclust until each class has labels.",
)
@click.option(
    "-o", "--output", metavar="FILE.csv", help="Also write a table whose label column you fill."
)
@overwrite_option
@label_option
@slice_option
@seed_option
@store_option
@json_option
def suggest(
    dataset: str,
    encoder: str | None,
    limit: int,
    strategy: str,
    output: str | None,
    overwrite: bool,
    label: str | None,
    slice_name: str | None,
    seed: int,
    store_path: str,
    as_json: bool,
) -> None:
    """Say which unlabelled items to label next.

    With -o, fill the label column of the table that is written, and give it to `labels`.
    """
    import heads

    if output is not None and not output.lower().endswith(".csv"):
        raise click.UsageError(f"-o {output}: expected a name that ends in .csv")
    check_free(output, overwrite=overwrite)
    view = view_of(store_path, dataset, encoder, slice_name, label=label)
    found = heads.suggest(view, limit, strategy, label=label, seed=seed)
    kind = "text" if view.dataset.modality == "text" else "path"
    contents = contents_of(view.dataset)([one.item_id for one in found])
    if as_json:
        print_json([{**vars(one), kind: contents[one.item_id]} for one in found])
    else:
        rows = [[one.item_id, f"{one.score:.3f}", one.reason] for one in found]
        print_items(["label next", "score", "why"], rows, contents)
        if any("typical" in one.reason for one in found):
            then = ["featurestore", "train", view.dataset.name, "-e", str(view.spec)]
            said = f"`{shlex.join([*then, '--head', 'propagate'])}`"
            say(f"when these have labels, {said} learns from the others too")
    if output is not None:
        column = label or next(iter(view.dataset.label_columns), "label")
        _write_todo(Path(output), column, kind, contents, found)
        words = ["featurestore", "labels", view.dataset.name, output, "--label", column]
        say(f"fill the column {column} of {output}, then run `{shlex.join(words)}`")
    elif not as_json:
        given = [("-e", encoder), ("--strategy", None if strategy == "auto" else strategy)]
        given += [
            ("--label", label),
            ("--slice", slice_name),
            ("--seed", str(seed) if seed else None),
        ]
        named = [word for flag, value in given if value is not None for word in (flag, value)]
        words = ["suggest", view.dataset.name, "-n", str(limit), *named, "-o", "todo.csv"]
        tell(f"Type next, for a table to fill: {command_line(*words, store=store_path)}")


def _write_todo(
    path: Path, label: str, kind: str, contents: Mapping[str, str], found: Sequence[Suggestion]
) -> None:
    """Write a table with an empty column of labels."""
    from featurestore.storage.files import written_beside

    with written_beside(path) as temporary, temporary.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["item_id", label, kind, "why"])
        rows.writerows([one.item_id, "", contents[one.item_id], one.reason] for one in found)
