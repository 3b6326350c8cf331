"""The circle loss of pairs of embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from padless.losses.base import LossWithFunction, read_tensors
from padless.losses.loss import Reduction
from padless.registry import register
from padless.types import ArrayLike


@register("loss_function")
def circle(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    ref_labels: ArrayLike | None = None,
    ref_embeddings: ArrayLike | None = None,
    remove_diagonal: bool = True,
    gamma: float = 80,
    margin: float = 0.4,
) -> Tensor:
    """Return the circle loss of each embedding against the references (Sun et al. 2020, arXiv:2002.10857).

    It is `log(1 + sum over pairs of one class * sum over pairs of two classes)`. Each pair counts `exp` of its scaled
    and weighted cosine distance.

    Args:
        y_true: Class ids `(N,)` or `(N, 1)`.
        y_pred: Embeddings `(N, D)` of length 1.
        ref_labels: Class ids of the references. Default: `y_true`.
        ref_embeddings: Embeddings of the references `(M, D)`. Default: `y_pred`.
        remove_diagonal: Whether row i is not compared with reference i.
        gamma: The scale of the distances.
        margin: The relaxation of the decision boundary.

    Returns:
        The loss of each embedding, `(N,)`.

    Example:
        >>> circle([0, 0, 1], [[1., 0.], [1., 0.], [1., 0.]])
        tensor([54.4000, 54.4000,  0.0000])
    """
    labels, embeddings = read_tensors(y_true, y_pred, cast=False)
    reference_labels, references = read_tensors(
        y_true if ref_labels is None else ref_labels, y_pred if ref_embeddings is None else ref_embeddings, cast=False
    )
    distances = (1.0 - embeddings @ references.T).clamp_min(0.0)  # (N, M), cosine distances
    same_class = labels.reshape(-1, 1) == reference_labels.reshape(1, -1)
    positive = same_class
    if remove_diagonal:
        positive = same_class & ~torch.eye(*same_class.shape, dtype=torch.bool, device=same_class.device)

    # logits of the pairs, each with its own weight: (distance + margin) and (1 + margin - distance), not below 0
    positive_logits = gamma * (distances + margin) * (distances - margin)
    negative_logits = gamma * (1.0 + margin - distances).clamp_min(0.0) * (1.0 - margin - distances)
    positive_sum = torch.where(positive, positive_logits, -torch.inf).logsumexp(1)
    negative_sum = torch.where(same_class, -torch.inf, negative_logits).logsumexp(1)
    return F.softplus(positive_sum + negative_sum)


@register("loss", "circle")
class Circle(LossWithFunction):
    """The circle loss of the embeddings at the real steps of a batch, compared with one another.

    Targets are class ids, outputs embeddings of length 1. The loss depends on the steps that a batch has together.
    Steps whose loss is 0 do not count. See `circle` for the formula.

    Args:
        gamma: The scale of the distances.
        margin: The relaxation of the decision boundary.
        remove_diagonal: Whether a step is not compared with itself.
        reduction, name, dtype: See `Loss`.

    Example:
        >>> Circle()([0, 0, 1], [[1., 0.], [1., 0.], [1., 0.]])
        tensor(54.4000)
    """

    function = staticmethod(circle)
    argument_names = ("gamma", "margin", "remove_diagonal")

    def __init__(
        self,
        gamma: float = 80.0,
        margin: float = 0.4,
        remove_diagonal: bool = True,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "circle",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name, reduction, dtype)
        self.gamma = gamma
        self.margin = margin
        self.remove_diagonal = remove_diagonal

    def cast(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        return y_true, y_pred.to(self._dtype_for(y_pred))

    def check_targets(self, y_true: Tensor, y_pred: Tensor) -> None:
        """Accept any labels: they are only compared."""

    def replace_targets(self, y_true: Tensor, y_pred: Tensor, is_replaced: Tensor) -> Tensor:
        return y_true  # another label would change which other steps have the same one

    def count_mask(self, y_true: Tensor, values: Tensor) -> Tensor | None:
        return values > 0
