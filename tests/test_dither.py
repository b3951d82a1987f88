"Weights that start within their rounding cell learn from small steps; those of a checkpoint do not."
import torch

from citrus.train.dither import dither, dithered, rounded


def checkpoint(n=20_000):
    "Weights as a model in bfloat16 has them, of both signs and all sizes, some of them zero or a power of two"
    w = torch.randn(n, generator=torch.Generator().manual_seed(0)) * 0.03
    w[:100] = 0
    w[100:200] = 2.0 ** -torch.arange(100).remainder(20)
    return rounded(w)


def free(w, seed=0): return dithered(w, torch.Generator().manual_seed(seed))


def test_what_is_read_first_is_the_checkpoint():
    w = checkpoint()
    assert torch.equal(rounded(free(w)), w) and (free(w) != w).float().mean() > 0.95
    assert torch.equal(free(w), free(w)) and not torch.equal(free(w), free(w, 1)) and not free(w)[:100].any()


def test_a_small_step_is_seen_on_average():
    w = checkpoint()[200:]
    cell = torch.exp2(w.abs().log2().floor() - 7)
    for share in (0.02, 0.1, 0.4, 1.3):
        seen = lambda start: ((rounded(start + share * cell) - w) / (share * cell)).mean().item()
        assert abs(seen(free(w)) - 1) < 0.1, share
        if share < 0.25: assert seen(w) == 0, 'a checkpoint does not see it, at a power of two neither'


def test_weights_that_are_no_bfloat16_stay_as_they_are():
    w = torch.rand(1000) + 0.1
    exact = rounded(w) == w
    assert torch.equal(free(w)[~exact], w[~exact])


def fitted(w, start, read):
    "Loss after sixteen small steps of Adam, with weights read in one number format"
    layer = torch.nn.Parameter(start.clone())
    generator = torch.Generator().manual_seed(1)
    x = 1 + 0.1 * torch.randn(256, 256, generator=generator)
    y = x @ (w + 3e-4).T   # all weights have to move the same way, as in a language model those of a common word
    optimizer = torch.optim.Adam([layer], lr=2e-5)
    for _ in range(16):
        loss = ((x @ (layer + (read(layer) - layer).detach()).T - y) ** 2).mean()   # the gradient passes the rounding
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    return loss.item()


def test_training_from_a_checkpoint_is_as_in_float32():
    w = rounded(torch.randn(64, 256, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.3)
    exact, stuck, freed = fitted(w, w, lambda p: p), fitted(w, w, rounded), fitted(w, free(w.flatten()).view_as(w), rounded)
    assert stuck > 2 * exact and abs(freed - exact) < 0.2 * (stuck - exact), (exact, stuck, freed)


def test_a_whole_model_is_moved():
    model = torch.nn.Linear(32, 32).to(torch.bfloat16).float()
    before = [p.clone() for p in model.parameters()]
    dither(model)
    for p, old in zip(model.parameters(), before): assert torch.equal(rounded(p), old) and not torch.equal(p, old)
