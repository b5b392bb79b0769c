"""The vectorised loss against the paper's description, one image at a time."""

import math

import pytest
import torch

from pfm_edge.training import draw_banks, forgettable_loss

CLASSES = 5


def loop_over_samples(model, images, labels, mixed, wrong):
    """The paper's loss written from its text: no banks, no batches, tokens placed by hand."""
    backbone, total_ce, total_kl = model.backbone, 0.0, 0.0
    for image, label, right, without in zip(images, labels, mixed, wrong, strict=True):
        log_p = []
        for chosen in (right, without):
            tokens = backbone._pos_embed(backbone.patch_embed(image[None]))
            sequence = [model.prompts[c][None, None] for c in chosen.tolist()] + [tokens]
            x = torch.cat(sequence, dim=1)
            for block in backbone.blocks:
                x = block(x)
            cls_token = backbone.norm(x)[0, len(chosen)]
            logits = torch.stack([row @ cls_token for row in model.head.weight]) + model.head.bias
            log_p.append(logits - torch.logsumexp(logits, 0))
        total_ce = total_ce - log_p[0][label]
        uniform = 1.0 / CLASSES
        total_kl = total_kl + sum(uniform * (math.log(uniform) - value) for value in log_p[1])
    return total_ce / len(images), total_kl / len(images)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_vectorised_loss_equals_the_loop(make_model, seed):
    model = make_model("joint", CLASSES)
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 1, 8, 8, generator=draw)
    labels = torch.randint(CLASSES, (6,), generator=draw)
    mixed = draw_banks(labels, CLASSES, with_own=True, generator=draw)
    wrong = draw_banks(labels, CLASSES, with_own=False, generator=draw)
    terms = forgettable_loss(model, images, labels, mixed, wrong)
    cross_entropy, uniformity = loop_over_samples(model, images, labels, mixed, wrong)
    assert float((terms.cross_entropy - cross_entropy).detach()) == pytest.approx(0, abs=1e-5)
    assert float((terms.uniformity - uniformity).detach()) == pytest.approx(0, abs=1e-5)
    assert float((terms.total - cross_entropy - uniformity).detach()) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("attention", ["joint", "prefix"])
def test_every_trained_tensor_gets_a_gradient(make_model, attention):
    model = make_model(attention, CLASSES)
    labels = torch.tensor([0, 1, 2])
    banks = torch.tensor([[0, 1], [1, 2], [3, 2]])
    terms = forgettable_loss(model, torch.randn(3, 1, 8, 8), labels, banks, banks[:, :0])
    terms.total.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert silent == []


def test_banks_are_uniform_subsets_with_or_without_the_own_class():
    labels = torch.arange(CLASSES).repeat(400)
    draw = torch.Generator().manual_seed(0)
    sizes, seen = set(), torch.zeros(CLASSES, CLASSES)
    for _ in range(60):
        mixed = draw_banks(labels, CLASSES, with_own=True, generator=draw)
        wrong = draw_banks(labels, CLASSES, with_own=False, generator=draw)
        assert bool((mixed == labels[:, None]).any(dim=1).all())
        assert not bool((wrong == labels[:, None]).any())
        for banks in (mixed, wrong):
            assert all(len(set(row)) == len(row) for row in banks[:50].tolist())
        sizes.add(wrong.shape[1])
        for own in range(CLASSES):
            chosen = wrong[labels == own].flatten()
            seen[own] += torch.bincount(chosen, minlength=CLASSES) / max(1, len(chosen))
    assert sizes == set(range(CLASSES))
    share = seen[~torch.eye(CLASSES, dtype=torch.bool)] / seen.sum() * CLASSES
    assert share.min() > 0.2
    assert share.max() < 0.3  # each wrong class a quarter of the draws


def test_the_own_class_stands_anywhere_in_a_mixed_bank():
    labels = torch.zeros(3000, dtype=torch.int64)
    draw = torch.Generator().manual_seed(3)
    banks = torch.empty(0, 1)
    while banks.shape[1] != CLASSES:
        banks = draw_banks(labels, CLASSES, with_own=True, generator=draw)
    places = torch.bincount((banks == 0).float().argmax(dim=1), minlength=CLASSES) / len(labels)
    assert places.min() > 0.17
    assert places.max() < 0.23
