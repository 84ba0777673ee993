"""Predictions as vectors, one per sample: their norms capped, their parts along one another."""

import torch


def capped(difference: torch.Tensor, radius: float) -> torch.Tensor:
    """Each sample of `difference` [batch, ...] scaled down to norm `radius` where it is longer; 0 leaves it."""
    if radius == 0:
        return difference
    norm = per_sample(difference.flatten(1).norm(dim=1), difference)
    return difference * (radius / norm.clamp(min=torch.finfo(norm.dtype).tiny)).clamp(max=1.0)


def project(vector: torch.Tensor, onto: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Parts of `vector` [batch, ...] parallel and orthogonal to `onto`, per sample; a zero `onto` has no parallel part."""
    # <v, o> / <o, o> o, and the rest
    dot, square = (vector * onto).flatten(1).sum(1), onto.square().flatten(1).sum(1)
    share = torch.where(square > 0, dot / square.clamp(min=torch.finfo(square.dtype).tiny), 0.0)
    parallel = per_sample(share, onto) * onto
    return parallel, vector - parallel


def relative_distance(other: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """|reference - other| / |reference| of each sample, [batch], for [batch, ...]."""
    size = reference.flatten(1).norm(dim=1).clamp(min=1e-12)
    return (reference - other).flatten(1).norm(dim=1) / size


def per_sample(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`values` [batch] shaped to multiply `like` [batch, ...]."""
    return values.view(-1, *[1] * (like.ndim - 1))


def extrapolate(weak: torch.Tensor, strong: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
    """weak + scale (strong - weak), where scale 0, scale 1 and equal branches are exact bit for bit; [batch, ...]."""
    # lerp takes the end it is nearer to as its base, so that both ends are exact
    return torch.lerp(weak, strong, scale)


def on_channels(new: torch.Tensor, old: torch.Tensor, channels: int | None) -> torch.Tensor:
    """`new` on the first `channels` channels, `old` on the others; both [batch, channels, ...]."""
    return new if channels is None else torch.cat([new[:, :channels], old[:, channels:]], dim=1)


def widened(x: torch.Tensor) -> torch.Tensor:
    """`x`, of any shape, in at least fp32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner product of each sample, shaped to multiply it [batch, 1, ...]."""
    return per_sample((a * b).flatten(1).sum(1), a)


def norm(x: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each sample, shaped to multiply it [batch, 1, ...]."""
    return per_sample(x.flatten(1).norm(dim=1), x)


def cosine_between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cosine of the angle between samples, [batch, 1, ...]; 0 where one of them is 0."""
    return divided(dot(a, b), norm(a) * norm(b))


def divided(above: torch.Tensor, below: torch.Tensor, otherwise: float = 0.0) -> torch.Tensor:
    """above / below, and `otherwise` where `below` is 0."""
    return torch.where(below != 0, above / torch.where(below != 0, below, 1.0), otherwise)
