"""Check layers, losses, metrics and models against the properties of padless."""

from padless.testing.check import check_layer as check_layer
from padless.testing.check import check_loss as check_loss
from padless.testing.check import check_metric as check_metric
from padless.testing.check import check_model as check_model
from padless.testing.harness import LayerHarness as LayerHarness
from padless.testing.layer_properties import PropertyViolation as PropertyViolation
from padless.testing.layer_properties import gradients as gradients
from padless.testing.layer_properties import ignores_padding as ignores_padding
from padless.testing.layer_properties import independent_of_batch as independent_of_batch
from padless.testing.layer_properties import matches_unpadded as matches_unpadded
from padless.testing.layer_properties import round_trip as round_trip
from padless.testing.masks import binary as binary
from padless.testing.masks import ids as ids
from padless.testing.masks import labels as labels
from padless.testing.masks import normal as normal
from padless.testing.masks import one_hot as one_hot
from padless.testing.masks import probabilities as probabilities
from padless.testing.masks import random_masks as random_masks
from padless.testing.masks import special_masks as special_masks

__all__ = [
    "LayerHarness",
    "PropertyViolation",
    "binary",
    "check_layer",
    "check_loss",
    "check_metric",
    "check_model",
    "gradients",
    "ids",
    "ignores_padding",
    "independent_of_batch",
    "labels",
    "matches_unpadded",
    "normal",
    "one_hot",
    "probabilities",
    "random_masks",
    "round_trip",
    "special_masks",
]
