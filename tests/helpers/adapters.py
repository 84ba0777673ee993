"""Small IP-Adapters in small pipelines."""

import torch
from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, IPAdapterTimeImageProjection, MultiIPAdapterImageProjection
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor

from tiny import awaken, noise


@torch.no_grad()
def with_sd3_adapter(pipe):
    torch.manual_seed(0)
    net = pipe.transformer
    net.image_proj = awaken(IPAdapterTimeImageProjection(
        embed_dim=6, output_dim=10, hidden_dim=8, depth=1, dim_head=4, heads=2, num_queries=3, timestep_in_dim=8), 5)
    net.set_attn_processor({
        name: awaken(SD3IPAdapterJointAttnProcessor2_0(16, 10, 8, timesteps_emb_dim=8, scale=0.8), i)
        for i, name in enumerate(net.attn_processors)})
    return pipe


@torch.no_grad()
def with_flux_adapter(pipe):
    net = pipe.transformer
    net.encoder_hid_proj = MultiIPAdapterImageProjection(
        [awaken(ImageProjection(image_embed_dim=6, cross_attention_dim=12, num_image_text_embeds=2), 5)])
    net.set_attn_processor({name: processor if "single" in name else awaken(FluxIPAdapterAttnProcessor(32, 12, (2,)), 1)
                            for name, processor in net.attn_processors.items()})
    return pipe


def with_unet_adapter(pipe):
    net, state = pipe.unet, {}
    crossing = [name for name in net.attn_processors if name.endswith("attn2.processor")]
    for at, name in enumerate(crossing):
        inner = net.get_submodule(name.removesuffix(".processor")).inner_dim
        state |= {f"{2 * at + 1}.to_{key}_ip.weight": noise(80 + at, inner, 12) for key in "kv"}
    proj = {"proj.weight": noise(90, 48, 6), "proj.bias": noise(91, 48), "norm.weight": torch.ones(12),
            "norm.bias": torch.zeros(12)}
    net._load_ip_adapter_weights([{"ip_adapter": state, "image_proj": proj}])
    return pipe
