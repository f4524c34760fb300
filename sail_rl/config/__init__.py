"""A recipe: one YAML file parsed into these models. Each value has one home, and unknown keys are errors.

Paths in a recipe are relative to the working directory. Code is named by `module:name` or `file.py:name`.
"""

from .data import DataConfig
from .loss import ImportanceConfig, KLConfig, LossConfig
from .recipe import Recipe
from .rl import CriticConfig, DynamicSamplingConfig, RLStage, SamplingConfig
from .sections import (
    DEFAULT_GUARDS,
    DEFAULT_SCORER,
    ISOLATION,
    LOADER,
    DeepSpeedConfig,
    EngineConfig,
    EvaluationConfig,
    LoggingConfig,
    ModelConfig,
    RewardConfig,
    Strict,
)
from .stages import (
    AdaLRSConfig,
    ExportStage,
    FilterStage,
    HarvestStage,
    LoRAConfig,
    OptimizerConfig,
    PackingConfig,
    RolloutsStage,
    SFTStage,
    SoupStage,
    StageConfig,
)

__all__ = [
    "DEFAULT_GUARDS",
    "DEFAULT_SCORER",
    "ISOLATION",
    "LOADER",
    "AdaLRSConfig",
    "CriticConfig",
    "DataConfig",
    "DeepSpeedConfig",
    "DynamicSamplingConfig",
    "EngineConfig",
    "EvaluationConfig",
    "ExportStage",
    "FilterStage",
    "HarvestStage",
    "ImportanceConfig",
    "KLConfig",
    "LoRAConfig",
    "LoggingConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PackingConfig",
    "RLStage",
    "Recipe",
    "RewardConfig",
    "RolloutsStage",
    "SFTStage",
    "SamplingConfig",
    "SoupStage",
    "StageConfig",
    "Strict",
]
