"""One of two processes: `python one_of_two.py RANK PORT OUT` leaves in OUT how far each way is from one process."""

import json
import os
import sys

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import emag
from coexisting import EMAG, guided
from emag.methods import METHODS
from emag.testing.small_video import MORE as VIDEO
from tiny import CASES, noise

RULES = {"emag": (EMAG(), emag.CFG(3.0)), "map": (EMAG(variant="map"),), "slg": (METHODS["slg"](1.5, layers=(1,)),)}
WORDS = {name: noise(seed, 2, 6, 12) for seed, name in enumerate(("prompt_embeds", "negative_prompt_embeds"))}


def far(one, other):
    return float((one - other).abs().max() / other.abs().max())


def sharded():
    """Weights in pieces, block by block, whole as each block is called."""
    case, found = CASES["sd3"], {}
    for name, rules in RULES.items():
        pipe, mesh = case.pipe(), init_device_mesh("cpu", (2,))
        for block in pipe.transformer.transformer_blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(pipe.transformer, mesh=mesh)
        found[f"fsdp {name}"] = far(guided(case, pipe, *rules)[0], guided(case, case.pipe(), *rules)[0])
    return found


def split():
    """Tokens in parts: what combines is exact, and so is a weak branch that treats heads apart; one on a map is refused."""
    apg, pag = emag.APG(4.0, eta=0.3, momentum=0.0), METHODS["pag"](1.5, layers=(1,))
    # the statistics choose the block: of one process' heads alone they would choose others
    rules = {"apg": (apg,), "emag": (EMAG(), emag.CFG(3.0)), "kl": (EMAG(statistic="kl"),), "pag": (pag,)}
    torch.accelerator.device_count = lambda: 1  # diffusers divides by it; there is none here
    found = {}
    for case, words in ((CASES["true-cfg"], WORDS), (VIDEO["wan"], {})):
        pipe = case.pipe()
        pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
        for name, some in rules.items():
            expected, alone = guided(case, case.pipe(), *some, **words)
            made, stats = guided(case, pipe, *some, **words)
            found[f"{case.name} {name}"] = far(made, expected)
            assert stats.picks == alone.picks, (case.name, name)
    try:
        guided(case, pipe, EMAG(variant="map"), **words)
    except emag.Unsupported as error:
        found["map"] = str(error)
    return found


if __name__ == "__main__":
    rank, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = sharded() | split()
    if rank == 0:
        with open(out, "w") as file:
            json.dump(found, file)
    dist.barrier()
    dist.destroy_process_group()
