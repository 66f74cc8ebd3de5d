"""Losses against numbers worked out by hand."""

import math

import pytest
import torch

from agcxr.training import losses

NAN = float("nan")
LOGIT = torch.tensor([[0.0, 2.0], [-1.0, 0.0]])
TARGET = torch.tensor([[1.0, 0.0], [0.0, NAN]])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_bce_is_the_mean_over_known_labels():
    expected = (math.log(2) + softplus(2) + softplus(-1)) / 3
    assert losses.bce(LOGIT, TARGET).item() == pytest.approx(expected, abs=1e-6)


def test_betas_count_ones_and_zeros():
    positive, negative = losses.betas(TARGET)
    assert (positive.item(), negative.item()) == (3.0, 1.5)


@pytest.mark.parametrize("name", ["balanced-batch", "balanced-dataset"])
def test_balanced(name):
    expected = (3 * math.log(2) + 1.5 * (softplus(2) + softplus(-1))) / 3
    assert losses.make(name, TARGET)(LOGIT, TARGET).item() == pytest.approx(expected, abs=1e-6)


def test_balanced_dataset_keeps_the_weights_of_the_data_set():
    loss = losses.make("balanced-dataset", torch.tensor([[1.0, 0, 0, 0]]))  # betas 4 and 4/3
    assert loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).item() == pytest.approx(
        math.log(2) * (4 + 4 / 3) / 2, abs=1e-6
    )


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_balanced_batch_of_one_kind_is_finite(value):
    target = torch.full((2, 2), value)
    assert losses.balanced_batch(torch.zeros(2, 2), target).item() == pytest.approx(math.log(2))


def test_asymmetric():
    p = 1 / (1 + math.exp(-2.0))
    shifted = p - 0.05
    negative = -(shifted**4) * math.log(1 - shifted)
    easy = 1 / (1 + math.exp(1.0)) - 0.05
    easy_negative = -(easy**4) * math.log(1 - easy)
    positive = -(0.5**1) * math.log(0.5)
    expected = (positive + negative + easy_negative) / 3
    assert losses.asymmetric(LOGIT, TARGET).item() == pytest.approx(expected, abs=1e-6)


def test_asymmetric_forgets_very_easy_negatives():
    logit = torch.tensor([[-5.0]], requires_grad=True)
    loss = losses.asymmetric(logit, torch.zeros(1, 1))
    loss.backward()
    assert loss.item() == 0
    assert logit.grad is not None
    assert logit.grad.item() == 0


@pytest.mark.parametrize("name", ["bce", "balanced-batch", "balanced-dataset", "asymmetric"])
def test_unknown_labels_move_nothing(name):
    loss = losses.make(name, TARGET)
    logit = LOGIT.clone().requires_grad_()
    loss(logit, TARGET).backward()
    assert logit.grad is not None
    assert logit.grad[1, 1] == 0
    assert logit.grad.isfinite().all()
    nothing = loss(LOGIT.clone().requires_grad_(), torch.full((2, 2), NAN))
    nothing.backward()
    assert nothing.item() == 0


@pytest.mark.parametrize("name", ["bce", "balanced-batch", "balanced-dataset", "asymmetric"])
def test_finite_at_extremes(name):
    logit = torch.tensor([[80.0, -80.0]], dtype=torch.bfloat16, requires_grad=True)
    loss = losses.make(name, TARGET)(logit, torch.tensor([[0.0, 1.0]]))
    loss.backward()
    assert loss.isfinite()
    assert logit.grad is not None
    assert logit.grad.isfinite().all()


@pytest.mark.parametrize("name", ["bce", "balanced-batch", "balanced-dataset", "asymmetric"])
def test_processes_that_share_a_batch_have_its_loss_and_gradients_as_their_mean(name):
    """Two films with three known labels to one process, two with one known label to the other."""
    draw = torch.Generator().manual_seed(0)
    logit = torch.randn(4, 3, generator=draw, dtype=torch.float64)
    target = torch.tensor([[1.0, 0, NAN], [NAN, 0, NAN], [NAN, NAN, 1], [NAN, NAN, NAN]])
    loss = losses.make(name, target)

    def shared(part: slice) -> tuple[float, torch.Tensor]:
        def total(count: torch.Tensor) -> torch.Tensor:  # of both: what this one has, and what the other one has
            counts = {"known": (~target.isnan()).sum(), "each": torch.stack([(target == v).sum() for v in (1, 0)])}
            return counts["each" if count.ndim else "known"]

        mine = logit[part].clone().requires_grad_()
        value = loss(mine, target[part], losses.Peers(2, total))
        value.backward()
        assert mine.grad is not None
        return value.item(), mine.grad

    whole = logit.clone().requires_grad_()
    value = loss(whole, target)
    value.backward()
    (one, one_grad), (two, two_grad) = shared(slice(0, 2)), shared(slice(2, 4))
    assert (one + two) / 2 == pytest.approx(value.item(), abs=1e-6)
    torch.testing.assert_close(torch.cat([one_grad, two_grad]) / 2, whole.grad, atol=1e-7, rtol=1e-5)
    assert one != pytest.approx(two, abs=1e-3)


def test_unknown_name():
    with pytest.raises(ValueError, match="unknown loss 'focal'; expected one of bce, balanced-batch"):
        losses.make("focal", TARGET)
