"""Each kind of autoencoder: a score sees of the last estimate what the pipeline makes of its last latents."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLLTXVideo, AutoencoderKLMochi

import emag
from emag.errors import Unsupported
from emag.hosts.decoding import check_decoder, decode
from emag.hosts.films import frames_of
from emag.scores import Colour, OfFrames
from emag.testing.cases import every
from emag.testing.small_unet import deep_vae

close = torch.testing.assert_close
RED = Colour(0.9, 0.1, 0.1)


def hunyuan():
    return AutoencoderKLHunyuanVideo(latent_channels=4, block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=2)


def ltx(**config):
    made = AutoencoderKLLTXVideo(latent_channels=8, block_out_channels=(8,) * 4, layers_per_block=(1,) * 5, patch_size=4,
                                 decoder_block_out_channels=(8,) * 4, decoder_layers_per_block=(1,) * 5, **config)
    made.latents_mean.uniform_()
    made.latents_std.uniform_(0.5, 1.5)
    return made


def mochi():
    return AutoencoderKLMochi(latent_channels=4, latents_mean=None, latents_std=None, encoder_block_out_channels=(32,) * 4,
                              decoder_block_out_channels=(32,) * 4, layers_per_block=(1,) * 5)


VAES = {"hunyuan-video": hunyuan, "kandinsky5": hunyuan, "ltx": ltx, "mochi": mochi, "animatediff": deep_vae}


def pipeline(name):
    pipe = every()[name].pipe()
    torch.manual_seed(0)
    if name in VAES:
        pipe.vae = VAES[name]().eval()
    if name == "flux2":
        pipe.vae.bn.running_mean.uniform_()
        pipe.vae.bn.running_var.uniform_(0.5, 1.5)
    if name == "hunyuan-image":
        pipe.vae.register_to_config(scaling_factor=0.5)
    if name == "ltx-2":
        pipe.vocoder = lambda sound: sound
    return pipe


@pytest.mark.parametrize("name", ["flux2", "hunyuan-image", "hunyuan-video", "hunyuan-video-1.5", "ltx", "ltx-2", "mochi",
                                  "easyanimate", "kandinsky5", "animatediff", "latte", "modelscope"])
def test_a_score_sees_what_the_pipeline_gives(name):
    case, pipe, seen = every()[name], pipeline(name), []

    def watched(images):
        seen.append(images.detach())
        return images.flatten(1).mean(1)

    rules = [emag.CFG(3.0)] if case.uncond else []
    with emag.guide(pipe, *rules, emag.Energy(watched, 1e-9)):
        made = case.run(pipe, (8,), num_inference_steps=2, output_type="pt")
    made = made[0] if isinstance(made, tuple) else made
    made = made.movedim(1, 2) if made.ndim == 5 else made
    assert made.std() > 1e-3
    close(seen[-1], made.float(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["hunyuan-video", "hunyuan-video-1.5", "animatediff"])
def test_frames_are_those_of_the_whole_and_videos_do_not_look_at_one_another(name):
    pipe, x = pipeline(name), torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    score = OfFrames(RED, (0, -1))
    with torch.no_grad():
        whole, some = decode(pipe, x), decode(pipe, x, None, score.part)
        close(decode(pipe, x[1:]), whole[1:], atol=1e-4, rtol=1e-3)
    close(some, whole[:, :, [0, -1]], atol=1e-4, rtol=1e-3)


def test_where_frames_are_apart_a_score_of_one_moves_that_alone():
    pipe, x = pipeline("animatediff"), torch.randn(1, 4, 3, 4, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(decode(pipe, x, None, OfFrames(RED, (1,)).part).sum(), x)
    assert slope[:, :, 1].abs().min() > 0 == slope[:, :, [0, 2]].abs().max()


def test_what_decodes_otherwise_is_refused_with_its_reason():
    timed = SimpleNamespace(vae=ltx(timestep_conditioning=True))
    cut = SimpleNamespace(vae=hunyuan(), transformer=SimpleNamespace(config=SimpleNamespace(
        image_condition_type="latent_concat")))
    for pipe, match in ((timed, "told a time, and given noise"), (cut, "cuts the first frames off")):
        with pytest.raises(Unsupported, match=match):
            check_decoder(pipe)
    with pytest.raises(Unsupported, match="another epsilon"):
        check_decoder(every()["ernie-image"].pipe())
    with pytest.raises(Unsupported, match="all frames of AutoencoderKLHunyuanVideo depend on all latents"):
        frames_of(hunyuan(), torch.zeros(1, 4, 2, 4, 4), (0,), before=1)
