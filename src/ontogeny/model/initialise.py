"""All initialisation in one place: fresh models, donor embeddings, and the one scalar that matches a frozen head."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import Checkpoint
from ontogeny.genome.sites import architecture, find
from ontogeny.streams import stream

DROPOUTS = ("dropout", "_pdrop", "dropout_prob")  # how the names of dropout rates end


def fresh_model(config: Mapping[str, Any], seed: int) -> nn.Module:
    """A fresh causal language model of this configuration, every parameter from its own named stream.

    Matrices and embeddings are N(0, ``initializer_range``²), gains 1, biases 0; dropout is off, so that a batch
    and a seed fix a step. Raises InputError for a configuration that transformers refuses.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    plain = {k: v for k, v in config.items() if k not in ("auto_map", "dtype", "torch_dtype", "architectures")}
    try:
        built = AutoConfig.for_model(plain.pop("model_type"), **plain)
        for key in built.to_dict():  # rates that aren't given default to 0.1 in some model types
            if key.endswith(DROPOUTS):
                setattr(built, key, 0.0)
        with torch.random.fork_rng(devices=[]), no_init_weights():  # every parameter is drawn below
            model = AutoModelForCausalLM.from_config(built, dtype=torch.float32)
        model.tie_weights()
    except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"transformers can't build a model from this configuration: {reason}") from None
    initialise(model, built.initializer_range, seed)
    return model  # type: ignore[no-any-return]


@torch.no_grad()
def initialise(model: nn.Module, std: float, seed: int) -> None:
    """Overwrite every parameter in place, each from ``stream(seed, "init", name)``."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            parameter.copy_(torch.randn(parameter.shape, generator=stream(seed, "init", name)) * std)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)


@torch.no_grad()
def donor_embeddings(model: nn.Module, checkpoint: Checkpoint, *, trainable: bool) -> nn.Module:
    """Copy the donor's embeddings and head into ``model``, in place, frozen unless ``trainable``.

    Raises InputError where the shapes differ.
    """
    row = architecture(checkpoint.config)
    parameters = dict(model.named_parameters())
    stored = checkpoint.embeddings()
    for alternatives in row.embeddings:
        here = find(alternatives, row.prefixes, parameters.__contains__)
        there = find(alternatives, row.prefixes, stored.__contains__)
        if here is None or there is None:
            continue  # a tied head stands under its embedding's name
        if parameters[here].shape != stored[there].shape:
            raise InputError(
                f"donor's {there} is {tuple(stored[there].shape)}, the model's {here} {tuple(parameters[here].shape)}: "
                "donor embeddings need the donor's width and vocabulary"
            )
        parameters[here].copy_(stored[there])
        parameters[here].requires_grad_(trainable)
    return model


@torch.no_grad()
def set_final_gain(model: nn.Module, gain: float) -> nn.Module:
    """Start the final norm's gain at one scalar."""
    row = architecture(model.config.to_dict())  # type: ignore[operator, union-attr]
    modules = dict(model.named_modules())
    name = find(row.final_norm, row.prefixes, modules.__contains__)
    assert name is not None
    modules[name].weight.fill_(gain)
    return model


def matched_gain(model: nn.Module, loss: Callable[[nn.Module], float], target: float, tolerance: float = 0.1) -> float:
    """The largest gain 2⁻ʲ at which ``loss(model)`` is within ``tolerance`` nats of ``target`` (ln V).

    Found on the dense arm and the same for all arms. A donor's frozen head on a fresh body starts far above ln V
    otherwise (14.3 nats against 6.2 measured).
    """
    for exponent in range(24):
        gain = 2.0**-exponent
        if abs(loss(set_final_gain(model, gain)) - target) <= tolerance:
            return gain
    raise InputError(f"no gain of the final norm starts the model within {tolerance} nats of {target:.2f}")
