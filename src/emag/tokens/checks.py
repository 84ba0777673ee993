"""Everything about a guidance of tokens that can be refused before anything is generated."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from ..core import COND, UNCOND, Rule, check_finite, weak_branches
from ..errors import BadValue, Unsupported
from ..maths.predictions import TokenSpace
from ..methods.tokens.base import Scored
from ..methods.tokens.soft_cfg import SoftCFG
from .codecs import PROVEN, WHY
from .masks import check_masks
from .run import TokenGuidance
from .suffix import Suffix


def check_asked(model: Any, asked: TokenGuidance, timed: bool) -> None:
    """Raise `BadValue` or `Unsupported` for rules and branches that cannot work. timed: the number of tokens is known."""
    if not hasattr(getattr(model, "config", None), "is_encoder_decoder") or not callable(getattr(model, "forward", None)):
        raise BadValue(f"a model of transformers that generates is wanted, got {type(model).__name__}")
    check_token_rules(asked, timed)


def check_loop(model: Any) -> None:
    """Raise `Unsupported` for a model of transformers that decodes in a way of its own, unless guidance is proven in it."""
    kind = type(model)
    own = next((name for name in ("generate", "_sample", "_get_logits_processor")
                if getattr(getattr(kind, name, None), "__module__", "").startswith("transformers.models.")), None)
    if own and kind.__name__ not in PROVEN:
        why = next((why for name, why in WHY.items() if kind.__name__.startswith(name)), "nobody has proven guidance in it")
        raise Unsupported(f"{kind.__name__} decodes in a way of its own ({own}): {why}. Use emag.tokens.processor or "
                          f"emag.tokens.predictions in a loop of yours; guided are {', '.join(PROVEN)}")


def check_token_rules(asked: TokenGuidance, timed: bool) -> None:
    """What `check_asked` tells without a model."""
    for rule in asked.rules:
        if not isinstance(rule, Rule):
            raise BadValue(f"a guidance is made of rules such as emag.CFG(1.5), got {rule!r}")
        rule.fits_tokens(timed)
        if asked.space != "logp" and "logp" in (rule.space, getattr(rule, "on", None)):
            raise BadValue(f"{rule.name} works on log-probabilities, not in space={asked.space!r}: \"logp\" is its space")
    _check_order(asked)
    _check_names(asked)


def _check_order(asked: TokenGuidance) -> None:
    combining = [rule.name for rule in asked.rules if rule.kind == "combining"]
    if len(combining) > 1:
        raise BadValue(f"{' and '.join(combining)} both combine the prompt's logits with those of the null; keep one. A "
                       "second scale nested inside is a negative before it, e.g. negative=1.3,negative=speaker cfg=1.5")
    kinds = [rule.kind for rule in asked.rules]
    if "after" in kinds and any(kind != "after" for kind in kinds[kinds.index("after"):]):
        raise BadValue(f"{asked.rules[kinds.index('after')].name} works on the guided logits: name it last")
    softened = next((rule.name for rule in asked.rules if isinstance(rule, SoftCFG)), None)
    if softened and isinstance(asked.null, Suffix):
        raise BadValue(f"{softened} softens what its null has kept of the tokens, and a suffix keeps nothing: give "
                       "another null")
    null = next((rule.name for rule in asked.rules if rule.kind == "null"), None)
    if null and not combining:
        raise BadValue(f"{null} is about the unconditional branch, which nothing reads here: add a combining rule, e.g. "
                       "cfg=1.5")
    if asked.null is not None and not combining:
        raise BadValue("null= is the branch that a combining rule goes away from, and none is named: add e.g. emag.CFG(1.5)")


def _check_names(asked: TokenGuidance) -> None:
    branches = weak_branches(asked.rules)
    read = {branch.scorer for branch in branches if isinstance(branch, Scored)}
    named = {branch.condition for branch in branches if branch.condition} - {UNCOND}
    for name in sorted(read - set(asked.scorers)):
        raise BadValue(f"a rule names the scorer {name!r}, which was not given: give scorers={{{name!r}: ...}}")
    for name in sorted(name for name in named if not name.startswith("prompt:") and name not in asked.conditions):
        raise BadValue(f"a rule names the condition {name!r}, which was not given: give conditions={{{name!r}: ...}}")
    idle = [*sorted(set(asked.scorers) - read), *sorted(set(asked.conditions) - named)]
    if idle:
        raise BadValue(f"no rule names {idle[0]!r}: leave it out, or name it in a rule")
    if COND in asked.conditions:
        raise BadValue("'cond' is the prompt of the call itself: give the condition another name")


def check_call(asked: TokenGuidance, config: Any, arguments: Mapping[str, Any], codebooks: int) -> None:
    """Refuse what a call of `generate` asks for and guidance does not go with. config: its `GenerationConfig`."""
    for name in ("negative_prompt_ids", "negative_prompt_attention_mask"):
        if arguments.get(name) is not None:
            raise BadValue(f"{name} belongs to generate's own guidance: say emag.tokens.guide(..., null=ids)")
    if config.guidance_scale not in (None, 1):
        raise BadValue(f"guidance_scale={config.guidance_scale:g} of generate would guide a second time: give "
                       "guidance_scale=1 to the call, and the scale to a rule")
    check_finite("temperature", config.temperature)
    if arguments.get("custom_generate") is not None:
        raise Unsupported("custom_generate brings a loop of its own: use emag.tokens.processor in it")
    if arguments.get("inputs_embeds") is not None and arguments.get("input_ids") is None:
        raise Unsupported("a prompt given as inputs_embeds alone has no tokens: give input_ids")
    beams, drafted = (config.num_beams or 1) > 1, _drafts(config, arguments)
    keeper = next((rule.name for rule in asked.rules if rule.remembers), None)
    if keeper and (beams or drafted):
        what = "beams change places" if beams else "drafted tokens are taken back"
        raise Unsupported(f"{keeper} remembers what earlier tokens showed, and {what}: decode without, or leave it out")
    if beams and asked.space == "logits":
        raise Unsupported("beams are ranked by sums of log-probabilities: leave out space='logits'")
    if drafted and asked.space == "hidden":
        raise Unsupported("drafted tokens are judged several a pass, and the state of one token a pass is guided: leave out "
                          "space='hidden', or decode without drafts")
    check_masks(arguments.get("logits_processor") or (), beams, drafted)
    if codebooks > 1 and (config.num_return_sequences or 1) > 1:
        raise Unsupported("several sequences of a model with codebooks: repeat the prompt in the batch")


def check_padding(model: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse padding that branches would read as text, or that a decoder would go on from."""
    begun, mask = arguments.get("decoder_attention_mask"), arguments.get("attention_mask")
    if begun is not None and not bool(begun.all()):
        raise Unsupported("what the decoder goes on from has different lengths, as decoder_attention_mask says: give one "
                          "length a call")
    if not model.config.is_encoder_decoder and mask is not None and mask.ndim == 2 and not bool(mask[:, -1].all()):
        raise BadValue("these prompts are padded on the right, and a decoder goes on from their end: pad on the left "
                       "(tokenizer(..., padding_side='left'))")


def _drafts(config: Any, arguments: Mapping[str, Any]) -> bool:
    return arguments.get("assistant_model") is not None or bool(config.prompt_lookup_num_tokens)


def token_space(name: str, spaces: Sequence[TokenSpace] = get_args(TokenSpace)) -> TokenSpace:
    """One of `spaces` by name."""
    found = next((space for space in spaces if space == name), None)
    if found is None:
        raise BadValue(f"space must be one of {', '.join(spaces)}, got {name!r}")
    return found
