"""What the laws are tried on: every public layer, loss and metric, with its constructor arguments varied.

Sizes differ from one another: inputs have 3 features (or 6, to be reshaped), layers 2 or 4 or 5 units.
"""

from cases import attend, combine, distributed, normalization, scan, segment, stepwise, torch_module, window
from cases.case import Attending as Attending
from cases.case import Case as Case
from cases.case import Leaky as Leaky
from cases.models import MODELS as MODELS
from cases.objectives import LOSSES as LOSSES
from cases.objectives import METRICS as METRICS
from cases.objectives import NO_PAIRS as NO_PAIRS

ROOMS = (stepwise, scan, combine, segment, window, attend, normalization, torch_module, distributed)
LAYERS = [case for room in ROOMS for case in room.CASES]
ABSTRACT = {"Layer"}  # nothing to run
