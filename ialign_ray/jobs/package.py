"""The package of a job: a zip of the code and the experiment, without data, runs or secrets.

Ray packs a folder too (`working_dir` with `excludes`), by the same ignore files. It follows links, out of the folder
and in circles, and never lists what it takes. The checks for the experiment, its data and the size need that list
before anything leaves this machine, and a second walk with other rules could send what the first one did not see.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from ialign_ray.errors import ConfigError

CODE = "ialign_ray"
EXCLUDED = (
    # not part of the experiment: version control, environments, caches
    *(".git", ".hg", ".svn", ".venv", "venv", "node_modules", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info"),
    # belongs on the cluster's storage
    *("/data", "/runs", "mlruns", "mlflow.db", "*.safetensors", "*.bin", "*.pt", "*.gguf", "*.distcp"),
    # secrets: must not leave this machine
    *(".env", ".env.*", "*.pem", "*.key", "*.p12", "id_rsa*", "id_ed25519*", ".aws", ".ssh", ".netrc", ".kube"),
    *(
        "credentials",
        "credentials.*",
        "*api_keys*",
        "*api-keys*",
        "keys.yaml",
        "*secret*.y*ml",
        "*secret*.json",
        "*token*.txt",
    ),
)
"""Patterns as in `.gitignore`, in addition to the folder's own `.gitignore` and `.rayignore` files."""
LIMIT = 100 * 2**20
"""Most bytes before compression. Ray's own limit is 512 MiB, all of which passes through the head's memory."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Package:
    """The files that are uploaded with a job."""

    root: Path
    files: tuple[str, ...]
    """Paths relative to the root, sorted."""
    code: Path | None
    """Folder of our package; None if the root has its own copy."""

    @classmethod
    def of(cls, root: Path, also: Sequence[str] = ()) -> Package:
        """Choose the files of a working directory. Raises ConfigError if it is not a folder or too large.

        `also`: more patterns to leave out.
        """
        root = root.absolute()
        if not root.is_dir():
            raise ConfigError(f"--working-dir {root} is not a folder; pass the one containing the experiment file")
        files = tuple(sorted(chosen(root, GitIgnoreSpec.from_lines([*EXCLUDED, *also]))))
        refuse_large(root, files)
        return cls(root, files, None if f"{CODE}/__init__.py" in files else Path(__file__).parents[1])

    def holds(self, path: Path) -> bool:
        """Return True if the package has this file, or a file in this folder."""
        inside = path.relative_to(self.root).as_posix()
        return any(f == inside or f.startswith(f"{inside}/") for f in self.files)

    def write(self, target: Path) -> None:
        """Write the zip. Equal files give equal bytes, which Ray uploads once."""
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in self.files:
                _add(archive, name, self.root / name)
            for path in sorted(self.code.rglob("*")) if self.code else ():
                if path.is_file() and "__pycache__" not in path.parts:
                    _add(archive, f"{CODE}/{path.relative_to(self.code or path).as_posix()}", path)


def chosen(root: Path, excluded: GitIgnoreSpec) -> Iterator[str]:
    """Yield the files below a folder that no pattern or ignore file excludes; links out of the folder are left out."""
    real = root.resolve()

    def below(folder: Path, rules: tuple[tuple[Path, GitIgnoreSpec], ...]) -> Iterator[str]:
        rules = (*rules, *_own_rules(folder))
        for path in sorted(folder.iterdir()):
            mark = "/" if path.is_dir() else ""
            if any(spec.match_file(path.relative_to(base).as_posix() + mark) for base, spec in rules):
                continue
            if path.is_symlink() and (mark or not path.resolve().is_relative_to(real)):
                continue
            if mark:
                yield from below(path, rules)
            elif path.is_file():
                yield path.relative_to(root).as_posix()

    yield from below(root, ((root, excluded),))


def _own_rules(folder: Path) -> Iterator[tuple[Path, GitIgnoreSpec]]:
    for name in (".gitignore", ".rayignore"):
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
            yield folder, GitIgnoreSpec.from_lines(lines)


def refuse_large(root: Path, files: Sequence[str]) -> None:
    """Raise ConfigError, naming the largest files, if the package is too large."""
    sizes = {name: (root / name).stat().st_size for name in files}
    total = sum(sizes.values())
    if total <= LIMIT:
        return
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    named = ", ".join(f"{name} ({sizes[name] / 2**20:.0f} MiB)" for name in largest)
    raise ConfigError(
        f"the working directory {root} has {total / 2**20:.0f} MiB to upload, {LIMIT / 2**20:.0f} are allowed "
        f"(largest: {named}); put data on the cluster's storage, or list unneeded files in a .rayignore file"
    )


def _add(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (0o755 if path.stat().st_mode & 0o100 else 0o644) << 16
    archive.writestr(entry, path.read_bytes())
