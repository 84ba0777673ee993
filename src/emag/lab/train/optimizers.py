"""The optimizers of a training run: Muon for the matrices inside the blocks if asked for, AdamW for all else."""

from collections.abc import Mapping

import torch

from ...errors import BadValue

STATE = ("exp_avg", "exp_avg_sq", "momentum_buffer")
"""Names of what optimizers remember of a parameter."""


class Optimizers:
    """AdamW, and Muon for the two-dimensional weights of attention and feed-forward layers where `muon`, its rate, is not 0.

    parameters: by name. Raises `BadValue` where this torch has no Muon (before 2.9).
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], lr: float, muon: float, weight_decay: float):
        self.parameters = parameters
        inner = {name for name, p in parameters.items() if muon and p.ndim == 2 and "blocks." in name and "norm" not in name}
        self.members = [[name for name in parameters if name not in inner], [name for name in parameters if name in inner]]
        self.rates = [lr, muon]
        adam = torch.optim.AdamW([parameters[name] for name in self.members[0]], lr, betas=(0.9, 0.99),
                                 weight_decay=weight_decay, fused=True)
        self.each: list[torch.optim.Optimizer] = [adam]
        if inner:
            if not hasattr(torch.optim, "Muon"):
                raise BadValue("this torch has no Muon: use torch 2.9 or later, or --muon 0")
            self.each.append(torch.optim.Muon([parameters[name] for name in self.members[1]], muon, momentum=0.95,
                                              weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))

    def start(self, share: float) -> None:
        """Set the learning rates to `share` of the highest, and forget the last gradients."""
        for optimizer, highest in zip(self.each, self.rates):
            for group in optimizer.param_groups:
                group["lr"] = highest * share
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Move the parameters along their gradients."""
        for optimizer in self.each:
            optimizer.step()

    def training(self) -> dict[str, torch.Tensor]:
        """All that a training needs to go on: the parameters, as "parameter/name", and what is remembered of them."""
        return {f"parameter/{name}": p for name, p in self.parameters.items()} | self.tensors()

    @torch.no_grad()
    def resume(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """Go on from what `training` gave after `step` steps."""
        for name, p in self.parameters.items():
            p.copy_(tensors[f"parameter/{name}"])
        self.fill(tensors, step)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What is remembered of each parameter, as "exp_avg/name" and such."""
        return {f"{what}/{name}": optimizer.state[self.parameters[name]][what]
                for optimizer, names in zip(self.each, self.members) for name in names for what in STATE
                if what in optimizer.state.get(self.parameters[name], {})}

    @torch.no_grad()
    def fill(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """Remember what `tensors` saved after `step` steps."""
        for optimizer, names in zip(self.each, self.members):
            states = {}
            for i, name in enumerate(names):
                # laid out in memory as the parameter is: fused kernels walk both alike
                held = {what: torch.empty_like(self.parameters[name]).copy_(tensors[f"{what}/{name}"]) for what in STATE
                        if f"{what}/{name}" in tensors}
                if "exp_avg" in held:
                    held["step"] = torch.tensor(float(step))
                if held:
                    states[i] = held
            optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
