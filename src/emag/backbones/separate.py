"""Image transformers with an attention of the image alone."""

from .entry import SINGLE, Backbone, Stack

ENTRIES: tuple[Backbone, ...] = (
    Backbone(
        "DiTTransformer2DModel",
        stacks=(Stack("transformer_blocks", "attn1", *SINGLE, ("image",)),),
        per_row=("hidden_states", "timestep", "class_labels"),
        condition_modules=("transformer_blocks.*.norm1.emb.class_embedder",),
        kwargs="cross_attention_kwargs", text=None,
        time_modules=("transformer_blocks.*.norm1.emb.timestep_embedder",), placed=False,
    ),
    Backbone(
        "PixArtTransformer2DModel",
        stacks=(Stack("transformer_blocks", "attn1", *SINGLE, ("image",), "attn2"),),
        per_row=("hidden_states", "encoder_hidden_states", "timestep", "added_cond_kwargs", "attention_mask",
                 "encoder_attention_mask"),
        condition=("encoder_hidden_states",),
        kwargs="cross_attention_kwargs", time_modules=("adaln_single.emb.timestep_embedder",), placed=False,
    ),
    Backbone(
        "HunyuanDiT2DModel",
        stacks=(Stack("blocks", "attn1", *SINGLE, ("image",), "attn2"),),
        per_row=("hidden_states", "timestep", "encoder_hidden_states", "text_embedding_mask", "encoder_hidden_states_t5",
                 "text_embedding_mask_t5", "image_meta_size", "style", "controlnet_block_samples"),
        condition=("encoder_hidden_states", "encoder_hidden_states_t5"),
        time_modules=("time_extra_emb.timestep_embedder",), skips=True,
    ),
    Backbone(
        "SanaTransformer2DModel",
        stacks=(Stack("transformer_blocks", "attn1", *SINGLE, ("image",), "attn2", linear=True),),
        per_row=("hidden_states", "encoder_hidden_states", "timestep", "guidance", "encoder_attention_mask",
                 "attention_mask", "controlnet_block_samples"),
        condition=("encoder_hidden_states",),
        kwargs="attention_kwargs", time_modules=("time_embed.emb.timestep_embedder",),
    ),
)
