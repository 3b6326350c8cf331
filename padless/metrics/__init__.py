"""The metrics of Keras, with its names and arguments, over real steps only."""

from padless.losses.hinge_losses import categorical_hinge as categorical_hinge
from padless.losses.hinge_losses import hinge as hinge
from padless.losses.hinge_losses import squared_hinge as squared_hinge
from padless.losses.probabilistic_losses import binary_crossentropy as binary_crossentropy
from padless.losses.probabilistic_losses import binary_focal_crossentropy as binary_focal_crossentropy
from padless.losses.probabilistic_losses import categorical_crossentropy as categorical_crossentropy
from padless.losses.probabilistic_losses import categorical_focal_crossentropy as categorical_focal_crossentropy
from padless.losses.probabilistic_losses import kl_divergence as kl_divergence
from padless.losses.probabilistic_losses import poisson as poisson
from padless.losses.probabilistic_losses import sparse_categorical_crossentropy as sparse_categorical_crossentropy
from padless.losses.regression_losses import huber as huber
from padless.losses.regression_losses import log_cosh as log_cosh
from padless.losses.regression_losses import mean_absolute_error as mean_absolute_error
from padless.losses.regression_losses import mean_absolute_percentage_error as mean_absolute_percentage_error
from padless.losses.regression_losses import mean_squared_error as mean_squared_error
from padless.losses.regression_losses import mean_squared_logarithmic_error as mean_squared_logarithmic_error
from padless.metrics.accuracy_metrics import Accuracy as Accuracy
from padless.metrics.accuracy_metrics import BinaryAccuracy as BinaryAccuracy
from padless.metrics.accuracy_metrics import CategoricalAccuracy as CategoricalAccuracy
from padless.metrics.accuracy_metrics import SparseCategoricalAccuracy as SparseCategoricalAccuracy
from padless.metrics.accuracy_metrics import SparseTopKCategoricalAccuracy as SparseTopKCategoricalAccuracy
from padless.metrics.accuracy_metrics import TopKCategoricalAccuracy as TopKCategoricalAccuracy
from padless.metrics.accuracy_metrics import accuracy as accuracy
from padless.metrics.accuracy_metrics import binary_accuracy as binary_accuracy
from padless.metrics.accuracy_metrics import categorical_accuracy as categorical_accuracy
from padless.metrics.accuracy_metrics import sparse_categorical_accuracy as sparse_categorical_accuracy
from padless.metrics.accuracy_metrics import sparse_top_k_categorical_accuracy as sparse_top_k_categorical_accuracy
from padless.metrics.accuracy_metrics import top_k_categorical_accuracy as top_k_categorical_accuracy
from padless.metrics.auc import AUC as AUC
from padless.metrics.confusion_metrics import FalseNegatives as FalseNegatives
from padless.metrics.confusion_metrics import FalsePositives as FalsePositives
from padless.metrics.confusion_metrics import Precision as Precision
from padless.metrics.confusion_metrics import PrecisionAtRecall as PrecisionAtRecall
from padless.metrics.confusion_metrics import Recall as Recall
from padless.metrics.confusion_metrics import RecallAtPrecision as RecallAtPrecision
from padless.metrics.confusion_metrics import SensitivityAtSpecificity as SensitivityAtSpecificity
from padless.metrics.confusion_metrics import SpecificityAtSensitivity as SpecificityAtSensitivity
from padless.metrics.confusion_metrics import TrueNegatives as TrueNegatives
from padless.metrics.confusion_metrics import TruePositives as TruePositives
from padless.metrics.f_score_metrics import F1Score as F1Score
from padless.metrics.f_score_metrics import FBetaScore as FBetaScore
from padless.metrics.f_score_metrics import R2Score as R2Score
from padless.metrics.iou_metrics import BinaryIoU as BinaryIoU
from padless.metrics.iou_metrics import IoU as IoU
from padless.metrics.iou_metrics import MeanIoU as MeanIoU
from padless.metrics.iou_metrics import OneHotIoU as OneHotIoU
from padless.metrics.iou_metrics import OneHotMeanIoU as OneHotMeanIoU
from padless.metrics.mean_metrics import BinaryCrossentropy as BinaryCrossentropy
from padless.metrics.mean_metrics import CategoricalCrossentropy as CategoricalCrossentropy
from padless.metrics.mean_metrics import CategoricalHinge as CategoricalHinge
from padless.metrics.mean_metrics import ConcordanceCorrelation as ConcordanceCorrelation
from padless.metrics.mean_metrics import CosineSimilarity as CosineSimilarity
from padless.metrics.mean_metrics import Hinge as Hinge
from padless.metrics.mean_metrics import KLDivergence as KLDivergence
from padless.metrics.mean_metrics import LogCoshError as LogCoshError
from padless.metrics.mean_metrics import MeanAbsoluteError as MeanAbsoluteError
from padless.metrics.mean_metrics import MeanAbsolutePercentageError as MeanAbsolutePercentageError
from padless.metrics.mean_metrics import MeanSquaredError as MeanSquaredError
from padless.metrics.mean_metrics import MeanSquaredLogarithmicError as MeanSquaredLogarithmicError
from padless.metrics.mean_metrics import PearsonCorrelation as PearsonCorrelation
from padless.metrics.mean_metrics import Perplexity as Perplexity
from padless.metrics.mean_metrics import Poisson as Poisson
from padless.metrics.mean_metrics import RootMeanSquaredError as RootMeanSquaredError
from padless.metrics.mean_metrics import SparseCategoricalCrossentropy as SparseCategoricalCrossentropy
from padless.metrics.mean_metrics import SquaredHinge as SquaredHinge
from padless.metrics.mean_metrics import concordance_correlation as concordance_correlation
from padless.metrics.mean_metrics import cosine_similarity as cosine_similarity
from padless.metrics.mean_metrics import pearson_correlation as pearson_correlation
from padless.metrics.metric import Mean as Mean
from padless.metrics.metric import MeanMetricWrapper as MeanMetricWrapper
from padless.metrics.metric import Metric as Metric
from padless.metrics.metric import Sum as Sum
from padless.metrics.metrics import deserialize as deserialize
from padless.metrics.metrics import get as get
from padless.metrics.metrics import serialize as serialize
from padless.metrics.span_f1 import SpanF1 as SpanF1
from padless.metrics.torchmetrics_adapter import TorchMetric as TorchMetric

__all__ = [
    "AUC",
    "Accuracy",
    "BinaryAccuracy",
    "BinaryCrossentropy",
    "BinaryIoU",
    "CategoricalAccuracy",
    "CategoricalCrossentropy",
    "CategoricalHinge",
    "ConcordanceCorrelation",
    "CosineSimilarity",
    "F1Score",
    "FBetaScore",
    "FalseNegatives",
    "FalsePositives",
    "Hinge",
    "IoU",
    "KLDivergence",
    "LogCoshError",
    "Mean",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanIoU",
    "MeanMetricWrapper",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Metric",
    "OneHotIoU",
    "OneHotMeanIoU",
    "PearsonCorrelation",
    "Perplexity",
    "Poisson",
    "Precision",
    "PrecisionAtRecall",
    "R2Score",
    "Recall",
    "RecallAtPrecision",
    "RootMeanSquaredError",
    "SensitivityAtSpecificity",
    "SpanF1",
    "SparseCategoricalAccuracy",
    "SparseCategoricalCrossentropy",
    "SparseTopKCategoricalAccuracy",
    "SpecificityAtSensitivity",
    "SquaredHinge",
    "Sum",
    "TopKCategoricalAccuracy",
    "TorchMetric",
    "TrueNegatives",
    "TruePositives",
    "accuracy",
    "binary_accuracy",
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "categorical_accuracy",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "categorical_hinge",
    "concordance_correlation",
    "cosine_similarity",
    "deserialize",
    "get",
    "hinge",
    "huber",
    "kl_divergence",
    "log_cosh",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
    "pearson_correlation",
    "poisson",
    "serialize",
    "sparse_categorical_accuracy",
    "sparse_categorical_crossentropy",
    "sparse_top_k_categorical_accuracy",
    "squared_hinge",
    "top_k_categorical_accuracy",
]
