"""The server and the page of `genrekeras app`: answers, errors, limits, deleted uploads, and no other host.

The tests of the page run in Chromium, driven by Playwright.
"""

import concurrent.futures
import csv
import json
import os
import re
import signal
import socket
import sys
import time
import urllib.parse

import numpy as np
import psutil
import pytest
import soundfile
from app_server import CONTROL, app_server
from click.testing import CliRunner
from conftest import chromium_browser, tones
from genrekeras import cli
from genrekeras.app import server as app_server_module

pytest.importorskip("gradio", reason="the extra app is not installed")
gradio_client = pytest.importorskip("gradio_client")
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    """A folder with two tracks in a subfolder, a text file, an empty file and a file that is too short."""
    folder, rng = tmp_path_factory.mktemp("tracks"), np.random.default_rng(5)
    (folder / "album").mkdir()
    for name, seconds in (("album/one & two.wav", 2.5), ("album/three.wav", 4.0), ("short.wav", 0.2)):
        soundfile.write(folder / name, tones(rng, 1, int(seconds * 22050))[0] / 4, 22050)
    (folder / "notes.txt").write_text("no music")
    (folder / "empty.mp3").touch()
    return folder


@pytest.fixture(scope="module")
def saved(one_second_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.keras"
    one_second_model.save(path)
    return path


@pytest.fixture(scope="module")
def server(saved, tracks, tmp_path_factory):
    with app_server(tmp_path_factory.mktemp("server"), "--model", saved, "--index", tracks / "album") as started:
        yield started
        looked_up = started.lookups()
    assert CONTROL in looked_up and looked_up <= {CONTROL, *LOOPBACK}
    assert started.process.returncode == 0 and list(started.temporary.iterdir()) == []


@pytest.fixture(scope="module")
def client(server):
    return gradio_client.Client(server.url, verbose=False)


def call(server, data):
    """Return the events of a call of the HTTP API with a list of arguments."""
    http = gradio_client.client.httpx
    url = f"{server.url}/gradio_api/call/predict"
    event = http.post(url, json={"data": data}).json()["event_id"]
    return http.get(f"{url}/{event}", timeout=60).text


def upload(server, path):
    """Upload a file. Return the argument that refers to it."""
    with open(path, "rb") as file:
        response = gradio_client.client.httpx.post(f"{server.url}/gradio_api/upload", files={"files": file})
    return {"path": response.json()[0], "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


def test_an_answer_of_the_api(server, client, tracks, one_second_model):
    path = tracks / "album" / "one & two.wav"
    answer = client.predict(gradio_client.handle_file(str(path)), api_name="/predict")
    expected = one_second_model.predict_files(path).iloc[0]
    assert answer["file"] == path.name and answer["genre"] == expected["genre"] and answer["genres"] == [expected.genre]
    for genre in one_second_model.genres:
        assert answer[f"probability_{genre}"] == pytest.approx(expected[f"probability_{genre}"], abs=1e-5)
    assert [track["file"] for track in answer["similar"]] == ["one & two.wav", "three.wav"]
    assert answer["similar"][0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert answer["warning"] is None and answer["low_confidence"] is None
    assert server.uploads() == []


@pytest.mark.parametrize(
    "name, reason",
    [
        ("notes.txt", "notes.txt could not be analysed: it is not music, or it is a kind of file"),
        ("empty.mp3", "empty.mp3 could not be analysed: the file is empty."),
        ("short.wav", "short.wav could not be analysed: too short: 0.2 s, but the minimum is 1 s."),
    ],
)
def test_files_without_an_answer(server, client, tracks, name, reason):
    with pytest.raises(gradio_client.exceptions.AppError, match=re.escape(reason)):
        client.predict(gradio_client.handle_file(str(tracks / name)), api_name="/predict")
    assert server.uploads() == []


def test_arguments_that_are_refused(server, tracks):
    file = {"meta": {"_type": "gradio.FileData"}}
    assert "was not uploaded by a user" in call(server, [{"path": os.path.abspath(__file__), **file}, "small.keras"])
    assert "Web addresses are not accepted" in call(server, [{"path": "http://example.com/a.mp3", **file}, "fma_small"])
    assert "Upload a file" in call(server, [None, "small.keras"])
    uploaded = upload(server, tracks / "album" / "three.wav")
    assert "must be one of small.keras, musicnn_msd" in call(server, [uploaded, "no model"])
    assert "Drop the file again" in call(server, [uploaded, "small.keras"])  # the upload is deleted
    assert server.uploads() == []


def test_several_users_with_the_same_file(server, tracks):
    path = tracks / "album" / "three.wav"
    arguments = [upload(server, path) for _ in range(4)]
    assert len({argument["path"] for argument in arguments}) == 4
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda argument: call(server, [argument, "small.keras"]), arguments))
    assert answers[0].startswith("event: complete") and answers == [answers[0]] * 4
    assert server.uploads() == []


def send(server, headers, body=b""):
    """Open a connection, and send the beginning of an upload."""
    address = urllib.parse.urlsplit(server.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=30)
    lines = ["POST /gradio_api/upload HTTP/1.1", "Host: x", "Content-Type: multipart/form-data; boundary=b", *headers]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    return connection


@pytest.mark.parametrize("header", ["Content-Length: 600000000", "Transfer-Encoding: chunked"])
def test_uploads_that_are_too_large_are_refused_before_they_are_received(server, header):
    with send(server, [header, "Connection: close"]) as connection, connection.makefile("rb") as answer:
        text = answer.read()
    assert b" 413 " in text and text.endswith(b"too large: the maximum is 500 MB")
    assert server.uploads() == []


def test_an_interrupted_upload_is_deleted(server):
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.mp3"\r\n\r\n' + b"x" * 100_000
    with send(server, ["Content-Length: 50000000"], part):
        wait_until(lambda: any(path.is_file() for path in server.uploads()))
    wait_until(lambda: server.uploads() == [])


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_old_uploads_are_deleted(tmp_path):
    for name, hours in (("old", 25), ("new", 23)):
        (tmp_path / name / "hash").mkdir(parents=True)
        os.utime(tmp_path / name, (time.time() - 3600 * hours,) * 2)
    app_server_module._delete_old_uploads(tmp_path)
    assert os.listdir(tmp_path) == ["new"]


def test_only_this_computer_can_connect(server):
    listening = [c.laddr for c in psutil.Process(server.process.pid).net_connections() if c.status == "LISTEN"]
    assert [address.ip for address in listening] == ["127.0.0.1"]


def test_a_port_that_is_in_use():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            OSError, match=rf"Port {port} of 127.0.0.1 cannot be opened \(.*\). Choose another `--port`."
        ):
            app_server_module._open_port("127.0.0.1", port)


def test_without_gradio(monkeypatch):
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = CliRunner().invoke(cli.main, ["app"])
    assert done.exit_code == 1 and "pip install '.[app]'" in done.output


def test_arguments_of_the_command(tmp_path):
    for flags, message in (
        (["--index", tmp_path / "missing"], "does not exist"),
        (["--index", tmp_path], "contains no audio files"),
        (["--port", 65536], "--port"),
        (["--model", tmp_path / "missing.keras"], "There is no model file"),
    ):
        done = CliRunner().invoke(cli.main, ["app", *map(str, flags)])
        assert done.exit_code and message in done.output


@pytest.fixture(scope="module")
def chromium(server, tmp_path_factory):
    """Chromium with a microphone that beeps. At the end, the names that its pages looked up are checked."""
    log = tmp_path_factory.mktemp("chromium") / "net.json"
    microphone = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with chromium_browser(*microphone, f"--log-net-log={log}") as browser:
        yield browser
        page = browser.new_page()
        page.goto(server.url)
        page.evaluate(f"fetch('http://{CONTROL}').catch(() => null)")
    assert looked_up_by_pages(log) == {"127.0.0.1", CONTROL}


def looked_up_by_pages(log):
    """Return the names in a log of Chromium that pages of 127.0.0.1 looked up. Others are those of Chromium itself."""
    content = json.loads(log.read_text())
    kind = content["constants"]["logEventTypes"]["HOST_RESOLVER_MANAGER_REQUEST"]
    requests = [event.get("params", {}) for event in content["events"] if event["type"] == kind]
    return {
        urllib.parse.urlsplit(request["host"]).hostname
        for request in requests
        if request.get("network_anonymization_key", "").startswith("http://127.0.0.1")
    }


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def page(request, server, chromium):
    """The opened page. At the end, it has loaded nothing from elsewhere, and is not wider than its window."""
    width, height = request.param
    opened, requested = chromium.new_page(viewport={"width": width, "height": height}), set()
    opened.set_default_timeout(60_000)
    opened.on("request", lambda request: requested.add(urllib.parse.urlsplit(request.url)))
    opened.goto(server.url)
    opened.get_by_role("heading", name="Which genre is it?").wait_for()
    yield opened
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    addresses = "[...document.querySelectorAll('link[href], script[src]')].map(element => element.href || element.src)"
    requested |= set(map(urllib.parse.urlsplit, opened.evaluate(addresses)))
    assert {address.netloc for address in requested if address.scheme.startswith("http")} == {server.url[7:]}
    opened.close()
    wait_until(lambda: server.uploads() == [])


@pytest.mark.slow
def test_the_answer_for_a_track(page, server, tracks, one_second_model):
    path = tracks / "album" / "three.wav"
    page.locator("input[type=file]").first.set_input_files(path)
    expected = one_second_model.predict_files(path).iloc[0]
    page.get_by_text(f"three.wav: {expected['genre']}").wait_for()
    page.get_by_text("Most similar tracks").wait_for()
    page.locator("img[src^='data:image']:visible").nth(1).wait_for()  # timeline and spectrogram
    text = page.locator("body").inner_text()
    assert f"{expected['genre']}\n{expected['probability']:.0%}" in text
    assert re.search(r"three.wav\s+\S+\s+1.00\s+one & two.wav", text)
    page.get_by_text("Drop File Here").first.wait_for()
    assert server.uploads() == []


@pytest.mark.slow
def test_a_text_file(page, server, tracks):
    page.locator("input[type=file]").first.set_input_files(tracks / "notes.txt")
    page.get_by_text("notes.txt could not be analysed: it is not music").wait_for()
    page.get_by_text("Drop File Here").first.wait_for()
    assert server.uploads() == []


@pytest.mark.slow
def test_many_files(page, server, tracks, one_second_model):
    paths = [tracks / "album" / "three.wav", tracks / "notes.txt", tracks / "album" / "one & two.wav"]
    page.get_by_role("tab", name="Many files").click()
    page.locator("input[type=file]").last.set_input_files(paths)
    with page.expect_download() as download:
        page.get_by_text("Download all probabilities as genres.csv").click()
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    expected = one_second_model.predict_files(paths)
    assert download.value.suggested_filename == "genres.csv"
    assert [row["path"] for row in rows] == [path.name for path in paths]
    assert [row["genre"] for row in rows] == list(expected["genre"].fillna(""))
    assert rows[1]["error"].startswith("not audio")
    page.get_by_text("not analysed: it is not music").wait_for()
    assert server.uploads() == []


@pytest.mark.slow
def test_a_recording(page, server):
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_text("0:02").wait_for()
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_text("Your recording:").wait_for()
    page.locator("img[src^='data:image']:visible").nth(1).wait_for()
    page.get_by_role("button", name="Record", exact=True).wait_for()
    assert server.uploads() == []


@pytest.mark.slow
def test_an_upload_is_deleted_if_the_page_is_closed_before_the_answer(chromium, server, tracks):
    page = chromium.new_page()
    page.goto(server.url)
    page.locator("input[type=file]").first.set_input_files(tracks / "album" / "three.wav")
    page.get_by_text("three.wav:").wait_for()  # the figures are computed now
    page.close()
    wait_until(lambda: server.uploads() == [])


@pytest.mark.slow
def test_the_page_that_describes_the_api(chromium, server):
    page = chromium.new_page()
    page.goto(server.url)
    page.get_by_text("Use via API").click()
    page.get_by_text("/predict").first.wait_for()
    assert "/analyse" not in page.locator("body").inner_text()
