"""The released weights that mtp knows by name, with what their authors say of them.

What nobody here has seen is None: a hash, a size or an address is never guessed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

MTP = 'https://github.com/ViTAE-Transformer/MTP'
MAE = 'https://github.com/facebookresearch/mae'
INTERNIMAGE = 'https://github.com/OpenGVLab/InternImage'
RVSA = 'https://github.com/ViTAE-Transformer/Remote-Sensing-RVSA'
MTP_PAPER = 'arXiv:2403.13430'
# Of RGB bands of 0 to 255.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Weights:
    """Released weights.

    Attributes:
        name: name that is unique among all weights.
        kind: ``'encoder'``, ``'model'`` (finetuned, with its head) or ``'multitask'`` (the whole
            pretrained model).
        backbone: name for :func:`mtp.models.backbones.build_backbone`.
        page: page of the authors that offers the file.
        paper: its number on arXiv.
        licence: licence of the repository that offers the file; of the file, if that has one.
        input_size: side of the training images, pixels.
        short: name in a config of this backbone, such as ``mtp``.
        others: further backbones that start from the file under the same short name.
        file: name of the authors' file.
        url: address that gives the file itself.
        shares: addresses on the page that open a folder, to find the file by hand.
        sha256: SHA-256 of the file, hex digits.
        md5_start: first hex digits of the file's MD5.
        size: size of the file, bytes.
        mean: mean of each band that images are normalised with.
        std: standard deviation of each band.
        figure: published figure, as the page gives it.
        dataset: data set of a finetuned model, a name of :data:`mtp.data.datasets.DATASETS`.
        layout: name of the recorded keys and shapes, see :mod:`mtp.models.weights.layouts`.
        partial: whether the file may hold more than ``layout`` records.
    """

    name: str
    kind: str
    backbone: str
    page: str
    paper: str | None
    licence: str | None
    input_size: int | None
    short: str | None = None
    others: tuple[str, ...] = ()
    file: str | None = None
    url: str | None = None
    shares: tuple[str, ...] = ()
    sha256: str | None = None
    md5_start: str | None = None
    size: int | None = None
    mean: tuple[float, ...] | None = MEAN
    std: tuple[float, ...] | None = STD
    figure: str | None = None
    dataset: str | None = None
    layout: str | None = None
    partial: bool = False

    @property
    def kept_as(self) -> str:
        """Name of the file where mtp looks for it: the authors', or one of mtp's if unknown."""
        return self.file or f'{self.name}.pth'


_ENCODER_SHARES = (
    'https://1drv.ms/f/s!AimBgYV7JjTlgcpa7t2sywuWOm3HQA?e=LAh8WN',
    'https://pan.baidu.com/s/1Zh6yv2AouboGEP4phyR7xA?pwd=yqv9',
)
# task -> shared folders of its finetuned models
_SHARES = {
    'classification': (
        'https://1drv.ms/f/s!AiSncQLqo7V6gTwi2qBsPuiSrgrL?e=utqMdY',
        'https://pan.baidu.com/s/1w4ORVO4Q4XGzOJY0NMBy8Q?pwd=jsoc',
    ),
    'horizontal_detection': (
        'https://1drv.ms/f/s!AiSncQLqo7V6gUNIOKO-VtlKyT4d?e=NXA4Nw',
        'https://pan.baidu.com/s/1yiJISQYg0Xl84PvZr_r84w?pwd=ag0x',
    ),
    'rotated_detection': (
        'https://1drv.ms/f/s!AiSncQLqo7V6gUqBkd0jFEDi2bkJ?e=ja8jJK',
        'https://pan.baidu.com/s/1K7yCPmr1kGd--QRWnaEjMg?pwd=1o98',
    ),
    'segmentation': (
        'https://1drv.ms/f/s!AiSncQLqo7V6gVGc75VWbetEGbZ0?e=VawLcI',
        'https://pan.baidu.com/s/1H0ZaPRcxfuyVLjK5hrsSQw?pwd=udv5',
    ),
    'change_detection': (
        'https://1drv.ms/f/s!AiSncQLqo7V6gVjJ6TUTsQg62SaO?e=bxFnH5',
        'https://pan.baidu.com/s/1-FYYGUmzIMbsbgpde7l0uw?pwd=by7w',
    ),
}
# data set -> task, side of the images, figure, its values of ViT-B, ViT-L, InternImage-XL. These
# are of the page with the files, which differs from the paper in those of DIOR.
_FINETUNED: dict[str, tuple[str, int, str, tuple[float, float, float]]] = {
    'eurosat': ('classification', 224, 'accuracy', (98.76, 98.78, 99.24)),
    'resisc45': ('classification', 224, 'accuracy', (95.57, 95.88, 96.27)),
    'xview': ('horizontal_detection', 416, 'AP50', (16.40, 19.40, 18.20)),
    'dior': ('horizontal_detection', 800, 'AP50', (79.00, 81.70, 78.30)),
    'dior_r': ('rotated_detection', 800, 'mAP', (71.29, 74.54, 72.17)),
    'fair1m': ('rotated_detection', 800, 'mAP', (51.92, 53.00, 50.93)),
    'spacenet_v1': ('segmentation', 384, 'mIoU', (79.63, 79.54, 79.16)),
    'loveda': ('segmentation', 512, 'mIoU', (52.39, 54.17, 54.17)),
    'oscd': ('change_detection', 224, 'F1', (53.36, 55.92, 55.61)),
    'whu': ('change_detection', 256, 'F1', (94.32, 94.75, 95.59)),
    'levir': ('change_detection', 256, 'F1', (92.22, 92.67, 92.54)),
    'svcd': ('change_detection', 256, 'F1', (97.87, 97.98, 98.33)),
}
_BACKBONES = {'vit_b_rvsa': 224, 'vit_l_rvsa': 448, 'internimage_xl': 448}  # side in pretraining


def _starts() -> Iterator[Weights]:
    """Yield the encoders that were not trained by the authors of MTP, or before it."""
    for size, name, md5 in (('b', 'base', '8cad7c'), ('l', 'large', 'b8b06e')):
        yield Weights(
            name=f'mae_vit_{size}',
            kind='encoder',
            backbone=f'vit_{size}',
            page=MAE,
            paper='arXiv:2111.06377',
            licence='CC-BY-NC-4.0',
            input_size=224,
            short='mae',
            others=(f'vit_{size}_rvsa',),
            file=f'mae_pretrain_vit_{name}.pth',
            url=f'https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_{name}.pth',
            md5_start=md5,
            layout=f'mae_vit_{size}',
            partial=True,
        )
    # The starts of the paper, after MAE on Million-AID; the ViT-B is of an older project.
    yield Weights(
        name='mae_millionaid_vit_b',
        kind='encoder',
        backbone='vit_b',
        page=RVSA,
        paper='arXiv:2208.03987',
        licence='MIT',
        input_size=224,
        file='vit-b-checkpoint-1599.pth',
        shares=('https://1drv.ms/u/s!AimBgYV7JjTlgUPBC6cvpo4oZDSR?e=kNCAhO',),
        mean=None,
        std=None,
        layout='mae_vit_b',
        partial=True,
    )
    yield Weights(
        name='mae_millionaid_vit_l',
        kind='encoder',
        backbone='vit_l',
        page=MTP,
        paper=MTP_PAPER,
        licence='MIT',
        input_size=None,
        file='vit-l-mae-checkpoint-1599.pth',
        shares=_ENCODER_SHARES,
        mean=None,
        std=None,
        layout='mae_vit_l',
        partial=True,
    )
    yield Weights(
        name='imagenet_internimage_xl',
        kind='encoder',
        backbone='internimage_xl',
        page=INTERNIMAGE,
        paper='arXiv:2211.05778',
        licence='MIT',
        input_size=384,
        short='imagenet',
        file='internimage_xl_22kto1k_384.pth',
        url='https://huggingface.co/OpenGVLab/InternImage/resolve/main/'
        'internimage_xl_22kto1k_384.pth',
        figure='ImageNet-1k accuracy 88.0',
        layout='mtp_internimage_xl',  # the same encoder, and a classifier
        partial=True,
    )


def _pretrained() -> Iterator[Weights]:
    for backbone, side in _BACKBONES.items():
        for name, kind, ending in (
            (f'mtp_{backbone}', 'encoder', '_encoder'),
            (f'mtp_{backbone}_multitask', 'multitask', ''),
        ):
            yield Weights(
                name=name,
                kind=kind,
                backbone=backbone,
                page=MTP,
                paper=MTP_PAPER,
                licence='MIT',
                input_size=side,
                short='mtp' if kind == 'encoder' else None,
                file=f'last_{backbone}_ss_is_rd_pretrn_model{ending}.pth',
                shares=_ENCODER_SHARES,
                layout=f'mtp_{backbone}',
                partial=kind == 'multitask',
            )


def _finetuned() -> Iterator[Weights]:
    for dataset, (task, side, metric, figures) in _FINETUNED.items():
        for backbone, value in zip(_BACKBONES, figures):
            yield Weights(
                name=f'{dataset}_{backbone}',
                kind='model',
                backbone=backbone,
                page=MTP,
                paper=MTP_PAPER,
                licence='MIT',
                input_size=side,
                shares=_SHARES[task],
                figure=f'{metric} {value:.2f}',
                dataset=dataset,
                layout=f'{dataset}_{backbone}',
            )


CATALOGUE = {each.name: each for part in (_starts, _pretrained, _finetuned) for each in part()}
