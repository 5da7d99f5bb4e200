"""Photographs of a class from Flickr's public search, with the attribution that their licences ask for.

For each photograph `attribution/<id>.json` is written first, then `<class>/<id>.jpg`, so that no image is without its
attribution; `attribution.csv` lists them all. The same call goes on where an earlier one stopped. flickr_api makes the
requests: it keeps to a rate, and waits longer and longer, or as long as Flickr says, before it asks again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from unmask_tf.data.images import read_image
from unmask_tf.errors import InputError
from unmask_tf.files import atomic_path, read_json, sha256, write_json, write_text
from unmask_tf.progress import Progress

API = "https://api.flickr.com/services/rest/"
REQUESTS_PER_HOUR = 3600
"""What Flickr allows a key."""
MAX_BYTES = 30 << 20
"""Of one photograph; the sizes asked for have far less."""
_SIZES = ("z", "c", "l")  # the longer side has 640, 800, 1024 pixels
_PER_PAGE = 250
_GIVE_UP = 10  # failures in a row
_LAST_PAGE = 16  # of one search Flickr shows 4,000 photographs; further pages repeat them
_FIELDS = ("file", "class", "title", "owner", "license", "license_url", "page", "address", "sha256")


@dataclass(frozen=True)
class Flickr:
    """A key for Flickr's API, and how to use it.

    Attributes:
        key: the API key.
        api: address of the REST interface.
        per_hour: requests in an hour.
        retries: further attempts of a request that failed.
        first_wait: seconds before the second attempt; they double.
    """

    key: str
    api: str = API
    per_hour: float = REQUESTS_PER_HOUR
    retries: int = 5
    first_wait: float = 1.0

    def __post_init__(self) -> None:
        import flickr_api

        flickr_api.set_keys(api_key=self.key, api_secret="unused")  # only signed requests need the secret
        flickr_api.set_rate_limit(self.per_hour)
        flickr_api.set_retry_config(max_retries=self.retries, base_delay=self.first_wait, max_delay=300.0)
        flickr_api.set_timeout(60)

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Flickr's answer.

        Raises:
            InputError: it refuses the key or the request, or does not answer.
        """
        from flickr_api.flickrerrors import FlickrAPIError, FlickrError
        from flickr_api.method_call import call_api

        try:
            return call_api(method=method, request_url=self.api, **arguments)
        except FlickrAPIError as error:
            raise InputError(
                f"Flickr refuses {method}: {error}. Check the key (FLICKR_API_KEY), or try later."
            ) from error
        except (FlickrError, OSError, KeyError, TypeError) as error:  # TypeError: an answer that is not JSON
            raise InputError(f"Flickr does not answer {method}: {error}. Run the same command again later.") from error

    def get(self, address: str) -> bytes:
        """A file.

        Raises:
            InputError: it cannot be had whole, or is too large.
        """
        import requests
        from flickr_api.flickrerrors import FlickrError
        from flickr_api.retry import retry_request

        def once() -> SimpleNamespace:
            # The whole body is read here, so that a connection that drops is tried again; requests compares the length.
            content = b""
            try:
                with requests.get(address, timeout=60, stream=True) as response:
                    for chunk in response.iter_content(1 << 16):
                        if len(content := content + chunk) > MAX_BYTES:
                            raise InputError(f"{address} gives more than {MAX_BYTES} bytes")
                    return SimpleNamespace(status_code=response.status_code, headers=response.headers, content=content)
            except requests.exceptions.ChunkedEncodingError as error:
                raise requests.exceptions.ConnectionError(error) from error

        try:
            answer = retry_request(once, f"GET {address}")
        except (FlickrError, requests.RequestException) as error:
            raise InputError(f"{address} cannot be fetched: {error}") from error
        if answer.status_code != 200:
            raise InputError(f"{address} cannot be fetched: the server says {answer.status_code}")
        return answer.content


def fetch_class(
    flickr: Flickr, name: str, folder: str | Path, *, count: int, min_side: int = 150, licences: Sequence[str] = ()
) -> tuple[int, list[str]]:
    """Fetches photographs that a search for the class's name finds, most relevant first.

    Args:
        flickr: the API.
        name: the class, which is searched for in titles, descriptions and tags.
        folder: of all classes.
        count: how many the class shall have, those of earlier calls included.
        min_side: smallest shorter side, pixels.
        licences: Flickr's ids; empty: Creative Commons and public domain, but no licence that forbids changes.

    Returns:
        how many the class has now, and why photographs were left out.

    Raises:
        InputError: Flickr refuses or does not answer, or the disk is full.
    """
    if not name.strip() or name.startswith(".") or set(name) & set("/\\"):
        raise InputError(f"'{name}' is no name of a class and its folder. Give one such as car.")
    folder, in_a_row = Path(folder), 0
    (folder / name).mkdir(parents=True, exist_ok=True)
    had = {path.stem for path in folder.glob("*/*.jpg")}  # under any class: a photograph of two is ambiguous
    have, troubles = len(list((folder / name).glob("*.jpg"))), []
    known = {
        entry["id"]: entry for entry in _entries(flickr.call("flickr.photos.licenses.getInfo"), "licenses", "license")
    }
    chosen = [key for key, entry in known.items() if (key in licences if licences else _is_free(entry.get("url", "")))]
    if not chosen:
        raise InputError(
            f"Flickr knows the licences {', '.join(known)}, and not {', '.join(licences)}. Choose some of them."
        )
    with Progress(desc=name, initial=min(have, count), total=count, unit="image", leave=False) as bar:
        for photo in _search(flickr, name, chosen) if have < count else ():
            address = _address(photo, min_side)
            if photo["id"] in had or photo.get("license") not in chosen or address is None:
                continue
            had.add(photo["id"])
            try:
                _keep(flickr, photo, address, known[photo["license"]], folder, name, min_side)
            except _Unfit as reason:
                troubles.append(str(reason))
                if (in_a_row := in_a_row + 1) == _GIVE_UP:
                    raise InputError(
                        f"{in_a_row} photographs in a row failed, the last: {reason}. Try again later."
                    ) from None
                continue
            have, in_a_row = have + 1, 0
            bar.update()
            if have >= count:
                break
    write_attribution(folder)
    return have, troubles


def write_attribution(folder: str | Path) -> Path:
    """Writes attribution.csv: for each image its author, title, licence and page."""
    folder, table = Path(folder), io.StringIO()
    writer = csv.DictWriter(table, _FIELDS)
    writer.writeheader()
    for path in sorted(folder.glob("*/*.jpg")):
        writer.writerow(read_json(folder / "attribution" / f"{path.stem}.json"))
    write_text(folder / "attribution.csv", table.getvalue())
    return folder / "attribution.csv"


class _Unfit(Exception):
    """One photograph cannot be used."""


def _keep(
    flickr: Flickr, photo: dict[str, Any], address: str, licence: dict[str, Any], folder: Path, name: str, min_side: int
) -> None:
    path = folder / name / f"{photo['id']}.jpg"
    try:
        content = flickr.get(address)
    except InputError as error:
        raise _Unfit(str(error)) from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
        try:
            height, width = read_image(temporary).shape[:2]
        except InputError as error:
            raise _Unfit(f"{address} is no whole image") from error
        if min(height, width) < min_side or not content.startswith(b"\xff\xd8"):
            raise _Unfit(f"{address} is no JPEG file of {min_side} pixels or more ({width} x {height})")
        entry = {
            "file": f"{name}/{path.name}",
            "class": name,
            "title": str(photo.get("title", "")),
            "owner": str(photo.get("ownername") or photo.get("owner", "")),
            "license": licence.get("name", ""),
            "license_url": licence.get("url", ""),
            "page": f"https://www.flickr.com/photos/{photo.get('owner', '')}/{photo['id']}",
            "address": address,
            "sha256": sha256(temporary),
        }
        write_json(folder / "attribution" / f"{photo['id']}.json", entry)


def _search(flickr: Flickr, text: str, licences: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Photographs, page by page, until a page brings no new one; what Flickr says of their number is not relied on."""
    extras = ",".join(["license", "owner_name", *(f"url_{size}" for size in _SIZES)])
    settings = {"media": "photos", "content_type": 1, "safe_search": 1, "sort": "relevance", "extras": extras}
    seen: set[str] = set()
    for page in range(1, _LAST_PAGE + 1):
        answer = flickr.call(
            "flickr.photos.search", text=text, license=",".join(licences), page=page, per_page=_PER_PAGE, **settings
        )
        new = [photo for photo in _entries(answer, "photos", "photo") if photo["id"] not in seen]
        if not new:
            return
        seen |= {photo["id"] for photo in new}
        yield from new


def _entries(answer: Any, outer: str, inner: str) -> list[dict[str, Any]]:
    """The entries of an answer, with their ids as text that is fit for a file name."""
    try:
        entries = [{**entry, "id": str(entry["id"])} for entry in answer[outer][inner]]
    except (KeyError, TypeError) as error:
        raise InputError(f"Flickr's answer has no list of {inner}. Run the same command again later.") from error
    return [{**entry, "license": str(entry.get("license", ""))} for entry in entries if entry["id"].isdigit()]


def _address(photo: dict[str, Any], min_side: int) -> str | None:
    """The smallest size whose shorter side is long enough."""
    for size in _SIZES:
        sides = [str(photo.get(f"{side}_{size}", "")) for side in ("height", "width")]
        if photo.get(f"url_{size}") and all(side.isdigit() and int(side) >= min_side for side in sides):
            return str(photo[f"url_{size}"])
    return None


def _is_free(url: str) -> bool:
    return "creativecommons.org/" in url and "-nd/" not in url
