"""Publishing: from a run to a model package and its bundle.

report = export_run(Run.open(path), Path("model"))
"""

from pfm_edge.publishing._export import export_run, verify_against_run
from pfm_edge.publishing._source import deployable_source

__all__ = ["deployable_source", "export_run", "verify_against_run"]
