"""The package of a job: the experiment, the files that it names, and our code; nothing else leaves this machine.

Ray packs a whole folder (`working_dir` with `excludes`), so any file that nobody thought of excluding is sent.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from ialign_ray.errors import ConfigError

CODE = "ialign_ray"
CODE_SUFFIXES = (".py", ".yaml", ".j2", ".css", ".js", ".html", ".svg", ".typed")
"""Suffixes of the files that our package consists of."""
EXCLUDED = (
    # not part of an experiment: version control, environments, caches
    *(".git", ".hg", ".svn", ".venv", "venv", "node_modules", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info"),
    # belongs on the cluster's storage
    *("mlruns", "mlflow.db", "*.safetensors", "*.bin", "*.pt", "*.gguf", "*.distcp"),
)
"""Patterns as in `.gitignore`, excluded from a named folder, in addition to its ignore files."""
SECRET_NAMES = GitIgnoreSpec.from_lines(
    (
        *("*.env", ".env*", ".envrc", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk"),
        *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*.gpg", "*.asc", "*.age"),
        *(".aws", ".ssh", ".azure", ".gcloud", ".config", ".docker", ".kube", ".gnupg", ".ray", ".huggingface"),
        *(
            ".netrc",
            "_netrc",
            ".pgpass",
            ".my.cnf",
            ".npmrc",
            ".yarnrc*",
            ".pypirc",
            ".git-credentials",
            ".boto",
            ".s3cfg",
        ),
        *(".htpasswd", ".vault-token", ".terraformrc", "*.tfstate*", "*.tfvars", "kubeconfig*", "*.kubeconfig"),
        *(
            "*credential*",
            "*api_key*",
            "*api-key*",
            "*apikey*",
            "keys.y*ml",
            "*secret*",
            "*password*",
            "*service_account*",
        ),
        *("*service-account*", "auth_token", "token", "*.token", "*token.*", "*tokens.*", "hf_token*"),
    )
)
"""Names of files that hold secrets as a rule, whatever their content."""
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
    def of(cls, root: Path, names: Iterable[str], include: Sequence[str] = ()) -> Package:
        """Choose the files of a working directory that `names` (files, folders, patterns) lead to.

        `include`: more of them; a file that is named there is sent even if it seems to hold a secret. Raises
        ConfigError if the directory or an included file does not exist, something seems secret, or all is too large.
        """
        root = root.absolute()
        if not root.is_dir():
            raise ConfigError(f"--working-dir {root} is not a folder; pass the one containing the experiment file")
        files = {file for name in names for file in below(root, name)}
        for name in include:
            found = set(below(root, name))
            if not found:
                raise ConfigError(f"--include {name} is not a file in {root} that can be sent; links out of it are not")
            files |= found
        own = (root / CODE / "__init__.py").is_file()
        if own:
            files |= {file for file in below(root, CODE) if file.endswith(CODE_SUFFIXES)}
        refuse_large(root, sorted(files))
        refuse_secrets(root, sorted(files - {Path(name).as_posix() for name in include}))
        return cls(root, tuple(sorted(files)), None if own else Path(__file__).parents[1])

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


def below(root: Path, name: str) -> Iterator[str]:
    """Yield the files in a folder that a path leads to: itself, those of a folder, or those of a pattern.

    In a folder, ignore files and `EXCLUDED` hold. A pattern has wildcards or `{slots}`. Links out of the root lead
    to nothing.
    """
    pattern = re.sub(r"\{[^{}]*\}", "*", name)
    path = root / name
    found = [path] if path.exists() else sorted(root.glob(pattern)) if _is_relative(pattern) else []
    for each in found:
        if not each.resolve().is_relative_to(root.resolve()):
            continue
        if each.is_file():
            yield each.relative_to(root).as_posix()
        elif each.is_dir() and not each.is_symlink():
            yield from _walk(root, each, ((root, GitIgnoreSpec.from_lines(EXCLUDED)),))


def _is_relative(name: str) -> bool:
    return bool(name) and not Path(name).is_absolute() and "://" not in name


def _walk(root: Path, folder: Path, rules: tuple[tuple[Path, GitIgnoreSpec], ...]) -> Iterator[str]:
    rules = (*rules, *_own_rules(folder))
    for path in sorted(folder.iterdir()):
        mark = "/" if path.is_dir() else ""
        if any(spec.match_file(path.relative_to(base).as_posix() + mark) for base, spec in rules):
            continue
        if path.is_symlink() and (mark or not path.resolve().is_relative_to(root.resolve())):
            continue
        if mark:
            yield from _walk(root, path, rules)
        elif path.is_file():
            yield path.relative_to(root).as_posix()


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
        f"(largest: {named}); put data on the cluster's storage and name that folder by storage.data"
    )


def refuse_secrets(root: Path, files: Sequence[str]) -> None:
    """Raise ConfigError, naming every file that seems to hold a secret by its name or its text."""
    patterns = _patterns()
    kinds = {n: "its name" if SECRET_NAMES.match_file(n) else _secret_in(root / n, patterns) for n in files}
    found = {name: kind for name, kind in kinds.items() if kind}
    if found:
        listed = ", ".join(f"{name} ({why})" for name, why in found.items())
        flags = " ".join(f"--include {name}" for name in found)
        raise ConfigError(
            f"{len(found)} files of the job seem to hold secrets: {listed}; pass secrets by --env, or send these files "
            f"all the same with {flags}"
        )


def _patterns() -> list[tuple[str, list[re.Pattern[str]]]]:
    """Kinds of secrets and their patterns: those of detect-secrets that name an issuer, and a few that it lacks.

    Its entropy and keyword detectors are left out: they find secrets in any corpus.
    """
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector

    # public addresses are not secrets; the others are slow (a second for 4 MB) and of services without our users
    unused = {
        "IPPublicDetector",
        "ArtifactoryDetector",
        "CloudantDetector",
        "IbmCloudIamDetector",
        "IbmCosHmacDetector",
    }
    unused |= {"SoftlayerDetector", "MailchimpDetector"}
    kinds = get_mapping_from_secret_type_to_class().values()
    named = [k() for k in kinds if issubclass(k, RegexBasedDetector) and k.__name__ not in unused]
    return [(each.secret_type, list(each.denylist)) for each in named] + [
        ("Hugging Face token", [re.compile(r"\bhf_[A-Za-z0-9]{30,}")]),
        ("Google API key", [re.compile(r"\bAIza[0-9A-Za-z_-]{35}")]),
        ("Anthropic API key", [re.compile(r"\bsk-ant-[A-Za-z0-9_-]{20,}")]),
        ("age secret key", [re.compile(r"\bAGE-SECRET-KEY-1[0-9A-Z]{50,}")]),
        ("Kubernetes client key", [re.compile(r"client-key-data:\s*\S{20,}")]),
    ]


def _secret_in(path: Path, patterns: Sequence[tuple[str, list[re.Pattern[str]]]]) -> str | None:
    """Return the kind and line of the first secret in a file. Compressed files are not opened."""
    text = path.read_bytes().decode("utf-8", errors="replace")
    for kind, regexes in patterns:
        for regex in regexes:
            if found := regex.search(text):
                return f"{kind}, line {text.count(chr(10), 0, found.start()) + 1}"
    return None


def _add(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (0o755 if path.stat().st_mode & 0o100 else 0o644) << 16
    archive.writestr(entry, path.read_bytes())
