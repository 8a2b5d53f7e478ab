"""Attention over rows laid end to end, so that nothing is padded: registered with transformers as `govor_varlen`.

On a GPU torch's own variable-length flash attention (torch.nn.attention.varlen, float16 and bfloat16); elsewhere, and
for what that cannot do, scaled_dot_product_attention row by row. transformers makes no mask for it: the ends of the
rows come as `cu_seq_lens_q`, and a batch without them is causal and, if at all, padded on the right, where no trained
token looks.

Where several queries share a key, only flash attention takes the keys as they are. On other paths they are repeated:
asked with `enable_gqa`, scaled_dot_product_attention would fall to the plain mathematics, which keeps tokens² numbers.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

NAME = "govor_varlen"
FOREIGN = ("softcap", "s_aux", "position_bias", "cache", "block_table")
"""What some families give their attention and this one would leave out."""


def put_in(base: Any) -> None:
    """Let a model of transformers attend by this."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention)
    base.set_attn_implementation(NAME)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """query [rows, heads, tokens, width], key and value with as many heads or fewer → [rows, tokens, heads, width]."""
    unknown = [name for name in FOREIGN if more.get(name) is not None]
    if unknown or not getattr(module, "is_causal", True) or more.get("is_causal") is False:
        raise NotImplementedError(f"{NAME} knows no {', '.join(unknown) or 'attention that is not causal'}")
    if cu_seq_lens_q is None or max_length_q is None:
        out = _plain(query, key, value, dropout, scaling, sliding_window)
    elif dropout == 0 and _flash_runs(query, value):
        out = _flash(query, key, value, scaling, sliding_window, cu_seq_lens_q, max_length_q)
    else:
        lengths = cu_seq_lens_q.diff().tolist()
        rows = zip(*(part.split(lengths, dim=2) for part in (query, key, value)), strict=True)
        out = torch.cat([_plain(q, k, v, dropout, scaling, sliding_window) for q, k, v in rows], dim=1)
    return out, None


def has_flash(device: torch.device) -> bool:
    """Whether torch's flash attention runs there: NVIDIA's cards from Ampere on."""
    return device.type == "cuda" and bool(torch.cuda.get_device_capability(device) >= (8, 0))


def _flash_runs(query: Tensor, value: Tensor) -> bool:
    fits = query.shape[-1] == value.shape[-1] <= 256 and query.shape[-1] % 8 == 0
    return fits and query.dtype in (torch.float16, torch.bfloat16) and has_flash(query.device)


def _flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    sliding_window: int | None,
    cu_seq_lens: Tensor,
    longest: int,
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    grouped = {}
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in inspect.signature(varlen_attn).parameters:
            grouped = {"enable_gqa": True}
        else:  # torch 2.11
            key, value = _repeated(key, value, query.shape[1])
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))  # [tokens, heads, width]
    out = varlen_attn(
        q,
        k,
        v,
        cu_seq_lens,
        cu_seq_lens,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        **grouped,
    )
    return out[None]


def _plain(
    query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float | None, sliding_window: int | None
) -> Tensor:
    tokens, mask = query.shape[2], None
    if sliding_window is not None and tokens > sliding_window:
        ones = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device)
        mask = ones.tril().triu(1 - sliding_window)
    if query.shape[1] != key.shape[1] and (mask is not None or not _flash_runs(query, value)):
        key, value = _repeated(key, value, query.shape[1])
    out = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return out.transpose(1, 2)


def _repeated(key: Tensor, value: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Keys and values [rows, heads, tokens, width] once for each query's head."""
    times = heads // key.shape[1]
    return key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
