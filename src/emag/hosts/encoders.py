"""How each network's pipelines turn prompts, or class labels, into its arguments."""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from ..backbones.entry import Backbone
from ..errors import BadValue

Tensors = dict[str, torch.Tensor]


def label_of(pipe: Any, text: str) -> int:
    """A class label from its number or, where the pipeline knows names, its name."""
    count = pipe.transformer.config.num_embeds_ada_norm
    if text.isdigit():
        if int(text) >= count:
            raise BadValue(f"class label {text} does not exist: this model has 0 to {count - 1}")
        return int(text)
    labels = getattr(pipe, "labels", {}) or {}
    if text not in labels:
        raise BadValue(f"{text!r} is no class label of this model: give its number"
                       + (", or a name such as " + ", ".join(list(labels)[:5]) if labels else ""))
    return labels[text]


def _sd3(pipe: Any, texts: list[str]) -> Tensors:
    states, _, pooled, _ = pipe.encode_prompt(texts, None, None, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states, "pooled_projections": pooled}


def _dit(pipe: Any, texts: list[str]) -> Tensors:
    return {"class_labels": torch.tensor([label_of(pipe, text) for text in texts])}


def _pixart(pipe: Any, texts: list[str]) -> Tensors:
    states, mask, _, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


def _flux(pipe: Any, texts: list[str]) -> Tensors:
    states, pooled, ids = pipe.encode_prompt(texts, None)
    return {"encoder_hidden_states": states, "pooled_projections": pooled, "txt_ids": ids}


def _states(pipe: Any, texts: list[str]) -> Tensors:
    return {"encoder_hidden_states": pipe.encode_prompt(texts, do_classifier_free_guidance=False)[0]}


def _unet(pipe: Any, texts: list[str]) -> Tensors:
    """One text encoder, or two and what the second one pools."""
    found = pipe.encode_prompt(texts, device=pipe._execution_device, num_images_per_prompt=1,
                               do_classifier_free_guidance=False)
    return {"encoder_hidden_states": found[0], **({"added_cond_kwargs.text_embeds": found[2]} if len(found) > 2 else {})}


def _wan(pipe: Any, texts: list[str]) -> Tensors:
    states, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False, max_sequence_length=512)
    return {"encoder_hidden_states": states}


def _hunyuan_video(pipe: Any, texts: list[str]) -> Tensors:
    states, pooled, mask = pipe.encode_prompt(texts)
    return {"encoder_hidden_states": states, "pooled_projections": pooled, "encoder_attention_mask": mask}


def _hunyuan_video_15(pipe: Any, texts: list[str]) -> Tensors:
    """Both encoders: what to show, and the letters in it."""
    states, mask, letters, letters_mask = pipe.encode_prompt(texts, batch_size=len(texts))
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask, "encoder_hidden_states_2": letters,
            "encoder_attention_mask_2": letters_mask}


def _qwen(pipe: Any, texts: list[str]) -> Tensors:
    states, mask = pipe.encode_prompt(texts)
    return {"encoder_hidden_states": states, **({} if mask is None else {"encoder_hidden_states_mask": mask})}


def _chroma(pipe: Any, texts: list[str]) -> Tensors:
    states, ids, mask, *_ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states, "txt_ids": ids, "attention_mask": mask}


def _flux2(pipe: Any, texts: list[str]) -> Tensors:
    states, ids = pipe.encode_prompt(texts)
    return {"encoder_hidden_states": states, "txt_ids": ids}


def _hunyuan(pipe: Any, texts: list[str]) -> Tensors:
    """CLIP and T5; the host's own lengths."""
    found: Tensors = {}
    for index, (end, length) in enumerate((("", 77), ("_t5", 256))):
        states, _, mask, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False, max_sequence_length=length,
                                                text_encoder_index=index)
        found |= {f"encoder_hidden_states{end}": states, f"text_embedding_mask{end}": mask}
    return found


def _sana(pipe: Any, texts: list[str]) -> Tensors:
    """With the instruction that the host puts before a prompt by default."""
    said = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
    states, mask, _, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False, complex_human_instruction=said)
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


def _z_image(pipe: Any, texts: list[str]) -> Tensors:
    """A list with one text for each row."""
    return {"cap_feats": pipe.encode_prompt(list(texts), do_classifier_free_guidance=False)[0]}


def _hidream(pipe: Any, texts: list[str]) -> Tensors:
    t5, _, llama, _, pooled, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    return {"encoder_hidden_states_t5": t5, "encoder_hidden_states_llama3": llama.movedim(1, 0), "pooled_embeds": pooled}


def _krea2(pipe: Any, texts: list[str]) -> Tensors:
    states, mask = pipe.encode_prompt(texts)
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


ENCODERS: dict[str, Callable[[Any, list[str]], Tensors]] = {
    "AuraFlowTransformer2DModel": _states, "HunyuanDiT2DModel": _hunyuan, "SanaTransformer2DModel": _sana,
    "SD3Transformer2DModel": _sd3, "DiTTransformer2DModel": _dit, "PixArtTransformer2DModel": _pixart,
    "FluxTransformer2DModel": _flux, "QwenImageTransformer2DModel": _qwen, "ChromaTransformer2DModel": _chroma,
    "Flux2Transformer2DModel": _flux2, "CogView4Transformer2DModel": _states,
    "WanTransformer3DModel": _wan, "LTXVideoTransformer3DModel": _pixart, "CogVideoXTransformer3DModel": _states,
    "MochiTransformer3DModel": _pixart,
    "HunyuanVideo15Transformer3DModel": _hunyuan_video_15, "WanVACETransformer3DModel": _wan,
    "HunyuanVideoTransformer3DModel": _hunyuan_video, "UNet2DConditionModel": _unet,
    "Lumina2Transformer2DModel": _pixart, "ZImageTransformer2DModel": _z_image,
    "HiDreamImageTransformer2DModel": _hidream, "Krea2Transformer2DModel": _krea2,
}


def _ids(states: torch.Tensor, backbone: Backbone) -> torch.Tensor:
    """Positions of text tokens, as the entry of the network declares them."""
    if backbone.text_ids is None:
        raise BadValue(f"{backbone.name} has positions for its text tokens, and its entry does not say which (text_ids): "
                       "give them with the condition, {'encoder_hidden_states': ..., 'txt_ids': ...}")
    width, numbered = backbone.text_ids
    ids = torch.zeros(states.shape[1], width)
    if numbered is not None:
        ids[:, numbered] = torch.arange(states.shape[1])
    return ids


def whole_text(states: torch.Tensor, backbone: Backbone) -> torch.Tensor:
    """A mask that keeps every text token."""
    return torch.ones(states.shape[:2])


# arguments that go with the text: without them the host's own, of another text and length, would stay
COMPANIONS: dict[str, Callable[[torch.Tensor, Backbone], torch.Tensor]] = {
    "txt_ids": _ids,
    "encoder_attention_mask": whole_text,
    "encoder_hidden_states_mask": whole_text,
}
UNBATCHED = ("txt_ids",)
