"""Where the published data and weights are: names, addresses, and what is known of the files.

What is not known is None: the SHA-256 of such a file is recorded when it is first fetched, and compared from then on.
The addresses are those of the UnMask repository's README (a Dropbox link gives the file if it ends in dl=1), of the
releases of Matterport's Mask_RCNN, and of PASCAL-Part and PASCAL VOC 2010. ImageNet needs a login and is not here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file to fetch.

    Attributes:
        name: its file name.
        about: what it is, in a few words.
        kind: what its first bytes must say: `zip`, `gzip`, `tar` or `hdf5`.
        addresses: the primary address, then mirrors.
        size: bytes.
        hash: SHA-256 in hex, or `md5:` and the MD5.
        unpack_to: for an archive, the folder it becomes, in dataset/.
        holds: for an archive, names of which that folder holds at least one; what lies above it is dropped.
    """

    name: str
    about: str
    kind: str
    addresses: tuple[str, ...]
    size: int | None = None
    hash: str | None = None
    unpack_to: str | None = None
    holds: tuple[str, ...] = ()


RELEASE = (
    Source(
        name="data.zip",
        about="the UnMaskDataset",
        kind="zip",
        addresses=("https://www.dropbox.com/s/4lggy06t70wr4ba/data.zip?dl=1",),
        unpack_to="unmask",
        holds=("cs3-1", "cs3-2", "cs5-1", "cs5-2", "VOC2010"),
    ),
    Source(
        name="mask_rcnn_parts_0040.h5",
        about="the released K",
        kind="hdf5",
        addresses=("https://www.dropbox.com/s/5l9cktsandce8ma/mask_rcnn_parts_0040.h5?dl=1",),
    ),
    Source(
        name="mask_rcnn_coco.h5",
        about="Matterport's COCO weights, from which K is trained",
        kind="hdf5",
        addresses=(
            "https://github.com/matterport/Mask_RCNN/releases/download/v2.0/mask_rcnn_coco.h5",
            "https://www.dropbox.com/s/d4e0x2r82h266k6/mask_rcnn_coco.h5?dl=1",
        ),
        size=257_557_808,
    ),
)

RAW = (
    Source(
        name="trainval.tar.gz",
        about="PASCAL-Part's annotations",
        kind="gzip",
        addresses=(
            "http://roozbehm.info/pascal-parts/trainval.tar.gz",
            "http://www.stat.ucla.edu/~xianjie.chen/pascal_part_dataset/trainval.tar.gz",
        ),
        unpack_to="sources/pascal_part",
        holds=("Annotations_Part",),
    ),
    Source(
        name="VOCtrainval_03-May-2010.tar",
        about="the photographs of PASCAL VOC 2010",
        kind="tar",
        addresses=("http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",),
        hash="md5:da459979d0c395079b5c75ee67908abb",  # as torchvision's VOCDetection lists it
        unpack_to="sources/VOC2010",
        holds=("JPEGImages",),
    ),
)
