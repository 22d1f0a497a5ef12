"""predict: what a head says of raw items."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.exit_codes import FAILED_ITEMS, UNLIKE_ITEMS
from featurestore.cli.layout import command
from featurestore.cli.options import (
    answer_log,
    boxes_options,
    check_free,
    json_option,
    log_options,
    overwrite_option,
    place_of_head,
    store_option,
    trust_option,
)
from featurestore.cli.printing import json_text, say, say_failed
from featurestore.cli.watching import progress_bar

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.sources.listing import SourceOptions
    from heads.saved.answer_log import About
    from heads.saved.answered import AnsweredRows
    from heads.saved.bundle import FittedHead
    from heads.saved.serve import HowOptions


@command(epilog="Example: featurestore predict bundle/ new-photos/ -o predictions.csv")
@click.argument("bundle")
@click.argument("source")
@click.option("--text", metavar="COLUMN", help="Column of texts, if NEW is a table.")
@click.option("--image", metavar="COLUMN", help="Column of image paths, if NEW is a table.")
@click.option("--id", "id_column", metavar="COLUMN", help="Column of ids, if NEW is a table.")
@boxes_options
@click.option("-e", "--encoder", metavar="PATH|SPEC", help="Where the head's encoder is now.")
@click.option(
    "--min-confidence",
    default=0.0,
    type=click.FloatRange(0, 1),
    help="Give no prediction below this confidence.",
)
@click.option(
    "--allow-empty",
    is_flag=True,
    help="Prediction sets may be empty, of items that fit no class; else they hold the most "
    "probable one.",
)
@click.option(
    "--fail-if-unlike",
    "most_unlike",
    metavar="SHARE",
    callback=lambda _context, _option, value: _share(value),
    help="Exit 4 if more of the items than that, say 20%, are unlike the training items; the "
    "answers are written first.",
)
@click.option(
    "-o", "--output", metavar="FILE.csv|.parquet|.jsonl|.json", help="CSV to stdout by default."
)
@log_options
@overwrite_option
@trust_option
@store_option
@json_option
def predict(
    bundle: str,
    source: str,
    text: str | None,
    image: str | None,
    id_column: str | None,
    boxes: str | None,
    box: tuple[str, ...] | None,
    box_margin: float | None,
    encoder: str | None,
    min_confidence: float,
    allow_empty: bool,
    most_unlike: float | None,
    output: str | None,
    log_to: str | None,
    log_items: bool,
    log_vectors: bool,
    overwrite: bool,
    trust: bool,
    store_path: str,
    as_json: bool,
) -> int:
    """Predict for new files with a trained head.

    BUNDLE is a folder that `train --save` wrote, or a head in the store by the name that `train`
    printed, such as photos/HEAD-ID. Rows come out in
    the order of SOURCE, with all its columns; a failed row has an empty prediction, and its
    reason in the column failed (exit 3). unlike_training is the share of the training items that
    lie less far out.
    """
    from featurestore.errors import BadName
    from featurestore.sources.listing import SourceOptions
    from heads.saved.bundle import load_bundle

    ending = _ending(output, source, as_json=as_json)
    head = load_bundle(place_of_head(bundle, store_path), trust=trust)
    if most_unlike is not None and (why := head.cannot_tell):
        raise BadName(f"--fail-if-unlike cannot be checked: {why}")
    check_free(output, overwrite=overwrite)
    options = SourceOptions(
        text=text, image=image, id=id_column, boxes=boxes, box=box, box_margin=box_margin
    )
    how: HowOptions = {
        "encoder": encoder,
        "least_confidence": min_confidence,
        "allow_empty": allow_empty,
    }
    log = None if log_to is None else answer_log(log_to, items=log_items, vectors=log_vectors)
    found = _answered(head, source, options, how)
    if log is not None:
        log.write(head, found.answers, about_each(found, source))
    for note in found.notes:
        say(note)
    write_answers(found.to_arrow(), output, ending)
    for name, given in found.renamed.items():
        say(f"the input has a column {name!r}: what the head says is in {given!r}")
    say_failed(found.failures)
    if output is not None:
        for line in found.summary():
            say(line)
        say(f"written to {output}")
    unlike = found.answers.unlike
    if most_unlike is not None and unlike is not None and unlike.share > most_unlike:
        say(
            f"{unlike.share:.1%} of the items are unlike the training items, more than "
            f"--fail-if-unlike {100 * most_unlike:.4g}%"
        )
        return UNLIKE_ITEMS
    return FAILED_ITEMS if found.failures else 0


def _answered(
    head: FittedHead, source: str, options: SourceOptions, how: HowOptions
) -> AnsweredRows:
    """Predict for the rows of a source, or for one picture."""
    import pyarrow as pa

    from featurestore.sources.folder import IMAGE_ENDINGS
    from featurestore.sources.written import InputRows
    from heads.saved.answered import AnsweredRows
    from heads.saved.serve import predict_items, predict_rows

    is_picture = Path(source).suffix.lower() in IMAGE_ENDINGS and Path(source).is_file()
    if is_picture and options.boxes is None and options.box is None:
        answers = predict_items(head, [source], **how)
        return AnsweredRows(InputRows(pa.array(answers.ids), pa.table({})), answers)
    with progress_bar() as progress:
        return predict_rows(head, source, options=options, progress=progress, **how)


def about_each(found: AnsweredRows, source: str) -> list[About]:
    """Return what a log may keep of each answered item."""
    from heads.saved.answer_log import About, digest_of

    if not found.origins and len(found.answers.ids) == 1:  # a picture by itself
        return [About(digest_of(Path(source).read_bytes()), path=str(Path(source).absolute()))]
    return [found.origins[one] for one in found.answers.ids.tolist()]


def _share(value: str | None) -> float | None:
    """Return a share that is written as 20% or 0.2."""
    if value is None:
        return None
    number, percent, rest = value.partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1 or rest:
        raise click.BadParameter(f"{value!r}: expected a share from 0 to below 1, such as 20%")
    return share


def _ending(output: str | None, source: str, *, as_json: bool) -> str:
    """Return the format that is asked for, as a file's ending."""
    if output is None:
        return ".json" if as_json else ".csv"
    path = Path(output)
    if path.suffix.lower() not in _WRITERS:
        raise click.UsageError(
            f"-o {output}: expected a file that ends in .csv, .parquet, .json or .jsonl"
        )
    if not path.parent.is_dir():
        raise click.UsageError(f"-o {output}: there is not a folder {path.parent}")
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise click.UsageError(f"-o {output} is the input itself: name another file")
    return path.suffix.lower()


def write_answers(table: pa.Table, output: str | None, ending: str) -> None:
    """Write predictions to a file, all of it or nothing, or to stdout."""
    from featurestore.storage.files import written_beside

    if output is None:
        click.echo(_WRITERS[ending](table), nl=False)
        return
    written = _WRITERS[ending](table)
    with written_beside(Path(output)) as temporary:
        temporary.write_bytes(written)


def _csv(table: pa.Table) -> bytes:
    from featurestore.sources.written import is_json

    sink = io.StringIO()
    rows = csv.writer(sink, lineterminator="\n")
    rows.writerow(table.column_names)
    columns = [
        [_cell(value, is_json=is_json(field)) for value in column.to_pylist()]
        for field, column in zip(table.schema, table.columns, strict=True)
    ]
    rows.writerows(zip(*columns, strict=True))
    return sink.getvalue().encode()


def _cell(value: Any, *, is_json: bool) -> Any:
    """Return a value as a cell of a CSV file: several labels as a|b, others that nest as JSON."""
    if is_json and value is not None:
        value = json.loads(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        from featurestore.terms.labels import SEPARATOR  # numpy, which --help does without

        return SEPARATOR.join(value)
    return json_text(value, indent=None) if isinstance(value, (list, dict)) else value


def _records(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows as dicts; columns of JSON text hold the values that it says."""
    from featurestore.sources.written import is_json

    json_columns = [field.name for field in table.schema if is_json(field)]
    rows: list[dict[str, Any]] = table.to_pylist()
    for row in rows:
        for name in json_columns:
            row[name] = None if row[name] is None else json.loads(row[name])
    return rows


def _json(table: pa.Table) -> bytes:
    return (json_text(_records(table)) + "\n").encode()


def _jsonl(table: pa.Table) -> bytes:
    return "".join(f"{json_text(row, indent=None)}\n" for row in _records(table)).encode()


def _parquet(table: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    plain = pa.schema([field.remove_metadata() for field in table.schema])
    pq.write_table(table.cast(plain), sink)
    return sink.getvalue()


_WRITERS = {".csv": _csv, ".json": _json, ".jsonl": _jsonl, ".parquet": _parquet}
