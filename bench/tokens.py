"""Tokens a second under guidance over plain decoding, in one run: python bench/tokens.py [--tokens 64] [--rounds 5]

A Llama of random weights, large enough that its passes are what takes the time. Seconds are those of one core (process
time), which do not count what else the machine does. All ways take turns, round by round; the ratio is the median over
rounds. One more pass a token is 2.0.
"""

import statistics
import time
from typing import Annotated

import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM

import emag

HALF = emag.CFG(emag.Interval(1.5, 0.0, 0.5, "progress"))
WAYS = {
    "plain": (), "cfg": (emag.CFG(1.5),), "cfg, half the tokens": (HALF,),
    "ag": (emag.AG(threshold=0.9, on="logp"), emag.CFG(1.5)), "mti": None,
    "cfg of transformers": "theirs",
}
SUFFIXED = "mti, a suffix of 3 tokens"


def model_of(size: int, layers: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    made = LlamaForCausalLM(LlamaConfig(
        vocab_size=2000, hidden_size=size, intermediate_size=3 * size, num_hidden_layers=layers, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2)).eval()
    made.lm_head.weight.data.mul_(4.0)  # a distribution with a shape
    made.generation_config.eos_token_id = None
    return made


def once(model, ids, null, rules, tokens: int) -> tuple[float, dict[str, int]]:
    """Seconds, and passes beside those of plain decoding."""
    torch.manual_seed(0)
    call = dict(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=True)
    start = time.process_time()
    if rules == "theirs":
        model.generate(**call, guidance_scale=1.5, negative_prompt_ids=null.expand(len(ids), -1))
        return time.process_time() - start, {}
    with emag.tokens.guide(model, *rules, null=null if rules else None) as run:
        model.generate(**call)
    return time.process_time() - start, dict(run.stats.passes) if rules else {}


def middle(model, ids, tokens: int) -> float:
    """An entropy above which a good part of the tokens of a plain text are."""
    torch.manual_seed(0)
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=True,
                          return_dict_in_generate=True, output_logits=True)
    from emag.maths.logits import token_entropy
    return float(token_entropy(torch.stack(made.logits)).quantile(0.8))


def main(
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of a text.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each way is timed.")] = 5,
    size: Annotated[int, typer.Option(min=8, help="Width of the model.")] = 512,
    layers: Annotated[int, typer.Option(min=1, help="Its layers.")] = 8,
) -> None:
    """Tokens a second under guidance over plain decoding, in one run."""
    torch.set_num_threads(1)
    model = model_of(size, layers)
    ids, null = torch.randint(3, 2000, (1, 16)), torch.randint(3, 2000, (1, 8))
    mti = (emag.tokens.MTI(1.5, threshold=middle(model, ids, tokens)),)
    ways = {**WAYS, "mti": mti, SUFFIXED: mti}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    passes = {}
    for _ in range(rounds + 1):
        for name, rules in ways.items():
            seen = emag.tokens.suffix(null[0, :3]) if name == SUFFIXED else null
            took, passes[name] = once(model, ids, seen, rules, tokens)
            seconds[name].append(took)
    print("| decoding | null passes | tokens a second | time over plain |\n|---|---|---|---|")
    for name, all_ in seconds.items():
        ratios = [took / plain for took, plain in zip(all_[1:], seconds["plain"][1:])]  # the first round warms up
        print(f"| {name} | {passes[name].get('uncond', tokens if name.startswith('cfg of') else 0)} | "
              f"{tokens / statistics.median(all_[1:]):.1f} | {statistics.median(ratios):.2f} |")


if __name__ == "__main__":
    typer.run(main)
