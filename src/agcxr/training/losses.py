"""Losses over B films and K labels: logits and targets in, a scalar out. Unknown labels (NaN) do not count.

Every loss is a mean over the known labels (`auc_margin`: over the findings), computed in float32 whatever the network's
precision. Where several processes share a batch, the labels of all of them are counted, so that the mean of their
losses (and of the gradients, which is what DDP takes) is that of the whole batch, however unevenly the unknown labels
are spread.
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
    """(logit_BK, target_BK in [0, 1] or NaN, who shares the batch) -> scalar."""

    def __call__(self, logit_BK: Tensor, target_BK: Tensor, peers: Peers = ALONE) -> Tensor: ...


GAMMA_NEGATIVE, GAMMA_POSITIVE, CLIP = 4.0, 1.0, 0.05
"""Of the asymmetric loss: the paper's values for multi-label classification."""

MARGIN = 1.0
"""Of the AUC margin loss, between mean scores in [0, 1]."""


def top_share(map_BKhw: Tensor, share: float) -> Tensor:
    """Logits BK of maps of probabilities: of their mean over this share of the cells, the highest (one at least)."""
    cell_BKN = map_BKhw.flatten(2)
    count = max(1, round(share * cell_BKN.shape[2]))
    return cell_BKN.topk(count, dim=2).values.mean(2).logit(eps=1e-6)


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
    """Cross-entropy with weights for ones and zeros (Wang 2017, eq. 1): numbers, or tensors that broadcast to B x K.
    Mean over films and labels."""
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
    return _mean(target_BK * positive_BK + (1 - target_BK) * negative_BK, known_BK, peers)


def positive_weights(label_NK: Tensor) -> Tensor:
    """Zeros to a one of each label, K numbers, so that its ones weigh as much as its zeros (the usual `pos_weight`); 1
    for a label that lacks either."""
    positive_K, negative_K = ((label_NK == value).sum(0) for value in (1, 0))
    both_K = (positive_K > 0) & (negative_K > 0)
    return torch.where(both_K, negative_K / positive_K.clamp(min=1), 1.0)


def balanced_finding(logit_BK: Tensor, target_BK: Tensor, peers: Peers = ALONE, *, weight_K: Tensor) -> Tensor:
    """Cross-entropy with a weight for the ones of each label, mean over films and labels."""
    weight_K = weight_K.to(logit_BK.device)
    return balanced_bce(logit_BK, target_BK, peers, beta_positive=weight_K, beta_negative=1.0)


def auc_margin(logit_BK: Tensor, target_BK: Tensor, peers: Peers = ALONE) -> Tensor:
    """AUC margin loss (Yuan 2021, arXiv:2012.03173), mean over the labels that have a one and a zero in the batch.

    With a and b the mean scores (sigmoids) of the films with and without a finding: the variances of both, plus
    max over alpha >= 0 of 2 alpha (MARGIN - a + b) - alpha^2. That is its min-max form solved over a batch: the best
    alpha is the margin that is still missing, so the last term is its square.
    """
    score_BK, target_BK = torch.sigmoid(logit_BK.float()), target_BK.float()
    kind_2BK = torch.stack([target_BK == 1, target_BK == 0])
    sum_2K = torch.where(kind_2BK, score_BK, 0.0).sum(1)
    count_2K, total_2K = peers.total(torch.stack([kind_2BK.sum(1).float(), sum_2K.detach()]))
    both_K = (count_2K > 0).all(0)
    # The mean over all processes; through it a process sees the gradients of its own films, which DDP divides by world.
    mean_2K = (total_2K + peers.world * (sum_2K - sum_2K.detach())) / count_2K.clamp(min=1)
    missing_K = (MARGIN - mean_2K[0] + mean_2K[1]).clamp(min=0)
    apart_2BK = torch.where(kind_2BK, score_BK - mean_2K.detach()[:, None], 0.0)  # the mean is where this is least
    variance_2K = peers.world * (apart_2BK**2).sum(1) / count_2K.clamp(min=1)
    return torch.where(both_K, variance_2K.sum(0) + missing_K**2, 0.0).sum() / both_K.sum().clamp(min=1)


def normal_less(logit_BK: Tensor, target_BK: Tensor, peers: Peers = ALONE, *, normal: int, weight: float) -> Tensor:
    """Cross-entropy in which films known to be normal (label number `normal`) count `weight` for all other labels.

    Still divided by the number of known labels, whatever they weigh.
    """
    weight_BK = torch.where(target_BK[:, normal, None] == 1, weight, 1.0).repeat(1, target_BK.shape[1])
    weight_BK[:, normal] = 1.0
    return balanced_bce(logit_BK, target_BK, peers, beta_positive=weight_BK, beta_negative=weight_BK)


def make(name: str, train_label_NK: Tensor, normal: int | None = None, normal_weight: float = 1.0) -> Loss:
    """The loss of that name (config.Train.loss); `train_label_NK` are the labels `balanced-dataset` and
    `balanced-finding` count. `normal_weight`: see `normal_less`; of `bce` alone."""
    if normal_weight != 1:
        if normal is None:
            raise ValueError(
                f"normal_weight is {normal_weight:g}, but none of the labels says that a film is normal; leave it at 1"
            )
        return partial(normal_less, normal=normal, weight=normal_weight)
    if name == "balanced-dataset":
        beta_positive, beta_negative = (float(beta) for beta in betas(train_label_NK))
        return partial(balanced_bce, beta_positive=beta_positive, beta_negative=beta_negative)
    if name == "balanced-finding":
        return partial(balanced_finding, weight_K=positive_weights(train_label_NK))
    plain: dict[str, Loss] = {
        "bce": bce,
        "balanced-batch": balanced_batch,
        "asymmetric": asymmetric,
        "auc-margin": auc_margin,
    }
    if name not in plain:
        names = ", ".join([*plain, "balanced-dataset", "balanced-finding"])
        raise ValueError(f"unknown loss {name!r}; expected one of {names}")
    return plain[name]


def _known(target_BK: Tensor) -> tuple[Tensor, Tensor]:
    known_BK = ~torch.isnan(target_BK)
    return known_BK, target_BK.float().nan_to_num(0.0)


def _mean(loss_BK: Tensor, known_BK: Tensor, peers: Peers) -> Tensor:
    """0 where nothing is known, so that such a batch moves nothing."""
    share = peers.total(known_BK.sum()).clamp(min=1) / peers.world
    return torch.where(known_BK, loss_BK, 0.0).sum() / share
