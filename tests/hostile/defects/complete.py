"""Both tables of defects, filled: who imports them from here gets every entry."""

import tests.hostile.defects.container
import tests.hostile.defects.device
import tests.hostile.defects.rows
import tests.hostile.defects.signatures
import tests.hostile.defects.statement  # noqa: F401 (they enter their defects into the tables)
from tests.hostile.defects.table import DEFECTS, DEVICE_DEFECTS

__all__ = ["DEFECTS", "DEVICE_DEFECTS"]
