"""Writes cases of VAR's generator, with outputs from the plain NumPy forward."""

import numpy as np

from tests import var_numpy
from tests.cases import close, exact, given, write
from tests.cases_msvq import channels

SAMPLER = {"function": "VAR.autoregressive_infer_cfg", "inputs": {"label_B": "labels"}}
GREEDY = SAMPLER | {"top_k": 1, "top_p": 0.0, "more_smooth": False, "g_seed": 0}
FILTER = {"top_k": 12, "top_p": 0.8}


def var_config(var=None, **vae):
    """Settings under the reference's names; `var` those of the transformer."""
    vae = {
        "vocab_size": 30,
        "z_channels": 6,
        "using_znorm": False,
        "quant_resi": 0.5,
        "share_quant_resi": 4,
        "default_qresi_counts": 0,
        "v_patch_nums": [1, 2, 3, 4],
    } | vae
    var = {
        "num_classes": 7,
        "depth": 2,
        "embed_dim": 36,
        "num_heads": 3,
        "mlp_ratio": 4.0,
        "norm_eps": 1e-6,
        "shared_aln": False,
        "cond_drop_rate": 0.0,
        "attn_l2_norm": True,
        "patch_nums": vae["v_patch_nums"],
    } | (var or {})
    return {"var": var, "vae": vae}


def decoding(cfg, smooth):
    """How each decoded array came about; `smooth` are the filters of the soft mixtures."""
    found = {}
    for name, number in (("sample_plain", 0.0), ("sample_guided", cfg)):
        found[name] = GREEDY | {"cfg": number}
        for ending, returns in (("fhat", "final f_hat latent"), ("logits", "guided logits")):
            found[f"{name}_{ending}"] = {"same_run_as": name, "returns": returns}
    found["smooth_fhat"] = (
        SAMPLER
        | smooth
        | {
            "cfg": cfg,
            "more_smooth": True,
            "injected": {"standard Gumbel draw": "smooth_gumbel"},
            "returns": "final f_hat latent",
        }
    )
    found["filter_probs"] = FILTER | {
        "function": "sample_with_top_k_top_p_ (probabilities before the draw)",
        "inputs": {"logits": "logits[:, -3:]"},
    }
    return found


def log_chance(logits_BLV):
    shifted = logits_BLV - logits_BLV.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def margin(logits, top_k, top_p):
    """How far the filters are from keeping another token, in logits and in probability."""
    order = -np.sort(-logits, axis=-1)
    gap = (order[..., top_k - 1] - order[..., top_k]).min() if top_k else 1.0
    if not top_p:
        return gap
    kept = order[..., : top_k or None]
    before = np.cumsum(var_numpy.softmax(kept), axis=-1)[..., :-1]
    return min(gap, np.abs(before - top_p).min())


def sampled(reference, labels, cfg, smooth, noise):
    """The outputs of the sampler that `decoding` names."""
    found = {}
    for name, number in (("sample_plain", 0.0), ("sample_guided", cfg)):
        tokens, f_hat, logits, gap = reference.sample(labels, number)
        assert gap > 1e-3, "choose a seed without near ties"
        found |= {name: exact(tokens), f"{name}_fhat": channels(f_hat)}
        found[f"{name}_logits"] = close(logits)
    _, f_hat, logits, _ = reference.sample(labels, cfg, noise_BLV=noise, **smooth)
    assert margin(logits, **smooth) > 1e-4, "choose a seed without near ties"
    return found | {"smooth_fhat": channels(f_hat)}


def var(folder, seed=0, cfg=1.5, smooth=None, without=(), var=None, **vae):
    """A case of two samples.

    Args:
      folder: where to write it.
      seed: of weights and inputs.
      cfg: guidance of the guided outputs.
      smooth: top-k and top-p of the soft mixtures.
      without: beginnings of the names of outputs to leave out, to save time.
      var: settings of the transformer.
      vae: settings of the quantiser.
    """
    config, smooth = var_config(var, **vae), smooth or {"top_k": 0, "top_p": 0.0}
    w = var_numpy.weights(config, seed)
    reference = var_numpy.Transformer(config, w)
    rng = np.random.default_rng(seed + 1)
    labels = rng.integers(0, config["var"]["num_classes"], 2).astype(np.int32)
    length, vocab = reference.bounds[-1], config["vae"]["vocab_size"]
    tokens = rng.integers(0, vocab, (2, length)).astype(np.int32)
    noise = rng.gumbel(size=(2, length, vocab)).astype(np.float32)
    latent = rng.normal(size=(2, *reference.quantizer.scales[-1], config["vae"]["z_channels"]))
    codes = reference.quantizer.inputs(tokens)
    logits = reference.forward(labels, codes)
    null = reference.forward(np.full_like(labels, config["var"]["num_classes"]), codes)
    found, gap = reference.quantizer.encode(latent.astype(np.float32))
    assert min(gap, margin(logits[:, -3:], **FILTER)) > 1e-4, "choose a seed without near ties"
    filtered = var_numpy.filtered(logits[:, -3:], **FILTER)
    nll = -np.take_along_axis(log_chance(logits), tokens[..., None], axis=-1)[..., 0]
    arrays = {
        "labels": given(labels),
        "tokens": given(tokens),
        "smooth_gumbel": given(noise),
        "enc_latent": given(np.float32(np.moveaxis(latent, -1, 1))),
        "var_input": close(codes),
        "logits": close(logits),
        "logits_uncond": close(null),
        "nll": close(nll),
        "fhat_from_tokens": channels(reference.quantizer.sums(tokens)[-1]),
        "enc_tokens": exact(np.concatenate(found, axis=1)),
        "filter_probs": close(var_numpy.softmax(filtered)),
        **sampled(reference, labels, cfg, smooth, noise),
    }
    arrays = {name: about for name, about in arrays.items() if not name.startswith(without)}
    decode = decoding(cfg, smooth)
    return write(folder, system="var", config=config, weights=w, arrays=arrays, decode=decode)
