"""Texts of a language model under a guidance, as they are asked for in the shell or by the record of one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import Rule
from ..errors import BadValue, EmagError
from ..files import parsed
from ..near import choices
from ..records import recipe

OWN = {"max_new_tokens": "--tokens", "num_beams": "--beams", "do_sample": "--temperature", "temperature": "--temperature"}
"""Settings of `generate` that have an option of their own."""
MOST = {"max_new_tokens": 100_000, "num_beams": 1_000, "num_return_sequences": 1_000}
"""What a record may ask for."""
USUAL = 64
"""Tokens of a text where nobody says how many."""


@dataclass(frozen=True)
class TextJob:
    """What is asked for. null: a text for all prompts, one each, or None; tokens: None is the usual number, or what fits;
    suffix: what the null reads behind the text so far, in the place of a text of its own."""

    model: str
    prompts: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    null: Any = None
    call: Mapping[str, Any] | None = None
    tokens: int | None = None
    seed: int = 8
    chat: bool = False
    suffix: str | None = None

    def check(self) -> None:
        """Raise `BadValue` or `Unsupported`, before a model is loaded."""
        from .. import tokens
        from ..tokens.checks import check_token_rules
        from ..tokens.host import asked

        if self.suffix is not None and self.null is not None:
            raise BadValue("--negative and --suffix are two things to go away from: give one")
        null = self.null if self.suffix is None else tokens.suffix(self.suffix)
        check_token_rules(asked(self.rules, null), timed=True)
        check_settings(self.call or {})


def check_settings(call: Mapping[str, Any]) -> None:
    """Refuse what is no setting of `generate`: other arguments bring code, models or inputs of their own."""
    from transformers import GenerationConfig

    known = [name for name in vars(GenerationConfig()) if not name.startswith("_") and name != "transformers_version"]
    for name, value in call.items():
        if name not in known:
            raise BadValue(f"generate has no setting {name!r}: {choices(name, known, listed='see its documentation')}")
        if name in MOST and (not isinstance(value, int) or value > MOST[name]):
            raise BadValue(f"{name} must be a whole number of at most {MOST[name]}, got {value!r}")


def read_record(path: Path) -> tuple[TextJob, dict[str, Any], list[str]]:
    """What made the texts of a file of `emag text --out`: the job, the record and the texts. Raises `BadValue`."""
    try:
        data = parsed(path.read_bytes())
        record, texts = data["record"], data["texts"]
        call, null = dict(record["call"]), record.get("null")
        job = TextJob(record["model"]["model"], tuple(record["prompts"]), recipe.from_data(record["rules"], tokens_too=True),
                      null, call, call.pop("max_new_tokens"), record["seed"], bool(record.get("chat", False)),
                      record.get("suffix"))
        words = (job.model, *job.prompts, *texts, *_listed(null), *_listed(job.suffix))
        strange = [one for one in words if not isinstance(one, str)]
        if strange or not isinstance(job.tokens, int) or not isinstance(job.seed, int) or not job.prompts:
            raise ValueError("a part of it has another form")
    except OSError as error:
        raise BadValue(f"cannot read {path}: {error.strerror}") from None
    except EmagError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadValue(f"{path} is no record of emag text: {error}") from None
    if record.get("unrecorded"):
        raise BadValue(f"{path} cannot be made again: {', '.join(map(str, record['unrecorded']))} could not be recorded")
    check_settings({**call, "max_new_tokens": job.tokens})
    return job, record, texts


def make_texts(job: TextJob, device: str | None = None, dtype: Any = None, network: str | None = None) -> dict[str, Any]:
    """The texts, their record, and what the run did. network: the hash of the weights that is wanted, if any."""
    import torch

    from .. import tokens
    from ..records import fingerprint
    from ..tokens.record import text_record

    model, tokenizer = _open(job.model, device, dtype)
    if network and fingerprint.network(model) != network:
        raise BadValue(f"{job.model!r} is not what it was when the text was made: its weights or settings have changed")
    inputs = _tokens(job.prompts, model, tokenizer, job.chat)
    null = _tokens(_listed(job.null), model, tokenizer, True) if job.chat and job.null is not None else job.null
    null = null if job.suffix is None else tokens.suffix(job.suffix)
    _check_null(job, model, inputs)
    call = {"max_new_tokens": _room(job, model, tokenizer, inputs), **(job.call or {})}
    torch.manual_seed(job.seed)
    with tokens.guide(model, *job.rules, null=null, tokenizer=tokenizer) as run:
        ids = _generate(model, {**inputs, "pad_token_id": tokenizer.pad_token_id, **call})
    start = 0 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    record = {**text_record(run, model, job.prompts, call), "null": job.null, "chat": job.chat, "seed": job.seed,
              **({} if job.suffix is None else {"suffix": job.suffix})}
    record["unrecorded"] = [name for name in record["unrecorded"] if name != "null"]  # it is a text, which stands here
    return {"texts": tokenizer.batch_decode(ids[:, start:], skip_special_tokens=True), "record": record,
            "run": run.latest.as_dict() if run.latest else None, "told": str(run)}


def again(job: TextJob, record: Mapping[str, Any], device: str | None) -> dict[str, Any]:
    """The texts of a record once more."""
    dtype = str(record["model"].get("dtype", "")).removeprefix("torch.") or None
    return make_texts(job, device, dtype, record.get("network"))


def _generate(model: Any, given: Mapping[str, Any]) -> Any:
    try:
        return model.generate(**given)
    except EmagError:
        raise
    except (ValueError, TypeError) as error:  # transformers' own words about a setting
        raise BadValue(f"generate cannot do this: {str(error).strip().partition(chr(10))[0]}") from error


def _listed(texts: Any) -> tuple[Any, ...]:
    return () if texts is None else tuple(texts) if isinstance(texts, list | tuple) else (texts,)


def _tokens(texts: tuple[str, ...], model: Any, tokenizer: Any, chat: bool) -> dict[str, Any]:
    """Texts as tokens side by side, chat: each as what a user says, by the model's own template."""
    if chat and not getattr(tokenizer, "chat_template", None):
        raise BadValue(f"{model.name_or_path} has no chat template: leave out --chat, and write what the model reads itself")
    if len(texts) > 1 and tokenizer.pad_token_id is None:
        raise BadValue(f"the tokenizer of {model.name_or_path} has neither a token to pad with nor one that ends a text, so "
                       "that prompts cannot stand side by side: give one a call")
    said = [tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
            for text in texts] if chat else list(texts)
    side = "right" if model.config.is_encoder_decoder else "left"
    # a template writes the tokens that begin a text itself
    made = tokenizer(said, return_tensors="pt", padding=len(texts) > 1, padding_side=side, add_special_tokens=not chat)
    empty = next((at for at, kept in enumerate(made["attention_mask"].sum(1).tolist()) if not kept), None)
    if empty is not None:  # a tokenizer that begins a text with a token of its own makes one of nothing, too
        raise BadValue(f"prompt {texts[empty]!r} has no tokens in this model's words: give some text to go on from")
    return {name: made[name].to(model.device) for name in ("input_ids", "attention_mask")}


def _check_null(job: TextJob, model: Any, inputs: Mapping[str, Any]) -> None:
    combines = any(rule.kind == "combining" and not rule.neutral for rule in job.rules)
    if job.null is not None or job.suffix is not None or not combines:
        return
    if model.config.is_encoder_decoder:
        raise BadValue(f"{job.model} reads its prompt by an encoder, which needs a text to go away from: give --negative")
    short = next((at for at, count in enumerate(inputs["attention_mask"].sum(1).tolist()) if count == 1), None)
    if short is not None:
        raise BadValue(f"prompt {job.prompts[short]!r} is one token, which is also what guidance goes away from without "
                       "--negative: give --negative, or a longer prompt")


def _room(job: TextJob, model: Any, tokenizer: Any, inputs: Mapping[str, Any]) -> int:
    """Tokens to make: those asked for, or the usual number, as far as the model has places for them."""
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    wanted = USUAL if job.tokens is None else job.tokens
    if not isinstance(limit, int) or limit <= 0:
        return wanted
    read = max(inputs["input_ids"].shape[1], *(len(tokenizer(text)["input_ids"]) for text in _listed(job.null)), 1)
    read += sum(len(tokenizer(text)["input_ids"]) for text in _listed(job.suffix))
    room = limit - (1 if model.config.is_encoder_decoder else read)
    if read > limit or room < 1:
        raise BadValue(f"a prompt, or a negative one, has {read} tokens, and {job.model} has places for {limit}: shorten it")
    if job.tokens is not None and wanted > room:
        raise BadValue(f"{job.model} has places for {limit} tokens, of which the prompt takes {limit - room}: give --tokens "
                       f"{room} at most")
    return min(wanted, room)


def _open(name: str, device: str | None, dtype: Any) -> tuple[Any, Any]:
    from ..hosts.hub import cached_only
    from ..hosts.load import pick_device, pick_dtype
    from ..tokens.load import EMBEDDED, load_text_model

    cached = name not in EMBEDDED and not Path(name).is_dir() and cached_only(name, "config.json")
    return load_text_model(name, pick_device(device), pick_dtype(dtype), cached=cached)
