"""Image transformers whose attention joins image and text."""

from .entry import JOINT, MERGED, Backbone, Stack

ENTRIES: tuple[Backbone, ...] = (
    Backbone(
        "SD3Transformer2DModel",
        stacks=(Stack("transformer_blocks", "attn", *JOINT, ("image", "text")),),
        per_row=("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep",
                 "block_controlnet_hidden_states"),
        condition=("encoder_hidden_states", "pooled_projections"),
        kwargs="joint_attention_kwargs", kwargs_rows=("ip_adapter_image_embeds", "ip_hidden_states", "temb"),
        time_modules=("time_text_embed.timestep_embedder",), placed=False,
    ),
    Backbone(
        "FluxTransformer2DModel",
        stacks=(Stack("transformer_blocks", "attn", *JOINT, ("text", "image")),
                Stack("single_transformer_blocks", "attn", *JOINT, ("text", "image"))),
        per_row=("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep", "guidance",
                 "controlnet_block_samples", "controlnet_single_block_samples"),
        condition=("encoder_hidden_states", "pooled_projections"),
        kwargs="joint_attention_kwargs", kwargs_rows=("ip_adapter_image_embeds", "ip_hidden_states"),
        time_scale=1000.0, grid_ids="img_ids", references=True, time_modules=("time_text_embed.timestep_embedder",),
    ),
    Backbone(
        "QwenImageTransformer2DModel",
        stacks=(Stack("transformer_blocks", "attn", *JOINT, ("text", "image")),),
        per_row=("hidden_states", "encoder_hidden_states", "encoder_hidden_states_mask", "timestep", "guidance",
                 "controlnet_block_samples", "additional_t_cond"),
        condition=("encoder_hidden_states",), kwargs="attention_kwargs",
        time_scale=1000.0, grid_ids="img_shapes", references=True, layered="use_layer3d_rope",
        time_modules=("time_text_embed.timestep_embedder",),
    ),
    Backbone(
        "ChromaTransformer2DModel",
        stacks=(Stack("transformer_blocks", "attn", *JOINT, ("text", "image")),
                Stack("single_transformer_blocks", "attn", *MERGED, ("text", "image"))),
        per_row=("hidden_states", "encoder_hidden_states", "timestep", "attention_mask", "controlnet_block_samples",
                 "controlnet_single_block_samples"),
        condition=("encoder_hidden_states",),
        kwargs="joint_attention_kwargs", kwargs_rows=("ip_adapter_image_embeds", "ip_hidden_states"),
        time_scale=1000.0, grid_ids="img_ids", joint_mask="attention_mask",
    ),
    Backbone(
        "Flux2Transformer2DModel",
        stacks=(Stack("transformer_blocks", "attn", *JOINT, ("text", "image")),
                Stack("single_transformer_blocks", "attn", *MERGED, ("text", "image"))),
        per_row=("hidden_states", "encoder_hidden_states", "timestep", "guidance"),
        condition=("encoder_hidden_states",), kwargs="joint_attention_kwargs",
        time_scale=1000.0, grid_ids="img_ids", grid_at=(1, 2), references=True, text_ids=(4, 3),
        time_modules=("time_guidance_embed.timestep_embedder",),
    ),
    Backbone(
        "CogView4Transformer2DModel",
        stacks=(Stack("transformer_blocks", "attn1", JOINT[0], JOINT[0], ("text", "image")),),
        per_row=("hidden_states", "encoder_hidden_states", "timestep", "original_size", "target_size", "crop_coords",
                 "attention_mask"),
        condition=("encoder_hidden_states",), kwargs="attention_kwargs",
        time_modules=("time_condition_embed.timestep_embedder",),
    ),
    Backbone(
        "AuraFlowTransformer2DModel",
        stacks=(Stack("joint_transformer_blocks", "attn", *JOINT, ("text", "image")),
                Stack("single_transformer_blocks", "attn", *MERGED, ("text", "image"))),
        per_row=("hidden_states", "encoder_hidden_states", "timestep"),
        condition=("encoder_hidden_states",),
        kwargs="attention_kwargs", time_scale=1000.0, time_modules=("time_step_proj",), placed=False,
    ),
)
