"""What all figures have in common, which matplotlib draws (`pip install matplotlib`): style, colours and files.

No display is needed, and the same input gives the same picture.
"""

import io
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import OctsodError
from ..files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY, PALE, INK = "#d4d7dc", "#8a909a", "#282c34"
STYLE = {
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8.5, "axes.titlelocation": "left",
    "axes.titleweight": "bold", "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": "#e6e8ec", "grid.linewidth": 0.8, "axes.edgecolor": PALE,
    "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "xtick.major.size": 3, "ytick.major.size": 3, "legend.frameon": False, "lines.linewidth": 1.6,
    "lines.markersize": 4, "savefig.dpi": 200, "figure.facecolor": "white",
}  # fmt: skip


def require_matplotlib() -> Any:
    """The matplotlib package; if it is missing, raises OctsodError, which says how to get it."""
    try:
        import matplotlib.figure
        import matplotlib.style
    except ImportError as error:
        raise OctsodError("figures need the matplotlib package; `pip install matplotlib` brings it.") from error
    return matplotlib


def write(path: str | os.PathLike[str], draw: Callable[..., "Figure"], *arguments: Any) -> None:
    """Write the figure that `draw(*arguments)` makes, all or nothing, as PNG or as what the name of the file ends in,
    such as .svg. Raises OSError if that fails."""
    kind = pathlib.Path(path).suffix.lower()[1:] or "png"
    style = {**STYLE, "svg.hashsalt": "octsod"}
    with require_matplotlib().style.context(["default", style]):  # regardless of the user's own defaults
        data = io.BytesIO()
        draw(*arguments).savefig(data, format=kind, metadata={"Date": None} if kind == "svg" else None)
    write_atomically(path, data.getvalue())


def new_figure(width, height, *grid, layout="constrained", **options):
    """A figure of `width` by `height` inches, and an array of its plots."""
    figure = require_matplotlib().figure.Figure((width, height), layout=layout)
    return figure, figure.subplots(*grid, squeeze=False, **options)


def escaped(name):
    """A name, escaped so that matplotlib shows it as it is: no mathematics, and not hidden from legends."""
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name
