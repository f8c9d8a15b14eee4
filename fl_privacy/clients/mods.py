"""Flower client mods that any ClientApp can take."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from fl_privacy._clipping import clipping_scale
from fl_privacy._randomness import own_randomness
from fl_privacy.clients.stamp import stamp
from fl_privacy.errors import UserError
from fl_privacy.updates.protocol import IDENTITY_QUERY, KIND, PARTITION, RANDOMNESS, RECORD

IDENTITY = IDENTITY_QUERY.partition(".")[2]
"""Name of the identity query's action, for ``@app.query(IDENTITY)``."""


def identity(message: Message, context: Context) -> Message:
    """Answer the query "which partition are you?": ``app.query(IDENTITY)(identity)``.

    Only deployed clients are asked, before the first round; a simulation knows. A client whose app has no such function
    is named by what `identity_mod` adds to its replies.
    """
    told = ConfigRecord()
    if (partition := context.node_config.get(PARTITION)) is not None:
        told[PARTITION] = partition
    return Message(RecordDict({RECORD: told}), reply_to=message)


def identity_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Tell the server which partition this client is.

    Adds the partition id to every train reply, and answers the identity query where the app has a function for it (see
    `identity`). Goes first in ``ClientApp(mods=[identity_mod, ...])``: Flower's DP mods answer queries with an error.

    Notes
    -----
    In a simulation the partition id names a client over all rounds. On a deployed federation it comes from the
    SuperNode's ``--node-config``; without one this mod adds nothing.
    """
    partition = context.node_config.get(PARTITION)
    if message.metadata.message_type == IDENTITY_QUERY:
        return identity(message, context)
    reply = call_next(message, context)
    if partition is not None and reply.has_content() and message.metadata.message_type.startswith("train"):
        # The record may hold more (what kind of reply it is): add to it.
        record = reply.content.config_records.get(RECORD) or ConfigRecord()
        record[PARTITION] = partition
        reply.content[RECORD] = record
    return reply


def reproducible_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Seed this client as `fl_privacy.Reproducible` in the server says, and do what `identity_mod` does.

    `random`, `numpy.random` and torch are seeded from (seed, round, partition, message type) before each train and
    evaluate message, and put back after it: processes that serve several clients in any order give the same replies.
    Goes first in ``ClientApp(mods=[reproducible_mod, ...])``; without the server's wrapper it only names the client.

    The server knows the seed, so it could draw the same numbers: noise that a mod adds (`LocalDpMod`,
    `GradientClipAndNoise`) hides nothing from *that* server. It is for experiments; on a deployment that is meant to
    protect anybody, leave it out.
    """
    configs = message.content.config_records.values() if message.has_content() else ()
    told = next((record[RANDOMNESS] for record in configs if RANDOMNESS in record), None)
    if told is None:
        return identity_mod(message, context, call_next)
    partition = context.node_config.get(PARTITION, context.node_id)
    with own_randomness("client", *told, str(partition), message.metadata.message_type):  # type: ignore[misc]
        return identity_mod(message, context, call_next)


class GradientClipAndNoise:
    """Client mod: clip a replied gradient and add Gaussian noise, for `fl_privacy.FedSGD` with ``reply="gradient"``.

    Flower's own DP mods take every reply for weights and clip ``reply - sent``, which wrecks gradients. This one scales
    the whole gradient g to ``g * min(1, clipping_norm / |g|_2)`` and adds noise ``N(0, s^2)`` to each coordinate,
    ``s = noise_multiplier * clipping_norm`` (the Gaussian mechanism, Dwork and Roth 2014, appendix A). A zero gradient
    stays zero before the noise.

    Parameters
    ----------
    clipping_norm : float
        Largest L2 norm over all arrays together.
    noise_multiplier : float
        Standard deviation of the noise as a multiple of `clipping_norm`; 0 clips only.

    Notes
    -----
    Goes on the train function: ``@app.train(mods=[GradientClipAndNoise(1.0, 0.5)])``. The noise comes from
    `numpy.random`'s global generator, which `reproducible_mod` seeds from what the server knows: use that in
    experiments alone. It says nothing of epsilon: that depends on how often a client takes part.
    """

    def __init__(self, clipping_norm: float, noise_multiplier: float = 0.0) -> None:
        if not 0 < clipping_norm < float("inf"):
            raise UserError(f"GradientClipAndNoise: clipping_norm must be positive and finite, not {clipping_norm}")
        if not 0 <= noise_multiplier < float("inf"):
            raise UserError(f"GradientClipAndNoise: noise_multiplier must be 0 or more, not {noise_multiplier}")
        self.clipping_norm = clipping_norm
        self.noise_multiplier = noise_multiplier

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Pass the message on, and change the gradient that comes back."""
        reply = call_next(message, context)
        if not reply.has_content():
            return reply
        record = reply.content.config_records.get(RECORD)
        if record is None or record.get(KIND) != "gradient":
            raise UserError(
                "GradientClipAndNoise: the reply does not say that it is a gradient (fl_privacy.clients.stamp.stamp); "
                "for weights there are Flower's fixedclipping_mod and LocalDpMod"
            )
        gradients = {
            (key, name): array.numpy()
            for key, part in reply.content.array_records.items()
            for name, array in part.items()
        }
        scale = clipping_scale(gradients.values(), self.clipping_norm)
        spread = self.noise_multiplier * self.clipping_norm
        changed: dict[str, dict[str, Array]] = {}
        for (key, name), gradient in gradients.items():
            noise = np.random.normal(0.0, spread, gradient.shape) if spread else 0.0  # noqa: NPY002
            released = np.asarray(gradient.astype(np.float64) * scale + noise, dtype=gradient.dtype)
            changed.setdefault(key, {})[name] = Array(released)
        for key, arrays in changed.items():
            reply.content[key] = ArrayRecord(arrays)
        released_arrays = ArrayRecord({f"{k}/{n}": a for k, part in changed.items() for n, a in part.items()})
        # What leaves the client is a new gradient: it needs its own checksum.
        reply.content[RECORD] = ConfigRecord({**record, **stamp(released_arrays, "gradient")})
        return reply
