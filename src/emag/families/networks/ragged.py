"""Image transformers whose rows hold texts of different lengths, or one stream of text and image."""

from ..backbone import DUAL, MERGED, Backbone, Stack

ENTRIES: tuple[Backbone, ...] = (
    Backbone(
        "Lumina2Transformer2DModel",
        stacks=(Stack("layers", "attn", *MERGED, ("text", "image")),),
        per_row=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"),
        condition=("encoder_hidden_states",), kwargs="attention_kwargs",
        time_scale=-1000.0, time_offset=1000.0, time_modules=("time_caption_embed.timestep_embedder",),
        negated=True, packed="encoder_attention_mask",
    ),
    Backbone(
        "ZImageTransformer2DModel",
        stacks=(Stack("layers", "attention", ("x",), ("x",), ("image", "text")),),
        per_row=("x", "t", "cap_feats"), sample="x", text="cap_feats", timestep="t", kwargs="joint_attention_kwargs",
        time_scale=-1000.0, time_offset=1000.0, time_modules=("t_embedder",), negated=True, lists=("x", "cap_feats"),
    ),
    Backbone(
        "HiDreamImageTransformer2DModel",
        stacks=(Stack("double_stream_blocks", "block.attn1", *DUAL, ("image", "text"), padded=True),
                Stack("single_stream_blocks", "block.attn1", *MERGED, ("image", "text"))),
        per_row=("hidden_states", "timesteps", "encoder_hidden_states_t5", "encoder_hidden_states_llama3", "pooled_embeds"),
        condition=("encoder_hidden_states_t5", "encoder_hidden_states_llama3", "pooled_embeds"),
        text="encoder_hidden_states_t5", timestep="timesteps", kwargs="attention_kwargs",
        time_modules=("t_embedder",), negated=True, row_dims=(("encoder_hidden_states_llama3", 1),),
    ),
    Backbone(
        "Krea2Transformer2DModel",
        stacks=(Stack("transformer_blocks", "attn", *MERGED, ("text", "image")),),
        per_row=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask"),
        condition=("encoder_hidden_states",), kwargs="attention_kwargs",
        time_scale=1000.0, grid_ids="position_ids", joint_ids="position_ids", time_modules=("time_embed",),
    ),
)
