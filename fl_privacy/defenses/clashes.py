"""Combinations of defenses that make no sense, refused with the reason before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from fl_privacy.defenses.base import Defense
from fl_privacy.errors import UserError


def check_defenses(
    defenses: Sequence[Defense],
    algorithm: str,
    reply: str = "gradient",
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    clients: int | None = None,
) -> None:
    """Refuse a run's defenses where they do not go together, or not in this order; hooks are called in the list's.

    Parameters
    ----------
    defenses : sequence of Defense
    algorithm : {"fedsgd", "fedavg"}
    reply : {"gradient", "step"}
        FedSGD: what clients send.
    shapes : Mapping[str, sequence of int], optional
        Of the model's arrays, by which layers are told; by default those of the SER network.
    clients : int, optional
        How many there are; the delta of client-level DP has to be below 1 over it.

    Raises
    ------
    UserError
        With the first reason found.
    """
    for reason in _reasons(defenses, algorithm, reply, shapes, clients):
        raise UserError(f"defenses: {reason}")


def _reasons(
    defenses: Sequence[Defense],
    algorithm: str,
    reply: str,
    shapes: Mapping[str, Sequence[int]] | None,
    clients: int | None,
) -> Iterator[str]:
    from fl_privacy.defenses.client_dp import GRADIENTS, CentralClientDP, ClientDP
    from fl_privacy.defenses.share_upper import ShareUpper
    from fl_privacy.defenses.udp import PublishedUDP

    for defense in defenses:
        if isinstance(defense, CentralClientDP) and algorithm == "fedsgd" and reply == "gradient":
            yield f"client-dp in the server: {GRADIENTS}"
        if isinstance(defense, ClientDP) and clients is not None and defense.delta * clients >= 1:
            yield (
                f"client-dp: delta = {defense.delta:g} is not below 1 / {clients} clients: giving one of them away "
                "altogether would count as private"
            )
    for one, two in combinations(defenses, 2):
        yield from _between(one, two)
    for place, defense in enumerate(defenses):
        before = [d for d in defenses[:place] if _overrides(d, "update")]
        if isinstance(defense, ShareUpper) and before:
            yield (
                f"share-upper goes before {_name(before[0])}, which changes the update: a client's own layers are to "
                "learn from what it computed"
            )
        others = [d for d in before if not isinstance(d, ShareUpper)]
        if isinstance(defense, PublishedUDP) and others:
            yield f"udp-published goes before {_name(others[0])}, which changes the update that it clipped in training"
    yield from _about_layers(defenses, shapes)


def _between(one: Defense, two: Defense) -> Iterator[str]:
    """Yield what is wrong with two of them, in whatever order."""
    from fl_privacy.defenses.adversarial import Adversarial
    from fl_privacy.defenses.client_dp import CentralClientDP, ClientDP
    from fl_privacy.defenses.quantise import Quantise
    from fl_privacy.defenses.share_upper import ShareUpper
    from fl_privacy.defenses.sign import Sign
    from fl_privacy.defenses.top_k import TopK
    from fl_privacy.defenses.udp import PublishedUDP

    private = [_overrides(d, "private_steps") for d in (one, two)]
    kinds: tuple[type[Defense], ...] = (ClientDP, PublishedUDP, TopK, Sign, Quantise, Adversarial, ShareUpper)
    if all(private):
        yield f"{_name(one)} and {_name(two)} both make gradients private example by example; keep one"
    if any(private) and _pair(one, two, PublishedUDP, Defense):
        yield "udp-published and dp-sgd both clip and add noise for a client's examples; keep one"
    if (private[0] and two.adds_to_loss) or (private[1] and one.adds_to_loss):
        other = _name(two if private[0] else one)
        yield f"{other} adds to the loss of a batch, which DP-SGD cannot take apart into examples; leave one out"
    if _pair(one, two, ClientDP, PublishedUDP):
        yield "client-dp and udp-published both add noise to the whole update, and would share one account; keep one"
    if _pair(one, two, Sign, Quantise):
        yield "sign and quantise both replace each coordinate by a few levels; keep one"
    for kind in kinds:
        if isinstance(one, kind) and isinstance(two, kind):
            yield f"{_name(one)} is named twice; keep one"
    from fl_privacy.defenses.freeze import Freeze

    if _pair(one, two, CentralClientDP, Freeze):
        yield "freeze with client-dp in the server: Flower's wrapper adds noise to every array, frozen ones too"
    if isinstance(one, Freeze) and _overrides(two, "noise"):
        yield f"freeze goes behind {_name(two)}, which adds noise to every array, frozen ones too"


def _about_layers(defenses: Sequence[Defense], shapes: Mapping[str, Sequence[int]] | None) -> Iterator[str]:
    """Yield layers that are frozen and personal at the same time, and names that mean two layers."""
    from fl_privacy.defenses.adversarial import Adversarial
    from fl_privacy.defenses.freeze import Freeze, arrays_of
    from fl_privacy.defenses.share_upper import ShareUpper

    frozen = [d for d in defenses if isinstance(d, Freeze)]
    personal = [d for d in defenses if isinstance(d, ShareUpper)]
    named: list[Freeze | ShareUpper] = [*frozen, *personal]
    if any(isinstance(d, Adversarial) and d.head == "shared" for d in defenses):
        for defense in named:
            if "last" in defense.layers:
                yield f"{_name(defense)}: with a shared adversary's head that is the last layer; give the layer's name"
    if not frozen or not personal:
        return
    shapes = _ser_shapes() if shapes is None else shapes
    both = {n for d in frozen for n in arrays_of(d.layers, shapes)} & {
        n for d in personal for n in arrays_of(d.layers, shapes)
    }
    if both:
        yield f"freeze and share-upper name the same layer ({', '.join(sorted(both))}): what is personal is trained"


def _ser_shapes() -> dict[str, tuple[int, ...]]:
    """Return shapes by which layers of the SER network can be told, whatever its inputs."""
    import torch

    from fl_privacy.models.ser import SERNet

    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in SERNet(988).named_parameters()}


def _pair(one: Defense, two: Defense, first: type[Defense], second: type[Defense]) -> bool:
    """Tell whether they are of these kinds, in whatever order."""
    return (isinstance(one, first) and isinstance(two, second)) or (isinstance(two, first) and isinstance(one, second))


def _overrides(defense: Defense, hook: str) -> bool:
    return getattr(type(defense), hook) is not getattr(Defense, hook)


def _name(defense: Defense) -> str:
    from fl_privacy.defenses.base import BUILT_IN

    names = {where.partition(":")[0]: name for name, where in BUILT_IN.items()}
    modules = [kind.__module__ for kind in type(defense).__mro__]
    return next((names[module] for module in modules if module in names), type(defense).__name__)
