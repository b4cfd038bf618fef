"""Sample text from an exported LSTM with NumPy alone.

    charlm export --workdir=runs/tutorial --out=island
    python docs/examples/sample_with_numpy.py island "The island" 500 2 1

The arguments are the folder, a prompt, the number of characters to sample, the scale factor of the
logits (1 / temperature; inf is greedy), and a seed. The model must be like the textbook's: a single
bare LSTM layer, and characters as symbols.
"""

import json
import sys
from pathlib import Path

import numpy as np

folder, prompt, characters, scale, seed = sys.argv[1:]
config = json.loads(Path(folder, "config.json").read_text())
model = config["model"]
fields = ("layers", "block", "position", "tied_embedding")
values = [model[field] for field in fields]
later_fields = [model.get("mogrifier_rounds", 0), model.get("cell_norm", False)]
if [*values, *later_fields] != [["lstm"], "bare", "none", False, 0, False]:
    sys.exit(f"{folder} is not one LSTM with nothing around it")
if config["data"].get("unit", "characters") != "characters":
    sys.exit(f"{folder} is a model of bytes: this program samples characters")
symbols = json.loads(Path(folder, "vocabulary.json").read_text())["symbols"]
if unknown := sorted(set(prompt) - set(symbols)):
    sys.exit(f"the model does not know {unknown}")
data = Path(folder, "model.safetensors").read_bytes()
start = 8 + int.from_bytes(data[:8], "little")  # a length, a header of that length, the arrays
header = json.loads(data[8:start])


def array(name):
    first, end = header[name]["data_offsets"]
    return np.frombuffer(data[start + first : start + end], "<f4").reshape(header[name]["shape"])


def sigmoid(x):
    return (1 + np.tanh(x / 2)) / 2


table = array("embedding") @ array("layer_0.mixer.input.kernel") + array("layer_0.mixer.input.bias")
recurrent_kernel = array("layer_0.mixer.recurrent_kernel")
output_kernel, output_bias = array("output.kernel"), array("output.bias")

scale, generator = float(scale), np.random.default_rng(int(seed))
cell = hidden = np.zeros(len(recurrent_kernel))
logits = output_bias  # before any input
text = [symbols.index(symbol) for symbol in prompt]
for place in range(len(prompt) + int(characters)):
    if place == len(text):  # after the prompt; the argmax is a sample from softmax(scale * logits)
        noise = generator.gumbel(size=len(symbols))
        text.append(np.argmax(min(scale, 1) * logits + noise / max(scale, 1)))
    i, f, g, o = np.split(table[text[place]] + hidden @ recurrent_kernel, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    hidden = sigmoid(o) * np.tanh(cell)
    logits = hidden @ output_kernel + output_bias
print("".join(symbols[symbol] for symbol in text))
