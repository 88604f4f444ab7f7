"""Logits with a known skew: they drive a real router, instead of an imposed list of expert ids.

Which experts are popular follows from the traffic's seed alone; what each token wants follows from the seed and the
draw, so that draws 0, 1, 2, ... are fresh tokens of one and the same layer. Popularity is the same on every device. The
tokens are the same for the same (seed, draw, device type): each device type has a random generator of its own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import log_softmax

from harness.layer.imposed import IMPOSED, imposed_choice
from harness.layer.replay import HOT_OFFSET, NOISE_BOUND, replayed_logits
from harness.layer.routers import noisy_logits

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from harness.cases.shape import Shape
    from harness.cases.traffic import Traffic

TEMPORAL_SIGMA = 0.15
LOWEST_LOG_POPULARITY = -60.0
SIGMOID_BIAS_SIGMA = 0.02
SOFTMAX_BIAS_SIGMA = 0.05

POPULARITY, TOKENS, DEAL, SELECTION_BIAS, ROUTER_NOISE = range(1, 6)
"""What a random stream is for; keeps streams of one seed apart."""


def make_logits(shape: Shape, traffic: Traffic, *, draw: int, device: str | torch.device = "cpu") -> Tensor:
    """Make the router logits of one draw: (T, E) float32.

    - ``uniform``, ``gaussian``: b + N(0, 1), b ~ N(0, sigma) for each expert. ``temporal`` has sigma 0.15, and its
      noise is an AR(1) process along the tokens, each expert by itself.
    - ``zipf``, ``dirichlet``: log p + Gumbel noise: the top k are a sample from p without replacement (Plackett-Luce).
      log k is added, which brings the k-th choice near 0, where a sigmoid resolves best.
    - ``single_hot``, ``k_hot``, ``tile``: see ``imposed_choice``; noise decides what they leave open. Routers without
      a top-k a token (``expert_choice``, ``mixture``) see these logits and cannot be imposed upon.
    - ``trace``: see ``replayed_logits``.

    The stated skew is that of the logits. Groups and the noise of ``noisy_topk`` come on top. A selection bias does
    not: see ``selection_bias``.

    Raises
    ------
    ValueError
        when ``tile`` is given rows that are not a whole number.
    """
    size = (traffic.tokens, shape.experts)
    generator = _torch_generator(traffic.seed, draw, TOKENS, device)
    if traffic.kind in IMPOSED or traffic.replay:
        noise = NOISE_BOUND * torch.tanh(torch.randn(size, generator=generator, device=device) / NOISE_BOUND)
        make = replayed_logits if traffic.replay else _imposed
        logits = make(shape, traffic, draw, noise)
    elif traffic.kind in {"zipf", "dirichlet"}:
        gumbel = -torch.empty(size, device=device).exponential_(generator=generator).log()
        logits = _popularity(shape, traffic, device) + math.log(shape.top_k) + gumbel
    else:
        noise = torch.randn(size, generator=generator, device=device)
        if traffic.kind == "temporal":
            noise = _correlate(noise, traffic.parameter or 0.0)
        logits = _popularity(shape, traffic, device) + noise
    if shape.router.kind != "sigmoid":
        return logits
    bias = selection_bias(shape, traffic.seed, device)
    return logits if bias is None else _evened_out(logits, bias)


def _imposed(shape: Shape, traffic: Traffic, draw: int, noise: Tensor) -> Tensor:
    rngs = _numpy_generator(traffic.seed, 0, POPULARITY), _numpy_generator(traffic.seed, draw, DEAL)
    chosen = torch.from_numpy(imposed_choice(shape, traffic, *rngs)).to(noise.device)
    return noise + HOT_OFFSET * (2.0 * chosen - 1.0)


def selection_bias(shape: Shape, seed: int, device: str | torch.device) -> Tensor | None:
    """Make the bias (E,) that a router with ``selection_bias`` adds to its scores to choose; None for other routers.

    For ``sigmoid`` N(0, 0.02), cut at two sigma. ``make_logits`` takes it back out of the scores, as a trained model's
    bias evens out its experts: the traffic keeps its skew, and weighing by biased scores shows as an error of 2 %. For
    ``softmax`` N(0, 0.05 / E), too small to move the skew; only what ``single_hot`` leaves open follows it.
    """
    if not shape.router.selection_bias:
        return None
    sigma = SIGMOID_BIAS_SIGMA if shape.router.kind == "sigmoid" else SOFTMAX_BIAS_SIGMA / shape.experts
    normal = _numpy_generator(seed, 0, SELECTION_BIAS).standard_normal(shape.experts)
    return _to_tensor(sigma * normal.clip(-2, 2), device)


def router_noise(shape: Shape, traffic: Traffic, draw: int, device: str | torch.device) -> Tensor | None:
    """Make the scaled noise (T, E) that ``noisy_topk`` adds to its logits; None for other routers.

    N(0, 1) * softplus(0), the scale of a noise projection at its initial zeros (Shazeer 2017), cut at +-1.9 so that it
    cannot overturn an imposed choice. It flattens the traffic's skew, as it is meant to.
    """
    if shape.router.kind != "noisy_topk":
        return None
    generator = _torch_generator(traffic.seed, draw, ROUTER_NOISE, device)
    normal = torch.randn(traffic.tokens, shape.experts, generator=generator, device=device)
    zeros = torch.zeros_like(normal)
    bound = 0.95 * (HOT_OFFSET - NOISE_BOUND)
    return noisy_logits(zeros, zeros, normal).clamp(-bound, bound)


def _popularity(shape: Shape, traffic: Traffic, device: str | torch.device) -> Tensor:
    """Draw what an expert's logits have in common, (E,): a bias or a log-probability. Popular ids are scattered."""
    rng = _numpy_generator(traffic.seed, 0, POPULARITY)
    parameter = traffic.parameter or 0.0
    match traffic.kind:
        case "gaussian" | "temporal":
            sigma = TEMPORAL_SIGMA if traffic.kind == "temporal" else parameter
            return _to_tensor(sigma * rng.standard_normal(shape.experts), device)
        case "zipf":
            ranks = 1.0 + rng.permutation(shape.experts)
            return _to_tensor(_log_probabilities(-parameter * np.log(ranks)), device)
        case "dirichlet":
            return _to_tensor(_log_probabilities(_log_gamma_variates(rng, parameter, shape.experts)), device)
    return torch.zeros(shape.experts, device=device)


def _log_probabilities(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normalise; and keep the least popular expert apart from impossible, where float32 would lose their order."""
    normalised: NDArray[np.float64] = log_softmax(scores)
    return normalised.clip(min=LOWEST_LOG_POPULARITY)


def _log_gamma_variates(rng: np.random.Generator, a: float, count: int) -> NDArray[np.float64]:
    """Draw logs of Gamma(a) variates; normalised, these are Dirichlet(a).

    Gamma(a) = Gamma(a + 1) * U^(1/a) keeps small a from underflowing.
    """
    return np.log(rng.gamma(a + 1.0, size=count)) + np.log1p(-rng.random(count)) / a


def _correlate(noise: Tensor, rho: float) -> Tensor:
    """z_0 = e_0, z_t = rho * z_(t-1) + sqrt(1 - rho^2) * e_t for noise e (T, E): N(0, 1) again, autocorrelation rho^n.

    Each step doubles how far back the sum reaches, so T tokens take log2 T steps, fewer once rho^reach has vanished.
    """
    z = torch.cat([noise[:1], noise[1:] * math.sqrt(1 - rho**2)])
    reach = 1
    while reach < len(z) and rho**reach > 1e-9:
        z = torch.cat([z[:reach], z[reach:] + rho**reach * z[:-reach]])
        reach *= 2
    return z


def _evened_out(logits: Tensor, bias: Tensor) -> Tensor:
    """Logits whose sigmoid plus the bias is the sigmoid of those given, as far as a sigmoid in 0.001..0.999 can."""
    return torch.logit(torch.sigmoid(logits) - bias, eps=1e-3)


def _numpy_generator(seed: int, draw: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, draw, purpose])


def _torch_generator(seed: int, draw: int, purpose: int, device: str | torch.device) -> torch.Generator:
    state = np.random.SeedSequence([seed, draw, purpose]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))


def _to_tensor(values: NDArray[np.float64], device: str | torch.device) -> Tensor:
    return torch.from_numpy(values).to(device, torch.float32)
