"""push, pull: bundles at other places."""

from __future__ import annotations

import click

from featurestore.cli.layout import command
from featurestore.cli.options import json_option, place_of_head, store_option, trust_option
from featurestore.cli.printing import print_json, say, tell
from featurestore.store.commands import command_line


@command(epilog="Example: featurestore store push bundle/ hf://my-org/leaf-spots --licence mit")
@click.argument("bundle")
@click.argument("place")
@click.option("--licence", metavar="NAME", help="As the Hub names it, such as mit or cc-by-4.0.")
@click.option(
    "--public", is_flag=True, help="Everyone may see it; without it a public repository is refused."
)
@click.option("--dry-run", is_flag=True, help="Send nothing; print what would be sent.")
@click.option(
    "--training-data",
    is_flag=True,
    help="Also send a head that keeps vectors or words of training items.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask before --public.")
@trust_option
@store_option
@json_option
def push(
    bundle: str,
    place: str,
    licence: str | None,
    public: bool,
    dry_run: bool,
    training_data: bool,
    yes: bool,
    trust: bool,
    store_path: str,
    as_json: bool,
) -> None:
    """Give a bundle to others, with a model card.

    PLACE is hf://ORG/NAME (private unless --public), a folder, or s3://bucket/folder. What the
    files tell of your data is said first.
    """
    from heads.saved.bundle import load_bundle
    from heads.saved.handover import push as send
    from heads.saved.hub import SCHEME

    head = load_bundle(place_of_head(bundle, store_path), trust=trust)
    plan = send(head, place, licence=licence, dry_run=True)
    for one in plan.tells:
        say(f"it tells {one}")
    if dry_run:
        if as_json:
            print_json(vars(plan))
            return
        for name, size in plan.files.items():
            tell(f"{size:>12,} {name}")
        tell(f"\n{plan.readme}")
        say(f"nothing was sent to {place}")
        return
    if public and place.startswith(SCHEME) and not yes:
        click.confirm(f"let everyone see this at {place}?", abort=True, err=True)
    done = send(head, place, licence=licence, private=not public, training_data=training_data)
    if as_json:
        print_json(vars(done))
        return
    seen = "" if done.private is None else ", private" if done.private else ", public"
    at = "" if done.revision is None else f" at {done.revision[:8]}"
    say(f"sent {len(done.files)} files to {place}{at}{seen}")
    tell(f"Type there, to use it: {command_line('predict', place, 'NEW')}")


@command(epilog="Example: featurestore store pull hf://my-org/leaf-spots -o bundle/")
@click.argument("place")
@click.option("-o", "--output", required=True, metavar="FOLDER", help="Where it is to lie.")
def pull(place: str, output: str) -> None:
    """Fetch a bundle from hf://ORG/NAME[@REVISION], s3:// or a folder.

    Files of known names and safe formats alone are fetched. `predict` and `serve` take such a
    place in the place of a folder, too.
    """
    from heads.saved.handover import pull as fetch

    found = fetch(place, output, say=say)
    say(f"written to {found}")
    tell(f"Type next, to predict new items: {command_line('predict', str(found), 'NEW')}")
