"""The experiment file: one pydantic model per section, read by `load_experiment`."""

from ialign_ray.config.cleaning import CleaningConfig, DecontaminationConfig, ProtectedSet, Step
from ialign_ray.config.data import CorpusConfig, DataSource, InstructionSource, LongLayout, ReplayConfig, TasksConfig
from ialign_ray.config.evaluate import CompareConfig, EvaluateConfig, HarnessConfig
from ialign_ray.config.experiment import Experiment, PromotionConfig, StorageConfig, TrackingConfig
from ialign_ray.config.generation import FollowingSuite, GenerationSuite
from ialign_ray.config.harness_suite import LmEvalSuite
from ialign_ray.config.languages import LanguagesConfig
from ialign_ray.config.load import build_experiment, dump_yaml, json_schema, load_experiment, override
from ialign_ray.config.model import LoraSettings, ModelSettings, VocabularySettings
from ialign_ray.config.search import Domain, SearchConfig
from ialign_ray.config.suite_source import PromptConfig, SuiteSource
from ialign_ray.config.suites import (
    ChoiceSuite,
    ClassificationSuite,
    InstructionSuite,
    PerplexitySuite,
    RetrievalSuite,
    Suite,
    TranslationSuite,
)
from ialign_ray.config.train import ScalingConfig, StopRule, TrainConfig, ValidationConfig

__all__ = [
    "ChoiceSuite",
    "ClassificationSuite",
    "CleaningConfig",
    "CompareConfig",
    "CorpusConfig",
    "DataSource",
    "DecontaminationConfig",
    "Domain",
    "EvaluateConfig",
    "Experiment",
    "FollowingSuite",
    "GenerationSuite",
    "HarnessConfig",
    "InstructionSource",
    "InstructionSuite",
    "LanguagesConfig",
    "LmEvalSuite",
    "LongLayout",
    "LoraSettings",
    "ModelSettings",
    "PerplexitySuite",
    "PromotionConfig",
    "PromptConfig",
    "ProtectedSet",
    "ReplayConfig",
    "RetrievalSuite",
    "ScalingConfig",
    "SearchConfig",
    "Step",
    "StopRule",
    "StorageConfig",
    "Suite",
    "SuiteSource",
    "TasksConfig",
    "TrackingConfig",
    "TrainConfig",
    "TranslationSuite",
    "ValidationConfig",
    "VocabularySettings",
    "build_experiment",
    "dump_yaml",
    "json_schema",
    "load_experiment",
    "override",
]
