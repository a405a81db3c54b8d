"""Muon (K. Jordan, 2024, https://kellerjordan.github.io/posts/muon/), all matrices of one shape in one go.

torch.optim.Muon takes them one by one: some three thousand small kernels a step here. Tests hold the two equal.
"""

from collections import defaultdict

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MOMENTUM = 0.95


def orthogonalise(update: Tensor) -> Tensor:
    """Newton-Schulz iteration in bfloat16 on [n, rows, columns]: pulls all singular values towards one."""
    a, b, c = COEFFICIENTS
    x = update.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, decoupled weight decay, a step with AdamW's root mean square: 0.2 sqrt(max(rows, columns))."""

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, weight_decay: float):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                by_shape[p.shape].append(p)
            for shape, same in by_shape.items():
                grads = [p.grad for p in same if p.grad is not None]
                momenta = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in same]
                torch._foreach_lerp_(momenta, grads, 1 - MOMENTUM)
                nesterov = torch._foreach_lerp(grads, momenta, MOMENTUM)
                update = orthogonalise(torch.stack(nesterov)).to(same[0].dtype)
                torch._foreach_mul_(same, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(same, list(update.unbind(0)), alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)
