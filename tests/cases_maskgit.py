"""Writes cases of MaskGIT, with outputs from the plain NumPy forward."""

import numpy as np

from tests import maskgit_numpy
from tests.cases import close, exact, given, write


def maskgit_config(**changes):
    """Settings under the reference's names, unlike those of any other case."""
    config = {
        "codebook_size": 23,
        "num_class": 6,
        "num_layers": 2,
        "num_embeds": 36,
        "num_heads": 3,
        "intermediate_size": 52,
        "latent_size": 3,
    }
    return config | changes


def start_of(config, labels, known, rng):
    """Class and tokens `(B, S)`; a share `known` of the positions is given, differing by sample."""
    length = config["latent_size"] ** 2
    tokens = rng.integers(0, config["codebook_size"], (len(labels), length))
    for row, kept in zip(tokens, known, strict=True):
        row[rng.permutation(length)[: length - kept]] = -1
    words = labels[:, None] + config["codebook_size"]
    return np.concatenate([words, tokens], axis=1).astype(np.int32)


def maskgit(folder, seed=0, num_iter=6, start_iter=0, schedule="cosine", known=(0, 0), **changes):
    """A case of two samples.

    Args:
      folder: where to write it.
      seed: of weights and inputs.
      num_iter: steps of the schedule.
      start_iter: of which so many are left out.
      schedule: its name.
      known: tokens given in advance, of each sample.
      changes: settings of the model.
    """
    config = maskgit_config(**changes)
    w = maskgit_numpy.weights(config, seed)
    reference = maskgit_numpy.Transformer(config, w)
    rng = np.random.default_rng(seed + 1)
    labels = rng.integers(0, config["num_class"], 2).astype(np.int32)
    length, vocab = config["latent_size"] ** 2, config["codebook_size"]
    tokens = rng.integers(0, vocab, (2, length)).astype(np.int32)
    mask = (rng.uniform(size=(2, length)) < 0.6).astype(np.int32)
    ids = np.concatenate([labels[:, None] + vocab, np.where(mask, -1, tokens)], axis=1)
    logits = np.stack([reference.forward(row) for row in ids])
    chance = maskgit_numpy.softmax(logits[:, 1:, :vocab])
    nll = -np.log(np.take_along_axis(chance, tokens[..., None], axis=-1)[..., 0])
    arrays = {
        "tokens": given(tokens),
        "labels": given(labels),
        "mask": given(mask),
        "logits": close(logits),
        "nll": close(nll),
        "start": given(start_of(config, labels, known, rng)),
        "gumbel_tokens": given(rng.gumbel(size=(num_iter, 2, length + 1, vocab)).astype("f4")),
        "gumbel_choice": given(rng.gumbel(size=(num_iter, 2, length + 1)).astype("f4")),
    }
    decode = {}
    shared = {
        "function": "maskgit/libml/parallel_decode.py decode()",
        "num_iter": num_iter,
        "start_iter": start_iter,
        "mask_scheduling_method": schedule,
        "mask_token_id": -1,
        "inputs": {"inputs": "start"},
    }
    injected = {
        "Gumbel noise of the token draw": "gumbel_tokens",
        "Gumbel noise of the confidence": "gumbel_choice",
    }
    for name, more in (
        ("greedy", {"choice_temperature": 0.0}),
        ("noise", {"choice_temperature": 3.0, "injected": injected}),
    ):
        decode[name] = shared | more
        found, made = sampled(reference, decode[name], arrays)
        decode[f"{name}_steps"] = {"same_run_as": name, "returns": "grid fed to the model"}
        decode[f"{name}_all"] = {"same_run_as": name, "returns": "complete return value"}
        before = np.repeat(arrays["start"][0][:, None], start_iter, axis=1)
        arrays[name] = exact(made[:, -1, 1:])
        arrays[f"{name}_steps"] = exact(found.swapaxes(0, 1))
        arrays[f"{name}_all"] = exact(np.concatenate([before, made], axis=1))
    return write(folder, system="maskgit", config=config, weights=w, arrays=arrays, decode=decode)


def sampled(reference, settings, arrays):
    """What each step was fed and made, `(B, N, S)`."""
    noise = [arrays[name][0] for name in settings.get("injected", {}).values()]
    runs = [
        reference.decode(row, settings, *(array[:, b] for array in noise))
        for b, row in enumerate(arrays["start"][0])
    ]
    assert min(gap for _, _, gap in runs) > 1e-4, "choose a seed without near ties"
    return np.stack([fed for fed, _, _ in runs]), np.stack([made for _, made, _ in runs])
