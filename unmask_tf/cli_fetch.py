"""Commands that bring data here, and that compare images: fetch, flickr, near-duplicates, leaks."""

from __future__ import annotations

from pathlib import Path

import click

from unmask_tf.errors import InputError

ROOT = Path(__file__).parents[1]
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


COMMANDS = (near_duplicates, leaks)
