"""API keys: names, allowed models and rate limits.

A key is 256 random bits, so that it cannot be guessed from its hash, however fast the hash: SHA-256 is enough, as for
the tokens of code forges. scrypt and similar functions slow the guessing of weak passwords, which these are not, and
would cost every request 50 ms of a core.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import os
import secrets
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from ialign_ray.config.base import Section, parse_yaml
from ialign_ray.config.serve import ServeConfig
from ialign_ray.errors import ConfigError
from ialign_ray.storage import write_text

log = logging.getLogger("ialign_ray.serving")
ENVIRONMENT: Final = "IALIGN_API_KEYS"
PREFIX: Final = "ialign-"
"""Prefix of each key, which lets people and scanners for leaked secrets recognise it."""


class KeyEntry(Section):
    """One key of the file: its hash, never the key itself."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the key's owner, shown in the access log."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Hash of the key, in hexadecimal."""
    models: list[str] | None = None
    """Names of the models that it may use. Default: all."""
    requests_per_minute: int | None = Field(None, ge=1)
    """Requests allowed per minute. Default: no limit."""
    tokens_per_minute: int | None = Field(None, ge=1)
    """Tokens of prompts and answers allowed per minute. Default: no limit."""

    def allows(self, model: str) -> bool:
        """Return True if the key may use a model."""
        return self.models is None or model in self.models


class KeyFile(Section):
    """A key file."""

    keys: list[KeyEntry] = Field(min_length=1)
    """All keys."""

    @model_validator(mode="after")
    def _once(self) -> Self:
        for names in ([key.name for key in self.keys], [key.sha256 for key in self.keys]):
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"{twice[0]!r} is listed twice; remove one")
        return self


class KeyRing:
    """The keys of a deployment."""

    def __init__(self, keys: Sequence[KeyEntry]) -> None:
        self._keys = [(bytes.fromhex(key.sha256), key) for key in keys]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read the keys of a YAML file. Raises ConfigError if it cannot be read or is malformed."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"key file {path} cannot be read; create one with `ialign serve keys`") from error
        _check_mode(Path(path))
        return cls(_parsed(text, f"key file {path}").keys)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self | None:
        """Read the keys of `IALIGN_API_KEYS`, the same YAML (or JSON) as in a file; None if it is not set."""
        text = environment.get(ENVIRONMENT, "").strip()
        return cls(_parsed(text, ENVIRONMENT).keys) if text else None

    def find(self, digest: bytes) -> KeyEntry | None:
        """Find the entry of a key by its hash. Always compares with all, in constant time: the time reveals nothing."""
        found = None
        for known, key in self._keys:
            if hmac.compare_digest(known, digest):
                found = key
        return found


def keys_of(settings: ServeConfig) -> KeyRing | None:
    """Read the keys of `serve.keys` or the environment; None if neither is set."""
    return KeyRing.read(settings.keys) if settings.keys else KeyRing.from_environment()


class KeyFollower:
    """Reads a key file periodically, so that added and removed keys take effect within seconds."""

    def __init__(self, path: str, use: Callable[[KeyRing], None]) -> None:
        """`use` is called with the keys whenever they have changed."""
        self._path, self._use = path, use
        self._text: str | None = None
        self._problem: str | None = None

    def check(self) -> None:
        """Read the file. If it cannot be read or is malformed, nothing changes, and that is logged once."""
        try:
            text = Path(self._path).read_text(encoding="utf-8")
            if text == self._text:
                problem = None
            else:
                # a file whose last key was removed is empty, which `read` refuses at the start
                ring = KeyRing([]) if _holds_none(text) else KeyRing.read(self._path)
                self._use(ring)
                self._text, problem = text, None
        except (OSError, UnicodeDecodeError) as error:
            problem = f"key file {self._path} cannot be read ({type(error).__name__})"
        except ConfigError as error:
            problem = str(error)
        if problem is not None and problem != self._problem:
            log.warning("%s; the previous keys remain valid", problem)
        self._problem = problem

    async def follow(self, seconds: float) -> None:
        """Check the file every so many seconds, in a thread: a file system over a network may block."""
        while True:
            await asyncio.to_thread(self.check)
            await asyncio.sleep(seconds)


def _holds_none(text: str) -> bool:
    try:
        return bool(yaml.safe_load(text) == {"keys": []})
    except yaml.YAMLError:
        return False


def _check_mode(path: Path) -> None:
    """Refuse a file into which others may write keys; it contains only hashes, so they may read it."""
    if path.stat().st_mode & stat.S_IWOTH:
        raise ConfigError(f"key file {path} may be changed by every user of this machine; run chmod o-w {path}")


def digest_of(secret: str) -> bytes:
    """Return the hash by which a key is identified."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def new_key(name: str, **limits: Any) -> tuple[str, KeyEntry]:
    """Create a key, to be shown once, and its entry for the file; `limits` are fields of `KeyEntry`."""
    secret = PREFIX + secrets.token_urlsafe(32)
    try:
        return secret, KeyEntry(name=name, sha256=digest_of(secret).hex(), **limits)
    except ValidationError as error:
        raise ConfigError(f"the new key's {_sentence(error)}") from error


def add_key(path: str | Path, entry: KeyEntry) -> None:
    """Add an entry to a key file atomically; the file is created if it does not exist."""
    file = Path(path)
    known = _parsed(file.read_text(encoding="utf-8"), f"key file {file}").keys if file.exists() else []
    if entry.name in [key.name for key in known]:
        raise ConfigError(f"key file {file} already has a key {entry.name!r}; choose another name, or remove it there")
    entries = [key.model_dump(exclude_none=True) for key in (*known, entry)]
    write_text(file, yaml.safe_dump({"keys": entries}, sort_keys=False))


def check_exposure(settings: ServeConfig, keys: KeyRing | None) -> None:
    """Raise ConfigError if other hosts could use the server without a key."""
    if keys is None and not _loopback(settings.host):
        raise ConfigError(
            f"serve.host is {settings.host}, which others can reach, and there are no API keys; create some with "
            f"`ialign serve keys` and name the file in serve.keys, or set {ENVIRONMENT}, or use 127.0.0.1"
        )


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parsed(text: str, where: str) -> KeyFile:
    try:
        return KeyFile.model_validate(parse_yaml(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML; write keys: [{{name: ..., sha256: ...}}]") from error
    except ValidationError as error:
        raise ConfigError(f"{where}: {_sentence(error)}") from error


def _sentence(error: ValidationError) -> str:
    """Describe the first error, without the value: it may be a key that was put there by mistake."""
    first = error.errors()[0]
    place, message = ".".join(str(part) for part in first["loc"]), str(first["msg"]).removeprefix("Value error, ")
    return f"{place or 'keys'}: {message[:1].lower()}{message[1:]}; see KeyEntry in the documentation of serving"
