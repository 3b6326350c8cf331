"""The laws of padless as functions, for the layers, losses, metrics and models of anyone."""

from padless.testing.check import check_layer as check_layer
from padless.testing.check import check_loss as check_loss
from padless.testing.check import check_metric as check_metric
from padless.testing.check import check_model as check_model
from padless.testing.laws import LawBroken as LawBroken
from padless.testing.laws import absence as absence
from padless.testing.laws import gradients as gradients
from padless.testing.laws import independence as independence
from padless.testing.laws import presence as presence
from padless.testing.laws import round_trip as round_trip
from padless.testing.masks import binary as binary
from padless.testing.masks import ids as ids
from padless.testing.masks import labels as labels
from padless.testing.masks import normal as normal
from padless.testing.masks import one_hot as one_hot
from padless.testing.masks import probabilities as probabilities
from padless.testing.masks import random_masks as random_masks
from padless.testing.masks import special_masks as special_masks
from padless.testing.subject import Subject as Subject
