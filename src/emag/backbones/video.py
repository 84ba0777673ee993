"""Video transformers."""

from .entry import DUAL, SINGLE, Backbone, Stack

SOUND = (("hidden_states", "audio_hidden_states"),) * 2
WAN = Stack("blocks", "attn1", *SINGLE, ("image",), "attn2", cross_picture="add_k_proj")

ENTRIES: tuple[Backbone, ...] = (
    Backbone(
        "WanTransformer3DModel",
        stacks=(WAN,),
        per_row=("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image"),
        condition=("encoder_hidden_states",),
        kwargs="attention_kwargs", time_modules=("condition_embedder.time_embedder",),
    ),
    Backbone(  # its control blocks run before the others in every pass, weak ones too, and are not counted
        "WanVACETransformer3DModel",
        stacks=(WAN,),
        per_row=("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image",
                 "control_hidden_states"),
        condition=("encoder_hidden_states",),
        kwargs="attention_kwargs", time_modules=("condition_embedder.time_embedder",),
    ),
    Backbone(
        "LTXVideoTransformer3DModel",
        stacks=(Stack("transformer_blocks", "attn1", *SINGLE, ("image",), "attn2"),),
        per_row=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask", "video_coords"),
        condition=("encoder_hidden_states",),
        kwargs="attention_kwargs", time_modules=("time_embed.emb.timestep_embedder",),
        grid_sizes=("num_frames", "height", "width"), patch=1,
    ),
    Backbone(
        "LTX2VideoTransformer3DModel",
        stacks=(Stack("transformer_blocks", "attn1", *SOUND, ("image",), "attn2"),),
        per_row=("hidden_states", "audio_hidden_states", "encoder_hidden_states", "audio_encoder_hidden_states", "timestep",
                 "audio_timestep", "sigma", "audio_sigma", "encoder_attention_mask", "audio_encoder_attention_mask",
                 "video_coords", "audio_coords", "video_self_attention_mask", "video_keyframes_mask", "perturbation_mask"),
        condition=("encoder_hidden_states", "audio_encoder_hidden_states"),
        kwargs="attention_kwargs",
        time_modules=("time_embed.emb.timestep_embedder", "audio_time_embed.emb.timestep_embedder"),
        grid_sizes=("num_frames", "height", "width"), patch=1, paired=True,
    ),
    Backbone(
        "CogVideoXTransformer3DModel",
        stacks=(Stack("transformer_blocks", "attn1", *DUAL, ("text", "image")),),
        per_row=("hidden_states", "encoder_hidden_states", "timestep", "timestep_cond", "ofs"),
        condition=("encoder_hidden_states",),
        kwargs="attention_kwargs", time_modules=("time_embedding",), channel_dim=2,
        placed="use_rotary_positional_embeddings",
    ),
    Backbone(
        "MochiTransformer3DModel",
        stacks=(Stack("transformer_blocks", "attn1", *DUAL, ("image", "text"), each_sample=True),),
        per_row=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask"),
        condition=("encoder_hidden_states",),
        kwargs="attention_kwargs", time_modules=("time_embed.timestep_embedder",), negated=True,
    ),
    Backbone(
        "HunyuanVideo15Transformer3DModel",
        stacks=(Stack("transformer_blocks", "attn", *DUAL, ("image", "text")),),
        per_row=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask", "timestep_r",
                 "encoder_hidden_states_2", "encoder_attention_mask_2", "image_embeds"),
        condition=("encoder_hidden_states", "encoder_hidden_states_2"),
        kwargs="attention_kwargs",
        time_modules=("time_embed.timestep_embedder", "context_embedder.time_text_embed.timestep_embedder"),
    ),
    Backbone(
        "HunyuanVideoTransformer3DModel",
        stacks=(Stack("transformer_blocks", "attn", *DUAL, ("image", "text")),
                Stack("single_transformer_blocks", "attn", *DUAL, ("image", "text"))),
        per_row=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask", "pooled_projections",
                 "guidance"),
        condition=("encoder_hidden_states", "pooled_projections"),
        kwargs="attention_kwargs",
        time_modules=("time_text_embed.timestep_embedder", "context_embedder.time_text_embed.timestep_embedder"),
    ),
)
