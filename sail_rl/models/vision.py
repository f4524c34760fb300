"""SAIL-ViT at any resolution, and the conversion of its patches to visual tokens, for both trainer and vLLM.

The images of a batch are flattened patches: `pixel_values` [P, 3 x 14 x 14] holds them row by row within each tile, and
`image_grid_thw` [images, 3] holds each image's number of tiles and the rows and columns of patches per tile. This is
the convention of Qwen2-VL (arXiv 2409.12191), with tiles as its temporal axis.
"""

from __future__ import annotations

from itertools import groupby
from math import isqrt
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.aimv2.configuration_aimv2 import Aimv2VisionConfig
from transformers.models.aimv2.modeling_aimv2 import Aimv2Attention, Aimv2VisionModel, eager_attention_forward

Grid = tuple[int, int, int]
"""(tiles, rows, columns) of one image; rows and columns count patches."""


def interpolate_positions(table: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Position embeddings [rows x columns, C], interpolated from the trained square grid of `table` [N, C].

    The interpolation is bicubic in float32, with aligned pixel centres (`align_corners=False`) and no antialiasing, as
    in DINO (arXiv 2104.14294, `interpolate_pos_encoding`) and transformers' ViT. For the trained grid, the result is
    `table` itself.
    """
    side = isqrt(len(table))
    if (rows, columns) == (side, side):
        return table
    square = table.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = interpolate(square, size=(rows, columns), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(rows * columns, -1).to(table.dtype)


def pixel_shuffle(features: torch.Tensor, grid: Grid, *, side: int, version: str) -> torch.Tensor:
    """Merge each `side` x `side` square of patches into one visual token.

    Args:
        features: [tiles x rows x columns, channels] of one image.
        grid: its (tiles, rows, columns), with rows and columns that are multiples of `side`.
        side: 2 in every published model.
        version: the order of a tile's tokens: "v2" row by row, "v1" column by column (InternVL's `ps_version`).

    Returns:
        [patches / side², channels x side²], ordered within a token by (row, column, channel) of its square.
    """
    tiles, rows, columns = grid
    squares = features.reshape(tiles, rows // side, side, columns // side, side, -1).permute(0, 1, 3, 2, 4, 5)
    if version == "v1":
        squares = squares.transpose(1, 2)
    return squares.reshape(tiles * rows * columns // side**2, -1)


class SailViTAttention(Aimv2Attention):
    """AIMv2's attention over the concatenated patches of many tiles, each of which attends to itself only."""

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: list[tuple[int, int]], **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """Attend within tiles.

        Args:
            hidden_states: [1, P, C], the concatenated tiles.
            attention_mask: instead of a mask, runs of equally large tiles as (tiles, patches per tile) that cover P, in
                the argument that AIMv2's layer passes on. No [P, P] mask is built, with any attention implementation.
        """
        heads = (-1, self.num_heads, self.head_dim)
        inputs = [proj(hidden_states[0]).view(heads) for proj in (self.q_proj, self.k_proj, self.v_proj)]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.dropout if self.training else 0.0
        outputs, start = [], 0
        for tiles, patches in attention_mask:
            end = start + tiles * patches
            query, key, value = (x[start:end].view(tiles, patches, *heads[1:]).transpose(1, 2) for x in inputs)
            part, _ = attend(self, query, key, value, None, is_causal=False, scaling=self.scale, dropout=dropout)
            outputs.append(part.reshape(tiles * patches, -1))
            start = end
        return self.out_proj(torch.cat(outputs))[None], None


class SailViT(Aimv2VisionModel):
    """AIMv2's encoder for flattened patches of any grids, with transformers' parameter names.

    Each layer is called once for any number of images and grids, so that ZeRO-3's collectives match across ranks.
    """

    def __init__(self, config: Aimv2VisionConfig) -> None:
        if config.is_native:
            raise ValueError("vision_config.is_native is true: SAIL-ViT has learned positions; set it to false")
        super().__init__(config)
        for layer in self.encoder.layers:
            layer.attention.__class__ = SailViTAttention  # keeps the initialised parameters

    def forward(self, pixel_values: torch.Tensor, grids: list[Grid], *, select_layer: int = -1) -> torch.Tensor:
        """Encode images.

        Args:
            pixel_values: [P, 3 x patch²], see the module's docstring.
            grids: the (tiles, rows, columns) of each image.
            select_layer: the hidden state to return, see `SailVLConfig`.

        Returns:
            [P, C].
        """
        depth = len(self.encoder.layers)
        if not -depth - 1 <= select_layer <= depth:
            raise ValueError(f"select_layer is {select_layer}, but the vision encoder has {depth} layers")
        layers = range(depth + 1)[select_layer]  # hidden state k is the input of block k; the last state is normalised
        hidden = self._embed(pixel_values, grids)[None]
        sizes = [rows * columns for tiles, rows, columns in grids for _ in range(tiles)]
        runs = [(len(list(tiles)), patches) for patches, tiles in groupby(sizes)]
        for layer in self.encoder.layers[:layers]:
            hidden = layer(hidden, attention_mask=runs)
        return self.rms_norm(hidden)[0] if layers == depth else hidden[0]

    def _embed(self, pixel_values: torch.Tensor, grids: list[Grid]) -> torch.Tensor:
        """Patch and position embeddings [P, C]; calls modules, because ZeRO-3 gathers weights on calls."""
        embeddings = self.embeddings
        size = (self.config.num_channels, self.config.patch_size, self.config.patch_size)
        if sum(tiles * rows * columns for tiles, rows, columns in grids) != len(pixel_values):
            raise ValueError(
                f"pixel_values has {len(pixel_values)} patches, which doesn't match the image grids {grids}"
            )
        patches = embeddings.patch_embed(pixel_values.to(self.dtype).view(-1, *size)).flatten(1)
        table = embeddings.position_embedding(embeddings.position_ids)[0]
        by_grid = {grid[1:]: interpolate_positions(table, *grid[1:]) for grid in grids}
        positions = torch.cat([by_grid[grid[1:]].repeat(grid[0], 1) for grid in grids])
        return embeddings.rms_norm(patches) + positions


def as_grids(image_grid_thw: torch.Tensor) -> list[Grid]:
    """`image_grid_thw` as a list of grids."""
    return [(tiles, rows, columns) for tiles, rows, columns in image_grid_thw.tolist()]


def visual_tokens(grid: Grid, *, side: int) -> int:
    """The number of visual tokens of an image after a pixel shuffle of `side`."""
    tiles, rows, columns = grid
    return tiles * (rows // side) * (columns // side)


def encode_images(
    tower: SailViT, projector: nn.Module, config: Any, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor
) -> list[torch.Tensor]:
    """The visual tokens [tokens, hidden size of the language model] of each image: encoder, pixel shuffle, adapter."""
    grids = as_grids(image_grid_thw)
    patches = tower(pixel_values, grids, select_layer=config.select_layer)
    by_image = patches.split([tiles * rows * columns for tiles, rows, columns in grids])
    shuffled = [
        pixel_shuffle(image, grid, side=config.shuffle, version=config.ps_version)
        for image, grid in zip(by_image, grids, strict=True)
    ]
    return list(projector(torch.cat(shuffled)).split([len(image) for image in shuffled]))


def repeat_images(
    pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, *, tokens: list[int], side: int, times: int
) -> dict[str, torch.Tensor]:
    """The images of a batch whose rows have these numbers of image `tokens`, with each row's repeated `times` times."""
    grids = as_grids(image_grid_thw)
    patches = pixel_values.split([tiles * rows * columns for tiles, rows, columns in grids])
    order, first = [], 0
    for wanted in tokens:
        last = first
        while wanted > 0:
            wanted -= visual_tokens(grids[last], side=side)
            last += 1
        order += list(range(first, last)) * times
        first = last
    return {"pixel_values": torch.cat([patches[image] for image in order]), "image_grid_thw": image_grid_thw[order]}
