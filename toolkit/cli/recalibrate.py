"""`cxr-edge recalibrate`: parse, fit, write, say what changed."""

from __future__ import annotations

from pathlib import Path

import click

from firmware_bridge.result import NOTICE
from toolkit.cli.bundle_file import BUNDLE_FILE

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("recalibrate", epilog=NOTICE)
@click.argument("bundle", type=BUNDLE_FILE)
@click.option(
    "--index",
    required=True,
    metavar="NAME=PATH[:SPLIT]",
    help="Labelled X-rays of the site, of patients that the model was not trained on.",
)
@click.option("--out", type=_FILE, required=True, help="The bundle to write; unsigned (cxr-edge bundle sign).")
@click.option("--name", default="", help="Of the new bundle. Default: the old name and the index's.")
@click.option(
    "--sensitivity",
    type=click.FloatRange(0.5, 1.0),
    default=0.95,
    show_default=True,
    help="Sensitivity that the threshold is for.",
)
@click.option("--bias/--no-bias", default=True, show_default=True, help="Fit the site's share of positives as well.")
@click.option("--conservative", is_flag=True, help="Take the lower end of the threshold's interval.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of bootstrap and folds.")
@click.option("--workers", type=click.IntRange(1, 256), default=2, show_default=True, help="Threads that score.")
def command(
    bundle: Path,
    index: str,
    out: Path,
    name: str,
    sensitivity: float,
    bias: bool,
    conservative: bool,
    seed: int,
    workers: int,
) -> None:
    """Fit temperature, bias and threshold of BUNDLE to a site's own X-rays, without training."""
    from toolkit.evaluate import parse_named_index
    from toolkit.recalibrate import recalibrate

    done = recalibrate(
        bundle,
        parse_named_index(index),
        out=out,
        sensitivity=sensitivity,
        with_bias=bias,
        conservative=conservative,
        name=name,
        seed=seed,
        workers=workers,
    )
    for one in done:
        click.echo(
            f"{one.model}: {one.fit.images} X-rays of {one.fit.patients} patients; ECE {one.ece_before:.3f} before, "
            f"{one.ece_after:.3f} after (on patients held out; {one.ece_by_chance:.3f} would be luck alone); "
            f"temperature {one.fit.temperature:.3f}, bias {one.fit.bias:+.3f}, "
            f"threshold {one.threshold_before:.3f} before, {one.fit.choice.threshold:.3f} now"
        )
        click.echo(
            f"  AUROC {one.auroc.value:.3f} ({one.auroc.low:.3f} to {one.auroc.high:.3f}), as before; "
            f"at the threshold now sensitivity {one.fit.choice.sensitivity.value:.3f}, "
            f"specificity {one.fit.choice.specificity.value:.3f}, on the X-rays of the fit"
        )
        if one.tells_nothing:
            click.echo(
                "  warning: on these X-rays a coin may tell sick from well as the model does. Its probabilities are "
                "honest now, and say next to nothing: do not deploy it here",
                err=True,
            )
    click.echo(f"{out}, unsigned. {NOTICE}")
