"""The guidance loss in a LoRA training of diffusers' shape, on the embedded model and images of its world.

The loop is that of diffusers' train_dreambooth_lora_sd3.py; what is added is marked. Afterwards one evaluation a step is
guided: emag generate "a red circle" -m shapes --lora lora --scale 1
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

import emag
from emag.lab.evaluate.prompts import of_world
from emag.lab.evaluate.truth import drawn
from emag.objectives import GuidedObjective, TrainingBatch, as_teacher
from emag.records.baked import KEY, baked_facts

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--max_train_steps", type=int, default=200)
parser.add_argument("--train_batch_size", type=int, default=8)
parser.add_argument("--learning_rate", type=float, default=1e-3)
parser.add_argument("--rank", type=int, default=8)
parser.add_argument("--guidance_scale", type=float, default=3.0, help="what the LoRA is to hold")
parser.add_argument("--caption_dropout", type=float, default=0.1)
parser.add_argument("--output_dir", type=Path, default=Path("lora"))
args = parser.parse_args()

torch.manual_seed(0)
pipe = emag.load("shapes")
transformer, vae = pipe.transformer, pipe.vae
prompts = [one.text for one in of_world("shapes", args.train_batch_size * args.max_train_steps, 7)]
images = torch.from_numpy(np.moveaxis(drawn(prompts, 7), -1, 1)).float() / 127.5 - 1

transformer.requires_grad_(False)
transformer.add_adapter(LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=["to_k", "to_q", "to_v", "to_out.0"]))
parameters = [p for p in transformer.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate)


def predict(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return transformer(**inputs, return_dict=False)[0]


def base(inputs: dict[str, torch.Tensor]) -> torch.Tensor:  # added: the frozen base, without a second copy
    with as_teacher(transformer, adapters=False):
        return predict(inputs)


objective = GuidedObjective("guidance-loss", args.guidance_scale, teacher=base)  # added

for step in range(args.max_train_steps):
    rows = slice(step * args.train_batch_size, (step + 1) * args.train_batch_size)
    with torch.no_grad():
        latents = vae.encode(images[rows])  # of a VAE: .latent_dist.sample()
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    dropped = torch.rand(len(latents)) < args.caption_dropout
    texts = ["" if gone else text for gone, text in zip(dropped.tolist(), prompts[rows])]
    states, empty, pooled, empty_pooled = pipe.encode_prompt(texts)

    noise = torch.randn_like(latents)
    sigmas = torch.rand(len(latents))
    x = (1 - sigmas)[:, None, None, None] * latents + sigmas[:, None, None, None] * noise
    at = {"hidden_states": x, "timestep": 1000 * sigmas}

    # added: the loss, in the place of mse_loss(predict(...), noise - latents)
    told = objective(predict, TrainingBatch(
        {**at, "encoder_hidden_states": states, "pooled_projections": pooled},
        {**at, "encoder_hidden_states": empty, "pooled_projections": empty_pooled}, noise - latents, dropped), step)
    told.loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if step % 20 == 0:
        print(step, f"loss {told.loss:.4f}", *(f"{name} {value:.4f}" for name, value in told.metrics.items()), flush=True)

args.output_dir.mkdir(parents=True, exist_ok=True)
state = {f"transformer.{name}": value for name, value in get_peft_model_state_dict(transformer).items()}
# added: what is baked in, so that guiding it once more is told
facts = baked_facts((emag.CFG(told.baked_scale),), None, objective=objective.name)
save_file(state, args.output_dir / "pytorch_lora_weights.safetensors", {KEY: json.dumps(facts)})
print(f"{args.output_dir}: guidance of w = {told.baked_scale:g} is baked in; sample it at scale 1")
