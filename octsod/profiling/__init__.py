"""What the machine can do at most, and how near kernels come: profiles, as tables, files, differences and pictures."""

from ..lazy import loading

_NAMES = {
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
