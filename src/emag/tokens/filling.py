"""Pipelines of diffusers that fill in masked tokens: Amused (images) and LLaDA2 (texts), under a guidance of ours."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..core import Rule
from ..engine.lock import hold
from ..engine.undo import Undo, patch, undone
from ..errors import BadValue, Busy, Unsupported
from .masked import GuidedMasks, guide_of, masked
from .predictions import Predictions

IMAGES = ("AmusedPipeline", "AmusedImg2ImgPipeline", "AmusedInpaintPipeline")
"""Pipelines that make the null's rows themselves, before those of the prompt, where their guidance_scale is above 1."""
TEXTS = ("LLaDA2Pipeline",)
"""Pipelines that know of no null."""


class GuidedFilling:
    """Handle of a `with emag.tokens.filled(...)`. steps: of the latest call; passes: of the network, the null's included."""

    def __init__(self, pipe: Any, rules: Sequence[Rule], share: float | None):
        self.steps = self.passes = 0
        self._pipe, self._kind, self._rules, self._share, self._undo = pipe, type(pipe), rules, share, Undo()
        kind = type(pipe).__name__
        if getattr(pipe, "_emag_filled", False):
            raise Busy("this pipeline is already inside a with block of emag.tokens.filled")
        if kind not in IMAGES + TEXTS:
            raise Unsupported(f"emag.tokens.filled guides {', '.join(IMAGES + TEXTS)}, got {kind}")
        self._of_images = kind in IMAGES
        if self._of_images and share is not None:
            raise BadValue(f"share= is about masking tokens again: the null of {kind} is its negative prompt")
        self._guide(pipe.transformer if self._of_images else pipe.model, 0 if self._of_images else 1)

    def __enter__(self) -> "GuidedFilling":
        kind = self._kind
        # of the same name, so that what asks for it finds the pipeline that it is
        call = {"__call__": lambda pipe, *args, **kwargs: self._called(pipe, args, kwargs), "_emag_filled": True}
        swapped = type(kind.__name__, (kind,), call)
        self._undo.callback(setattr, self._pipe, "__class__", kind)
        self._pipe.__class__ = swapped
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.close()

    def _guide(self, network: Any, steps: int) -> Predictions | GuidedMasks:
        """What guides one call; raises for what cannot be guided by. steps: 0 where nobody knows how many there will be."""
        if self._of_images:
            return guide_of(self._rules, steps or 1)
        return masked(network, self._rules, mask_token=0, share=self._share)

    def _called(self, pipe: Any, args: Any, kwargs: Any) -> Any:
        call = inspect.signature(self._kind.__call__).bind(pipe, *args, **kwargs)
        call.apply_defaults()
        return undone(lambda undo: (self._image if self._of_images else self._text)(undo, pipe, call))

    def _image(self, undo: Undo, pipe: Any, call: inspect.BoundArguments) -> Any:
        if call.arguments["guidance_scale"] <= 1:
            raise BadValue(f"{type(pipe).__name__} makes the null's rows where guidance_scale is above 1: leave it out; the "
                           "scale is the rule's")
        network, guides = pipe.transformer, list[Predictions]()
        plain = network.forward

        def forward(tokens: torch.Tensor, *args: Any, **given: Any) -> torch.Tensor:
            if not guides:
                guides.append(self._guide(network, len(pipe.scheduler.timesteps)))  # type: ignore[arg-type]
            rows = len(tokens) // 2

            def half(start: int) -> torch.Tensor:
                self.passes += 1
                own = {name: value[start:start + rows] if isinstance(value, torch.Tensor) else value
                       for name, value in given.items()}
                return plain(tokens[start:start + rows], *args, **own)

            cond = half(rows)
            # the rules have the vocabulary last, [rows, height, width, codes]; what is filled in already nobody reads
            live = tokens[rows:] == pipe.scheduler.config.mask_token_id
            guided = guides[0](cond.movedim(1, -1), lambda: half(0).movedim(1, -1), live=live)
            self.steps += 1
            # the pipeline's u + s (c - u) of two equal halves is the half itself
            return torch.cat([guided, guided]).movedim(-1, 1).to(cond.dtype)

        made = self._run(undo, pipe.transformer, forward, call)
        guides[0].finish()
        return made

    def _text(self, undo: Undo, pipe: Any, call: inspect.BoundArguments) -> Any:
        prepare, network = pipe._prepare_input_ids, pipe.model
        plain, found = network.forward, dict[str, Any]()

        def prepared(**given: Any) -> Any:
            ids, mask = prepare(**given)
            found["prompt"] = ids.shape[-1]
            return ids, mask

        def forward(tokens: torch.Tensor, **given: Any) -> Any:
            start, answers = found["prompt"], list[Any]()
            if "guide" not in found:  # before anything is filled in, the first place behind the prompt is masked
                found["guide"] = masked(network, self._rules, int(tokens[0, start]), self._share)
            found["guide"].model = lambda ids, **more: kept(answers, plain(ids, **more))
            prompt = torch.arange(tokens.shape[1], device=tokens.device) < start
            guided = found["guide"](tokens, prompt, **given)
            self.steps, self.passes = found["guide"].steps, found["guide"].passes
            answers[0].logits = guided.to(answers[0].logits.dtype)
            return answers[0]

        patch(undo, pipe, "_prepare_input_ids", prepared)
        made = self._run(undo, network, forward, call)
        found["guide"].finish()
        return made

    def _run(self, undo: Undo, network: Any, forward: Callable[..., Any], call: inspect.BoundArguments) -> Any:
        self.steps = self.passes = 0
        hold(network, "emag.tokens.filled", undo)
        patch(undo, network, "forward", forward)
        return self._kind.__call__(*call.args, **call.kwargs)


def kept(answers: list[Any], answer: Any) -> Any:
    """`answer`, which is added to `answers`."""
    answers.append(answer)
    return answer


def filled(pipe: Any, *rules: Rule, share: float | None = None) -> GuidedFilling:
    """Run the calls of a pipeline that fills in masked tokens under a guidance, while a `with` block lasts.

        with emag.tokens.filled(pipe, emag.CFG(4.0)):
            pipe("a ship", negative_prompt="blurred")

    pipe: AmusedPipeline and its kind, whose null is the call's negative prompt, and whose scale may be a schedule over the
    steps: steps at 1 take one pass; or LLaDA2Pipeline, whose null is the text with its prompt masked (LLaDA), or with that
    `share` of the generated tokens masked again that it is least sure of (A-CFG, arXiv 2505.20199). rules: CFG, whose scale
    is of logits, u + w (c - u); or MTI, at those places that are still to be filled in and unsure; AG(threshold,
    on="logp") before either ends the null once it agrees. guidance_scale of a call has no say but that the null's rows are
    made. Raises `BadValue`, `Unsupported` and `Busy` before a run, `NoEffect` after one in which the null was the prompt
    itself.
    """
    return GuidedFilling(pipe, rules, share)
