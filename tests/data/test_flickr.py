"""Flickr against a server on this machine that fails, throttles and lies about lengths."""

import csv
import io
import json
from urllib.parse import parse_qs

import pytest
from faulty_server import FaultyServer
from made_pictures import picture

from unmask_tf.cli import main
from unmask_tf.data import flickr as module
from unmask_tf.data.flickr import Flickr, fetch_class, write_attribution
from unmask_tf.errors import InputError
from unmask_tf.files import sha256

LICENCES = [
    {"id": 0, "name": "All Rights Reserved", "url": ""},
    {"id": 4, "name": "Attribution", "url": "https://creativecommons.org/licenses/by/2.0/"},
    {"id": 6, "name": "Attribution-NoDerivs", "url": "https://creativecommons.org/licenses/by-nd/2.0/"},
]


def jpeg(seed, size=(240, 180)):
    content = io.BytesIO()
    picture(seed, size).save(content, "JPEG")
    return content.getvalue()


class FakeFlickr(FaultyServer):
    """Answers the two API methods; its photographs have ids from 1, and it tells wrong totals."""

    def __init__(self, photos=6):
        super().__init__()
        self.licence_of, self.per_page, self.asked = {}, 4, []
        self.files = {"/rest/": self.rest} | {f"/{i}.jpg": jpeg(i) for i in range(1, photos + 1)}

    def rest(self, handler):
        form = {name: values[0] for name, values in parse_qs(handler.form).items()}
        self.asked.append(form)
        if form["api_key"] != "key":
            return json.dumps({"stat": "fail", "code": 100, "message": "Invalid API Key"}).encode()
        if form["method"] == "flickr.photos.licenses.getInfo":
            return json.dumps({"stat": "ok", "licenses": {"license": LICENCES}}).encode()
        ids = [int(name[1:-4]) for name in self.files if name.endswith(".jpg")]
        start = min(int(form["page"]) - 1, (len(ids) - 1) // self.per_page) * self.per_page  # the last page, repeated
        photos = [self.photo(i) for i in sorted(ids)[start : start + self.per_page]]
        return json.dumps(
            {"stat": "ok", "photos": {"page": 1, "pages": 99, "total": "12345", "photo": photos}}
        ).encode()

    def photo(self, i):
        size = {"url_z": f"{self.address}/{i}.jpg", "height_z": 180, "width_z": "240"}
        named = {"id": str(i), "owner": "7@N0", "ownername": 'Ann, "the" artist', "title": f"Photo {i}"}
        return {**named, "license": str(self.licence_of.get(i, 4)), **size}


@pytest.fixture
def server():
    with FakeFlickr().running() as running:
        yield running


@pytest.fixture
def flickr(server):
    return Flickr("key", api=f"{server.address}/rest/", per_hour=3.6e6, retries=3, first_wait=0.001)


def images(folder, name="car"):
    return sorted(path.name for path in (folder / name).iterdir())


def downloads(server):
    return [path for path, _ in server.requests if path.endswith(".jpg")]


def test_photographs_come_with_their_attribution(server, flickr, tmp_path):
    assert fetch_class(flickr, "car", tmp_path, count=3) == (3, [])
    assert images(tmp_path) == ["1.jpg", "2.jpg", "3.jpg"]
    rows = list(csv.DictReader((tmp_path / "attribution.csv").open()))
    assert rows[0] == {
        "file": "car/1.jpg",
        "class": "car",
        "title": "Photo 1",
        "owner": 'Ann, "the" artist',
        "license": "Attribution",
        "license_url": LICENCES[1]["url"],
        "page": "https://www.flickr.com/photos/7@N0/1",
        "address": f"{server.address}/1.jpg",
        "sha256": sha256(tmp_path / "car/1.jpg"),
    }
    assert [row["file"] for row in rows] == ["car/1.jpg", "car/2.jpg", "car/3.jpg"]


def test_licences_are_those_asked_for_even_if_the_server_sends_others(server, flickr, tmp_path):
    server.licence_of = {1: 0, 2: 6}
    assert fetch_class(flickr, "car", tmp_path, count=9)[0] == 4
    assert [form["license"] for form in server.asked if "license" in form] == ["4", "4", "4"]
    assert fetch_class(flickr, "dog", tmp_path, count=9, licences=("6",))[0] == 1
    with pytest.raises(InputError, match="licences 0, 4, 6, and not 77"):
        fetch_class(flickr, "dog", tmp_path, count=9, licences=("77",))


def test_small_images_are_left_out_whatever_the_server_says_of_their_size(server, flickr, tmp_path):
    server.files["/2.jpg"] = jpeg(2, (240, 100))
    have, troubles = fetch_class(flickr, "car", tmp_path, count=9)
    assert (have, len(troubles)) == (5, 1)
    assert "2.jpg is no JPEG file of 150 pixels or more (240 x 100)" in troubles[0]
    assert fetch_class(flickr, "dog", tmp_path, count=9, min_side=190) == (0, [])


def test_the_next_call_goes_on_and_no_photograph_has_two_classes(server, flickr, tmp_path):
    fetch_class(flickr, "car", tmp_path, count=2)
    assert fetch_class(flickr, "car", tmp_path, count=4)[0] == 4
    assert fetch_class(flickr, "dog", tmp_path, count=4)[0] == 2
    assert downloads(server) == [f"/{i}.jpg" for i in range(1, 7)]
    before = len(downloads(server))
    assert fetch_class(flickr, "car", tmp_path, count=4) == (4, [])
    assert len(downloads(server)) == before


def test_failures_and_throttling_are_waited_for(server, flickr, tmp_path):
    server.faults = [503, 429, None, 500, None, 0.5, 429, "longer"]  # at the licences, the search, the first photograph
    assert fetch_class(flickr, "car", tmp_path, count=2) == (2, [])
    assert downloads(server) == ["/1.jpg"] * 4 + ["/2.jpg"]


@pytest.mark.parametrize("fault", ["shorter", "page", "nothing", 404])
def test_a_photograph_that_does_not_come_whole_is_left_out_and_tried_again_later(server, flickr, tmp_path, fault):
    server.faults = [None, None, fault]
    have, troubles = fetch_class(flickr, "car", tmp_path, count=5)
    assert (have, len(troubles)) == (5, 1)
    assert images(tmp_path) == ["2.jpg", "3.jpg", "4.jpg", "5.jpg", "6.jpg"]
    assert fetch_class(flickr, "car", tmp_path, count=6) == (6, [])


def test_an_endless_file_is_not_taken(server, flickr, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    monkeypatch.setattr(module, "_GIVE_UP", 3)
    with pytest.raises(InputError, match="3 photographs in a row failed"):
        fetch_class(flickr, "car", tmp_path, count=2)
    assert images(tmp_path) == []


@pytest.mark.parametrize("fault", [[503] * 4, ["page"], ["nothing"]])
def test_an_api_that_does_not_answer_is_an_error_and_what_came_is_kept(server, flickr, tmp_path, fault):
    server.per_page = 2
    server.faults = [None, None, None, None, *fault]  # licences, search, two photographs, then the second page
    with pytest.raises(InputError, match="does not answer"):
        fetch_class(flickr, "car", tmp_path, count=5)
    assert images(tmp_path) == ["1.jpg", "2.jpg"]
    assert len(write_attribution(tmp_path).read_text().splitlines()) == 3


def test_a_refused_key_and_a_strange_class_are_named(server, tmp_path):
    with pytest.raises(InputError, match="Invalid API Key"):
        fetch_class(Flickr("wrong", api=f"{server.address}/rest/"), "car", tmp_path, count=1)
    for name in ("../car", "", ".car"):
        with pytest.raises(InputError, match="no name of a class"):
            fetch_class(Flickr("key", api=f"{server.address}/rest/"), name, tmp_path, count=1)


def test_requests_keep_to_the_rate(server, tmp_path):
    import time

    start = time.monotonic()
    fetch_class(Flickr("key", api=f"{server.address}/rest/", per_hour=36_000), "car", tmp_path, count=2)
    assert time.monotonic() - start >= 3 * 0.1  # four requests, a tenth of a second apart


def test_the_command_takes_the_key_from_the_environment(server, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("FLICKR_API_KEY", raising=False)
    command = ["flickr", "--classes", "car, dog", "--count", "2", "--out", str(tmp_path)]
    assert main(command) == 2
    assert "FLICKR_API_KEY is not set" in capsys.readouterr().err
    monkeypatch.setenv("FLICKR_API_KEY", "key")
    monkeypatch.setattr(module, "API", f"{server.address}/rest/")
    monkeypatch.setattr(module, "REQUESTS_PER_HOUR", 3.6e6)
    assert main(command) == 0
    assert images(tmp_path) + images(tmp_path, "dog") == ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    assert "[flickr] dog: 2 of 2 photographs" in capsys.readouterr().out
