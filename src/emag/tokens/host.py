"""`guide`: a model whose `generate` runs under a guidance; `processor`: the same for loops of one's own."""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..core import Rule
from ..engine.lock import hold
from ..engine.undo import Undo, patch, undone
from ..errors import BadValue, Busy, Unsupported
from .checks import check_asked, check_call, check_loop, check_padding, token_space
from .codecs import codebooks, fed
from .context import Inputs, Null
from .hidden import HiddenStates
from .plan import planned
from .run import Scorer, TokenGuidance, TokenRun
from .stats import TokenStats
from .suffix import Watched, check_suffix

PROMPT = ("input_ids", "attention_mask", "pixel_values", "encoder_outputs", "input_features", "token_type_ids")
"""Arguments of `generate` that a text is conditioned on. Those a null leaves out are not given to its branch."""
NO_PROMPT = ("inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds", "decoder_attention_mask", "position_ids",
             "decoder_position_ids", "cache_position", "labels")
"""Tensors of a call that are about how it decodes, and not about what."""


OTHER_WAYS = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")
"""Methods of a model that make texts past `generate`: what they are given to write knows of no guidance."""


class GuidedTokens:
    """Handle of a `with emag.tokens.guide(...)`: the rules, and what the latest call of `generate` did."""

    def __init__(self, model: Any, asked: TokenGuidance):
        check_asked(model, asked, timed=True)
        check_loop(model)
        if asked.suffixed:
            check_suffix(model)
        self.asked, self._model = asked, model
        self.latest: TokenStats | None = None
        self._undo: Undo | None = None
        self._run: TokenRun | None = None

    def __enter__(self) -> "GuidedTokens":
        if self._undo is not None:
            raise Busy("this guidance is already inside its with block")
        self._undo = undo = Undo()
        try:
            hold(self._model, "emag.tokens.guide", undo)
            if self.asked.rules:
                patch(undo, self._model, "generate", self._generate(self._model.generate))
                for way in OTHER_WAYS:
                    patch(undo, self._model, way, _refused(way))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._undo is not None:
            self._undo.close()
        self._undo = None

    def __str__(self) -> str:
        return str(self.latest or "emag run: none yet; call model.generate inside the with block")

    def plan(self, tokens: int) -> dict[str, int]:
        """The most passes by branch that `tokens` tokens will take, beside those of plain decoding; see `stats.passes`."""
        return planned(self.asked, tokens)

    @property
    def stats(self) -> TokenStats:
        """What the latest call did. Raises `BadValue` before one has come to its end, and where no rule is active."""
        if self.latest is None:
            raise BadValue("there is no finished call to tell of: call model.generate inside the with block first"
                           if self.asked.rules else "no rule is active, so the model ran as it is and nothing was counted")
        return self.latest

    def _generate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def generate(*args: Any, **kwargs: Any) -> Any:
            self.latest, self._run = None, None
            named = _named(original, args, kwargs)
            result = undone(lambda undo: self._called(original, args, kwargs, named, undo))
            if self._run is None:
                raise BadValue(f"{type(self._model).__name__}.generate asked for no logits processors: nothing was guided")
            self._run.finish()
            self.latest = self._run.stats()
            return result

        return generate

    def _called(self, original: Callable[..., Any], args: Any, kwargs: Any, inputs: dict[str, Any], undo: Undo) -> Any:
        model = self._model
        config = inputs.get("generation_config") or model.generation_config
        check_call(self.asked, _Told(config, inputs), inputs, codebooks(model))
        check_padding(model, inputs)
        given = prompt_of(model, inputs)
        if "encoder_outputs" in given:  # generate repeats it in place where a prompt is decoded several times
            given["encoder_outputs"] = copy.copy(given["encoder_outputs"])
        # a model that makes images of tokens makes as many as an image has
        image = inputs.get("generation_mode") == "image"
        made = model.model.vision_model.config.num_image_tokens if image else 0
        hidden = HiddenStates(model, undo) if self.asked.space == "hidden" else None
        watched = Watched(model, undo) if self.asked.suffixed else None
        patch(undo, model, "_get_logits_processor",
              self._with_ours(model._get_logits_processor, given, made, hidden, watched))
        patch(undo, model, "_get_candidate_generator", self._without_ours(model._get_candidate_generator))
        return original(*args, **kwargs)

    def _with_ours(self, original: Callable[..., Any], inputs: Inputs, made: int,
                   hidden: HiddenStates | None, watched: Watched | None) -> Callable[..., Any]:
        """The list of processors with ours before all others, so that penalties and masks come after guidance."""
        def processors(generation_config: Any, input_ids_seq_length: int, **more: Any) -> Any:
            found = original(generation_config=generation_config, input_ids_seq_length=input_ids_seq_length, **more)
            count = made or generation_config.max_length - input_ids_seq_length
            ends = getattr(generation_config, "_eos_token_tensor", None)
            shape = fed(self._model, generation_config)
            self._run = TokenRun(self._model, self.asked, inputs, count, ends, shape, hidden, watched)
            found.insert(0, self._run)
            return found

        return processors

    def _without_ours(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Drafts are made without guidance: they are proposals, and it is the guided model that takes or refuses them."""
        def generator(**given: Any) -> Any:
            ours = given["logits_processor"]
            return original(**{**given, "logits_processor": type(ours)(one for one in ours if one is not self._run)})

        return generator


class Processor:
    """A logits processor for loops of one's own: call it first of all, with all tokens so far and the prompt's scores.

    stats: what was done since the beginning, or the last `reset`.
    """

    def __init__(self, model: Any, asked: TokenGuidance, tokens: int, inputs: Inputs):
        check_asked(model, asked, timed=tokens > 0)
        if asked.space == "hidden":
            raise Unsupported("space='hidden' watches the model's own passes: use emag.tokens.guide, or "
                              "emag.tokens.predictions where your loop has the states itself")
        if asked.suffixed:
            raise Unsupported("a suffix is read from the cache of the model's own passes: use emag.tokens.guide")
        self._begun: Callable[[], TokenRun] = lambda: TokenRun(model, asked, inputs, tokens)
        self._run = self._begun()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Guided scores, fp32, for input_ids [rows, length] and scores [rows, vocabulary]. First, ids are the prompt."""
        return self._run(input_ids, scores)

    def reset(self) -> None:
        """Forget the text: the next call begins another one."""
        self._run = self._begun()

    @property
    def stats(self) -> TokenStats:
        return self._run.stats()


def prompt_of(model: Any, call: Inputs) -> dict[str, Any]:
    """What of a call its text is conditioned on: `PROMPT`, and further tensors that its model reads, as sizes of images."""
    known = inspect.signature(model.forward).parameters
    return {name: value for name, value in call.items() if value is not None and name not in NO_PROMPT and (
        name in PROMPT or (name in known and isinstance(value, torch.Tensor)))}


class _Told:
    """A generation config as a call of `generate` has it: what the call names comes first."""

    def __init__(self, config: Any, named: Mapping[str, Any]):
        self._config, self._named = config, named

    def __getattr__(self, name: str) -> Any:
        return self._named[name] if name in self._named else getattr(self._config, name, None)


def guide(model: Any, *rules: Rule, null: Null = None, conditions: Mapping[str, Null] | None = None,
          scorers: Mapping[str, Scorer] | None = None, tokenizer: Any = None, space: str = "logp") -> GuidedTokens:
    """Run the calls of `model.generate` under `rules`, in order, while a `with` block lasts.

        with emag.tokens.guide(model, emag.CFG(1.5), null="a dull story", tokenizer=tokenizer) as run:
            model.generate(**inputs)

    model: one of transformers that generates: decoder-only, encoder-decoder, MusicGen, Dia. null: what the unconditional
    branch sees in the place of the prompt, see `emag.tokens.Null`; None is the last token of the prompt, as in transformers'
    guidance (arXiv 2306.17806); `emag.tokens.suffix` goes on with the text instead. conditions: further ones that rules
    name, each like null. scorers: functions that rules name, see `emag.tokens.GeDi` and `CAIF`. tokenizer: for texts. space:
    "logp", log-probabilities, "logits" as the model gives them, or "hidden", the state before its head (arXiv 2510.23240),
    by affine rules: where all behind it is affine, the same.

    Guidance comes first, then the penalties, masks and warpers of the call. Greedy decoding, sampling, beams and assisted
    decoding give what the guided distributions say. Returns a handle, `as run`: `print(run)`, `run.stats`. Raises
    `BadValue`, `Unsupported` and `Busy` before anything is generated, `NotFinite` at guided logits that are no numbers, and
    `NoEffect` after a call in which a branch was the prompt itself.
    """
    return GuidedTokens(_inside(model), asked(rules, null, conditions, scorers, tokenizer, space))


def processor(model: Any, *rules: Rule, null: Null = None, conditions: Mapping[str, Null] | None = None,
              scorers: Mapping[str, Scorer] | None = None, tokenizer: Any = None, space: str = "logp", tokens: int = 0,
              **inputs: Any) -> Processor:
    """`guide` as a logits processor, for loops that do not go through `generate`, or that put it in a list themselves.

    tokens: how many will be made, for schedules. inputs: what the prompt's own branch is given beside its tokens, by name:
    attention_mask, pixel_values; input_ids where an encoder reads the prompt. Each call is given all tokens so far.
    Raises as `guide` does.
    """
    if tokens < 0:
        raise BadValue(f"tokens must be at least 0 (0: not known), got {tokens}")
    return Processor(_inside(model), asked(rules, null, conditions, scorers, tokenizer, space), tokens, inputs)


def _inside(model: Any) -> Any:
    """The model itself, where torch.compile has put a shell around it: what is called of the shell is the model's."""
    return getattr(model, "_orig_mod", model)


def asked(rules: Any, null: Null = None, conditions: Any = None, scorers: Any = None, tokenizer: Any = None,
          space: str = "logp") -> TokenGuidance:
    """What is asked for, without the rules that are off."""
    active = tuple(rule for rule in rules if not (isinstance(rule, Rule) and rule.neutral))
    found = token_space(space, ("logp", "logits", "hidden"))
    return TokenGuidance(active, null, dict(conditions or {}), dict(scorers or {}), tokenizer, found)


def _refused(way: str) -> Callable[..., Any]:
    def refused(*args: Any, **kwargs: Any) -> Any:
        raise Unsupported(f"{way} would write unguided texts inside the block: call generate with a batch, or leave it")

    return refused


def _named(original: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a call of `generate` by name, those at their places included."""
    bound = dict(inspect.signature(original).bind(*args, **kwargs).arguments)
    further = bound.pop("kwargs", {})
    prompt = bound.pop("inputs", None)
    return {**bound, **further, **({} if prompt is None else {"input_ids": prompt})}
