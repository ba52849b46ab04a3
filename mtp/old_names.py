"""Old names of modules and configs, which keep working with a warning until release 0.3."""

import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

REMOVED_IN = '0.3'
# old module -> new one
MODULES = {
    'mtp.batch': 'mtp.sample_fields',
    'mtp.data.change': 'mtp.data.readers.pairs',
    'mtp.data.checking': 'mtp.data.samrs.checking',
    'mtp.data.checking_downstream': 'mtp.data.checks',
    'mtp.data.conversion': 'mtp.data.samrs.to_coco',
    'mtp.data.detection': 'mtp.data.readers.boxes',
    'mtp.data.facts.samrs': 'mtp.data.samrs.subsets',
    'mtp.data.from_coco': 'mtp.data.samrs.from_coco',
    'mtp.data.labelled': 'mtp.data.readers.labelled',
    'mtp.data.multitask': 'mtp.data.multitask_dataset',
    'mtp.data.prepare.scenes': 'mtp.data.prepare.images',
    'mtp.data.runs': 'mtp.data.run_lengths',
    'mtp.data.synthetic.samrs': 'mtp.data.samrs.synthesis',
    'mtp.engine.check_datasets': 'mtp.engine.hooks.check_datasets',
    'mtp.engine.checkpoint': 'mtp.engine.shards',
    'mtp.engine.compilation': 'mtp.engine.hooks.compilation',
    'mtp.engine.launch': 'mtp.cli.launch',
    'mtp.engine.logging': 'mtp.engine.hooks.deferred_log',
    'mtp.engine.recipes': 'mtp.recipes.table',
    'mtp.engine.rehearsal': 'mtp.engine.hooks.rehearsal',
    'mtp.engine.reproduce': 'mtp.recipes.reproduce',
    'mtp.engine.shrink': 'mtp.recipes.shrink',
    'mtp.engine.throughput': 'mtp.engine.hooks.throughput',
    'mtp.engine.visualization_hook': 'mtp.engine.hooks.draw_predictions',
    'mtp.evaluation.change': 'mtp.evaluation.change_metric',
    'mtp.evaluation.coco': 'mtp.evaluation.coco_metric',
    'mtp.evaluation.masks': 'mtp.evaluation.mask_overlaps',
    'mtp.evaluation.multitask': 'mtp.evaluation.multitask_metric',
    'mtp.evaluation.rotated': 'mtp.evaluation.rotated_metric',
    'mtp.evaluation.segmentation': 'mtp.evaluation.segmentation_metric',
    'mtp.inference': 'mtp.visualization',
    'mtp.inference.browse': 'mtp.visualization.browse',
    'mtp.inference.curves': 'mtp.visualization.curves',
    'mtp.inference.samples': 'mtp.visualization.samples',
    'mtp.inference.visualizer': 'mtp.visualization.visualizer',
    'mtp.models.change_detection': 'mtp.models.siamese_unet',
    'mtp.models.checkpoints': 'mtp.models.weights.loading',
    'mtp.models.convert': 'mtp.models.weights.official',
    'mtp.models.layers': 'mtp.models.batch_norm',
    'mtp.models.multitask': 'mtp.models.multitask_model',
}


def _of_data_sets(attribute: str, names: str, prefix: str = '') -> dict[str, str]:
    """Return old name -> new name of an attribute that a module had once per data set."""
    return {f'{prefix}{name}': f'mtp.data.datasets.{name}.{attribute}' for name in names.split()}


_BOX_PARSERS = {
    'Box': 'mtp.data.formats.base.Box',
    'read_dota': 'mtp.data.formats.dota_text.read_dota',
    'read_fair1m': 'mtp.data.formats.object_xml.read_fair1m',
}
# old module that was split -> attribute -> its new full name
DIVIDED = {
    'mtp.data.facts': {
        'DATASETS': 'mtp.data.datasets.DATASETS',
        'Facts': 'mtp.data.datasets.DataSet',
    },
    'mtp.data.facts.base': {'Facts': 'mtp.data.datasets.DataSet'},
    'mtp.data.facts.detection': {'DETECTION': 'mtp.data.datasets.DATASETS'},
    'mtp.data.facts.scenes': {'SCENES': 'mtp.data.datasets.DATASETS'},
    'mtp.data.prepare.box_files': _BOX_PARSERS,
    'mtp.data.prepare.boxes': _BOX_PARSERS,
    'mtp.data.prepare.change': _of_data_sets('prepare', 'clcd egy_bcd gvlm levir oscd svcd whu'),
    'mtp.data.prepare.classification': _of_data_sets('prepare', 'eurosat resisc45'),
    'mtp.data.prepare.horizontal': _of_data_sets('prepare', 'dior xview'),
    'mtp.data.prepare.rotated': _of_data_sets('prepare', 'dior_r fair1m'),
    'mtp.data.prepare.segmentation': {
        'burn': 'mtp.data.prepare.footprints.burn',
        'geotransform': 'mtp.data.prepare.footprints.geotransform',
        **_of_data_sets('prepare', 'loveda spacenet_v1'),
    },
    'mtp.data.synthetic.detection': {
        'MAKE': 'mtp.data.synthetic.MAKE',
        **_of_data_sets('synthesise', 'dior dior_r dota_v1 dota_v2 fair1m xview', 'make_'),
    },
    'mtp.data.synthetic.scenes': {
        'MAKE': 'mtp.data.synthetic.MAKE',
        **_of_data_sets('synthesise', 'eurosat gvlm loveda oscd resisc45 spacenet_v1 whu', 'make_'),
    },
}
# old path of a config, below the folder of all configs -> new one
CONFIGS = {
    '_base_/datasets/nwpu.py': '_base_/pretrain/datasets/nwpu.py',
    '_base_/datasets/samrs.py': '_base_/pretrain/datasets/samrs.py',
    '_base_/datasets/synthetic.py': '_base_/pretrain/datasets/synthetic.py',
    '_base_/heads/instance.py': '_base_/pretrain/heads/instance.py',
    '_base_/heads/rotated.py': '_base_/pretrain/heads/rotated.py',
    '_base_/heads/semantic.py': '_base_/pretrain/heads/semantic.py',
    '_base_/models/multitask.py': '_base_/pretrain/models/multitask.py',
    '_base_/models/multitask_small.py': '_base_/pretrain/models/multitask_small.py',
    '_base_/pretrain_demo.py': '_base_/pretrain/demo.py',
    '_base_/pretrain_samrs.py': '_base_/pretrain/samrs_tasks.py',
    '_base_/run.py': '_base_/common.py',
    '_base_/runtime.py': '_base_/pretrain/runtime.py',
    '_base_/schedules/demo.py': '_base_/pretrain/schedules/demo.py',
    '_base_/schedules/mtp_80k.py': '_base_/pretrain/schedules/mtp_80k.py',
    'pretrain/internimage-pico_demo.py': 'pretrain/internimage_pico_demo.py',
    'pretrain/internimage-xl_samrs.py': 'pretrain/internimage_xl_samrs.py',
    'pretrain/vit-b-rvsa_samrs.py': 'pretrain/vit_b_rvsa_samrs.py',
    'pretrain/vit-l-rvsa_samrs.py': 'pretrain/vit_l_rvsa_samrs.py',
    'pretrain/vit-tiny-rvsa_demo.py': 'pretrain/vit_tiny_rvsa_demo.py',
    'pretrain/vit-tiny-rvsa_nwpu.py': 'pretrain/vit_tiny_rvsa_nwpu.py',
}


def setup() -> None:
    """Make the old names of modules importable."""
    sys.meta_path.insert(0, OldNameFinder())


def new_config(path: Path) -> Path:
    """Return the new path of a config whose old path is gone; return any other path as it is."""
    new = renamed(path, CONFIGS)
    if new is None or path.is_file():
        return path
    _warn(str(path), str(new))
    return new


def old_config(path: Path) -> Path | None:
    """Return the path of a config before it was renamed, or None if it never was."""
    return renamed(path.resolve(), {new: old for old, new in CONFIGS.items()})


def renamed(path: Path, names: Mapping[str, str]) -> Path | None:
    """Return the other name of a path, None if ``names`` has none.

    Args:
        path: config file, which need not exist.
        names: paths below the folder of all configs -> their other names.
    """
    path = Path(os.path.abspath(path))
    for folder in path.parents:
        name = path.relative_to(folder).as_posix()
        if name in names:
            return folder / names[name]
    return None


class OldNameFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finder and loader of modules by their old names.

    An old name gives the module of the new name. The old name of a module that was split gives a
    module whose attributes come from several modules.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for an old name, or None for any other name."""
        if name in MODULES or name in DIVIDED:
            return importlib.machinery.ModuleSpec(name, self, is_package=name in DIVIDED)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return the module of the new name, or an empty module if the old one was split."""
        if spec.name in DIVIDED:
            return ModuleType(spec.name)
        _warn(spec.name, MODULES[spec.name])
        module = importlib.import_module(MODULES[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the own spec of a renamed module, or add the attributes of one that was split."""
        if module.__name__ in DIVIDED:
            find: Callable[[str], object] = partial(_find_moved, module.__name__)
            module.__getattr__ = find  # type: ignore[method-assign]  # PEP 562
        elif module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


def _find_moved(module: str, name: str) -> object:
    if name not in DIVIDED[module]:
        raise AttributeError(f'module {module!r} has no attribute {name!r}')
    new = DIVIDED[module][name]
    _warn(f'{module}.{name}', new)
    where, _, attribute = new.rpartition('.')
    return getattr(importlib.import_module(where), attribute)


def _warn(old: str, new: str) -> None:
    warnings.warn(
        f'{old} is called {new} now; the old name goes with mtp {REMOVED_IN}',
        FutureWarning,
        stacklevel=2,
    )
