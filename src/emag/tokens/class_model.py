"""A scorer made of one language model and two prompts: how well a text fits the first rather than the second."""

from typing import Any

import torch

from ..errors import BadValue


class ClassModel:
    """GeDi's scorer, arXiv 2009.06367: log P(wanted | text, token) from a class-conditional language model.

    With l the log-probability of the generated text and one more token, over their number, after each of the two codes:
    P = sigmoid(scale (l(wanted) - l(other)) + bias). Texts are read anew at every token, without a cache.

    wanted, other: token ids of the two codes, [length] each. prompt: tokens at the start of a text that do not count (the
    authors' code leaves the prompt of the large model out). scale, bias: the guide's own; None is what it has learned as
    `logit_scale` and `bias`, and 1 and 0 where it has not. A bias of two numbers is that of each code, (wanted, other).
    """

    def __init__(self, model: Any, wanted: torch.Tensor, other: torch.Tensor, prompt: int = 0, scale: float | None = None,
                 bias: float | tuple[float, float] | None = None):
        for code in (wanted, other):
            if code.ndim != 1 or not len(code):
                raise BadValue(f"a code must be token ids [length], at least one, got shape {tuple(code.shape)}")
        self.model, self.codes, self.prompt = model, (wanted, other), prompt
        self.scale = _learned(model, "logit_scale", 1.0) if scale is None else scale
        of_each = _learned(model, "bias", 0.0) if bias is None else bias
        # of two, their difference alone has a say in the odds
        self.bias = of_each[0] - of_each[1] if isinstance(of_each, tuple) else of_each

    @torch.no_grad()
    def __call__(self, ids: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """log P(wanted) for texts as token ids [rows, length] with each candidate [rows, n] added, [rows, n]."""
        text = ids[:, self.prompt:]
        wanted, other = (self._logp(code, text) / (text.shape[1] + 1) for code in self.codes)
        odds = self.scale * (wanted - other) + self.bias
        return torch.nn.functional.logsigmoid(odds).to(candidates.device).gather(1, candidates)

    def _logp(self, code: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """log p(text, token | code) for every token, [rows, vocabulary]."""
        whole = torch.cat([code.to(text.device).expand(len(text), -1), text], dim=1).to(self.model.device)
        logp = self.model(input_ids=whole).logits[:, len(code) - 1:].float().log_softmax(-1)
        before = logp[:, :-1].gather(-1, text.to(logp.device).unsqueeze(-1)).sum((1, 2))
        return before[:, None] + logp[:, -1]


def _learned(model: Any, name: str, usual: float) -> float:
    """A number that a guide has learned, or the usual one. Raises `BadValue` where it has several."""
    found = getattr(model, name, None)
    if not isinstance(found, torch.Tensor):
        return usual
    if found.numel() != 1:
        raise BadValue(f"{name} of this model has {found.numel()} numbers, and which code each is of is not said: give "
                       f"{name.removeprefix('logit_')}= yourself" + (", (of wanted, of other)" if name == "bias" else ""))
    return float(found.detach())
