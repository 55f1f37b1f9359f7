"""History: a row of numbers an epoch -> history.csv, curves.png and TensorBoard."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch.utils.tensorboard import SummaryWriter

from wsi_pipeline.disk import writing
from wsi_pipeline.learn.training.folder import BOARD, CURVES, HISTORY, replace_file

Row = dict[str, Any]
_PANELS = (  # title, columns drawn, whether on a logarithmic axis
    ("loss", ("train_loss", "val_loss"), False),
    ("validation", ("val_auroc", "val_kappa", "val_accuracy"), False),
    ("learning rate", ("rate",), True),
)
_REDRAW_S = 30.0  # curves are drawn no more often, and at the end: short epochs would spend their time on it
_COLOURS = ("#1f6f8b", "#d1495b", "#66a182")


class History:
    """The rows of a training so far, appended to in place; a context manager. Without `writes` no file is touched."""

    def __init__(self, folder: Path, rows: list[Row], *, writes: bool = True) -> None:
        self.rows, self._folder = rows, folder
        purge = len(rows) + 1 if rows else None  # epochs that are done again after a kill
        self._best_epoch, self._drawn, self._drawn_at = 0, len(rows), monotonic()
        self._board = SummaryWriter(str(folder / BOARD), purge_step=purge) if writes else None

    def __enter__(self) -> "History":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._board is not None:
            self._board.close()
            if kind is None and self._drawn < len(self.rows):
                self._draw()

    def add(self, row: Row, *, best_epoch: int, more: dict[str, float] | None = None) -> None:
        """Add an epoch's row to all three; `more` numbers (one a class) go to TensorBoard alone."""
        self.rows.append(row)
        if self._board is None:
            return
        with writing(self._folder / BOARD):
            for name, value in {**row, **(more or {})}.items():
                if name != "epoch" and isinstance(value, int | float) and math.isfinite(value):
                    self._board.add_scalar(name, value, row["epoch"])
            self._board.flush()
        replace_file(self._folder / HISTORY, as_csv(self.rows))
        self._best_epoch = best_epoch
        if monotonic() - self._drawn_at > _REDRAW_S:
            self._draw()

    def _draw(self) -> None:
        draw_curves(self.rows, self._folder / CURVES, best_epoch=self._best_epoch)
        self._drawn, self._drawn_at = len(self.rows), monotonic()


def as_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV, numbers to 6 digits; NaN is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _shown(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def draw_curves(rows: Sequence[Row], path: Path, *, best_epoch: int) -> None:
    """curves.png: loss, validation metrics and learning rate over the epochs, the best epoch marked."""
    picture = io.BytesIO()
    curves(rows, best_epoch=best_epoch).savefig(picture, dpi=110, format="png")
    replace_file(path, picture.getvalue())


def curves(rows: Sequence[Row], *, best_epoch: int) -> Figure:
    """The three panels of curves.png."""
    figure = Figure(figsize=(12, 3.6))
    figure.subplots_adjust(left=0.05, right=0.985, bottom=0.14, top=0.91, wspace=0.3)  # "constrained" draws it twice
    FigureCanvasAgg(figure)
    epochs = [row["epoch"] for row in rows]
    for axes, (title, names, logarithmic) in zip(figure.subplots(1, 3), _PANELS, strict=True):
        drawn = [name for name in names if any(_known(row.get(name)) for row in rows)]
        for name, colour in zip(drawn, _COLOURS, strict=False):
            values = [row[name] if _known(row.get(name)) else math.nan for row in rows]
            axes.plot(epochs, values, color=colour, marker="o", markersize=3, label=name)
        if best_epoch:
            axes.axvline(best_epoch, color="0.6", linestyle=":", linewidth=1, label=f"best: epoch {best_epoch}")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if logarithmic:
            axes.set_yscale("log")
        axes.grid(alpha=0.25)
        if drawn or best_epoch:
            axes.legend(frameon=False, fontsize=8)
    return figure


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _shown(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
