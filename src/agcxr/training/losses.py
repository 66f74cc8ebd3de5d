"""Losses over B films and K labels: logits and targets in, a scalar out. Unknown labels (NaN) do not count.

Every loss is a mean over the known labels, computed in float32 whatever the network's precision. Where several
processes share a batch, the labels of all of them are counted, so that the mean of their losses (and of the gradients,
which is what DDP takes) is that of the whole batch, however unevenly the unknown labels are spread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Peers:
    """The processes that share a batch. `total`: a tensor of this process -> its sum over all of them."""

    world: int
    total: Callable[[Tensor], Tensor]


ALONE = Peers(1, lambda count: count)


class Loss(Protocol):
    """(logit_BK, target_BK in {0, 1, NaN}, who shares the batch) -> scalar."""

    def __call__(self, logit_BK: Tensor, target_BK: Tensor, peers: Peers = ALONE) -> Tensor: ...


GAMMA_NEGATIVE, GAMMA_POSITIVE, CLIP = 4.0, 1.0, 0.05
"""Of the asymmetric loss: the paper's values for multi-label classification."""


def bce(logit_BK: Tensor, target_BK: Tensor, peers: Peers = ALONE) -> Tensor:
    """Binary cross-entropy (Guan 2018, eq. 2), mean over films and labels."""
    known_BK, target_BK = _known(target_BK)
    loss_BK = F.binary_cross_entropy_with_logits(logit_BK.float(), target_BK, reduction="none")
    return _mean(loss_BK, known_BK, peers)


def balanced_bce(
    logit_BK: Tensor,
    target_BK: Tensor,
    peers: Peers = ALONE,
    *,
    beta_positive: Tensor | float,
    beta_negative: Tensor | float,
) -> Tensor:
    """Cross-entropy with weights for ones and zeros (Wang 2017, eq. 1), mean over films and labels."""
    known_BK, target_BK = _known(target_BK)
    loss_BK = F.binary_cross_entropy_with_logits(logit_BK.float(), target_BK, reduction="none")
    return _mean(loss_BK * torch.where(target_BK > 0.5, beta_positive, beta_negative), known_BK, peers)


def betas(target_BK: Tensor, peers: Peers = ALONE) -> tuple[Tensor, Tensor]:
    """(|P|+|N|)/|P| and (|P|+|N|)/|N| over all ones and zeros of a label matrix (Wang 2017); 0 for a kind it lacks."""
    positive, negative = peers.total(torch.stack([(target_BK == 1).sum(), (target_BK == 0).sum()]))
    total = (positive + negative).float()
    zero = torch.zeros((), device=target_BK.device)
    return (
        torch.where(positive > 0, total / positive.clamp(min=1), zero),
        torch.where(negative > 0, total / negative.clamp(min=1), zero),
    )


def balanced_batch(logit_BK: Tensor, target_BK: Tensor, peers: Peers = ALONE) -> Tensor:
    """`balanced_bce` with the betas of the batch itself, as Wang 2017 trained."""
    beta_positive, beta_negative = betas(target_BK, peers)
    return balanced_bce(logit_BK, target_BK, peers, beta_positive=beta_positive, beta_negative=beta_negative)


def asymmetric(logit_BK: Tensor, target_BK: Tensor, peers: Peers = ALONE) -> Tensor:
    """Asymmetric loss (Ben-Baruch 2021, arXiv:2009.14119): easy negatives are focused away and clipped."""
    known_BK, target_BK = _known(target_BK)
    p_BK = torch.sigmoid(logit_BK.float())
    q_BK = (p_BK - CLIP).clamp(min=0)  # shifted probability of a negative
    positive_BK = -((1 - p_BK) ** GAMMA_POSITIVE) * F.logsigmoid(logit_BK.float())
    negative_BK = -(q_BK**GAMMA_NEGATIVE) * torch.log1p(-q_BK)
    return _mean(torch.where(target_BK > 0.5, positive_BK, negative_BK), known_BK, peers)


def make(name: str, train_label_NK: Tensor) -> Loss:
    """The loss of that name (config.Train.loss); `train_label_NK` are the labels `balanced-dataset` counts."""
    if name == "balanced-dataset":
        beta_positive, beta_negative = (float(beta) for beta in betas(train_label_NK))
        return partial(balanced_bce, beta_positive=beta_positive, beta_negative=beta_negative)
    plain: dict[str, Loss] = {"bce": bce, "balanced-batch": balanced_batch, "asymmetric": asymmetric}
    if name not in plain:
        raise ValueError(f"unknown loss {name!r}; expected one of {', '.join([*plain, 'balanced-dataset'])}")
    return plain[name]


def _known(target_BK: Tensor) -> tuple[Tensor, Tensor]:
    known_BK = ~torch.isnan(target_BK)
    return known_BK, target_BK.float().nan_to_num(0.0)


def _mean(loss_BK: Tensor, known_BK: Tensor, peers: Peers) -> Tensor:
    """0 where nothing is known, so that such a batch moves nothing."""
    share = peers.total(known_BK.sum()).clamp(min=1) / peers.world
    return torch.where(known_BK, loss_BK, 0.0).sum() / share
