"""NegToMe: the match and the push in parts, and what it comes to in pipelines."""

import pytest
import torch

import emag
from emag.errors import BadValue
from emag.methods.attention.neg_to_me import PushedApart, ReferencePass, pushed_apart
from reference import tensors
from strong import B, H, close, live_of
from styles import latents, style
from test_strong import call_of
from tiny import CASES


def spec(strength=0.9, threshold=-1.0):
    return PushedApart((3,), False, strength, threshold, ReferencePass("", (3,), 0.0))


def by_hand(features, reference, strength, threshold):
    """Token by token, all heads of a token side by side."""
    new = features.clone()
    for at in range(len(features)):
        tokens, others = (x[at].transpose(0, 1).flatten(1) for x in (features, reference))
        for i, token in enumerate(tokens):
            cosines = torch.nn.functional.cosine_similarity(token[None], others)
            best = int(cosines.argmax())
            if cosines[best] > threshold:
                moved = (1 + strength) * token - strength * others[best]
                new[at, :, i] = moved.view(features.shape[1], -1)
    return new


@pytest.mark.parametrize("threshold", [-1.0, 0.3])
def test_each_token_is_pushed_from_its_best_match_alone(threshold):
    features, reference = (x.double() for x in (tensors(1, 1, 2, 3, 7, 4)[0], tensors(2, 1, 2, 3, 5, 4)[0]))
    made = pushed_apart(features, reference, spec(0.9, threshold))
    close(made, by_hand(features, reference, 0.9, threshold))
    moved = (made - features).abs().amax((1, 3)) > 1e-9
    assert moved.all() if threshold == -1 else 0 < moved.sum() < moved.numel()


def test_the_image_itself_as_reference_pushes_nothing():
    features = tensors(3, 1, 2, 3, 7, 4)[0].double()
    close(pushed_apart(features, features[:, :, torch.randperm(7)], spec()), features)
    zeros = torch.zeros(2, 3, 7, 4, dtype=torch.float16)
    assert pushed_apart(zeros, 6e4 * torch.ones_like(zeros), spec()).isfinite().all()


@pytest.mark.parametrize("kind", ["image-text", "text-image"])
def test_rows_of_both_conditions_are_pushed_and_text_stays(kind):
    call = call_of(kind)
    state, live = spec().start((0.9,), None), live_of(call)(call.q)
    state.held = {3: tensors(5, 1, B, H, 6, 8)[0].double()}
    out = state.strengthen(3, call, live_of(call), None)
    for rows in (slice(0, B), slice(B, 2 * B)):
        close(out[rows, :, call.image], pushed_apart(live[rows, :, call.image], state.held[3], spec()))
    rest = out.clone()
    rest[:, :, call.image] = live[:, :, call.image]
    assert torch.equal(rest, live) and bool(state.differed)
    assert torch.equal(state.strengthen(4, call, live_of(call), None), live)  # a step without a reference has none


def test_a_reference_costs_an_evaluation_where_the_noise_is_high_enough():
    made = []
    for sigma_end in (0.0, 0.9):
        pipe = CASES["sd3"].pipe()
        with emag.guide(pipe, emag.NegToMe(style(), threshold=-1.0, sigma_end=sigma_end, layers=(1, 2))) as run:
            CASES["sd3"].run(pipe, num_inference_steps=4)
        assert run.stats.evaluations == run.stats.planned
        made.append(run.stats.evaluations)
    depth = 4
    assert made[0] == 3 * 4 * depth and 2 * 4 * depth < made[1] < made[0]


def test_images_have_references_of_their_own():
    made = []
    for tensor, seeds in ((torch.cat([latents(1), latents(2)]), (8, 9)), (latents(2), (9,))):
        pipe = CASES["sd3"].pipe()
        with emag.guide(pipe, emag.NegToMe(style(tensor), threshold=-1.0, sigma_end=0.0, layers=(1, 2))):
            made.append(CASES["sd3"].run(pipe, seeds, num_inference_steps=3))
    close(made[0][1:], made[1], atol=1e-4, rtol=1e-4)


def test_odd_settings_are_refused(tmp_path):
    for wrong in ({}, {"reference": "a", "strength": -1.0}, {"reference": "a", "threshold": 2.0}):
        with pytest.raises(BadValue, match="neg-to-me"):
            emag.NegToMe(**wrong)
    with pytest.raises(BadValue, match=r"sigma_end=0\.95 leaves no step"):
        PushedApart((3,), False, 1.0, 0.0, ReferencePass("", (3,), 0.95)).check((0.9, 0.5))
    pipe = CASES["sd3"].pipe()
    with pytest.raises(BadValue, match="cannot read the reference latents"), \
            emag.guide(pipe, emag.NegToMe(str(tmp_path / "none.safetensors"))):
        CASES["sd3"].run(pipe, num_inference_steps=2)
