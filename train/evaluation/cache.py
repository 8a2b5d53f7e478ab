"""A cache of keys and values with room for the tokens to come."""

from typing import Any

import torch
from transformers import DynamicCache, DynamicLayer

from train.core.compat import sliding_cache_layer_class

DynamicSlidingWindowLayer: Any = sliding_cache_layer_class()

ROOM = 128
"""Tokens for which a buffer that is made has room."""


def roomy_cache(config: Any) -> DynamicCache | None:
    """An empty cache for a model of this config; None where its layers keep more than keys and values.

    transformers' own copies all that it holds at every token, which is most of a step of many rows.
    """
    cache = DynamicCache(config=config)
    if not {type(layer) for layer in cache.layers} <= {DynamicLayer, DynamicSlidingWindowLayer}:
        return None
    cache.layers = [SlidingLayer(layer.sliding_window) if layer.is_sliding else FullLayer() for layer in cache.layers]
    return cache


class Buffer:
    """Keys or values of a layer, [rows, heads, tokens, width], with room behind them."""

    def __init__(self) -> None:
        self.whole = torch.empty(0, 0, 0, 0)
        self.end = 0

    def join(self, kept: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """What torch.cat gives of them; `kept` is copied only where no room is behind it, or its rows have changed."""
        length, added = kept.shape[-2] if kept.numel() else 0, new.shape[-2]
        same = kept.untyped_storage().data_ptr() == self.whole.untyped_storage().data_ptr()
        if not same or self.end + added > self.whole.shape[-2]:
            whole = new.new_empty(*new.shape[:2], length + added + ROOM, new.shape[-1])
            if length:
                whole[:, :, :length] = kept
            self.whole, self.end = whole, length
        self.whole[:, :, self.end : self.end + added] = new
        self.end += added
        return self.whole[:, :, self.end - added - length : self.end]


class FullLayer(DynamicLayer):
    """Every token's keys and values."""

    keys: torch.Tensor
    values: torch.Tensor

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.buffers = Buffer(), Buffer()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self.buffers
        self.keys, self.values = keys.join(self.keys, key_states), values.join(self.values, value_states)
        return self.keys, self.values


class SlidingLayer(FullLayer, DynamicSlidingWindowLayer):
    """Keys and values of the window before the next token."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        whole = super().update(key_states, value_states)
        self.cumulative_length += key_states.shape[-2]
        self.keys, self.values = (kept[:, :, -self.sliding_window + 1 :] for kept in whole)
        return whole
