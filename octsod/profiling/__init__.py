"""What the machine can do at most, and how near kernels come: profiles, as tables, files, differences and pictures."""

from typing import TYPE_CHECKING

from ..lazy import loading

if TYPE_CHECKING:  # what `_NAMES` loads on first use, for editors, type checkers and the reference
    from .differences import THRESHOLD as THRESHOLD
    from .differences import Difference as Difference
    from .differences import compare as compare
    from .differences import difference_table as difference_table
    from .files import load as load
    from .files import save as save
    from .groups import grouped as grouped
    from .pictures import roofline as roofline
    from .pictures import shares as shares
    from .results import Cache as Cache
    from .results import Event as Event
    from .results import LayerMemory as LayerMemory
    from .results import Profile as Profile
    from .results import Roofs as Roofs
    from .results import Row as Row
    from .tables import lines as lines
    from .tables import table as table
    from .traces import write_trace as write_trace
    from .verdicts import verdict as verdict

_NAMES = {
    "Cache": "results",
    "Difference": "differences",
    "Event": "results",
    "LayerMemory": "results",
    "Profile": "results",
    "Roofs": "results",
    "Row": "results",
    "THRESHOLD": "differences",
    "compare": "differences",
    "difference_table": "differences",
    "grouped": "groups",
    "lines": "tables",
    "load": "files",
    "roofline": "pictures",
    "save": "files",
    "shares": "pictures",
    "table": "tables",
    "verdict": "verdicts",
    "write_trace": "traces",
}

__all__ = [*_NAMES]

__getattr__ = loading(__name__, _NAMES, {})
