"""Rules on predictions of a loop of one's own: hidden states, logits and probabilities; what is projected after them."""

import pytest
import torch

import emag
from emag.tokens import Predictions, on_simplex, on_sphere, predictions

close = torch.testing.assert_close


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


C, U, T = normal(3, 5, 7), normal(3, 5, 7, seed=1), normal(3, 5, 7, seed=2)


@pytest.mark.parametrize("w", [0.0, 0.5, 1.25, 5.0])
def test_hidden_states_before_affine_heads_are_the_outputs_of_the_heads(w):
    """Eruku: one guided state, two heads. Any number of affine heads, since the weights of the states sum to 1."""
    guide = predictions(emag.CFG(w), space="hidden")
    for size in (8, 3):
        head = torch.nn.Linear(7, size)
        close(head(guide(C, U)), head(U) + w * (head(C) - head(U)), atol=1e-5, rtol=1e-5)
    bent = torch.nn.Sequential(torch.nn.Linear(7, 4), torch.nn.Tanh())
    assert w == 0 or not torch.allclose(bent(guide(C, U)), bent(U) + w * (bent(C) - bent(U)), atol=1e-2)


def test_a_null_whose_condition_was_left_out_is_no_guidance_at_double_cost():
    guide = predictions(emag.CFG(1.25), space="hidden")
    for _ in range(3):
        guide(C, C.clone())
    with pytest.raises(emag.NoEffect, match="uncond"):
        guide.finish()
    guide(C, U)
    guide.finish()


@pytest.mark.parametrize("y", [0.0, 0.5, 4.0])
def test_a_bayesian_flow_over_tokens_has_its_own_scale(y):
    """ChemBFN: (1 + y) c - y u on logits, y = 4; 0 is off, and then the null is not evaluated."""
    guide, asked = predictions(emag.CFG(1 + y), space="logits"), []
    close(guide(C, lambda: asked.append(1) or U), (1 + y) * C - y * U, atol=1e-5, rtol=1e-5)
    assert len(asked) == (y != 0) and guide.evaluated.get("uncond", 0) == len(asked)


def test_guiding_the_score_of_a_dirichlet_path_is_mixing_its_probabilities():
    """Dirichlet flows: score = (a - 1) diag(1 / x) p, columns centred; guided scores solved for p with sum 1 are the mix."""
    size, w, a = 5, 3.0, 4.0
    x, p, q = (normal(size, seed=seed).double().softmax(-1) for seed in range(3))
    matrix = torch.diag((a - 1) / x)
    matrix = matrix - matrix.mean(0)
    score = (1 - w) * matrix @ q + w * matrix @ p
    system = torch.cat([matrix, torch.ones(1, size, dtype=torch.double)])
    solved = torch.linalg.lstsq(system, torch.cat([score, torch.ones(1)])[:, None]).solution[:, 0]
    mix = predictions(emag.CFG(w), space="prob")(p[None], q[None])[0]
    close(mix.double(), solved, atol=1e-5, rtol=1e-5)
    guided = predictions(emag.CFG(w), space="prob", project=on_simplex)(p[None], q[None])[0]
    assert (mix < 0).any() and (guided >= 0).all() and float(guided.sum()) == pytest.approx(1)
    # its other form, p_c^(1 - g) p_u^g, counts the other way: it is CFG of log-probabilities at w = 1 - g
    tilted = predictions(emag.CFG(0.3), space="logp")(p.log()[None], q.log()[None])[0].softmax(-1)
    close(tilted.double(), p**0.3 * q**0.7 / (p**0.3 * q**0.7).sum(), atol=1e-5, rtol=1e-5)
    off = predictions(emag.CFG(1.0), space="prob", project=on_simplex)(p[None], q[None])[0]
    assert off.tolist() == pytest.approx(p.tolist())


def test_the_nearest_probabilities():
    close(on_simplex(C.softmax(-1)), C.softmax(-1), atol=1e-6, rtol=1e-5)
    found = on_simplex(3 * C)
    assert (found >= 0).all()
    close(found.sum(-1), torch.ones(3, 5))
    for seed in range(50):  # none of many others is nearer
        other = normal(3, 5, 7, seed=seed).mul(2).softmax(-1)
        assert ((3 * C - found).norm(dim=-1) <= (3 * C - other).norm(dim=-1) + 1e-5).all()


def test_a_continuous_token_ends_on_its_sphere():
    """SphereAR: w_i = 1 + (w - 1) i / L over the tokens, a guided flow for each, and R z / |z| before it is fed back."""
    w, count, radius = 4.5, 6, 2.0
    scale = emag.CFG(emag.Curve(1 + (w - 1) / 2 * (count - 1) / count))
    made = []
    guide = predictions(scale, space="hidden", steps=count, project=lambda v: on_sphere(v, radius))
    for i in range(count):
        c, u = normal(2, 4, seed=i), normal(2, 4, seed=100 + i)
        z = guide(c, u)
        plain = u + (1 + (w - 1) * i / count) * (c - u)
        close(z, radius * plain / plain.norm(dim=-1, keepdim=True), atol=1e-5, rtol=1e-5)
        close(z.norm(dim=-1), torch.full((2,), radius))
        made.append(z)
    close(made[0], on_sphere(normal(2, 4), radius))
    assert torch.equal(on_sphere(torch.zeros(1, 3), 2.0), torch.zeros(1, 3))
    with pytest.raises(emag.BadValue, match="radius"):
        on_sphere(C, 0.0)


@pytest.mark.parametrize("space", ["logits", "hidden", "prob", "logp"])
def test_affine_rules_work_in_all_spaces(space):
    def seen(p):
        return p.log_softmax(-1) if space == "logp" else p

    nested = predictions(emag.Negative(1.3, negative="text"), emag.CFG(1.5), space=space)
    inner = seen(T) + 1.3 * (seen(C) - seen(T))
    close(nested(C, U, text=T), seen(U) + 1.5 * (inner - seen(U)), atol=1e-5, rtol=1e-5)
    terms = (emag.Term(1.5 * 1.3, "cond", "text"), emag.Term(1.5, "text", "uncond"))
    close(predictions(emag.Compose("uncond", terms), space=space)(C, U, text=lambda: T), nested(C, U, text=T))
    assert nested.evaluated == {"text": 2, "uncond": 2}


@pytest.mark.parametrize("space", ["logits", "hidden", "prob"])
@pytest.mark.parametrize("rule", [emag.tokens.MTI(2.0, threshold=1.0), emag.AG(0.9, on="logp"), emag.tokens.CAIF()],
                         ids=lambda rule: rule.name)
def test_others_are_refused_outside_log_probabilities(space, rule):
    with pytest.raises(emag.BadValue, match="log-probabilities"):
        predictions(rule, emag.CFG(2.0), space=space)


def test_log_probabilities_take_the_others_too_and_spare_the_null():
    guide, calls = predictions(emag.tokens.MTI(2.0, threshold=10.0), space="logp"), []
    close(guide(C[:, 0], lambda: calls.append(1) or U[:, 0]), C[:, 0].log_softmax(-1))
    assert not calls and isinstance(guide, Predictions)
    # a threshold of 0 is one: a token that is certain is left alone, where MTI's code takes 0 for "guide all"
    certain, unsure = torch.tensor([[0.0, -torch.inf, -torch.inf]]), torch.tensor([[0.0, 1.0, -torch.inf]])
    at_zero = predictions(emag.tokens.MTI(2.0, threshold=0.0), space="logp")
    assert torch.equal(at_zero(certain, lambda: pytest.fail("evaluated")), certain)
    assert not torch.allclose(at_zero(unsure, torch.zeros(1, 3)), unsure.log_softmax(-1))


def test_what_is_missing_is_said():
    guide = predictions(emag.Negative(1.3, negative="text"), emag.CFG(1.5))
    with pytest.raises(emag.BadValue, match="'text' must be given"):
        guide(C, U)
    with pytest.raises(emag.BadValue, match="'uncond' must be given"):
        predictions(emag.CFG(2.0))(C, U[:, :1])
    with pytest.raises(emag.Unsupported, match="soft-cfg"):
        predictions(emag.tokens.SoftCFG(2.0), space="logp")
    with pytest.raises(emag.Unsupported, match="apg"):
        predictions(emag.APG(2.0))
    with pytest.raises(emag.BadValue, match="space"):
        predictions(emag.CFG(2.0), space="image")
    with pytest.raises(emag.BadValue, match="space"):
        emag.tokens.guide(torch.nn.Linear(1, 1), emag.CFG(2.0), space="prob")
