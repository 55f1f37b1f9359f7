"""`evaluate`: judge a checkpoint, or any model's predictions, with intervals; JSON, CSV and one offline page."""

from typing import Any

import click
from click.core import ParameterSource

_OF_TABLES = ("labels", "patient_column", "classes", "label_column", "exclusive", "ordinal")
_OF_IMAGES = ("data", "split", "dataset", "overrides", "batch", "skip_unreadable")


@click.command("evaluate")
@click.option("--out", required=True, type=click.Path(), help="The folder of the report.")
@click.option("--checkpoint", help="A training's folder or a model; with --data.")
@click.option("--data", type=click.Path(), help="The folder of the images.")
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test", "all"]))
@click.option("--dataset", metavar="NAME", help="Another data set than the training's, such as folder or skin.")
@click.option("--set", "overrides", multiple=True, metavar="KNOB=VALUE", help="A setting of the data, as for train.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--batch", type=int, help="Images at once.")
@click.option("--skip-unreadable", is_flag=True, help="Leave images out that cannot be read; they are counted.")
@click.option("--predictions", metavar="CSV", help="Any model's probabilities: a row an image, a column a class.")
@click.option("--labels", metavar="CSV", help="What is true: 0, 1 or empty in a column for each class.")
@click.option("--id-column", default="image", show_default=True, help="Of both tables.")
@click.option("--patient-column", help="Of the labels: what is resampled as one.")
@click.option("--classes", metavar="A,B", help="The columns of classes in --predictions; by default all others.")
@click.option("--label-column", help="One column of class names (several parted by |), or of grades with --ordinal.")
@click.option("--exclusive", is_flag=True, help="Each image has exactly one class.")
@click.option("--ordinal", is_flag=True, help="The classes are grade >= 1, grade >= 2, ...")
@click.option("--logits", is_flag=True, help="The tables hold logits.")
@click.option("--only-common", is_flag=True, help="Leave out images that stand in one table alone.")
@click.option("--compare", metavar="CSV|MODEL", help="Another model on the same images, paired.")
@click.option("--by", metavar="A,B", help="Columns that part the images into subgroups, such as view,sex.")
@click.option("--thresholds", metavar="NUMBER|FILE", help="Instead of the model's own (0.5 without a model).")
@click.option("--prevalence", multiple=True, metavar="[CLASS=]SHARE", help="State the PPV at this prevalence.")
@click.option("--rounds", default=1000, show_default=True, help="Of the bootstrap.")
@click.option("--level", default=0.95, show_default=True, help="Of the intervals.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the bootstrap.")
@click.option("--mistakes", default=48, show_default=True, type=click.IntRange(0), help="Worst mistakes shown at most.")
def command(out: str, **given: Any) -> int:
    """Judge a checkpoint on images, or any model's predictions against labels.

    \b
    evaluate --checkpoint runs/xray --data DIR --out report
    evaluate --predictions preds.csv --labels labels.csv --patient-column patient_id --out report
    """
    from pathlib import Path

    from wsi_pipeline.cli.judged import from_tables
    from wsi_pipeline.cli.reporting import check_out, judge, report

    if (given["checkpoint"] is None) == (given["predictions"] is None):
        raise click.UsageError("give either --checkpoint with --data, or --predictions with --labels")
    _refuse_unused(by_tables=given["checkpoint"] is None)
    check_out(out, given)
    if given["checkpoint"] is None:
        judged = from_tables(given)
    else:
        from wsi_pipeline.cli.predicted import from_checkpoint

        if not given["data"]:
            raise click.UsageError("--checkpoint needs --data, the folder of the images")
        judged = from_checkpoint(given)
    report(judged, *judge(judged, given), Path(out), given)
    return 0


def _refuse_unused(*, by_tables: bool) -> None:
    """UsageError for an option that would change nothing: the figures would not be those that were asked for."""
    context, unused = click.get_current_context(), _OF_IMAGES if by_tables else _OF_TABLES
    for option in context.command.params:
        if option.name in unused and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            goes, here = ("--checkpoint", "--predictions") if by_tables else ("--predictions", "--checkpoint")
            raise click.UsageError(f"{option.opts[0]} goes with {goes} and changes nothing of {here}; leave it out")
