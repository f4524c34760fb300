"""Images of every kind against independent calculations: tiles, padded tiles, AnyRes, positions, mixed batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture, question
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.aimv2.modeling_aimv2 import Aimv2VisionModel
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from sail_rl.data.encoding import Encoder
from sail_rl.data.packing import collate
from sail_rl.models import SailVLForConditionalGeneration, SailVLImageProcessor, SailVLProcessor
from sail_rl.models.images import cut
from sail_rl.models.loading import load_model
from sail_rl.models.resolution import native, padded, tiled
from sail_rl.models.vision import SailViT, interpolate_positions, pixel_shuffle

TILE = {"height": 56, "width": 56}
MODES = ("tiles", "padded", "anyres")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def image_processor(resolution: str, **options: object) -> SailVLImageProcessor:
    return SailVLImageProcessor(**{"size": TILE, "resolution": resolution, "max_pixels": 112 * 112, **options})


def process(images: list[Image.Image], resolution: str = "tiles", **options: object) -> dict[str, torch.Tensor]:
    return image_processor(resolution, **options)(images, return_tensors="pt")


def normalised(image: Image.Image) -> np.ndarray:
    """[3, H, W], by hand."""
    return ((np.asarray(image) / 255 - MEAN) / STD).transpose(2, 0, 1)


def unpatched(patches: torch.Tensor, grid: list[int]) -> torch.Tensor:
    """Tiles [tiles, 3, H, W] put together from patches, one by one."""
    tiles, rows, columns = grid
    made = torch.zeros(tiles, 3, rows * 14, columns * 14)
    for index, patch in enumerate(patches):
        tile, place = divmod(index, rows * columns)
        row, column = divmod(place, columns)
        made[tile, :, 14 * row : 14 * row + 14, 14 * column : 14 * column + 14] = patch.reshape(3, 14, 14)
    return made


class TestArithmetic:
    @pytest.mark.parametrize(
        ("image", "grid", "thumbnail"),
        [
            ((448, 448), (1, 1), False),
            ((448, 896), (1, 2), True),
            ((1344, 448), (3, 1), True),
            ((10, 9), (1, 1), False),
        ],
    )
    def test_tiling_by_hand(self, image: tuple[int, int], grid: tuple[int, int], thumbnail: bool) -> None:
        layout = tiled(image, tile=(448, 448), min_tiles=1, max_tiles=12, thumbnail=True)
        assert (layout.rows, layout.columns, layout.thumbnail is not None) == (*grid, thumbnail)
        assert layout.content == (grid[0] * 448, grid[1] * 448)

    @pytest.mark.parametrize(
        ("image", "content", "tiles"),
        [
            ((448, 448), (448, 448), 1),  # fits one tile: no thumbnail
            ((300, 896), (300, 896), 3),  # 2x2 square, the lower row is padding: two tiles and the thumbnail
            ((448, 1344), (448, 1344), 4),  # 3x3 square: three of nine, and the thumbnail
            ((450, 1344), (450, 1344), 7),  # two pixels in the second row of tiles: it counts
            ((100, 4480), (30, 1344), 4),  # at most 12 tiles: a square of 3x3, the image is made smaller
            ((100, 200), (224, 448), 1),
        ],
    )
    def test_padded_tiling_leaves_out_empty_tiles(
        self, image: tuple[int, int], content: tuple[int, int], tiles: int
    ) -> None:
        layout = padded(image, tile=(448, 448), min_tiles=1, max_tiles=12, thumbnail=True)
        assert (layout.content, layout.tiles) == (content, tiles)

    @pytest.mark.parametrize(
        ("image", "size"),
        [
            ((448, 448), (448, 448)),
            ((100, 333), (112, 336)),  # 100 / 28 = 3.57, 333 / 28 = 11.89
            ((3, 3), (28, 28)),
            ((1792, 1792), (1792, 1792)),
            ((3584, 896), (3584, 896)),  # as many pixels, another shape
            ((3584, 3584), (1792, 1792)),
            ((10, 10**6), (28, 112 * 1024)),  # the short side can't shrink: the long one does
        ],
    )
    def test_anyres_by_hand(self, image: tuple[int, int], size: tuple[int, int]) -> None:
        assert native(image, factor=28, max_pixels=1792 * 1792).content == size

    @given(st.integers(1, 20_000), st.integers(1, 20_000))
    def test_anyres_keeps_to_its_limit_and_its_grid(self, height: int, width: int) -> None:
        layout = native((height, width), factor=28, max_pixels=1792 * 1792)
        assert layout.tiles == 1
        assert layout.tile[0] % 28 == layout.tile[1] % 28 == 0
        assert layout.tile[0] * layout.tile[1] // 196 <= 16_384

    @settings(deadline=None, max_examples=60)
    @given(
        st.sampled_from(MODES),
        st.tuples(st.integers(1, 300), st.integers(1, 300)),
        st.integers(1, 9),
        st.booleans(),
        st.booleans(),
    )
    def test_counted_patches_and_tokens_are_those_of_real_processing(
        self, mode: str, size: tuple[int, int], most: int, thumbnail: bool, crop: bool
    ) -> None:
        processor = image_processor(mode, max_patches=most, use_thumbnail=thumbnail, crop_to_patches=crop)
        made = processor([Image.new("RGB", size[::-1])], return_tensors="pt")
        counted = processor.get_number_of_image_patches(*size)
        assert counted == len(made["pixel_values"]) == made["image_grid_thw"].prod()
        assert counted <= processor.get_number_of_image_patches(*processor.largest_size())

    @pytest.mark.parametrize("mode", MODES)
    @given(st.integers(1, 3000), st.integers(1, 3000))
    def test_a_frame_is_one_tile_and_stays_as_it_is(self, mode: str, height: int, width: int) -> None:
        processor = image_processor(mode)
        size = processor.frame_size(height, width)
        layout = processor.layout(*size)
        assert (layout.content, layout.tiles) == (size, 1)
        assert processor.get_number_of_image_patches(*size) <= 16

    def test_an_unknown_resolution_and_a_tile_that_does_not_divide_are_refused(self) -> None:
        with pytest.raises(ValueError, match="'any'; give 'tiles', 'padded' or 'anyres'"):
            image_processor("any")
        with pytest.raises(ValueError, match="give multiples of patch_size x merge_size = 28"):
            SailVLImageProcessor(size={"height": 60, "width": 56})


class TestPixels:
    @pytest.mark.parametrize("size", [(56, 56), (112, 56), (50, 170), (301, 77)])
    def test_fixed_tiles_are_those_of_the_parent_class(self, size: tuple[int, int]) -> None:
        options = {"size": TILE, "crop_to_patches": True, "image_mean": MEAN.tolist(), "image_std": STD.tolist()}
        expected = GotOcr2ImageProcessorPil(**options)([picture(0, *size)], return_tensors="pt")
        made = process([picture(0, *size)])
        assert made["image_grid_thw"].tolist() == [[expected["num_patches"].item(), 4, 4]]
        tiles = unpatched(made["pixel_values"], made["image_grid_thw"][0].tolist())
        torch.testing.assert_close(tiles, expected["pixel_values"].float(), atol=0, rtol=0)

    def test_anyres_is_the_image_itself_resized_once(self) -> None:
        image = picture(0, 90, 40)  # width 90 → 84, height 40 → 28
        made = process([image], "anyres")
        assert made["image_grid_thw"].tolist() == [[1, 2, 6]]
        expected = normalised(image.resize((84, 28), Image.Resampling.BICUBIC))
        torch.testing.assert_close(
            unpatched(made["pixel_values"], [1, 2, 6])[0], torch.tensor(expected).float(), atol=1e-6, rtol=1e-6
        )

    def test_anyres_at_the_trained_resolution_is_the_fixed_tile(self) -> None:
        fixed, anyres = process([picture(0)]), process([picture(0)], "anyres")
        assert torch.equal(fixed["pixel_values"], anyres["pixel_values"])
        assert torch.equal(fixed["image_grid_thw"], anyres["image_grid_thw"])

    def test_padding_is_the_mean_colour_and_only_non_empty_tiles_are_there(self) -> None:
        image = picture(0, 112, 40)
        made = process([image], "padded")
        assert made["image_grid_thw"].tolist() == [[3, 4, 4]]  # of 2x2 tiles the upper two, and the thumbnail
        tiles = unpatched(made["pixel_values"], [3, 4, 4])
        whole = torch.tensor(normalised(image)).float()
        torch.testing.assert_close(tiles[0][:, :40], whole[:, :, :56], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(tiles[1][:, :40], whole[:, :, 56:], atol=1e-6, rtol=1e-6)
        thumbnail = torch.tensor(normalised(image.resize((56, 20), Image.Resampling.BICUBIC))).float()
        torch.testing.assert_close(tiles[2][:, :20], thumbnail, atol=1e-6, rtol=1e-6)
        assert not tiles[:2, :, 40:].any()
        assert not tiles[2, :, 20:].any()

    def test_no_thumbnail_when_it_is_off(self) -> None:
        assert process([picture(0, 112, 56)], use_thumbnail=False)["image_grid_thw"].tolist() == [[2, 4, 4]]

    def test_cut_goes_row_by_row(self) -> None:
        image = np.arange(24.0).reshape(1, 4, 6)
        assert [tile[0, 0, 0] for tile in cut(image, (2, 3))] == [0, 3, 12, 15]


class TestPixelShuffle:
    def test_it_joins_squares_of_patches(self) -> None:
        patches = torch.arange(16)[:, None]  # a 4x4 grid, one channel: patch (row, column) is 4 row + column
        made = pixel_shuffle(patches, (1, 4, 4), side=2, version="v2")
        assert made.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]

    def test_version_1_orders_a_wide_grid_column_by_column(self) -> None:
        patches = torch.arange(2 * 24)[:, None]  # two tiles of 4 rows and 6 columns
        rows = pixel_shuffle(patches, (2, 4, 6), side=2, version="v2")
        columns = pixel_shuffle(patches, (2, 4, 6), side=2, version="v1")
        assert rows[:, 0].tolist() == [0, 2, 4, 12, 14, 16, 24, 26, 28, 36, 38, 40]
        assert columns[:, 0].tolist() == [0, 12, 2, 14, 4, 16, 24, 36, 26, 38, 28, 40]
        assert rows[0].tolist() == columns[0].tolist() == [0, 1, 6, 7]


class TestPositions:
    def test_the_trained_grid_gives_the_table_itself(self) -> None:
        table = torch.randn(16, 8)
        assert interpolate_positions(table, 4, 4) is table

    def test_a_larger_grid_is_the_bicubic_formula(self) -> None:
        """Keys' kernel with a = -0.75 (torch's) at aligned centres, borders repeated: each axis by hand."""
        side, rows, columns = 4, 6, 10
        table = torch.randn(side * side, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

        def kernel(x: float) -> float:
            x, a = abs(x), -0.75
            if x <= 1:
                return (a + 2) * x**3 - (a + 3) * x**2 + 1
            return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

        def axis(length: int) -> torch.Tensor:
            matrix = torch.zeros(length, side, dtype=torch.float64)
            for out in range(length):
                centre = (out + 0.5) * side / length - 0.5
                for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
                    matrix[out, min(max(tap, 0), side - 1)] += kernel(centre - tap)
            return matrix

        square = table.reshape(side, side, 3)
        expected = torch.einsum("ri,cj,ijd->rcd", axis(rows), axis(columns), square).reshape(-1, 3)
        made = interpolate_positions(table.float(), rows, columns)
        torch.testing.assert_close(made, expected.float(), atol=1e-5, rtol=1e-5)


class TestEncoder:
    @pytest.fixture
    def tower(self, model: SailVLForConditionalGeneration) -> SailViT:
        return model.model.vision_tower

    @pytest.fixture
    def reference(self, tower: SailViT) -> Aimv2VisionModel:
        """transformers' own encoder with the same weights."""
        made = Aimv2VisionModel(tower.config).eval()
        made.load_state_dict(tower.state_dict())
        return made

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @torch.no_grad()
    def test_tiles_are_encoded_as_by_transformers_aimv2(
        self, tower: SailViT, reference: Aimv2VisionModel, attention: str
    ) -> None:
        tower.set_attn_implementation(attention)
        inputs = process([picture(0, 112, 56), picture(1)])
        tiles = torch.cat(
            [unpatched(inputs["pixel_values"][:48], [3, 4, 4]), unpatched(inputs["pixel_values"][48:], [1, 4, 4])]
        )
        expected = reference(pixel_values=tiles).last_hidden_state.flatten(0, 1)
        made = tower(inputs["pixel_values"], [(3, 4, 4), (1, 4, 4)])
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_anyres_is_aimv2_with_resized_positions(self, tower: SailViT, reference: Aimv2VisionModel) -> None:
        pixels = unpatched(process([picture(0, 84, 28)], "anyres")["pixel_values"], [1, 2, 6])
        table = reference.embeddings.position_embedding.weight.reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(table, size=(2, 6), mode="bicubic").flatten(2).transpose(1, 2)
        embeddings = reference.embeddings
        hidden = embeddings.rms_norm(embeddings.patch_embed(pixels).flatten(2).transpose(1, 2)) + resized
        expected = reference.rms_norm(reference.encoder(hidden).last_hidden_state)[0]
        made = tower(process([picture(0, 84, 28)], "anyres")["pixel_values"], [(1, 2, 6)])
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_images_of_many_grids_at_once_are_each_encoded_alone(self, tower: SailViT) -> None:
        images = [picture(n, *size) for n, size in enumerate([(84, 28), (56, 56), (28, 84), (112, 112), (28, 28)])]
        together = process(images, "anyres")
        grids = [tuple(grid) for grid in together["image_grid_thw"].tolist()]
        alone = [process([image], "anyres")["pixel_values"] for image in images]
        expected = torch.cat([tower(pixels, [grid]) for pixels, grid in zip(alone, grids, strict=True)])
        torch.testing.assert_close(tower(together["pixel_values"], grids), expected, atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_select_layer_is_the_input_of_a_block_without_the_norm(
        self, tower: SailViT, reference: Aimv2VisionModel
    ) -> None:
        inputs = process([picture(0)])["pixel_values"]
        hidden = reference.embeddings(unpatched(inputs, [1, 4, 4]))
        states = [hidden] + [hidden := layer(hidden) for layer in reference.encoder.layers]
        for select_layer in (-4, -2, 0, 2):
            made = tower(inputs, [(1, 4, 4)], select_layer=select_layer)
            torch.testing.assert_close(made, states[select_layer][0], atol=1e-5, rtol=1e-5)
        normed = reference.rms_norm(states[-1])[0]
        torch.testing.assert_close(tower(inputs, [(1, 4, 4)], select_layer=3), normed, atol=1e-5, rtol=1e-5)
        with pytest.raises(ValueError, match="select_layer is -5, but the vision encoder has 3 layers"):
            tower(inputs, [(1, 4, 4)], select_layer=-5)

    def test_every_layer_runs_once_whatever_the_grids(self, tower: SailViT) -> None:
        calls = []
        for layer in tower.encoder.layers:
            layer.register_forward_hook(lambda *_: calls.append(1))
        tower(process([picture(0, 84, 28), picture(1)], "anyres")["pixel_values"], [(1, 2, 6), (1, 4, 4)])
        assert len(calls) == 3

    def test_patches_that_do_not_fit_the_grids_are_refused(self, tower: SailViT) -> None:
        with pytest.raises(ValueError, match="16 patches, which doesn't match the image grids"):
            tower(process([picture(0)])["pixel_values"], [(1, 2, 4)])

    def test_pixels_without_grids_are_refused(self, model: SailVLForConditionalGeneration) -> None:
        with pytest.raises(ValueError, match="without image_grid_thw"):
            model(input_ids=torch.tensor([[1, 2]]), pixel_values=process([picture(0)])["pixel_values"])


@pytest.fixture(params=MODES)
def any_encoder(request: pytest.FixtureRequest, processor: SailVLProcessor) -> Encoder:
    """An encoder of each resolution."""
    return Encoder(SailVLProcessor(image_processor(request.param), processor.tokenizer), max_length=512)


PICTURES = [[], [picture(0, 140, 50)], [picture(1, 30, 100), picture(2), picture(3, 90, 90)]]


class TestModel:
    @torch.no_grad()
    def test_padded_batches_of_every_kind_equal_one_row_at_a_time(
        self, model: SailVLForConditionalGeneration, any_encoder: Encoder
    ) -> None:
        prompts = [question(any_encoder, str(n), images) for n, images in enumerate(PICTURES)]
        batch = any_encoder.processor(
            images=[image for prompt in prompts for image in prompt.images],
            text=[prompt.text for prompt in prompts],
            padding=True,
            return_tensors="pt",
        )
        position_ids = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        logits = model(**batch, position_ids=position_ids).logits
        for row, prompt in enumerate(prompts):
            ids, images = any_encoder.prompt_inputs(prompt)
            alone = model(input_ids=ids[None], **images).logits[0]
            torch.testing.assert_close(logits[row, -len(ids) :], alone, atol=3e-5, rtol=1e-4)

    @pytest.mark.parametrize("use_cache", [True, False])
    def test_several_samples_of_mixed_rows_see_their_own_images(
        self, model: SailVLForConditionalGeneration, any_encoder: Encoder, use_cache: bool
    ) -> None:
        prompts = [question(any_encoder, str(n), images) for n, images in enumerate(PICTURES)]
        options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "use_cache": use_cache}
        options |= {"suppress_tokens": any_encoder.processor.image_token_ids}
        batch = any_encoder.processor(
            images=[image for prompt in prompts for image in prompt.images],
            text=[prompt.text for prompt in prompts],
            padding=True,
            return_tensors="pt",
        )
        made = model.generate(**batch, num_beams=2, num_return_sequences=2, **options)[:, -6:]
        for row, prompt in enumerate(prompts):
            ids, images = any_encoder.prompt_inputs(prompt)
            alone = model.generate(ids[None], **images, num_beams=2, num_return_sequences=2, **options)[:, -6:]
            assert torch.equal(made[2 * row : 2 * row + 2], alone)

    @torch.no_grad()
    def test_a_packed_row_of_every_kind_equals_its_samples_alone(
        self, model: SailVLForConditionalGeneration, any_encoder: Encoder
    ) -> None:
        samples = []
        for number, images in enumerate(PICTURES):
            row = {"id": str(number), "prompt": question(any_encoder, "", images).messages, "images": images}
            samples.append(any_encoder.sft_sample({**row, "completion": "The sum is 10"}))
        packed = model(**collate(samples, filler=any_encoder.filler()).model_inputs(torch.device("cpu")))
        alone = [
            model(**collate([sample], filler=any_encoder.filler()).model_inputs(torch.device("cpu"))).logprobs
            for sample in samples
        ]
        torch.testing.assert_close(packed.logprobs, torch.cat(alone), atol=5e-6, rtol=1e-5)

    @torch.no_grad()
    def test_select_layer_and_the_order_of_tokens_reach_the_language_model(self, tiny_dir: Callable[..., Path]) -> None:
        inputs = process([picture(0, 84, 56)], "anyres")
        model = load_model(tiny_dir()).model
        last = model.get_image_features(**inputs)[0]
        model.config.ps_version = "v1"
        rows = last.reshape(2, 3, -1).transpose(0, 1).reshape(6, -1)
        torch.testing.assert_close(model.get_image_features(**inputs)[0], rows)
        model.config.select_layer = -2
        assert not torch.allclose(model.get_image_features(**inputs)[0], rows, atol=1e-3)

    def test_the_resolution_survives_saving(self, any_encoder: Encoder, tmp_path: Path) -> None:
        any_encoder.processor.save_pretrained(tmp_path)
        loaded = SailVLImageProcessor.from_pretrained(tmp_path)
        for name in ("resolution", "max_pixels", "merge_size", "patch_size", "use_thumbnail", "max_patches"):
            assert getattr(loaded, name) == getattr(any_encoder.processor.image_processor, name)
