"""A real engine of one request at a time: PEFT's adapters on a tiny base, for tests of what holds engines."""

import asyncio
import threading

from ialign_ray.errors import ModelError
from ialign_ray.inference.generation import generate
from ialign_ray.modeling.load import load_adapted, load_base, load_tokenizer
from ialign_ray.serving.contract import Piece


class SmallEngine:
    opened = []

    def __init__(self, settings, folder, *, max_batch, max_batch_tokens, queue, max_adapters):
        self.model, self.tokenizer = (
            load_adapted(settings, folder) if folder else (load_base(settings), load_tokenizer(settings))
        )
        self.max_adapters, self.closed, self.lock = max_adapters, False, threading.Lock()
        self.loads, self.running = [], {}
        self.pace = 0.0
        self.opened.append(self)

    async def stream(self, prompt, sampling, adapter=None):
        self.running[adapter] = self.running.get(adapter, 0) + 1
        try:
            await asyncio.sleep(self.pace)
            text = await asyncio.to_thread(self._generate, list(prompt), sampling, adapter)
        finally:
            self.running[adapter] -= 1
        yield Piece(text, finish="length")

    async def load(self, adapter, folder):
        if len(self.loaded()) >= self.max_adapters:
            raise ModelError(f"{adapter}: no room")
        await asyncio.to_thread(self._load, adapter, folder)
        self.loads.append(adapter)

    async def unload(self, adapter):
        assert not self.running.get(adapter), f"{adapter} is unloaded while it answers"
        with self.lock:
            self.model.delete_adapter(_plain(adapter))

    def loaded(self):
        return tuple(getattr(self.model, "peft_config", {}))

    def stats(self):
        return {"queue": 0.0}

    async def close(self, grace=30.0):
        self.closed = True

    def _generate(self, prompt, sampling, adapter):
        with self.lock:
            if adapter is None and hasattr(self.model, "disable_adapter") and self.loaded():
                with self.model.disable_adapter():
                    return generate(self.model, self.tokenizer, [prompt], max_new_tokens=sampling.max_new_tokens)[
                        0
                    ].text
            if adapter is not None:
                self.model.set_adapter(_plain(adapter))
            return generate(self.model, self.tokenizer, [prompt], max_new_tokens=sampling.max_new_tokens)[0].text

    def _load(self, adapter, folder):
        import peft

        with self.lock:
            try:
                if hasattr(self.model, "peft_config"):
                    self.model.load_adapter(str(folder), _plain(adapter))
                else:
                    self.model = peft.PeftModel.from_pretrained(self.model, str(folder), _plain(adapter)).eval()
            except (OSError, ValueError, RuntimeError) as error:
                raise ModelError(f"adapter {adapter} does not load: {str(error).splitlines()[0]}") from error


def _plain(adapter):
    return adapter.replace("/", "-").replace(".", "-")
