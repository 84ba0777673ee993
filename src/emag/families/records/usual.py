"""Values that many families name: streams of a block, negative prompts, layers and windows."""

from ...schedules import Interval, Window
from .family import Default

# streams of a block and the order in which it returns them
SINGLE = (("hidden_states",), ("hidden_states",))
MERGED = SINGLE
DUAL = (("hidden_states", "encoder_hidden_states"),) * 2
JOINT = (("hidden_states", "encoder_hidden_states"), ("encoder_hidden_states", "hidden_states"))

RESCALE = (("guidance_rescale", 0.0),)

# diffusers' own PAG, in pipelines that have it
OWN_PAG = (("pag_scale", 0.0),)

# arguments that give Flux its unconditional prompt, one set or the other
FLUX_NEGATIVE = (("negative_prompt",), ("negative_prompt_embeds", "negative_pooled_prompt_embeds"))

# of networks whose attention to the text is a module of its own: where the rules on text go to work
CROSS = {
    "pladis": Default({"cross": True}, "published for cross-attention"),
    "gag": Default({"cross": True}, "published for cross-attention, as PLADIS"),
    "o-nag": Default({"cross": True}, "untested default: as NAG"),
    "nasa": Default({"strength": 0.5, "cross": True}, "the authors' PixArt-alpha"),
}

# candidate blocks as fractions of the depth; SD3's 6-8 of 24 and DiT's 12-15 of 28 are the published ones
EARLY, MIDDLE = (6 / 24, 7 / 24, 8 / 24), (12 / 28, 13 / 28, 14 / 28, 15 / 28)
SD3_WINDOW = Window.published(250, 50, 50)
DIT_WINDOW = Window.published(150, 50, 50, base=249)  # at the published 250 steps these are the step's indices themselves
SKIP = Interval(3.8, 0.01, 0.2, "progress")
