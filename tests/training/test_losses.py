"""Losses against numbers worked out by hand."""

import math

import pytest
import torch

from agcxr.training import losses

NAN = float("nan")
ALL = ["bce", "balanced-batch", "balanced-dataset", "balanced-finding", "asymmetric", "auc-margin"]
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


@pytest.mark.parametrize("name", ALL)
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


@pytest.mark.parametrize("name", ALL)
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


def test_positive_weights_are_zeros_to_a_one_of_each_finding():
    target = torch.tensor([[1.0, 1, 0, NAN], [0, 1, 0, NAN], [0, NAN, 0, NAN], [0, 0, NAN, NAN]])
    assert losses.positive_weights(target).tolist() == [3, 0.5, 1, 1]


def test_balanced_finding_is_bce_with_pos_weight():
    target = torch.tensor([[1.0, 1], [0, 1], [0, 1], [0, 0]])
    logit = torch.tensor([[0.3, -1.0], [2.0, 0.5], [-0.7, 0.0], [1.1, -2.0]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logit, target, pos_weight=torch.tensor([3.0, 1 / 3])
    )
    torch.testing.assert_close(losses.make("balanced-finding", target)(logit, target), expected)
    unknown = torch.tensor([[1.0, NAN], [NAN, NAN], [NAN, NAN], [NAN, NAN]])
    assert losses.make("balanced-finding", target)(logit, unknown).item() == pytest.approx(3 * softplus(-0.3), abs=1e-6)


def test_auc_margin_by_hand():
    """Scores .8 .6 with and .5 .1 without: means .7 and .3, variances .01 and .04, .6 of the margin missing."""
    logit = torch.logit(torch.tensor([[0.8], [0.6], [0.5], [0.1], [0.9]]))
    target = torch.tensor([[1.0], [1], [0], [0], [NAN]])
    assert losses.auc_margin(logit, target).item() == pytest.approx(0.01 + 0.04 + 0.6**2, abs=1e-6)


def test_auc_margin_is_the_min_max_of_its_definition():
    """min over a, b and max over alpha of the saddle function of Yuan 2021, by its own gradients."""
    draw = torch.Generator().manual_seed(3)
    score = torch.rand(12, 1, generator=draw)
    target = (torch.arange(12) % 3 == 0).float()[:, None]
    a, b = score[target == 1].mean(), score[target == 0].mean()
    alpha = torch.linspace(0, 2, 20001)
    dual = (2 * alpha * (1 - a + b) - alpha**2).max()
    expected = ((score - a)[target == 1] ** 2).mean() + ((score - b)[target == 0] ** 2).mean() + dual
    assert losses.auc_margin(torch.logit(score), target).item() == pytest.approx(expected.item(), abs=1e-6)


def test_auc_margin_has_the_gradients_of_what_it_is():
    """Means differentiated through, too: against autograd of variances and the missing margin written out."""
    draw = torch.Generator().manual_seed(4)
    logit = torch.randn(10, 2, generator=draw)
    target = (torch.rand(10, 2, generator=draw) < 0.4).float()
    plain = logit.clone().requires_grad_()
    terms = []
    for k in range(2):
        score = torch.sigmoid(plain[:, k])
        ones, zeros = score[target[:, k] == 1], score[target[:, k] == 0]
        missing = (1 - ones.mean() + zeros.mean()).clamp(min=0)
        terms.append(ones.var(correction=0) + zeros.var(correction=0) + missing**2)
    torch.stack(terms).mean().backward()
    ours = logit.clone().requires_grad_()
    losses.auc_margin(ours, target).backward()
    torch.testing.assert_close(ours.grad, plain.grad, atol=1e-7, rtol=1e-5)


def test_auc_margin_leaves_out_findings_with_one_kind_only():
    logit = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    with_both = losses.auc_margin(logit[:, :1], torch.tensor([[1.0], [0.0]]))
    loss = losses.auc_margin(logit, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert loss.item() == pytest.approx(with_both.item())


def test_processes_that_share_a_batch_have_its_auc_margin_as_their_mean():
    """Every film with a finding may be with one process only; a label may be known to one only."""
    draw = torch.Generator().manual_seed(0)
    logit = torch.randn(6, 4, generator=draw)
    target = torch.tensor(
        [[1.0, 1, NAN, 1], [1, 0, NAN, NAN], [0, 1, NAN, 1], [0, 0, 1, 1], [0, NAN, 0, 1], [0, 1, 0, 1]]
    )
    parts = [slice(0, 3), slice(3, 6)]
    asked: list[torch.Tensor] = []

    def note(mine: torch.Tensor) -> torch.Tensor:
        asked.append(mine)
        return mine

    for part in parts:
        losses.auc_margin(logit[part], target[part], losses.Peers(2, note))
    total = torch.stack(asked).sum(0)
    shared = [logit[part].clone().requires_grad_() for part in parts]
    values = [
        losses.auc_margin(own, target[part], losses.Peers(2, lambda _: total))
        for own, part in zip(shared, parts, strict=True)
    ]
    for value in values:
        value.backward()
    whole = logit.clone().requires_grad_()
    expected = losses.auc_margin(whole, target)
    expected.backward()
    assert sum(value.item() for value in values) / 2 == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(torch.cat([own.grad for own in shared]) / 2, whole.grad, atol=1e-7, rtol=1e-5)
    assert values[0].item() != pytest.approx(values[1].item(), abs=1e-4)


def test_normal_films_count_less_for_the_findings_and_in_full_for_their_own_label():
    logit = torch.zeros(3, 2)
    target = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, NAN]])  # normal, with a finding, not known to be normal
    loss = losses.make("bce", target, normal=1, normal_weight=0.25)
    assert loss(logit, target).item() == pytest.approx(math.log(2) * (0.25 + 1 + 1 + 1 + 1) / 5)
    plain = losses.make("bce", target, normal=1, normal_weight=1.0)
    assert plain is losses.bce


def test_normal_films_are_weighed_alike_by_processes_that_share_a_batch():
    logit = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[0.0, 0, 1], [1, NAN, 0], [NAN, 1, 0], [0, 0, 1]])
    loss = losses.make("bce", target, normal=2, normal_weight=0.1)
    total = (~target.isnan()).sum()
    halves = [loss(logit[part], target[part], losses.Peers(2, lambda _: total)) for part in (slice(0, 1), slice(1, 4))]
    assert sum(half.item() for half in halves) / 2 == pytest.approx(loss(logit, target).item())


def test_unknown_name():
    with pytest.raises(ValueError, match="unknown loss 'focal'; expected one of bce, balanced-batch"):
        losses.make("focal", TARGET)
