"""predict: what a head says of raw items."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from featurestore.cli.exit_codes import FAILED_ITEMS
from featurestore.cli.options import json_option
from featurestore.cli.printing import progress_bar, say
from featurestore.terms.labels import SEPARATOR

if TYPE_CHECKING:
    import pyarrow as pa


@click.command(epilog="Example: featurestore predict bundle/ new-photos/ -o predictions.csv")
@click.argument("bundle")
@click.argument("source")
@click.option("--text", metavar="COLUMN", help="Of a table: the column of texts.")
@click.option("--image", metavar="COLUMN", help="Of a table: the column of image paths.")
@click.option("--id", "id_column", metavar="COLUMN", help="Of a table: the column of ids.")
@click.option("--encoder", metavar="PATH|SPEC", help="Where the head's encoder is now.")
@click.option(
    "--min-confidence",
    default=0.0,
    type=click.FloatRange(0, 1),
    help="Abstain below it: predicted is empty.",
)
@click.option("-o", "--output", metavar="FILE.csv|.parquet|.json", help="CSV to stdout by default.")
@click.option(
    "--trust",
    multiple=True,
    metavar="TYPE|ENCODER",
    help="What may run that is not ours: the type of an estimator of your own, or an encoder "
    "(python:module:object); repeatable.",
)
@json_option
def predict(
    bundle: str,
    source: str,
    text: str | None,
    image: str | None,
    id_column: str | None,
    encoder: str | None,
    min_confidence: float,
    output: str | None,
    trust: tuple[str, ...],
    as_json: bool,
) -> int:
    """Predict for raw items with a bundle, or with the folder of a registered head."""
    from featurestore.sources.folder import IMAGE_ENDINGS
    from featurestore.sources.listing import SourceOptions
    from heads.saved.bundle import load_bundle
    from heads.saved.serve import predict_items, predict_source

    ending = _ending(output, as_json=as_json)
    head = load_bundle(bundle, trusted=trust)
    if Path(source).suffix.lower() in IMAGE_ENDINGS and Path(source).is_file():
        found = predict_items(head, [source], encoder=encoder, least_confidence=min_confidence)
    else:
        options = SourceOptions(text=text, image=image, id=id_column)
        with progress_bar() as progress:
            found = predict_source(
                head, source, options=options, encoder=encoder,
                least_confidence=min_confidence, progress=progress,
            )  # fmt: skip
    write_answers(found.to_arrow(), output, ending)
    for one in found.failures:
        say(f"failed: {one}")
    return FAILED_ITEMS if found.failures else 0


def _ending(output: str | None, *, as_json: bool) -> str:
    """Return the format that is asked for, as a file's ending."""
    ending = Path(output).suffix.lower() if output else ".json" if as_json else ".csv"
    if ending not in (".csv", ".parquet", ".json"):
        raise click.UsageError(f"-o {output}: expected a file that ends in .csv, .parquet or .json")
    return ending


def write_answers(table: pa.Table, output: str | None, ending: str) -> None:
    """Write predictions to a file, or to stdout."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if ending == ".parquet":
        pq.write_table(table, output)
        return
    if ending == ".json":
        written = json.dumps(table.to_pylist(), indent=1, ensure_ascii=False) + "\n"
    else:
        sink = io.StringIO()
        rows = csv.writer(sink, lineterminator="\n")
        rows.writerow(table.column_names)
        lists = [pa.types.is_list(field.type) for field in table.schema]
        for row in zip(*table.to_pydict().values(), strict=True):
            rows.writerow(SEPARATOR.join(v) if is_list and v else "" if is_list else v
                          for v, is_list in zip(row, lists, strict=True))  # fmt: skip
        written = sink.getvalue()
    if output is None:
        click.echo(written, nl=False)
    else:
        Path(output).write_text(written, encoding="utf-8")
