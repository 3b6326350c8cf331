"""The losses of Keras, with its names and arguments, summed over real steps only."""

from padless.losses.circle_loss import Circle as Circle
from padless.losses.circle_loss import circle as circle
from padless.losses.ctc_loss import CTC as CTC
from padless.losses.ctc_loss import ctc as ctc
from padless.losses.hinge_losses import CategoricalHinge as CategoricalHinge
from padless.losses.hinge_losses import Hinge as Hinge
from padless.losses.hinge_losses import SquaredHinge as SquaredHinge
from padless.losses.hinge_losses import categorical_hinge as categorical_hinge
from padless.losses.hinge_losses import hinge as hinge
from padless.losses.hinge_losses import squared_hinge as squared_hinge
from padless.losses.loss import Loss as Loss
from padless.losses.losses import MaskedLoss as MaskedLoss
from padless.losses.losses import deserialize as deserialize
from padless.losses.losses import get as get
from padless.losses.losses import serialize as serialize
from padless.losses.overlap_losses import Dice as Dice
from padless.losses.overlap_losses import Tversky as Tversky
from padless.losses.overlap_losses import dice as dice
from padless.losses.overlap_losses import tversky as tversky
from padless.losses.probabilistic_losses import BinaryCrossentropy as BinaryCrossentropy
from padless.losses.probabilistic_losses import BinaryFocalCrossentropy as BinaryFocalCrossentropy
from padless.losses.probabilistic_losses import CategoricalCrossentropy as CategoricalCrossentropy
from padless.losses.probabilistic_losses import CategoricalFocalCrossentropy as CategoricalFocalCrossentropy
from padless.losses.probabilistic_losses import CategoricalGeneralizedCrossEntropy as CategoricalGeneralizedCrossEntropy
from padless.losses.probabilistic_losses import KLDivergence as KLDivergence
from padless.losses.probabilistic_losses import Poisson as Poisson
from padless.losses.probabilistic_losses import SparseCategoricalCrossentropy as SparseCategoricalCrossentropy
from padless.losses.probabilistic_losses import binary_crossentropy as binary_crossentropy
from padless.losses.probabilistic_losses import binary_focal_crossentropy as binary_focal_crossentropy
from padless.losses.probabilistic_losses import categorical_crossentropy as categorical_crossentropy
from padless.losses.probabilistic_losses import categorical_focal_crossentropy as categorical_focal_crossentropy
from padless.losses.probabilistic_losses import (
    categorical_generalized_cross_entropy as categorical_generalized_cross_entropy,
)
from padless.losses.probabilistic_losses import kl_divergence as kl_divergence
from padless.losses.probabilistic_losses import poisson as poisson
from padless.losses.probabilistic_losses import sparse_categorical_crossentropy as sparse_categorical_crossentropy
from padless.losses.regression_losses import CosineSimilarity as CosineSimilarity
from padless.losses.regression_losses import Huber as Huber
from padless.losses.regression_losses import LogCosh as LogCosh
from padless.losses.regression_losses import MeanAbsoluteError as MeanAbsoluteError
from padless.losses.regression_losses import MeanAbsolutePercentageError as MeanAbsolutePercentageError
from padless.losses.regression_losses import MeanSquaredError as MeanSquaredError
from padless.losses.regression_losses import MeanSquaredLogarithmicError as MeanSquaredLogarithmicError
from padless.losses.regression_losses import cosine_similarity as cosine_similarity
from padless.losses.regression_losses import huber as huber
from padless.losses.regression_losses import log_cosh as log_cosh
from padless.losses.regression_losses import mean_absolute_error as mean_absolute_error
from padless.losses.regression_losses import mean_absolute_percentage_error as mean_absolute_percentage_error
from padless.losses.regression_losses import mean_squared_error as mean_squared_error
from padless.losses.regression_losses import mean_squared_logarithmic_error as mean_squared_logarithmic_error
from padless.losses.wrappers import LossFunctionWrapper as LossFunctionWrapper
from padless.losses.wrappers import TorchLoss as TorchLoss

__all__ = [
    "BinaryCrossentropy",
    "BinaryFocalCrossentropy",
    "CTC",
    "CategoricalCrossentropy",
    "CategoricalFocalCrossentropy",
    "CategoricalGeneralizedCrossEntropy",
    "CategoricalHinge",
    "Circle",
    "CosineSimilarity",
    "Dice",
    "Hinge",
    "Huber",
    "KLDivergence",
    "LogCosh",
    "Loss",
    "LossFunctionWrapper",
    "MaskedLoss",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Poisson",
    "SparseCategoricalCrossentropy",
    "SquaredHinge",
    "TorchLoss",
    "Tversky",
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "categorical_generalized_cross_entropy",
    "categorical_hinge",
    "circle",
    "cosine_similarity",
    "ctc",
    "deserialize",
    "dice",
    "get",
    "hinge",
    "huber",
    "kl_divergence",
    "log_cosh",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
    "poisson",
    "serialize",
    "sparse_categorical_crossentropy",
    "squared_hinge",
    "tversky",
]
