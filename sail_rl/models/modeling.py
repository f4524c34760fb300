"""SAIL-VL2: vision tower → 2x2 pixel shuffle → MLP adapter → Qwen3 / Qwen3-MoE, composed from transformers' parts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, GenerationMixin, PreTrainedModel, initialization
from transformers.cache_utils import Cache
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.models.internvl.modeling_internvl import InternVLModel, InternVLMultiModalProjector
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from .configuration import SailVLConfig
from .critic import Critic, zero_gradient
from .packed_attention import segment_mask
from .published import to_published
from .routing import make_replayable, set_routed_experts
from .tensor_names import saving_names
from .token_logprobs import MODEL_DISTRIBUTION, Distribution, token_logprobs
from .vision import SailViT, encode_images, repeat_images


@dataclass  # without slots: ZeRO-3 looks for tensors in an output's __dict__
class TokenLogprobs:
    """The output of a forward pass with `targets`, for the N labelled tokens of a micro-batch in order.

    `logprobs` [N] and `entropies` [N] in nats, differentiable; with a critic: `values` [N], its estimates of the
    return at each token; MoE only: `router_logits`, one tensor [T, experts] for each layer, of *all* positions of
    the micro-batch and differentiable.
    """

    logprobs: torch.Tensor
    entropies: torch.Tensor
    values: torch.Tensor | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None

    def split(self, lengths: list[int]) -> list[TokenLogprobs]:
        """Log-probs, entropies and values of each sample, with `lengths` labelled tokens, on the CPU."""
        values = [None] * len(lengths) if self.values is None else self.values.cpu().split(lengths)
        parts = zip(self.logprobs.cpu().split(lengths), self.entropies.cpu().split(lengths), values, strict=True)
        return [TokenLogprobs(*part) for part in parts]


class LanguageModelHead(nn.Linear):
    """The output projection; with `targets` it returns log-probs and entropies instead of logits.

    Both are computed inside this module's forward, so that ZeRO-3's hooks gather the weight.
    """

    in_float32 = False
    """Multiply in float32, whatever the weight's dtype (`SailVLConfig.head_dtype`)."""

    def forward(
        self, hidden: torch.Tensor, targets: torch.Tensor | None = None, distribution: Distribution = MODEL_DISTRIBUTION
    ) -> Any:
        """Return logits [..., V], or with `targets` [N] the pair of `token_logprobs` for hidden states [N, H]."""
        weight = self.weight
        if self.in_float32:
            hidden, weight = hidden.float(), weight.float()
        if targets is None:
            return nn.functional.linear(hidden, weight)
        return token_logprobs(hidden, weight, targets, distribution)


class SailVLPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation shared by the models below."""

    config_class = SailVLConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["Aimv2EncoderLayer", "Qwen3DecoderLayer", "Qwen3MoeDecoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = "past_key_values"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Critic):
            initialization.zeros_(module.mean)
            initialization.ones_(module.deviation)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict | None = None, **kwargs: Any) -> None:
        """Enable checkpointing, never the reentrant kind: that one silently loses the MoE auxiliary-loss gradient."""
        super().gradient_checkpointing_enable(
            {**(gradient_checkpointing_kwargs or {}), "use_reentrant": False}, **kwargs
        )

    def save_pretrained(
        self, save_directory: Any, *, save_original_format: bool = False, is_main_process: bool = True, **kwargs: Any
    ) -> None:
        """Write weights (in shards) and config.json, in this library's layout or in the published one.

        Args:
            save_directory: the folder.
            save_original_format: the published tensor names and config.json; False: ours, which vLLM reads.
            is_main_process: whether this process writes the files.
            kwargs: as everywhere in transformers.
        """
        if save_original_format and (self.config.critic or not isinstance(self, SailVLForConditionalGeneration)):
            raise ValueError("the published layout holds a whole model without a critic; load the model as such first")
        self._weight_conversions = saving_names(self, published=save_original_format)
        super().save_pretrained(save_directory, is_main_process=is_main_process, save_original_format=True, **kwargs)
        if save_original_format and is_main_process:
            config = json.dumps(to_published(self.config), indent=2, sort_keys=True)
            (Path(save_directory) / "config.json").write_text(config + "\n")


class SailVLModel(SailVLPreTrainedModel):
    """Vision tower, adapter and language model without its head."""

    # Checks that placeholders and features agree, and returns the mask [batch, T, 1] of the placeholders.
    get_placeholder_mask = InternVLModel.get_placeholder_mask

    def __init__(self, config: SailVLConfig) -> None:
        super().__init__(config)
        self.vision_tower = SailViT._from_config(config.vision_config)
        self.multi_modal_projector = InternVLMultiModalProjector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_image_features(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor) -> list[torch.Tensor]:
        """Visual tokens [tokens, hidden size of the language model] of each image; see `vision` for the arguments."""
        return encode_images(self.vision_tower, self.multi_modal_projector, self.config, pixel_values, image_grid_thw)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Any,
    ) -> MoeModelOutputWithPast:
        """Encode text with images: those of `pixel_values` [P, 3 x patch²] with `image_grid_thw` [images, 3] (see
        `vision`) fill the image tokens of `input_ids` in order."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None and len(pixel_values):
            if image_grid_thw is None:
                raise ValueError("pixel_values came without image_grid_thw; pass on both of the processor's outputs")
            features = torch.cat(self.get_image_features(pixel_values, image_grid_thw)).to(inputs_embeds.dtype)
            mask = self.get_placeholder_mask(input_ids, inputs_embeds=inputs_embeds, image_features=features)
            inputs_embeds = inputs_embeds.masked_scatter(mask, features)  # type: ignore[assignment]
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )


class SailVLForConditionalGeneration(SailVLPreTrainedModel, GenerationMixin):
    """SAIL-VL2 with its language-model head: generates, and computes log-probs of labelled tokens."""

    _keys_to_ignore_on_load_unexpected = [r"^critic\."]  # noqa: RUF012
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: SailVLConfig) -> None:
        super().__init__(config)
        self.model = SailVLModel(config)
        self.lm_head = LanguageModelHead(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.lm_head.in_float32 = config.head_dtype == "float32"
        make_replayable(self.model.language_model)
        if config.critic:
            trunk = SailVLModel(config) if config.critic == "model" else None
            self.critic = Critic(config.text_config.hidden_size, trunk)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: LanguageModelHead) -> None:
        self.lm_head = value

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        targets: torch.LongTensor | None = None,
        target_positions: torch.LongTensor | None = None,
        distribution: Distribution = MODEL_DISTRIBUTION,
        routed_experts: torch.Tensor | None = None,
        critic_only: bool = False,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> MoeCausalLMOutputWithPast | TokenLogprobs:
        """Return logits (and a loss with `labels`), or with `targets` the log-probs of a micro-batch's labelled tokens.

        Args:
            input_ids: [B, T]; `pixel_values`, `image_grid_thw`: images in the order of the image tokens, see `vision`.
            labels: [B, T] as everywhere in transformers (shifted inside); the loss includes the MoE auxiliary loss.
            targets: [L] labelled tokens of a micro-batch, predicted by the hidden states at `target_positions` [L].
                `segments` and `position_ids` come with them, see `data.packing.MicroBatch`.
            distribution: the distribution whose log-probs are returned.
            routed_experts: [T, layers, k] experts to replay in an MoE, see `routing`.
            critic_only: with `targets`: only the critic's own weights get a gradient other than 0.
            logits_to_keep: number of last positions to compute logits for (0: all), or their indices.
        """
        kwargs.setdefault("output_router_logits", self.config.is_moe and (labels is not None or targets is not None))
        if self.config.is_moe:
            set_routed_experts(self.model.language_model, routed_experts)
        else:
            kwargs.pop("output_router_logits")
        if targets is not None:
            images = {"pixel_values": pixel_values, "image_grid_thw": image_grid_thw}
            return self._token_logprobs(
                input_ids, targets, target_positions, distribution, critic_only, **images, **kwargs
            )
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            attention_mask=attention_mask,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = aux_loss = None
        router_logits = getattr(outputs, "router_logits", None)
        if router_logits:
            aux_loss = self._load_balancing_loss(router_logits, attention_mask)
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size)
            if aux_loss is not None:
                loss = loss + self.config.text_config.router_aux_loss_coef * aux_loss
        return MoeCausalLMOutputWithPast(
            loss=loss,
            aux_loss=aux_loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=router_logits,
        )

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **model_kwargs: Any
    ) -> tuple[torch.LongTensor, dict[str, Any]]:
        """Repeat each row with *all* of its images; transformers would repeat patch by patch and mix them up."""
        images = {name: model_kwargs.pop(name, None) for name in ("pixel_values", "image_grid_thw")}
        if images["pixel_values"] is not None and len(images["pixel_values"]) and expand_size > 1:
            images = repeat_images(
                **images,
                tokens=(input_ids == self.config.image_token_id).sum(dim=1).tolist(),
                side=self.config.shuffle,
                times=expand_size,
            )
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        return input_ids, model_kwargs | {name: value for name, value in images.items() if value is not None}

    def _token_logprobs(
        self,
        input_ids: torch.LongTensor | None,
        targets: torch.LongTensor,
        positions: torch.LongTensor | None,
        distribution: Distribution,
        critic_only: bool,
        **kwargs: Any,
    ) -> TokenLogprobs:
        """Log-probs of the labelled tokens of one micro-batch."""
        kwargs |= segment_mask(self.config.text_config, kwargs.get("segments"), targets.device)
        inputs = {"input_ids": input_ids, "use_cache": False, **kwargs}
        outputs = self.model(**inputs)
        hidden, values = outputs.last_hidden_state, None
        if self.config.critic:
            values = self.critic(positions, hidden.detach() if critic_only else hidden, inputs)
        logprobs, entropies = self.lm_head(hidden[0, positions], targets, distribution=distribution)
        if critic_only:
            logprobs, entropies = zero_gradient(logprobs), zero_gradient(entropies)
        return TokenLogprobs(logprobs, entropies, values, getattr(outputs, "router_logits", None) or None)

    def _load_balancing_loss(
        self, router_logits: tuple[torch.Tensor, ...], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        text = self.config.text_config
        return load_balancing_loss_func(router_logits, text.num_experts, text.num_experts_per_tok, attention_mask)
