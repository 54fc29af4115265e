"""References of `serve.models` resolved to files on this machine, with their base and details."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ialign_ray.config import Experiment, ModelSettings, load_experiment
from ialign_ray.errors import ConfigError, IalignError, ModelError, RegistryError
from ialign_ray.incontext.stored import context_hash
from ialign_ray.languages import display_name
from ialign_ray.registry.decisions import holders
from ialign_ray.registry.reference import holder, parse, registry_of
from ialign_ray.registry.run_evidence import CONTEXT, beside_base, search_of
from ialign_ray.registry.store import Registry, Version
from ialign_ray.serving.engine.adapter_files import UNLIKE_LORA
from ialign_ray.serving.protocol import Kind, ModelInfo
from ialign_ray.storage import MANIFEST, cache_folder, read_json
from ialign_ray.training.runs import MODEL, model_folder, run_experiment

BASE = "base"
_ADAPTER, _CONFIG, _EXPERIMENT = "adapter_config.json", "config.json", "experiment.yaml"


@dataclass(frozen=True)
class ModelSource:
    """One model that can be loaded."""

    id: str
    """`base`, `NAME/VERSION` of the registry, or the name of a run, a folder or a hub id."""
    kind: Kind
    settings: ModelSettings
    """Settings for loading the weights; for an adapter, those of its base."""
    folder: Path | None
    """Folder of the adapter or full model; None if `settings.id` is the whole model."""
    experiment: Experiment | None
    """Experiment that trained it; for a base, the experiment of the model on it."""
    created: float = 0.0
    """Unix seconds."""
    details: dict[str, Any] = field(default_factory=dict)
    version: Version | None = None
    """Set if it comes from the registry."""
    context: Path | None = None
    """Folder of the context that belongs to the version."""

    @property
    def weights(self) -> tuple[str, ...]:
        """Location, revision and number format of the weights: equal for models that share an engine."""
        s = self.settings
        where = str(self.folder) if self.kind == "full" and self.folder else s.id
        return (where, s.revision or "", s.precision, s.quantization or "")

    @property
    def key(self) -> tuple[str, ...]:
        """Key in memory. The id is not enough: `base` may have other weights after a promotion."""
        return (self.id, *self.weights)

    def info(self, name: str) -> ModelInfo:
        """Entry of `/v1/models`."""
        return ModelInfo(name, self.id, self.kind, int(self.created), dict(self.details))


@dataclass
class Named:
    """A name that requests use, and the model behind it at the moment."""

    name: str
    source: ModelSource
    model: str | None = None
    """Registered model."""
    alias: str | None = None
    """Alias that is followed; None for a fixed version, a folder or a hub id."""
    refused: str | None = None
    """Reason why the version that the alias points to is not served."""
    retry_at: float = 0.0
    """Monotonic seconds of the next attempt to load the refused version."""

    def info(self) -> ModelInfo:
        """Entry of `/v1/models`, with the refusal in its details."""
        info = self.source.info(self.name)
        return replace(info, details=info.details | {"refused": self.refused}) if self.refused else info


def from_version(registry: Registry, name: str, number: int) -> ModelSource:
    """Fetch and verify a version of the registry.

    Raises RegistryError if it does not exist or the registry is unreachable, ModelError if its files are damaged.
    """
    version = registry.version(name, number)
    return version_source(version, fetched(registry, version))


def fetched(registry: Registry, version: Version) -> Path:
    """Return a verified local copy of a version's folder. Raises ModelError if it is damaged or the disk is full."""
    try:
        return registry.fetch(version)
    except RegistryError as error:
        raise ModelError(str(error)) from error
    except OSError as error:
        raise ModelError(
            f"{version.title}: its files cannot be copied to {cache_folder()} ({error.strerror or error}); free space "
            "there, or name another folder in IALIGN_CACHE"
        ) from error


def version_source(version: Version, folder: Path) -> ModelSource:
    """Describe a version whose folder is on this machine."""
    if (folder / MODEL).exists():
        source = from_folder(folder / MODEL, version.title)
    else:  # the base with a context
        experiment = load_experiment(folder / _EXPERIMENT, stored=True)
        source = ModelSource(version.title, "base", experiment.model, None, experiment, 0.0, _details(experiment))
    tags = version.tags
    details = source.details | {k: tags[k] for k in ("base", "dose", "run", "seed", "steps") if k in tags}
    details["base"] = Path(details.get("base", "")).name
    details |= {"scores": json.loads(tags.get("metrics", "[]")), **beside_base(folder)}
    if search := search_of(folder):
        details["search"] = search
    context = folder / CONTEXT if (folder / CONTEXT).exists() else None
    if context is not None:
        details["context"] = {"name": tags.get("context"), "hash": context_hash(context)}
    return replace(source, created=version.created, details=details, version=version, context=context)


def version_info(version: Version) -> ModelInfo:
    """Entry of `/v1/models` for a version that is not loaded, from its tags."""
    kinds: dict[str | None, Kind] = {"full": "full", "none": "base"}
    kind = kinds.get(version.tags.get("tuning"), "adapter")
    details = {k: version.tags[k] for k in ("dose", "run", "seed", "steps") if k in version.tags}
    details["scores"] = json.loads(version.tags.get("metrics", "[]"))
    return ModelInfo(version.title, version.title, kind, int(version.created), details)


def from_folder(path: Path, name: str) -> ModelSource:
    """Describe a run, a model folder that `ialign` wrote or exported, a PEFT adapter, or a transformers model.

    Raises ModelError if the folder is something else or does not match its hashes.
    """
    ours = (path / MODEL).is_dir() or ((path / MANIFEST).exists() and (path / _EXPERIMENT).exists())
    folder = (model_folder(path) if ours else path).absolute()
    experiment = run_experiment(folder) if (folder / _EXPERIMENT).exists() else None
    created = folder.stat().st_mtime
    if _is_adapter(folder):
        settings = experiment.model if experiment else ModelSettings(id=_base_of(folder))
        kind: Kind = "adapter" if _shares_base(folder) else "full"
        return ModelSource(name, kind, settings, folder, experiment, created, _details(experiment))
    if not (folder / _CONFIG).exists():
        raise ModelError(f"{path} holds neither {_ADAPTER} nor {_CONFIG}; name a finished run or a model folder")
    settings = experiment.model if experiment else ModelSettings(id=str(folder))
    whole = settings.model_copy(update={"quantization": None})  # a merged model's weights are plain
    return ModelSource(name, "full", whole, folder, experiment, created, _details(experiment))


def from_hub(identifier: str) -> ModelSource:
    """Describe a model by hub id, or `pocket:base`."""
    return ModelSource(identifier, "full", ModelSettings(id=identifier), None, None, time.time())


def base_of(source: ModelSource, name: str) -> ModelSource:
    """Describe a model's base, prompted as the model is; a full model without an experiment is its own base."""
    if source.kind == "full" and source.experiment is None and not _is_adapter(source.folder):
        return source
    return ModelSource(
        name, "base", source.settings, None, source.experiment, source.created, _details(source.experiment)
    )


def locate(
    reference: str, registry: str, open_registry: Callable[[str], Registry] = Registry, refused: Sequence[str] = ()
) -> Named:
    """Resolve a reference of `serve.models`.

    If the version that an alias points to is damaged or in `refused`, the alias's previous versions are tried: a
    replica that starts after a bad promotion serves what the others still serve. Raises an IalignError.
    """
    found = registry_of(reference, registry, open_registry)
    if found is not None:
        model, alias, number = parse(reference, found)
        if number is not None:
            return Named(reference.removeprefix("models:/"), from_version(found, model, number), model)
        assert alias is not None
        return _held(found, reference.removeprefix("models:/"), model, alias, refused)
    path = Path(reference)
    if not path.exists():
        return Named(reference, from_hub(reference))
    path = path.absolute()
    name = path.parent.name if path.name == MODEL else path.name
    return Named(name, from_folder(path, name))


def locate_all(references: Sequence[str], registry: str) -> list[Named]:
    """Resolve the references of `serve.models` under distinct names. Raises an IalignError."""
    open_registry = lru_cache(Registry)  # opening one checks its database
    return with_own_names([locate(name, registry, open_registry) for name in references], references)


def with_own_names(found: Sequence[Named], references: Sequence[str]) -> list[Named]:
    """Prefix folders of the same name with their parent's. Raises ConfigError if two models still share a name."""
    names = [named.name for named in found]
    apart = [_longer(named, names) for named in found]
    for k, named in enumerate(apart):
        if any(named.name == other.name for other in apart[:k]) or named.name == BASE:
            raise ConfigError(
                f"serve.models: {references[k]!r} would be named {named.name!r}, which is another model's name; "
                "remove one, or export it to a folder with another name"
            )
    return apart


def bases(found: Sequence[Named]) -> list[Named]:
    """Return the bases of all models, each once: `base` is the first model's, the others have their own names.

    If two have the same name, the later one is prefixed with its parent folder's or owner's name.
    """
    made: list[Named] = []
    for named in found:
        parts = Path(named.source.settings.id).parts
        names = [BASE] if not made else ["-".join(parts[-k:]).strip("/") for k in range(1, len(parts) + 1)]
        name = next((n for n in names if all(n != other.name for other in made)), names[-1])
        below = base_of(named.source, name)
        if all(below.weights != other.source.weights for other in made):
            made.append(Named(BASE if not made else below.id, below))
    taken = {named.name for named in found}
    return [named for named in made if named.name not in taken]


def _held(registry: Registry, name: str, model: str, alias: str, refused: Sequence[str]) -> Named:
    holder(registry, model, alias)  # raises if the alias does not exist
    reason: IalignError | None = None
    for number in holders(registry, model, alias):
        if f"{model}/{number}" in refused:
            continue
        try:
            return Named(name, from_version(registry, model, number), model, alias, str(reason) if reason else None)
        except IalignError as error:
            reason = reason or error
    raise reason or ModelError(f"no past version of {model}@{alias} loads; see the log, and promote one that does")


def _longer(named: Named, names: Sequence[str]) -> Named:
    folder = named.source.folder
    if names.count(named.name) == 1 or folder is None or named.model is not None:
        return named
    run = folder.parent if folder.name == MODEL else folder
    name = f"{run.parent.name}-{named.name}"
    return replace(named, name=name, source=replace(named.source, id=name))


def _is_adapter(folder: Path | None) -> bool:
    return folder is not None and (folder / _ADAPTER).exists()


def _shares_base(folder: Path) -> bool:
    """Return True if an adapter is plain LoRA, which shares a base's engine; others get a separate engine."""
    config = read_json(folder / _ADAPTER)
    more = (*UNLIKE_LORA, "trainable_token_indices", "modules_to_save")
    return config.get("peft_type") == "LORA" and not any(config.get(name) for name in more)


def _base_of(folder: Path) -> str:
    found = read_json(folder / _ADAPTER).get("base_model_name_or_path")
    if not found:
        raise ModelError(f"{folder / _ADAPTER} names no base_model_name_or_path; add the hub id or folder of its base")
    return str(found)


def _details(experiment: Experiment | None) -> dict[str, Any]:
    if experiment is None:
        return {}
    groups = experiment.languages
    return {
        "experiment": experiment.name,
        "base": Path(experiment.model.id).name,
        "languages": {g.upper(): list(getattr(groups, g)) for g in ("l1", "l2", "l3")},
        "names": {code: _language_name(code, groups.names) for code in groups.groups()},
        "suites": [
            {"name": suite.name, "slots": list(suite.slots), "labels": list(suite.labels)}
            for suite in experiment.evaluate.suites
            if suite.kind == "classification"
        ],
    }


def _language_name(code: str, names: Mapping[str, Mapping[str, str]]) -> str:
    try:
        return display_name(code, "eng", names)
    except ConfigError:  # languages that are only evaluated need no name
        return code
