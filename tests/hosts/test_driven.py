"""Video and sound together: driven passes, on a network that is exact for a Gaussian pair of streams."""

import pytest
import torch

import emag
from emag.errors import BadValue
from emag.hosts.driven import Driven, packed, sync_guidance, unpacked, with_driven
from emag.samplers import Path, sample

close = torch.testing.assert_close
SHAPES = (2, 3), (4,)
"""Of a video, 2 frames of 3 numbers, and of a sound of 4."""
COUNT = 10
LEVELS = Path.flow(tuple(1 - i / 8 for i in range(9)))
MIX = torch.randn(COUNT, COUNT, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
COV = MIX @ MIX.T / COUNT + 0.3 * torch.eye(COUNT).double()
STATIC, MUTE = (torch.full((1, *shape), value, dtype=torch.float64) for shape, value in zip(SHAPES, (0.4, -0.2)))


def exact(video, sound, at_video, at_sound, condition):
    """Flow velocities of N(condition, COV), the streams at levels of their own."""
    s = torch.cat([at_video[:1].expand(6), at_sound[:1].expand(4)]).double()
    x, mean = torch.cat([video.flatten(1), sound.flatten(1)], 1).double(), condition or 0.0
    gain = torch.linalg.solve((1 - s)[:, None] * COV * (1 - s) + torch.diag(s**2), (1 - s)[:, None] * COV).T
    clean = mean + (x - (1 - s) * mean) @ gain.T
    u = torch.where(s > 0, (x - clean) / s.clamp(min=1e-9), 0.0).to(video.dtype)
    return u[:, :6].reshape(-1, *SHAPES[0]), u[:, 6:]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = packed(normal(4, *SHAPES[0], seed=5), normal(4, *SHAPES[1], seed=6))


def model(video, sound, network=exact, condition=None, static=STATIC, mute=MUTE):
    conditions, masks, rule = sync_guidance(static, mute, video, sound)
    return emag.guided(with_driven(network, static, mute, condition), rule, path=LEVELS, conditions=conditions, masks=masks)


def passes(i=3, x=X):
    """Joint predictions, and each stream's beside the clean null of the other."""
    video, sound = unpacked(x, STATIC, MUTE)
    now, clean = torch.full((len(x),), LEVELS.sigmas[i]).double(), torch.zeros(len(x)).double()
    driven = (exact(video, MUTE.expand(len(x), -1), now, clean, None)[0],
              exact(STATIC.expand(len(x), -1, -1), sound, clean, now, None)[1])
    return exact(video, sound, now, now, None), driven


@pytest.mark.parametrize(("video", "sound"), [(3.0, 2.0), (2.5, 2.5), (1.0, 4.0), (0.0, 1.0), (1.0, 1.0)])
def test_each_stream_is_pushed_from_its_driven_prediction(video, sound):
    joint, driven = passes()
    expected = [d + w * (j - d) for j, d, w in zip(joint, driven, (video, sound))]
    close(model(video, sound)(X, 3), packed(*expected))


def test_scale_1_is_the_joint_prediction_and_costs_nothing():
    calls = []

    def counting(*given):
        calls.append(given[2:4])
        return exact(*given)

    one = model(1.0, 1.0, counting)
    assert torch.equal(one(X, 3), packed(*passes()[0])) and len(calls) == 1
    for scales, count in (((3.0, 3.0), 3), ((3.0, 1.0), 2), ((1.0, 3.0), 2), ((2.0, 3.0), 3)):
        calls.clear()
        model(*scales, counting)(X, 3)
        assert len(calls) == count


def test_equal_passes_are_the_joint_prediction():
    """A network whose streams do not hear each other has nothing to be guided away from."""
    def deaf(video, sound, at_video, at_sound, condition):
        return video.tanh() + at_video[:, None, None], sound.sin() + at_sound[:, None]

    close(model(3.0, 2.0, deaf)(X, 3), model(1.0, 1.0, deaf)(X, 3))


def test_of_a_driven_pass_only_the_driven_stream_is_used_and_it_is_driven_by_the_null():
    def broken(video, sound, at_video, at_sound, condition):
        seen = exact(video, sound, at_video, at_sound, condition)
        if not at_sound.any():
            assert torch.equal(sound, MUTE.expand(4, -1))
            return seen[0], torch.full_like(sound, torch.nan)
        if not at_video.any():
            assert torch.equal(video, STATIC.expand(4, -1, -1))
            return torch.full_like(video, torch.nan), seen[1]
        return seen

    close(model(3.0, 2.0, broken)(X, 3), model(3.0, 2.0)(X, 3))


def test_streams_agree_more_the_stronger_it_is():
    """End to end: what of the sound is told by the video, in samples."""
    onto = COV[6:, :6] @ torch.linalg.inv(COV[:6, :6])
    noise, agreed = normal(2000, 1, COUNT, seed=3), []
    for scale in (1.0, 2.0):
        still, silence = torch.zeros_like(STATIC), torch.zeros_like(MUTE)
        made = sample(model(scale, scale, static=still, mute=silence), noise)[:, 0]
        told = made[:, :6] @ onto.T
        agreed.append(torch.cosine_similarity(told, made[:, 6:], dim=1).mean())
    assert agreed[1] > agreed[0] + 0.02


def test_rows_are_their_own_samples_and_the_condition_is_told_in_all_passes():
    together = sample(model(3.0, 2.0, condition=1.5), X)
    for row in range(4):
        close(sample(model(3.0, 2.0, condition=1.5), X[row:row + 1]), together[row:row + 1])
    assert (together - sample(model(3.0, 2.0), X)).abs().max() > 0.5


def test_it_packs_and_refuses_other_shapes():
    video, sound = unpacked(X, STATIC, MUTE)
    assert video.shape == (4, *SHAPES[0]) and torch.equal(packed(video, sound), X)
    assert sync_guidance(STATIC, MUTE, 3.0, 1.0)[0]["uncond"] == Driven(video=True)
    for wrong in (X[:, 0], X[..., :-1]):
        with pytest.raises(BadValue, match="video and sound as packed"):
            with_driven(exact, STATIC, MUTE)(wrong, 0.5, Driven())
