"""Pictures of results: cutouts and overlays, and contact sheets."""

from .contact_sheets import contact_sheet
from .overlays import cutout, object_box, overlay

__all__ = ["contact_sheet", "cutout", "object_box", "overlay"]
