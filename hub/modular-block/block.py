"""A block for modular pipelines of diffusers: it gives the pipeline a guidance of emag as its guider."""

import shlex
from typing import Any

import torch
from diffusers.modular_pipelines import ModularPipelineBlocks, PipelineState
from diffusers.modular_pipelines.modular_pipeline_utils import InputParam

import emag
from emag.records import recipe


class EmagGuidanceBlock(ModularPipelineBlocks):
    """Stands before the denoising loop, and attaches the guidance that a call names; without one it does nothing."""

    @property
    def description(self) -> str:
        return "Guides the denoising loop by rules of emag, such as emag=1.5 cfg=4."

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("guidance", type_hint=str, default=None,
                           description="Rules in order, as after -g of `emag generate`: emag=1.5 apg=4,eta=0.")]

    @torch.no_grad()
    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        guidance = self.get_block_state(state).guidance
        if guidance is not None:
            # the rules of emag are the guidance: CFG among them, where it is wanted
            emag.EmagGuider([recipe.parse(word) for word in shlex.split(guidance)]).attach(components)
        return components, state
