"""
Export, and serve without torch
===============================

Training needs torch; answering does not. An exported model is one ``.onnx`` file: the network, the closed forms
around it, the costs of its space, and what it was trained for. With numpy and onnxruntime it predicts; with the
package's compiled code beside it, it solves.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

import metaot
from metaot.cli import main

# %%
# The file
# --------
#
# In a terminal: ``python export.py mnist --out mnist.onnx``. The file is compared with torch on problems of
# several batch sizes, and not written if they disagree.

folder = Path(tempfile.mkdtemp())
file = folder / "mnist.onnx"
main(["export", "mnist", "--out", str(file)])

# %%
# A process without torch
# -----------------------
#
# Here in a process of its own, in which torch cannot be imported: what a server would do. Weights are arrays,
# one problem or a batch, flat or as images. ``solve`` refines the prediction as ``metaot.solve`` does.

FONT = ImageFont.truetype(findfont("DejaVu Sans:bold"), 24)


def letter(text: str) -> np.ndarray:
    """Draw a letter, white on black, with mass one."""
    image = Image.new("L", (28, 28))
    ImageDraw.Draw(image).text((14, 14), text, 255, FONT, anchor="mm")
    pixels = np.asarray(image, dtype=np.float64)
    return pixels / pixels.sum()


np.savez(folder / "pairs.npz", a=[letter(k) for k in "OLDNEW"], b=[letter(k) for k in "WENDLO"])
script = """
import sys
sys.modules["torch"] = None  # importing it fails from here on
import numpy as np
import metaot

model = metaot.load("mnist.onnx")
print(model)
pairs = np.load("pairs.npz")
solution = model.solve(pairs["a"], pairs["b"], eps=1e-2, tol=1e-6)
print("steps", solution.steps, "errors up to", solution.error.max())
"""
run = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
print(run.stdout or run.stderr)

# %%
# What is in it
# -------------
#
# The metadata say what the file was made of and what it is for. Weights of another size, another ``eps`` or
# masses that are not one are refused, with the first entry that is wrong.

model = metaot.load(file)
print({name: model.metadata[name] for name in ("passes", "eps")}, model.sizes, model.grid)
try:
    model.predict(np.full((28, 28), 1 / 784), np.full((28, 28), 1 / 700), eps=1e-2)
except ValueError as error:
    print(f"ValueError: {error}")

# %%
# Latency and throughput
# ----------------------
#
# Bare predictions and solutions, the quickest of some calls, on one thread of the machine that built this page.
# A batch shares the cost of the call; that is why a server predicts together what arrives together.

rng = np.random.default_rng(0)
letters = np.stack([letter(k) for k in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
sizes = [1, 4, 16, 64, 256]
spent: dict[str, list[float]] = {"predict": [], "solve to 1e-3": []}
for size in sizes:
    a, b = letters[rng.integers(26, size=(2, size))]
    calls = {
        "predict": lambda a=a, b=b: model.predict(a, b, eps=1e-2),
        "solve to 1e-3": lambda a=a, b=b: model.solve(a, b, eps=1e-2, tol=1e-3),
    }
    for name, call in calls.items():
        call()
        times = []
        for _ in range(7):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        spent[name].append(1e6 * min(times) / size)

figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
for name, times in spent.items():
    ax.plot(sizes, times, marker="o", label=name)
ax.set(xscale="log", xlabel="problems in a call", ylabel="microseconds for each problem", ylim=(0, None))
ax.set_xticks(sizes, sizes)
ax.minorticks_off()
ax.legend()
plt.show()

# %%
# Other models
# ------------
#
# ``python export.py universal`` writes one file for images of any size: ``predict`` and ``solve`` take arrays
# ``(*batch, height, width)``. A model of maps becomes two files, one that predicts and one that moves points::
#
#     python export.py palette --out palette.onnx    # and palette-push.onnx
#
#     model = metaot.load("palette.onnx")
#     result = model.recolor(source, target)         # pictures as arrays of bytes
#     pair = model.predict(x, y)                     # pair.push(points), pair.pull(points)
#
# The graph has standard operators only, so any language that has onnxruntime gets ``(a, b, eps) -> (f, g)``
# from the same file. Files that are not ours are refused.

# %%
# A server
# --------
#
# ``examples/serving/serve.py`` answers over HTTP, with JSON or arrays. It refuses bad requests with a message
# that names the field, limits sizes, numbers and times, and counts what it does for Prometheus::
#
#     pip install 'metaot[serve]'
#     python examples/serving/serve.py mnist.onnx --port 8000
#     curl -s localhost:8000/health
#     curl -s localhost:8000/predict -d '{"a": [...], "b": [...], "eps": 0.01}'
#
# A client in Python, for rows ``[a, b]`` of 2 x 784 numbers::
#
#     buffer = io.BytesIO()
#     np.save(buffer, np.concatenate([a, b], axis=1))
#     headers = {"content-type": "application/x-npy"}
#     answer = requests.post(f"{url}/predict?eps=0.01", data=buffer.getvalue(), headers=headers)
#     f, g = np.split(np.load(io.BytesIO(answer.content)), 2, axis=1)
#
# What to watch when it runs: :doc:`/howto/threads`.
