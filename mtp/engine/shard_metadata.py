"""The index of a checkpoint's folder of shards, read so that nothing in it can run code."""

import pickle
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import filesystem, metadata

from mtp.compat import refuse_pickle_bombs
from mtp.files import MissingFileError, UnusableFileError

INDEX = '.metadata'


class SafeReader(dcp.FileSystemReader):
    """torch's reader of a folder; torch 2.11 unpickles whatever the index holds."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        """Return the index of the folder.

        Raises:
            MissingFileError: the folder has none.
            UnusableFileError: it holds anything but tensors of files of the folder.
        """
        folder = Path(self.path)
        index = read_index(folder)
        index.storage_meta = metadata.StorageMeta(load_id=self.load_id)
        return index


def read_index(folder: str | Path) -> metadata.Metadata:
    """Return the index of a folder of shards.

    Raises:
        MissingFileError: the folder has none.
        UnusableFileError: it is damaged, holds objects that cannot be read safely, or names other
            things than tensors of files of the folder.
    """
    path = Path(folder) / INDEX
    try:
        data = path.read_bytes()
        refuse_pickle_bombs(data)
        index = _IndexUnpickler(BytesIO(data)).load()
        _check(index, path.parent)
    except FileNotFoundError as error:
        raise MissingFileError(f'{path} is missing: give a folder that training wrote') from error
    except Exception as error:  # hostile files reach errors of any type in the unpickler
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UnusableFileError(
            f'{path} cannot be read: {reason}. Copy the folder again, or resume from another one'
        ) from error
    return index


def _stand_in_for_path(*parts: str) -> str:
    """Stand in for the path that the folder had when it was written, which nothing reads."""
    return '/'.join(map(str, parts))


class _IndexUnpickler(pickle.Unpickler):
    allowed = {
        ('torch', 'Size'): torch.Size,
        ('torch.serialization', '_get_layout'): torch.serialization._get_layout,
        ('torch.distributed.checkpoint.filesystem', '_StorageInfo'): filesystem._StorageInfo,
        ('pathlib', 'PosixPath'): _stand_in_for_path,
        ('pathlib', 'WindowsPath'): _stand_in_for_path,
        **{
            ('torch.distributed.checkpoint.metadata', name): getattr(metadata, name)
            for name in (
                'Metadata', 'MetadataIndex', 'StorageMeta', 'TensorProperties',
                'TensorStorageMetadata', 'ChunkStorageMetadata', '_MEM_FORMAT_ENCODING',
            )
        },
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.allowed:
            return self.allowed[module, name]
        if module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(
            f'it holds {module}.{name}, which is not opened, because such a file can run any code'
        )


def _check(index: object, folder: Path) -> None:
    """Refuse an index whose entries are not tensors as large as the files, of this folder."""
    if not isinstance(index, metadata.Metadata):
        raise ValueError(f'it holds a {type(index).__name__} instead of an index')
    size = 0
    for key, entry in index.state_dict_metadata.items():
        if not isinstance(entry, metadata.TensorStorageMetadata):
            raise ValueError(f'{key!r:.80} is no tensor')
        sizes = [entry.size, *(chunk.sizes for chunk in entry.chunks)]
        if any(side < 0 for shape in sizes for side in shape):
            raise ValueError(f'{key!r:.80} has a negative size')
        size += entry.size.numel() * entry.properties.dtype.itemsize
    names = {info.relative_path for info in index.storage_data.values()}
    if any(PurePath(name).name != name for name in names):
        raise ValueError('it names files outside of the folder')
    if any(info.transform_descriptors for info in index.storage_data.values()):
        raise ValueError('its tensors are compressed, which training never writes')
    on_disk = sum((folder / name).stat().st_size for name in names)
    if size > on_disk:
        raise ValueError(
            f'its tensors take {size:,} bytes, and the files that it names have {on_disk:,}'
        )
