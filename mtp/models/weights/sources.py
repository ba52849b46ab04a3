"""Where weights come from: a file, a folder, a name of the catalogue, an address or ``hf://``."""

import hashlib
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from mtp.files import MissingFileError, UnusableFileError, home, whole
from mtp.models.weights.catalogue import CATALOGUE, Weights
from mtp.models.weights.released import find_file, find_released, folders

HUB = 'hf://'
# What is taken from a folder or a repository of the hub, which may hold anything else.
PREFERRED, SUFFIXES = 'model.safetensors', ('.safetensors', '.pth')
_CHUNK = 2**20  # bytes


@dataclass(frozen=True)
class Digests:
    """Hashes and size of a file.

    Attributes:
        sha256: SHA-256, hex digits.
        md5: MD5, hex digits, which some authors publish.
        size: size, bytes.
    """

    sha256: str
    md5: str
    size: int


def resolve(source: str | Path) -> Path:
    """Return the local path of weights; those of the hub are downloaded once.

    Args:
        source: file; folder with one file of weights, or a checkpoint folder of mtp's; name of the
            catalogue; or ``hf://owner/name``, which ``/file`` may follow.

    Returns:
        Path: the file, or the checkpoint folder.

    Raises:
        MissingFileError: there is no such file; the message says where to get one of the
            catalogue.
        UnusableFileError: the folder or repository has no file of weights, or several.
    """
    text = str(source)
    if text.startswith(HUB):
        return _from_hub(text)
    path = Path(source).expanduser()
    if path.is_dir():
        return path if (path / '.metadata').is_file() else path / _choose(_names(path), text)
    if path.is_file():
        return path
    if text in CATALOGUE:
        weights = CATALOGUE[text]
        path = find_file(weights.kept_as)
        if not path.is_file():
            raise MissingFileError(f'no weights {text} yet: {how_to_get(weights)}')
        return path
    raise MissingFileError(
        f'no weights at {text}: give a file, a folder, hf://owner/name or one of the names that '
        '`mtp weights list` prints'
    )


def find_weights(backbone: str, checkpoint: str | Path) -> Path:
    """Return the file of an encoder's weights, which need not exist unless it is of the hub.

    Args:
        backbone: name of a backbone, as in :func:`mtp.models.backbones.build_backbone`.
        checkpoint: ``hf://owner/name``, or what
            :func:`mtp.models.weights.released.find_released` takes.

    Raises:
        UnusableFileError: the hub's file cannot be had.
        ValueError: no weights have this name.
    """
    if str(checkpoint).startswith(HUB):
        return resolve(checkpoint)
    return find_released(backbone, checkpoint)


def how_to_get(weights: Weights) -> str:
    """Return what a user does to get the file of an entry of the catalogue, in one line."""
    if weights.url:
        return f'`mtp weights download {weights.name}` gets it'
    found = f'the file {weights.file}' if weights.file else f'the model {weights.name}'
    return (
        f'get {found} from {weights.page} and put it at {folders()[-1] / weights.kept_as} or '
        f'{folders()[0] / weights.kept_as}'
    )


def download(weights: Weights) -> Path:
    """Download the file of an entry of the catalogue into :func:`mtp.files.home`, once.

    Returns:
        Path: the file.

    Raises:
        UnusableFileError: no address gives the file itself, it cannot be downloaded, or it is not
            the authors' file.
    """
    path = find_file(weights.kept_as)
    if path.is_file():
        return path
    if weights.url is None:
        raise UnusableFileError(f'{weights.name} is not downloaded: {how_to_get(weights)}')
    path = home() / weights.kept_as
    try:
        with whole(path) as unfinished:
            with urllib.request.urlopen(weights.url) as response, open(unfinished, 'wb') as file:
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
            check_digests(weights, digests(unfinished), weights.url)
    except urllib.error.URLError as error:
        raise UnusableFileError(
            f'{weights.url} cannot be downloaded ({error.reason}): try again, or '
            f'get {weights.file} from {weights.page} and put it at {path}'
        ) from error
    return path


def digests(path: Path) -> Digests:
    """Return the hashes and the size of a file."""
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with open(path, 'rb') as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            md5.update(chunk)
            size += len(chunk)
    return Digests(sha256.hexdigest(), md5.hexdigest(), size)


def check_digests(weights: Weights, found: Digests, source: str | Path) -> None:
    """Check a file against the hashes and the size that are known of an entry.

    Raises:
        UnusableFileError: one of them differs; the message names ``source``.
    """
    for title, value, known in (
        ('SHA-256', found.sha256, weights.sha256),
        ('MD5', found.md5, weights.md5_start),
        ('size', str(found.size), weights.size and str(weights.size)),
    ):
        if known and not (value == known if title == 'size' else value.startswith(known)):
            raise UnusableFileError(
                f'{source} is not the file of {weights.name}: its {title} is {value}, that of the '
                f'authors {"begins with " if title == "MD5" else ""}{known}. Download it again'
            )


def _from_hub(source: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    owner, name, file = (*source.removeprefix(HUB).split('/', 2), '', '')[:3]
    if not owner or not name:
        raise UnusableFileError(f'{source}: expected hf://owner/name or hf://owner/name/file')
    if file and not file.endswith(SUFFIXES):
        raise UnusableFileError(f'{source}: expected a file of {" or ".join(SUFFIXES)}')
    repository, cache = f'{owner}/{name}', home() / 'hub'
    try:
        if not file:
            file = _choose(huggingface_hub.list_repo_files(repository), source)
        return Path(huggingface_hub.hf_hub_download(repository, file, cache_dir=cache))
    except (HfHubHTTPError, EntryNotFoundError, HFValidationError, OSError) as error:
        kept = not file and huggingface_hub.try_to_load_from_cache(repository, PREFERRED, cache)
        if isinstance(kept, str):  # without a network
            return Path(kept)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnusableFileError(
            f'{source} cannot be had from the Hugging Face hub ({reason}): check the name and the '
            'network, or download the file and give its path'
        ) from error


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def _choose(names: list[str], source: str) -> str:
    """Return the one file of weights among names, ``model.safetensors`` before all others."""
    files = [name for name in names if name.endswith(SUFFIXES)]
    if PREFERRED in files:
        return PREFERRED
    if len(files) == 1:
        return files[0]
    raise UnusableFileError(
        f'{source} has no {PREFERRED} and {len(files)} files of {" or ".join(SUFFIXES)}'
        + (f': name one of {", ".join(files[:5])}' if files else '')
    )
