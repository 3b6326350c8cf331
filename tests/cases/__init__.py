"""Cases of the properties: every public layer, loss and metric, with different constructor arguments.

All sizes are different. Inputs have 3 features (or 6, to be reshaped), layers 2 or 4 or 5 units.
"""

from cases import (
    attention,
    merging,
    normalization,
    recurrent,
    reduction,
    stepwise,
    time_distributed,
    torch_module,
    windowed,
)
from cases.case import Attending as Attending
from cases.case import Case as Case
from cases.case import Leaky as Leaky
from cases.models import MODELS as MODELS
from cases.objectives import LOSSES as LOSSES
from cases.objectives import METRICS as METRICS
from cases.objectives import VALUE_METRICS as VALUE_METRICS

MODULES = (stepwise, recurrent, merging, reduction, windowed, attention, normalization, torch_module, time_distributed)
LAYERS = [case for module in MODULES for case in module.CASES]
ABSTRACT = {"Layer"}  # nothing to run
