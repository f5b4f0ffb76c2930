"""What programs import: `from bpr import load_refiner`.

A file beside the packages, because users look for the name that they install, and `pipeline` is
a name that other software takes too. It is imported by nothing in here.
"""

from pipeline.fiftyone_fields import add_refined_field, open_comparison
from pipeline.refiner import Refiner, load_refiner

__all__ = ["Refiner", "add_refined_field", "load_refiner", "open_comparison"]
