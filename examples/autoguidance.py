"""Autoguidance: the embedded model pushed away from the less-trained network beside this file. A sheet of scales.

The same in a shell: emag compare "a photo of a ship" -c "label: scale=1 autoguidance=1.25,model=load:examples/guide"
"""

import argparse
from pathlib import Path

import emag
from emag.lab.draw.columns import Column, run
from emag.lab.draw.sampling import DrawSettings, Job
from emag.lab.draw.sheets import sheet
from emag.methods import METHODS

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 1.25, 1.5, 2.0])
parser.add_argument("--cfg", type=float, default=1.0, help="The pipeline's own guidance scale; 1 is off.")
parser.add_argument("--steps", type=int, default=28)
parser.add_argument("--out", default="autoguidance.png")
options = parser.parse_args()

pipe = emag.load("tiny")
pipe.set_progress_bar_config(disable=True)
guide = f"load:{Path(__file__).parent / 'guide'}"
work = [Job(f"a photo of a {name}", None, 8) for name in pipe.classes]
drawn = [run(pipe, Column(f"scale {scale:g}", (METHODS["autoguidance"](scale, model=guide),)), work,
             DrawSettings(options.steps, options.cfg), len(work)) for scale in options.scales]
rows = [[one.images[at] for one in drawn] for at in range(len(work))]
sheet(rows, [one.column.label for one in drawn], pipe.classes, f"Autoguidance, CFG {options.cfg:g}", 96).save(options.out)
print(options.out)
