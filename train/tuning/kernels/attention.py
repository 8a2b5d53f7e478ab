"""Attention over rows laid end to end, so that nothing is padded: registered with transformers as `govor_varlen`.

On a GPU torch's own variable-length flash attention (torch.nn.attention.varlen, float16 and bfloat16); elsewhere, and
for what that cannot do, scaled_dot_product_attention row by row. transformers makes no mask for it: the ends of the
rows come as `cu_seq_lens_q`, and a batch without them is causal and, if at all, padded on the right, where no trained
token looks.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

NAME = "govor_varlen"
FOREIGN = ("softcap", "s_aux", "position_bias", "cache", "block_table")
"""What some families give their attention and this one would leave out."""


def register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention)


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
    elif _flash_runs(query, value, dropout):
        out = _flash(query, key, value, scaling, sliding_window, cu_seq_lens_q, max_length_q)
    else:
        lengths = cu_seq_lens_q.diff().tolist()
        rows = zip(*(part.split(lengths, dim=2) for part in (query, key, value)), strict=True)
        out = torch.cat([_plain(q, k, v, dropout, scaling, sliding_window) for q, k, v in rows], dim=1)
    return out, None


def _flash_runs(query: Tensor, value: Tensor, dropout: float) -> bool:
    fits = query.shape[-1] == value.shape[-1] <= 256 and query.shape[-1] % 8 == 0
    return query.is_cuda and fits and dropout == 0 and query.dtype in (torch.float16, torch.bfloat16)


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
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[None]


def _plain(
    query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float | None, sliding_window: int | None
) -> Tensor:
    groups, tokens = query.shape[1] // key.shape[1], query.shape[2]
    if groups > 1 and not query.is_cuda:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    mask = None
    if sliding_window is not None and tokens > sliding_window:
        ones = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device)
        mask = ones.tril().triu(1 - sliding_window)
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
