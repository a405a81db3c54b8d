"""The arithmetic of transformers' Qwen3-VL for batches whose pictures have one grid, as torch.compile likes it.

Uses the parameters of the genuine module; tests hold its logits equal to the module's own forward.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x.float(), x.shape[-1:], weight.float(), 1e-6).to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), 1e-6).to(x.dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def vision_block(x: Tensor, cos: Tensor, sin: Tensor, heads: int, p: tuple[Tensor, ...]) -> Tensor:
    """x [B, N, C]; cos, sin [N, C / heads]."""
    n1w, n1b, qkvw, qkvb, pw, pb, n2w, n2b, f1w, f1b, f2w, f2b = p
    batch, length, width = x.shape
    q, k, v = linear(layer_norm(x, n1w, n1b), qkvw, qkvb).view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(rotate(q, cos, sin).to(x.dtype), rotate(k, cos, sin).to(x.dtype), v)
    x = x + linear(out.transpose(1, 2).reshape(batch, length, width), pw, pb)
    return x + linear(F.gelu(linear(layer_norm(x, n2w, n2b), f1w, f1b), approximate="tanh"), f2w, f2b)


def text_block(x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, heads: int, p: tuple[Tensor, ...]) -> Tensor:
    """x [B, T, C]; cos, sin [B, 1, T, head_dim]; mask bool [B, 1, T, T], true where a token may look."""
    n1, qw, kw, vw, ow, qn, kn, n2, gw, uw, dw = p
    batch, length, _ = x.shape
    h = rms_norm(x, n1)
    q, k, v = (linear(h, w).view(batch, length, -1, qn.shape[0]).transpose(1, 2) for w in (qw, kw, vw))
    q, k = rotate(rms_norm(q, qn), cos, sin).to(x.dtype), rotate(rms_norm(k, kn), cos, sin).to(x.dtype)
    k, v = (t.repeat_interleave(heads // t.shape[1], 1) for t in (k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    x = x + linear(out.transpose(1, 2).reshape(batch, length, -1), ow)
    h = rms_norm(x, n2)
    return x + linear(F.silu(linear(h, gw)) * linear(h, uw), dw)


def merge(x: Tensor, norm_after: bool, p: tuple[Tensor, ...]) -> Tensor:
    """[B, N, C] -> [B, N / 4, out]: four neighbouring patches become one token."""
    nw, nb, f1w, f1b, f2w, f2b = p
    batch, length, width = x.shape
    x = (
        layer_norm(x.reshape(batch, length // 4, 4 * width), nw, nb)
        if norm_after
        else layer_norm(x, nw, nb).reshape(batch, length // 4, 4 * width)
    )
    return linear(F.gelu(linear(x, f1w, f1b)), f2w, f2b)


def vision_parameters(block: Any) -> tuple[Tensor, ...]:
    a, m = block.attn, block.mlp
    layers = (block.norm1, a.qkv, a.proj, block.norm2, m.linear_fc1, m.linear_fc2)
    return tuple(t for layer in layers for t in (layer.weight, layer.bias))


def text_parameters(layer: Any) -> tuple[Tensor, ...]:
    a, m = layer.self_attn, layer.mlp
    parts = (layer.input_layernorm, a.q_proj, a.k_proj, a.v_proj, a.o_proj, a.q_norm, a.k_norm)
    return tuple(p.weight for p in (*parts, layer.post_attention_layernorm, m.gate_proj, m.up_proj, m.down_proj))


def merger_parameters(merger: Any) -> tuple[Tensor, ...]:
    return tuple(t for layer in (merger.norm, merger.linear_fc1, merger.linear_fc2) for t in (layer.weight, layer.bias))


class FastForward:
    """Takes a batch of pictures of one grid; returns the decoder's last normed hidden states [B, T, C]."""

    def __init__(self, model: Qwen3VLForConditionalGeneration, compile: Callable = lambda f: f):
        self.model = model
        self.vision_block, self.text_block, self.merge = compile(vision_block), compile(text_block), compile(merge)
        self.grids: dict[tuple[int, int], tuple[Tensor, ...]] = {}
        self.first: int | None = None  # where the picture starts: the same in every batch

    def grid(self, rows: int, columns: int) -> tuple[Tensor, ...]:
        """Position indices [N, 4], their weights [N, 4], rotary cos and sin [N, head_dim] of a grid of cells."""
        if (rows, columns) not in self.grids:
            visual = self.model.model.visual
            thw = torch.tensor([[1, 2 * rows, 2 * columns]], device=visual.pos_embed.weight.device)
            indices, weights = get_vision_interpolation_indices_and_weights(
                thw,
                num_grid_per_side=visual.num_grid_per_side,
                mode="bilinear",
                align_corners=True,
                spatial_merge_size=2,
            )
            cos, sin = visual.rotary_pos_emb(weights, get_vision_position_ids(thw, 2))
            self.grids[rows, columns] = (indices, weights, cos, sin)
        return self.grids[rows, columns]

    def vision(self, pixels: Tensor, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
        """pixels uint8 [B, H, W, 3] -> picture tokens [B, N, C] and DeepStack features, one [B, N, C] a level."""
        visual = self.model.model.visual
        batch, height, width, _ = pixels.shape
        rows, columns = height // 32, width // 32
        x = pixels.view(batch, rows, 2, 16, columns, 2, 16, 3).permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(batch, -1, 768)
        x = (x.to(dtype) / 127.5 - 1.0).to(dtype)
        proj = visual.patch_embed.proj
        x = linear(x, proj.weight.sum(2).flatten(1), proj.bias)  # both frames of a still picture are the same
        indices, weights, cos, sin = self.grid(rows, columns)
        x = x + (F.embedding(indices, visual.pos_embed.weight) * weights[..., None]).sum(1).to(dtype)
        deep: list[Tensor] = []
        for i, block in enumerate(visual.blocks):
            x = self.vision_block(x, cos, sin, block.attn.num_heads, vision_parameters(block))
            if i in visual.deepstack_visual_indexes:
                merger = visual.deepstack_merger_list[len(deep)]
                deep.append(self.merge(x, True, merger_parameters(merger)))
        return self.merge(x, False, merger_parameters(visual.merger)), deep

    def __call__(self, pixels: Tensor, ids: Tensor, branch: Tensor, position: Tensor, dtype: torch.dtype) -> Tensor:
        text = self.model.model.language_model
        image, deep = self.vision(pixels, dtype)
        if self.first is None:
            self.first = int((ids[0] == self.model.config.image_token_id).nonzero()[0])
        first = self.first
        cells = slice(first, first + image.shape[1])
        before, after = (
            F.embedding(i, text.embed_tokens.weight).to(dtype) for i in (ids[:, :first], ids[:, cells.stop :])
        )
        x = torch.cat((before, image, after), 1)
        cos, sin = text.rotary_emb(text.norm.weight, position)  # FP32 whatever the activations
        mask = question_mask(branch)
        for i, layer in enumerate(text.layers):
            x = self.text_block(
                x, cos[:, None], sin[:, None], mask, layer.self_attn.config.num_attention_heads, text_parameters(layer)
            )
            if i < len(deep):
                x = torch.cat((x[:, :first], x[:, cells] + deep[i], x[:, cells.stop :]), 1)
        return rms_norm(x, text.norm.weight)


def question_mask(branch: Tensor) -> Tensor:
    """bool [B, 1, T, T]: causal; a question sees the prefix (branch 0) and itself; padding (-1) sees only padding."""
    same = branch[:, :, None] == branch[:, None, :]
    prefix = (branch == 0)[:, None, :] & (branch >= 0)[:, :, None]
    causal = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool, device=branch.device).tril()
    return ((same | prefix) & causal)[:, None]
