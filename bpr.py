"""What programs import: `from bpr import load_refiner`.

A file beside the packages, because users look for the name that they install, and `pipeline` is
a name that other software takes too. It is imported by nothing in here.
"""

from pipeline.refiner import Refiner, load_refiner

__all__ = ["Refiner", "load_refiner"]
