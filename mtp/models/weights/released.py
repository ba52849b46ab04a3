"""Released weights by name: where their files lie, and encoders that finetuning starts from."""

from collections.abc import Iterable
from pathlib import Path

from mtp.files import home
from mtp.models.weights.catalogue import CATALOGUE, Weights

FOLDER = Path('checkpoints')  # below the working directory


def _by_backbone(catalogue: Iterable[Weights]) -> dict[str, dict[str, str]]:
    files: dict[str, dict[str, str]] = {}
    for weights in catalogue:
        if weights.short is not None:
            for backbone in (weights.backbone, *weights.others):
                files.setdefault(backbone, {})[weights.short] = weights.kept_as
    return files


# backbone -> name in its configs -> file name of the publisher
RELEASED = _by_backbone(CATALOGUE.values())


def folders() -> list[Path]:
    """Return where released weights are looked for: ``checkpoints/``, then mtp's own folder."""
    return [FOLDER, home()]


def find_file(name: str) -> Path:
    """Return the path of a file of weights: in the first of :func:`folders` that has it.

    Args:
        name: name of the file.

    Returns:
        Path: its path; in the first folder, if none has it.
    """
    paths = [folder / name for folder in folders()]
    return next((path for path in paths if path.exists()), paths[0])


def find_released(backbone: str, checkpoint: str | Path) -> Path:
    """Return the file of a backbone's released checkpoint; return any other path unchanged.

    Args:
        backbone: name of a backbone, as in :func:`mtp.models.backbones.build_backbone`.
        checkpoint: name of released weights in :data:`RELEASED` or in
            :data:`mtp.models.weights.catalogue.CATALOGUE`, or path of any other file.

    Returns:
        Path: the file in the first of :func:`folders` that has it; in the first, if none has.

    Raises:
        ValueError: ``checkpoint`` has neither suffix nor folder, and no released weights of the
            backbone have this name.
    """
    names = RELEASED.get(backbone, {})
    if str(checkpoint) in names:
        return find_file(names[str(checkpoint)])
    if str(checkpoint) in CATALOGUE:
        return find_file(CATALOGUE[str(checkpoint)].kept_as)
    if str(checkpoint) == Path(checkpoint).stem:
        raise ValueError(
            f'no released weights of {backbone} are called {str(checkpoint)!r}. '
            f'There are: {", ".join(names) or "none"}; or give the path of a file'
        )
    return Path(checkpoint)
