"""`serve.engine: vllm`: Ray Serve's OpenAI application over vLLM, for GPUs.

Not tested: neither a GPU nor vLLM was available. Ray 2.60 loads LoRA adapters for vLLM only from s3://, gs:// or
azure://, so each model is merged here and served separately. The routes are Ray's: no translation, classification, keys
or limits, and the registry is not followed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ialign_ray.config.serve import ServeConfig
from ialign_ray.errors import ConfigError, ModelError
from ialign_ray.serving.api import keys_of
from ialign_ray.serving.model_sources import Named, bases, locate_all


def vllm_application(settings: ServeConfig, registry: str) -> Any:
    """Build one vLLM engine for each model and base. Raises ModelError without vLLM, ConfigError if there are keys."""
    if keys_of(settings) is not None:
        raise ConfigError("there are API keys, but serve.engine vllm does not check them; put a gateway in front of it")
    try:
        import vllm  # type: ignore[import-not-found]  # noqa: F401 - ray.serve.llm is importable without it
        from ray.serve.llm import LLMConfig, build_openai_app
    except ImportError as error:
        raise ModelError(
            "serve.engine is vllm, which is not installed; install it with pip install 'ray[llm]' on a machine with a "
            "GPU, or set serve.engine to transformers"
        ) from error
    found = locate_all(settings.models, registry)
    configs = [LLMConfig(**llm_config(named, settings)) for named in (*found, *bases(found))]
    return build_openai_app({"llm_configs": configs})


def llm_config(named: Named, settings: ServeConfig) -> dict[str, Any]:
    """Arguments of `ray.serve.llm.LLMConfig` for one model; an adapter is merged first."""
    low, high = settings.replicas
    return {
        "model_loading_config": {"model_id": named.name, "model_source": _whole(named)},
        "deployment_config": {
            "autoscaling_config": {"min_replicas": low, "max_replicas": high},
            "max_ongoing_requests": settings.limits.queue,
        },
        "engine_kwargs": {
            "max_num_seqs": settings.max_batch,
            "trust_remote_code": named.source.settings.trust_remote_code,
        },
    }


def _whole(named: Named) -> str:
    """Return the folder or hub id of the whole model, after merging if it is an adapter."""
    from ialign_ray.modeling.load import load_adapted, merge, model_location
    from ialign_ray.storage import cache_folder, json_hash, once

    source = named.source
    if source.folder is None:
        return model_location(source.settings.id)
    if (source.folder / "config.json").exists():
        return str(source.folder)
    plain = source.settings.model_copy(update={"quantization": None})
    folder = source.folder

    def write(target: Path) -> None:
        model, tokenizer = load_adapted(plain, folder)
        merge(model).save_pretrained(target)
        tokenizer.save_pretrained(target)

    known = json_hash([str(folder), folder.stat().st_mtime_ns, plain.model_dump(mode="json")])
    return str(once(cache_folder() / "merged" / known, write))
