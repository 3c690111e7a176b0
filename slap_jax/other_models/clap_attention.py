"""The window attention of ClapModel with one product for queries, keys and values, and the fused kernel of PyTorch."""

from typing import Any

from slap_jax.other_models.torch_models import packed_linear


def speed_up_attention(tower: Any) -> None:
    """Replaces the window attention of the audio tower of a `ClapModel` on a CPU; results differ by rounding.

    What has another form, in another version of transformers, stays as it is.
    """
    for name, child in tower.named_children():
        faster = _window_attention(child) if type(child).__name__ == "ClapAudioSelfAttention" else None
        if faster is not None:
            setattr(tower, name, faster)
        else:
            speed_up_attention(child)


def _window_attention(module: Any) -> Any:
    """Returns a module with the interface and the result of transformers' `ClapAudioSelfAttention`, or None."""
    import torch

    try:
        parts = (module.query, module.key, module.value)
        weight = torch.cat([part.weight for part in parts])
        bias = None if module.query.bias is None else torch.cat([part.bias for part in parts])
        heads = module.num_attention_heads
        index, table = module.relative_position_index, module.relative_position_bias_table.detach()
        position_bias = table[index.reshape(-1)].reshape(*index.shape, heads).permute(2, 0, 1).contiguous()
    except AttributeError:
        return None
    joint = packed_linear(weight, bias)
    if joint is None:
        return None

    class WindowAttention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.joint = joint
            self.register_buffer("position_bias", position_bias[None], persistent=False)

        def forward(self, hidden_states: Any, attention_mask: Any = None, output_attentions: bool = False) -> Any:
            windows, tokens, width = hidden_states.shape
            split = self.joint(hidden_states).view(windows, tokens, 3, heads, width // heads)
            query, key, value = split.permute(2, 0, 3, 1, 4)
            bias = self.position_bias
            if attention_mask is not None:  # one for each window of a clip
                bias = (bias + attention_mask[:, None]).repeat(windows // len(attention_mask), 1, 1, 1)
            attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
            return (attended.transpose(1, 2).reshape(windows, tokens, width),)

    return WindowAttention()
