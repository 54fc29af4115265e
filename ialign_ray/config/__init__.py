"""The experiment file: one pydantic model a section, read by `load_experiment`."""

from ialign_ray.config.cleaning import CleaningConfig, DecontaminationConfig, ProtectedSet, Step
from ialign_ray.config.data import CorpusConfig, LongLayout, ReplayConfig, Source, TasksConfig
from ialign_ray.config.evaluate import (
    ClassificationSuite,
    CompareConfig,
    EvaluateConfig,
    InstructionSuite,
    PromptConfig,
    Suite,
    TranslationSuite,
)
from ialign_ray.config.experiment import Experiment, StorageConfig, TrackingConfig
from ialign_ray.config.languages import LanguagesConfig
from ialign_ray.config.load import build_experiment, dump_yaml, json_schema, load_experiment, override
from ialign_ray.config.model import LoraSettings, ModelSettings, VocabularySettings
from ialign_ray.config.promotion import PromotionConfig
from ialign_ray.config.train import ScalingConfig, TrainConfig

__all__ = [
    "ClassificationSuite",
    "CleaningConfig",
    "CompareConfig",
    "CorpusConfig",
    "DecontaminationConfig",
    "EvaluateConfig",
    "Experiment",
    "InstructionSuite",
    "LanguagesConfig",
    "LongLayout",
    "LoraSettings",
    "ModelSettings",
    "PromotionConfig",
    "PromptConfig",
    "ProtectedSet",
    "ReplayConfig",
    "ScalingConfig",
    "Source",
    "Step",
    "StorageConfig",
    "Suite",
    "TasksConfig",
    "TrackingConfig",
    "TrainConfig",
    "TranslationSuite",
    "VocabularySettings",
    "build_experiment",
    "dump_yaml",
    "json_schema",
    "load_experiment",
    "override",
]
