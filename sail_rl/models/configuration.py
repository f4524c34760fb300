"""The configuration of SAIL-VL2: SAIL-ViT (AIMv2), pixel-shuffle adapter, and Qwen3 or Qwen3-MoE."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PreTrainedConfig
from transformers.models.aimv2.configuration_aimv2 import Aimv2VisionConfig

from .published import from_published, is_published

IMAGE_TOKEN = "<IMG_CONTEXT>"
LANGUAGE_MODELS = ("qwen3", "qwen3_moe")


class SailVLConfig(PreTrainedConfig):
    """Configuration of SAIL-VL2 (report arXiv 2509.14033, section 2).

    Args:
        vision_config: an `Aimv2VisionConfig` or its dict (SAIL-ViT has AIMv2's architecture).
        text_config: a `Qwen3Config`, a `Qwen3MoeConfig` or a dict with `model_type` "qwen3" or "qwen3_moe".
        image_token_id: the id of the placeholder of one visual token.
        downsample_ratio: side ratio of the pixel shuffle; 0.5 turns 2x2 patches into one visual token.
        ps_version: order of the visual tokens after the pixel shuffle: "v2" row by row, "v1" column by column.
        select_layer: the hidden state of the vision encoder that feeds the adapter: -1 is the last one, after the final
            norm, -2 is the input of the last block without that norm, and so on.
        critic: None; "head" or "model" for a policy that PPO trains (see `critic.Critic`).
        projector_hidden_act: activation between the adapter's two linear layers.
        head_dtype: "float32": logits are computed in float32, here and in vLLM (MiniMax-M1, arXiv 2506.13585, section
            3.2); None: in the model's dtype.
        published: further fields of the published config.json that the model was loaded from (tiles, template, remote
            code), which the processor and saving need; else None.
    """

    model_type = "sailvl"
    sub_configs = {"vision_config": Aimv2VisionConfig, "text_config": AutoConfig}  # noqa: RUF012

    def __init__(
        self,
        vision_config: dict[str, Any] | Aimv2VisionConfig | None = None,
        text_config: dict[str, Any] | PreTrainedConfig | None = None,
        image_token_id: int = 151667,
        downsample_ratio: float = 0.5,
        ps_version: str = "v2",
        select_layer: int = -1,
        critic: str | None = None,
        projector_hidden_act: str = "gelu",
        head_dtype: str | None = None,
        published: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(vision_config, Aimv2VisionConfig):
            vision_config = Aimv2VisionConfig(**{"use_head": False, **(vision_config or {})})
        self.vision_config: Any = vision_config
        self.text_config: Any = _language_model(text_config)
        self.image_token_id = image_token_id
        self.downsample_ratio = downsample_ratio
        if ps_version not in ("v1", "v2"):
            raise ValueError(f"ps_version is {ps_version!r}; give 'v1' or 'v2'")
        self.ps_version = ps_version
        self.select_layer = select_layer
        if critic not in (None, "head", "model"):
            raise ValueError(f"critic is {critic!r}; give 'head', 'model' or None")
        self.critic = critic
        self.projector_hidden_act = projector_hidden_act
        if head_dtype not in (None, "float32"):
            raise ValueError(f"head_dtype is {head_dtype!r}; give 'float32' or None")
        self.head_dtype = head_dtype
        self.published = published
        # The language model's setting is the only one for tied embeddings.
        kwargs["tie_word_embeddings"] = self.text_config.tie_word_embeddings
        super().__init__(**kwargs)

    @classmethod
    def from_pretrained(cls, model_dir: Any, **kwargs: Any) -> Any:
        """Read a folder's config.json in either layout; the tokenizer names a published one's image token."""
        kwargs.setdefault("name_or_path", str(model_dir))
        return super().from_pretrained(model_dir, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The configuration from the fields of a config.json in either layout."""
        if is_published(config_dict):
            image_token_id = config_dict.get("image_token_id") or _image_token_id(config_dict, kwargs)
            config_dict = from_published(config_dict, image_token_id)
        return super().from_dict(config_dict, **kwargs)

    @property
    def eos_token_id(self) -> Any:
        """The language model's; transformers' Trainer asks for it here, and would add it to the others again."""
        return self.text_config.eos_token_id

    @eos_token_id.setter
    def eos_token_id(self, value: Any) -> None:
        self.text_config.eos_token_id = value

    @property
    def shuffle(self) -> int:
        """The side, in patches, of the square that becomes one visual token; 2 for `downsample_ratio` 0.5."""
        return round(1 / self.downsample_ratio)

    @property
    def tokens_per_tile(self) -> int:
        """The visual tokens of one square tile; 256 for 448 pixels, patches of 14 and a 2x2 shuffle."""
        side = self.vision_config.image_size // self.vision_config.patch_size
        if side % self.shuffle:
            raise ValueError(
                f"vision_config.image_size {self.vision_config.image_size} has {side} patches a side, which the pixel "
                f"shuffle of {self.shuffle} does not divide; choose a multiple of "
                f"{self.shuffle * self.vision_config.patch_size}"
            )
        return (side // self.shuffle) ** 2

    @property
    def is_moe(self) -> bool:
        """True if the language model routes tokens to experts."""
        return self.text_config.model_type == "qwen3_moe"


def _image_token_id(config_dict: dict[str, Any], kwargs: dict[str, Any]) -> int:
    """The image token's id, from the tokenizer in the folder of a published config.json."""
    folder = kwargs.get("name_or_path") or config_dict.get("_name_or_path") or ""
    try:
        # With this `config`, the tokenizer doesn't read config.json, which would recurse into this function.
        tokenizer = AutoTokenizer.from_pretrained(folder, config=PreTrainedConfig())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder}: no tokenizer, which has the id of {IMAGE_TOKEN}; copy the checkpoint's into it"
        ) from error
    vocabulary = tokenizer.get_vocab()
    if IMAGE_TOKEN not in vocabulary:
        raise ValueError(f"{folder}: its tokenizer has no {IMAGE_TOKEN}, so it isn't SAIL-VL2's")
    return vocabulary[IMAGE_TOKEN]


def _language_model(config: dict[str, Any] | PreTrainedConfig | None) -> PreTrainedConfig:
    """The language model's configuration from the argument of `SailVLConfig`."""
    if not isinstance(config, PreTrainedConfig):
        values = dict(config or {})
        model_type = values.pop("model_type", "qwen3")
        if model_type in LANGUAGE_MODELS:
            return CONFIG_MAPPING[model_type](**values)
    else:
        model_type = config.model_type
        if model_type in LANGUAGE_MODELS:
            return config
    raise ValueError(f"text_config.model_type is {model_type!r}; give one of {', '.join(LANGUAGE_MODELS)}")
