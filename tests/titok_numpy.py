"""TiTok in plain NumPy float64, under the reference's names; shares no code with ours.

Axes: B images, H height, W width, S slots, D width, C channels.
"""

from __future__ import annotations

import math

import numpy as np

from tests.kl_numpy import Network
from tests.maskgit_vq_numpy import Port, port_weights

STACKS = ("encoder", "decoder")


def parts(config):
    """(settings of the tokenizer, size in pixels, row of the table for each stack)."""
    vq = config["model"]["vq_model"]
    names = (vq["vit_enc_model_size"], vq["vit_dec_model_size"])
    rows = [config["size_table"][name] for name in names]
    return vq, config["dataset"]["preprocessing"]["crop_size"], dict(zip(STACKS, rows))


def port_config(pixel):
    """Settings of the tokenizer that makes the pixels, as `Port` takes them."""
    return pixel | {"num_embeddings": pixel["codebook_size"]}


def weights(config, seed):
    """Random weights of a model of these settings, at a size that keeps signals near 1."""
    rng, made = np.random.default_rng(seed), {}
    vq, side, rows = parts(config)

    def affine(name, out, *fan_in):
        made[f"{name}.weight"] = rng.normal(size=(out, *fan_in)) / math.sqrt(math.prod(fan_in))
        made[f"{name}.bias"] = rng.normal(size=out) * 0.2

    def norm(name, width):
        made[f"{name}.weight"] = 1 + rng.normal(size=width) * 0.2
        made[f"{name}.bias"] = rng.normal(size=width) * 0.2

    for name, patch in zip(STACKS, (vq["vit_enc_patch_size"], vq["vit_dec_patch_size"])):
        width = rows[name]["width"]
        made[f"{name}.class_embedding"] = rng.normal(size=(1, width))
        made[f"{name}.positional_embedding"] = rng.normal(size=((side // patch) ** 2 + 1, width))
        made[f"{name}.latent_token_positional_embedding"] = rng.normal(
            size=(vq["num_latent_tokens"], width)
        )
        norm(f"{name}.ln_pre", width)
        norm(f"{name}.ln_post", width)
        for number in range(rows[name]["layers"]):
            block, hidden = f"{name}.transformer.{number}", int(width * config["mlp_ratio"])
            norm(f"{block}.ln_1", width)
            norm(f"{block}.ln_2", width)
            made[f"{block}.attn.in_proj_weight"] = rng.normal(size=(3 * width, width)) * 0.3
            made[f"{block}.attn.in_proj_bias"] = rng.normal(size=3 * width) * 0.2
            affine(f"{block}.attn.out_proj", width, width)
            affine(f"{block}.mlp.c_fc", hidden, width)
            affine(f"{block}.mlp.c_proj", width, hidden)
    width, patch = rows["encoder"]["width"], vq["vit_enc_patch_size"]
    affine("encoder.patch_embed", width, 3, patch, patch)
    affine("encoder.conv_out", vq["token_size"], width, 1, 1)
    made["latent_tokens"] = rng.normal(size=(vq["num_latent_tokens"], width))
    made["quantize.embedding.weight"] = rng.normal(size=(vq["codebook_size"], vq["token_size"]))
    width, patch = rows["decoder"]["width"], vq["vit_dec_patch_size"]
    affine("decoder.decoder_embed", width, vq["token_size"])
    made["decoder.mask_token"] = rng.normal(size=(1, 1, width))
    if vq["is_legacy"]:
        affine("decoder.ffn.0", 2 * width, width, 1, 1)
        affine("decoder.ffn.2", config["pixel_decoder"]["codebook_size"], 2 * width, 1, 1)
        port = port_weights(port_config(config["pixel_decoder"]), seed)
        kept = {name: array for name, array in port.items() if not name.startswith("encoder.")}
        made |= {f"pixel_{name}": array for name, array in kept.items()}
    else:
        affine("decoder.ffn.0", 3 * patch**2, width, 1, 1)
        affine("decoder.conv_out", 3, 3, 3, 3)
    return {name: array.astype(np.float32) for name, array in made.items()}


class Reference:
    def __init__(self, config, tensors):
        self.config = config
        self.tensors = {name: np.asarray(array, np.float64) for name, array in tensors.items()}
        self.vq, self.side, self.rows = parts(config)

    def affine(self, x, name):
        """Over the last axis; kernels of one pixel are maps."""
        weight = self.tensors[f"{name}.weight"]
        return x @ weight.reshape(len(weight), -1).T + self.tensors[f"{name}.bias"]

    def norm(self, x, name):
        centred = x - x.mean(axis=-1, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        return unit * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def attention(self, x, name, heads):
        weight, bias = (self.tensors[f"{name}.in_proj_{kind}"] for kind in ("weight", "bias"))
        q, k, v = np.split(x @ weight.T + bias, 3, axis=-1)
        mixed = []
        for cut in np.split(np.arange(x.shape[-1]), heads):
            logits = q[..., cut] @ k[..., cut].swapaxes(1, 2) / math.sqrt(len(cut))
            mixed.append(softmax(logits) @ v[..., cut])
        return self.affine(np.concatenate(mixed, axis=-1), f"{name}.out_proj")

    def run(self, cells, tokens, name):
        """(cells, tokens) after the blocks and the last norm."""
        first = np.broadcast_to(
            self.tensors[f"{name}.class_embedding"], (len(cells), 1, cells.shape[-1])
        )
        cells = np.concatenate([first, cells], axis=1)
        cells = cells + self.tensors[f"{name}.positional_embedding"]
        tokens = tokens + self.tensors[f"{name}.latent_token_positional_embedding"]
        x = self.norm(np.concatenate([cells, tokens], axis=1), f"{name}.ln_pre")
        for number in range(self.rows[name]["layers"]):
            block = f"{name}.transformer.{number}"
            heads = self.rows[name]["heads"]
            x = x + self.attention(self.norm(x, f"{block}.ln_1"), f"{block}.attn", heads)
            hidden = self.affine(self.norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
            hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
            x = x + self.affine(hidden, f"{block}.mlp.c_proj")
        x = self.norm(x, f"{name}.ln_post")
        return x[:, 1 : cells.shape[1]], x[:, cells.shape[1] :]

    def latents(self, pixels):
        """(B, K, C)."""
        patch, kernel = self.vq["vit_enc_patch_size"], self.tensors["encoder.patch_embed.weight"]
        cells = np.asarray(pixels, np.float64)
        grid = self.side // patch
        cells = cells.reshape(len(cells), grid, patch, grid, patch, 3)
        cells = np.einsum("brycxi,oiyx->brco", cells, kernel)
        cells = cells.reshape(len(cells), grid**2, -1) + self.tensors["encoder.patch_embed.bias"]
        queries = self.tensors["latent_tokens"]
        _, x = self.run(cells, np.broadcast_to(queries, (len(cells), *queries.shape)), "encoder")
        if self.vq["is_legacy"]:
            count, width = queries.shape
            x = np.stack([[row.ravel()[k::count] for k in range(count)] for row in x])
            assert x.shape[1:] == (count, width)
        return self.affine(x, "encoder.conv_out")

    @property
    def codes(self):
        rows = self.tensors["quantize.embedding.weight"]
        return unit(rows) if self.vq["use_l2_norm"] else rows

    def nearest(self, z):
        """Ids (B, K), and by how much each beats the second best."""
        z = unit(z) if self.vq["use_l2_norm"] else z
        distance = ((z[:, :, None] - self.codes) ** 2).sum(axis=-1)
        two = np.sort(distance, axis=-1)[..., :2]
        return distance.argmin(axis=-1), (two[..., 1] - two[..., 0]).min()

    def decode(self, ids):
        """Pixels (B, H, W, 3) of ids (B, K)."""
        patch = self.vq["vit_dec_patch_size"]
        grid = self.side // patch
        tokens = self.affine(self.codes[ids], "decoder.decoder_embed")
        masks = np.broadcast_to(
            self.tensors["decoder.mask_token"], (len(ids), grid**2, tokens.shape[-1])
        )
        x, _ = self.run(masks, tokens, "decoder")
        x = self.affine(x.reshape(len(ids), grid, grid, -1), "decoder.ffn.0")
        if self.vq["is_legacy"]:
            chances = softmax(self.affine(np.tanh(x), "decoder.ffn.2"))
            named = {
                name.removeprefix("pixel_"): array
                for name, array in self.tensors.items()
                if name.startswith("pixel_")
            }
            port = Port(port_config(self.config["pixel_decoder"]), named)
            return port.decode_codes(chances @ port.codes)
        pixels = np.zeros((len(ids), self.side, self.side, 3))
        for channel in range(3):
            for row in range(patch):
                for column in range(patch):
                    place = (row * patch + column) * 3 + channel
                    pixels[:, row::patch, column::patch, channel] = x[..., place]
        return Network(self.tensors, 1, 0).conv(pixels, "decoder.conv_out")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)
