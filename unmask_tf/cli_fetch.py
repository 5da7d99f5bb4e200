"""Commands that bring data here, and that compare images: fetch, flickr, near-duplicates, leaks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unmask_tf.cli_options import comma_list
from unmask_tf.errors import InputError
from unmask_tf.places import ROOT, WEIGHTS_FOLDER

if TYPE_CHECKING:
    from unmask_tf.data.sources import Source

_FOLDER = click.Path(path_type=Path)


def _tell_damaged(name: str, damaged: dict[Path, str]) -> None:
    for reason in damaged.values():
        click.echo(f"[{name}] not compared: {reason}", err=True)


@click.command("near-duplicates")
@click.argument("folders", nargs=-1, type=_FOLDER)
@click.option("--threshold", type=int, help="Bits of 256 in which two hashes may differ; default: measured, see there.")
@click.option("--within", is_flag=True, help="Of several folders, also compare images of the same folder.")
@click.option("--out", type=_FOLDER, help="Folder of the page and the table; default: results/near_duplicates.")
def near_duplicates(folders: tuple[Path, ...], threshold: int | None, within: bool, out: Path | None) -> None:
    """Find images of FOLDERS that are nearly the same, such as Flickr's in ImageNet and VOC.

    The page with thumbnails is for a person to judge; nothing is deleted. One folder is compared with itself.
    """
    from unmask_tf.data.duplicate_page import write_page
    from unmask_tf.data.images import IMAGE_SUFFIXES
    from unmask_tf.data.near_duplicates import THRESHOLD, pairs_within, perceptual_hashes

    if not folders:
        raise InputError('no folders were given. Name one or more (make near-duplicates FOLDERS="flickr imagenet").')
    files: list[tuple[int, Path]] = []
    for number, folder in enumerate(folders):
        found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
        if not found:
            raise InputError(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}). Check the path.")
        files += [(number, path) for path in found]
    hashes, damaged = perceptual_hashes([path for _, path in files])
    _tell_damaged("near-duplicates", damaged)
    pairs = [
        (files[i][1], files[j][1], int(bits))
        for i, j, bits in pairs_within(hashes, THRESHOLD if threshold is None else threshold)
        if (within or len(folders) == 1 or files[i][0] != files[j][0])
        and files[i][1] not in damaged
        and files[j][1] not in damaged
    ]
    title = f"Near-duplicates in {', '.join(map(str, folders))}"
    table, page = write_page(out or ROOT / "results" / "near_duplicates", pairs, title)
    click.echo(f"[near-duplicates] {len(files) - len(damaged)} images, {len(pairs)} pairs: {page}, {table}")


@click.command()
@click.option("--profile", default="mini", show_default=True, help="Whose data.")
@click.option("--data", type=_FOLDER, help="Data folder; default: the profile's in dataset/.")
@click.option("--threshold", type=int, help="Bits of 256 in which two hashes may differ; default: measured.")
@click.option("--out", type=_FOLDER, help="Folder of the page and the table; default: results/PROFILE/leaks.")
def leaks(profile: str, data: Path | None, threshold: int | None, out: Path | None) -> int:
    """Compare the test splits of K and M with the images that K and M saw; the exit status is 1 if any are near."""
    from unmask_tf.data.duplicate_page import write_page
    from unmask_tf.data.leaks import find_leaks
    from unmask_tf.data.near_duplicates import THRESHOLD
    from unmask_tf.experiment.setup import prepare

    run = prepare(profile, data=data)
    found = find_leaks(run.root, THRESHOLD if threshold is None else threshold)
    _tell_damaged("leaks", found.damaged)
    for first, second, bits in found.leaks:
        click.echo(f"[leaks] {bits:3} bits: test {first.path} ({first.owner}), {second.split} {second.path}")
    pairs = [(first.path, second.path, bits) for first, second, bits in (*found.leaks, *found.remarks)]
    _, page = write_page(out or run.folder / "leaks", pairs, f"Near-duplicates across the splits of {run.root}")
    click.echo(
        f"[leaks] {run.root}: {len(found.images)} images; {len(found.leaks)} pairs of a test image and one trained or "
        f"chosen on; {len(found.remarks)} pairs of a validation image and one trained on. {page}"
    )
    return int(bool(found.leaks))


@click.command()
@click.option("--profile", default="paper", show_default=True, help="Only `paper` has anything to fetch.")
@click.option("--data", type=_FOLDER, help="Folder that the release becomes; default: dataset/unmask.")
@click.option("--from", "origin", type=click.Choice(["release", "sources"]), default="release", show_default=True)
@click.option("--archive", help="The released data.zip, if you have it, or another address of it.")
@click.option("--use", multiple=True, metavar="NAME=FILE", help="A file, or an address, instead of the listed one's.")
def fetch(profile: str, data: Path | None, origin: str, archive: str | None, use: tuple[str, ...]) -> None:
    """Fetch the released data and weights, or the raw sources (PASCAL-Part and VOC 2010) to rebuild the data from.

    Run it again after an interruption: it goes on from there.
    """
    from unmask_tf.data.sources import RAW, RELEASE

    if profile != "paper":
        raise InputError(f"profile '{profile}' has nothing to fetch. Say PROFILE=paper.")
    sources = {source.name: source for source in (RELEASE if origin == "release" else RAW)}
    given = dict(text.partition("=")[::2] for text in use) | ({"data.zip": archive} if archive else {})
    if unknown := ", ".join(given.keys() - sources.keys()):
        raise InputError(
            f"'{unknown}' is not fetched from the {origin}: only {', '.join(sources)} are. Correct the name."
        )
    failures = []
    for name, source in sources.items():
        folder = ROOT / "dataset" / source.unpack_to if source.unpack_to else WEIGHTS_FOLDER
        if data is not None and source.unpack_to and origin == "release":
            folder = data
        try:
            click.echo(f"[fetch] {source.about}: {_bring(source, folder, given.get(name))}")
        except InputError as error:
            failures.append(str(error))
    if failures:
        raise InputError(" ".join(failures))


def _bring(source: Source, folder: Path, given: str | None) -> str:
    """Fetches one file; unpacks it to the folder, or puts it there. Returns what was done."""
    from dataclasses import replace

    from unmask_tf.data.archives import is_unpacked, unpack
    from unmask_tf.data.download import adopt, download, mismatch
    from unmask_tf.files import atomic_path

    final = folder if source.unpack_to else folder / source.name
    if source.unpack_to and is_unpacked(final):
        return f"{final} is there"
    if not source.unpack_to and final.exists():
        if reason := mismatch(source, final):
            raise InputError(f"{final} is not the file expected: {reason}. Move it away, and run the command again.")
        return f"{final} is there"
    downloads = (folder.parent if source.unpack_to else folder) / ".downloads"
    if given and "://" not in given:
        path = adopt(source, given, downloads)
    else:
        path = download(replace(source, addresses=(given,)) if given else source, downloads)
    if source.unpack_to:
        count = unpack(path, final, source.holds)
        return f"{final}, {count} files" + (f" (you may delete {path})" if path.parent == downloads else "")
    if path.parent == downloads:
        path.replace(final)
    else:
        with atomic_path(final) as temporary:
            shutil.copyfile(path, temporary)
    return str(final)


@click.command()
@click.option("--classes", required=True, help="Such as car,dog: each is searched for by its name.")
@click.option("--count", type=int, default=200, show_default=True, help="Photographs of each class.")
@click.option("--min-side", type=int, default=150, show_default=True, help="Smallest shorter side, pixels.")
@click.option("--licences", default="", help="Flickr's ids, such as 4,9; default: free ones that allow changes.")
@click.option("--out", type=_FOLDER, help="Folder; default: dataset/sources/flickr.")
def flickr(classes: str, count: int, min_side: int, licences: str, out: Path | None) -> None:
    """Fetch photographs of classes from Flickr, with their attribution; FLICKR_API_KEY holds your key.

    Run it again after an interruption: it goes on from there. Look at what came, and at `near-duplicates`, before use.
    """
    from unmask_tf.data import flickr as library

    if not (key := os.environ.get("FLICKR_API_KEY", "").strip()):
        raise InputError(
            "FLICKR_API_KEY is not set. Ask Flickr for a key (flickr.com/services/apps/create), and export it."
        )
    api = library.Flickr(key, api=library.API, per_hour=library.REQUESTS_PER_HOUR)
    folder = out or ROOT / "dataset" / "sources" / "flickr"
    for name in comma_list(classes):
        have, troubles = library.fetch_class(
            api, name, folder, count=count, min_side=min_side, licences=comma_list(licences)
        )
        for reason in troubles:
            click.echo(f"[flickr] left out: {reason}", err=True)
        click.echo(f"[flickr] {name}: {have} of {count} photographs in {folder / name}")


COMMANDS = (fetch, flickr, near_duplicates, leaks)
