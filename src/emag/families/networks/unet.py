"""U-Nets with transformer blocks: Stable Diffusion 1 and 2, SDXL."""

from ..backbone import SINGLE, Backbone, Stack

ENTRIES: tuple[Backbone, ...] = (
    Backbone(
        "UNet2DConditionModel",
        stacks=(Stack("down_blocks.*.attentions.*.transformer_blocks", "attn1", *SINGLE, ("image",), "attn2"),
                Stack("mid_block.attentions.*.transformer_blocks", "attn1", *SINGLE, ("image",), "attn2", middle=True),
                Stack("up_blocks.*.attentions.*.transformer_blocks", "attn1", *SINGLE, ("image",), "attn2")),
        per_row=("sample", "timestep", "encoder_hidden_states", "class_labels", "timestep_cond", "attention_mask",
                 "added_cond_kwargs", "down_block_additional_residuals", "mid_block_additional_residual",
                 "down_intrablock_additional_residuals", "encoder_attention_mask"),
        condition=("encoder_hidden_states", "added_cond_kwargs.text_embeds"),
        kwargs="cross_attention_kwargs", kwargs_rows=("gligen",), sample="sample", time_modules=("time_embedding",),
        skips=True,
    ),
)
