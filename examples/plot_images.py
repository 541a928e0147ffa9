"""
Two images
==========

The smallest example: two images, and the plan between them.
"""

# %%
# The model knows images of any size.

import matplotlib.pyplot as plt
import torch

import metaot

generator = torch.Generator().manual_seed(0)
a, b = torch.rand(2, 32 * 32, generator=generator, dtype=torch.float64).softmax(-1)
problem = metaot.Problem(a, b, metaot.Grid(32, 32), eps=1e-2)
solution = metaot.solve(problem, init=metaot.load("universal"), tol=1e-6)
print(solution.error, solution.steps)

# %%
# The potential f.

plt.imshow(solution.potentials.f.view(32, 32))
plt.colorbar()
plt.show()
