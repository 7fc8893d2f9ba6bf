"""A grid of classes as a picture: every symbol a row, time from left to right, a colour a class, and a legend.

Lives here: drawing (PNG, with a transparent ground, for light and dark pages). Does not: which cell is of which class, or what the
classes mean (heat_map.py for a verdict; the command that shows coverage). matplotlib is imported when a picture is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#808080"
_ROW_IN = 0.17


@dataclass(frozen=True)
class Picture:
    """What is drawn.

    Attributes:
        grid: `[rows, columns]`, the number of each cell's class.
        classes: by number its colour and its meaning.
        legend: the classes that are explained, in this order.
        rows: the labels, by row.
        columns: the labels, by the position on the axis (-0.5 is the left edge).
        most_height_in: beyond it rows become flatter; inches.
    """

    grid: NDArray[np.int8]
    classes: Sequence[tuple[str, str]]
    legend: Sequence[int]
    rows: Mapping[int, str]
    columns: Mapping[float, str]
    most_height_in: float = 7.5

    def png(self, dpi: int) -> bytes:
        """The picture, 10.4 inches wide."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        height = min(max(_ROW_IN * len(self.grid), 0.5), self.most_height_in) + 0.9
        figure = Figure(figsize=(10.4, height), dpi=dpi, layout="constrained", facecolor="none")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        self._fill(axes)
        self._label(axes)
        self._explain(figure)
        content = io.BytesIO()
        figure.savefig(content, format="png", transparent=True)
        return content.getvalue()

    def _fill(self, axes: Axes) -> None:
        from matplotlib.colors import ListedColormap

        colours = ListedColormap([colour for colour, _ in self.classes])
        most = len(self.classes) - 1
        axes.imshow(self.grid, aspect="auto", interpolation="nearest", cmap=colours, vmin=0, vmax=most)
        axes.tick_params(colors=_GREY, labelsize=8, length=2)
        axes.spines[:].set_visible(False)

    def _label(self, axes: Axes) -> None:
        axes.set_xticks(list(self.columns), list(self.columns.values()))
        # The font has no letters of every script that a symbol may be written in.
        axes.set_yticks(list(self.rows), [name.encode("ascii", "replace").decode() for name in self.rows.values()])
        for label in axes.get_yticklabels():
            label.set_parse_math(False)
            label.set_fontsize(7)

    def _explain(self, figure: Figure) -> None:
        from matplotlib.patches import Patch

        patches = [Patch(color=self.classes[number][0], label=self.classes[number][1]) for number in self.legend]
        legend = figure.legend(
            handles=patches, loc="outside upper left", ncols=len(patches), frameon=False, fontsize=8
        )
        for text in legend.get_texts():
            text.set_color(_GREY)
