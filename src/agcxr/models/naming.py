"""Other programs' names of the tensors of networks that timm has as well: EfficientNet-PyTorch's and transformers'."""

from __future__ import annotations

import re

import timm
import torch
from torch import Tensor

State = dict[str, Tensor]

STEMS_AND_HEADS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
"""EfficientNet-PyTorch's modules and timm's: around the blocks, in blocks without and with an expansion, in both."""

PATCHES = re.compile(r"embeddings\.patch_embeddings\.(?:projection\.)?weight$")
"""By this name transformers' ViT, DINOv2 and DINOv3 are known."""
TRANSFORMERS = [
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
    (r"^(?:encoder\.|model\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.(?:attention\.)?(?:query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(?:attention\.)?(?:key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:attention\.)?(?:value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.(?:intermediate\.dense|mlp\.up_proj|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"\.(?:output\.dense|mlp\.down_proj|mlp\.weights_out)\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
]
"""Their names to timm's, one rule after the other."""


def renamed(state: State, own: State, architecture: str) -> State:
    """A state dict under timm's names of the network whose tensors are `own`, where it has another program's; else as
    it is. Raises ValueError for EfficientNet-PyTorch's weights and a network with another padding than theirs."""
    if any(name.rpartition("_conv_stem.")[1] for name in state):
        return _from_efficientnet_pytorch(state, own, architecture)
    patches = next((match for match in map(PATCHES.search, state) if match), None)
    return _from_transformers(state, patches.string[: patches.start()], own) if patches else state


def _from_efficientnet_pytorch(state: State, own: State, architecture: str) -> State:
    """Blocks are counted through all stages there; their padding is TensorFlow's."""
    if timm.is_model(f"tf_{architecture}"):
        raise ValueError(
            f"its names are EfficientNet-PyTorch's, whose padding is TensorFlow's, and {architecture} would compute "
            f"otherwise with the same tensors; give --backbone tf_{architecture}"
        )
    places = sorted({tuple(map(int, name.split(".")[1:3])) for name in own if name.startswith("blocks.")})
    prefix = next(name.partition("_conv_stem.")[0] for name in state if "_conv_stem." in name)
    out: State = {}
    for name, value in state.items():
        parts = name.removeprefix(prefix).split(".")
        if parts[0] != "_blocks":
            out[".".join([STEMS_AND_HEADS.get(parts[0], parts[0]), *parts[1:]])] = value
            continue
        block = int(parts[1]) if parts[1].isdecimal() else len(places)
        place = f"blocks.{places[block][0]}.{places[block][1]}" if block < len(places) else f"blocks.{parts[1]}"
        modules = INVERTED if f"{prefix}_blocks.{parts[1]}._expand_conv.weight" in state else SEPARABLE
        out[".".join([place, (modules | SQUEEZE).get(parts[2], parts[2]), *parts[3:]])] = value
    return out


def _from_transformers(state: State, prefix: str, own: State) -> State:
    """Queries, keys and values are joined; with registers, the class token takes its position along (as in timm)."""
    out: State = {}
    for name, value in state.items():
        if not name.startswith(prefix):
            continue
        name = name.removeprefix(prefix)
        for pattern, replacement in TRANSFORMERS:
            name = re.sub(pattern, replacement, name)
        if "blocks.0.gamma_1" in own:
            name = re.sub(r"\.ls([12])\.gamma$", r".gamma_\1", name)
        out[name] = value
    out.pop("mask_token", None)
    for name in [name for name in out if name.endswith(".attn.q.weight")]:
        _join(out, name.removesuffix("q.weight"), own)
    if "register_tokens" in out:
        out["reg_token"] = out.pop("register_tokens")
        if "pos_embed" in out and "cls_token" in out:
            out["cls_token"] = out["cls_token"] + out["pos_embed"][:, :1]
            out["pos_embed"] = out["pos_embed"][:, 1:]
    return out


def _join(state: State, attention: str, own: State) -> None:
    """One tensor of queries, keys and values in place of three. Biases stay apart where the network has them so, and go
    where it has none and they are zero."""
    weights = [state.pop(f"{attention}{part}.weight", None) for part in "qkv"]
    biases = {part: state.pop(f"{attention}{part}.bias", None) for part in "qkv"}
    if all(weight is not None for weight in weights):
        state[f"{attention}qkv.weight"] = torch.cat([weight for weight in weights if weight is not None])
    given = {part: bias for part, bias in biases.items() if bias is not None}
    if len(given) == 3 and f"{attention}q_bias" not in own:
        given = {"qkv": torch.cat(list(given.values()))}
    for part, bias in given.items():
        name = f"{attention}qkv.bias" if part == "qkv" else f"{attention}{part}_bias"
        if name in own or bool(bias.any()):
            state[name] = bias
