"""The web page: it is complete, and its predictions in Chromium equal those of the Keras model."""

import base64
import functools
import hashlib
import http.server
import io
import os
import re
import tarfile
import threading

import genrekeras as gk
import keras
import numpy as np
import pytest
import soundfile
from conftest import calibrate, chromium_browser, small_model, tones
from genrekeras import export, inference
from genrekeras.export import web
from genrekeras.inference.predict import to_row
from genrekeras.utils.io import cache_dir

pytestmark = [
    pytest.mark.export,
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="the backend is not torch"),
]
# Call `predict` of the page with float32 samples, encoded as base64.
PREDICT = "([text, rate]) => predict(new Float32Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer), rate)"
# Decode a file as the page does, and call `predict`.
PREDICT_FILE = """async text => {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  return predict(await decode(new File([bytes], "music")), decodedRate);
}"""


@pytest.fixture
def fake_runtime(tmp_path, monkeypatch):
    """Path of a file with the form of onnxruntime-web's package, which is accepted in its place."""
    path = tmp_path / "fake.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
            archive.addfile(tarfile.TarInfo(f"package/dist/{name}"), io.BytesIO())
    monkeypatch.setattr(web, "SHA512", base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode())
    return path


@pytest.fixture
def fake_npm(tmp_path, fake_runtime, monkeypatch):
    """Path of an `npm` that copies the file, and counts its calls in the file `npm.log`. The cache is empty."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    copy = f"/bin/cp {fake_runtime} onnxruntime-web-{web.VERSION}.tgz"
    npm.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/npm.log\n{copy}\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent))
    monkeypatch.setenv("GENREKERAS_CACHE", str(tmp_path / "cache"))
    return npm


def test_the_folder_contains_one_page_with_model_and_card(tmp_path, fake_npm, capsys):
    clips = tones(np.random.default_rng(3), 3, 22050)
    model = calibrate(small_model(card={"name": "</script><b>", "license": "mit"}), clips)
    for name in ("page", "again"):
        assert export.export(model, tmp_path / name, "web", clips) < 1e-4
    assert (tmp_path / "npm.log").read_text() == f"pack onnxruntime-web@{web.VERSION}\n"  # once
    assert "npm downloads onnxruntime-web" in capsys.readouterr().err
    assert os.listdir(tmp_path / "page") == ["index.html"]
    text = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text and "MIT License" in text and "</script><b>" not in text
    exported = export.load(tmp_path / "page", "web")
    [probabilities] = exported.inference_function("probabilities")(clips)
    np.testing.assert_allclose(probabilities, model.predict(clips, verbose=0), atol=1e-4)
    assert exported.card["labels"] == dict.fromkeys(gk.GENRES, "genre") and exported.thresholds.temperature == 1.0
    with pytest.raises(ValueError, match="must be a new folder"):
        export.export(model, tmp_path / "page", "web", clips)


def test_failures_of_npm_and_wrong_files(tmp_path, fake_npm, one_second_model):
    page, model = tmp_path / "page", one_second_model
    wrong = tmp_path / "onnxruntime-web-1.0.0.tgz"
    wrong.write_bytes(b"another version")
    with pytest.raises(export.ExportError, match=f"{wrong} is not the file that `npm pack onnxruntime-web@"):
        export.export(model, page, "web", runtime=wrong)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tgz"):
        export.export(model, page, "web", runtime=tmp_path / "nowhere.tgz")
    with pytest.raises(ValueError, match="`runtime` must be None for onnx"):
        export.export(model, tmp_path / "m.onnx", "onnx", runtime=wrong)
    fake_npm.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    with pytest.raises(
        export.ExportError, match=r"npm could not download .*: no network\nTry again, or run `npm pack .*--runtime"
    ):
        export.export(model, page, "web")
    fake_npm.unlink()
    with pytest.raises(
        export.ExportError, match=r"npm, which downloads it, was not found\. Install npm.*or run `npm pack"
    ):
        export.export(model, page, "web")
    assert not page.exists() and not list((tmp_path / "cache").iterdir())


def test_a_sample_rate_that_browsers_do_not_support(tmp_path, fake_npm):
    front_end = [gk.layers.MelSpectrogram(192000, 2048, 512, 64), gk.layers.SpectrogramToImage()]
    with pytest.raises(export.ExportError, match="at up to 96000 Hz, but the sample rate of the model is 192000 Hz"):
        export.export(small_model(front_end=front_end), tmp_path / "page", "web")


@pytest.fixture(scope="module")
def runtime():
    """Path of onnxruntime-web. Tests do not download it."""
    path = os.path.join(cache_dir(), f"onnxruntime-web-{web.VERSION}.tgz")
    if not os.path.exists(path):
        pytest.skip(f"{path} is missing. `genrekeras export --to web` stores it there")
    return path


@pytest.fixture(scope="module")
def chromium():
    with chromium_browser() as browser:
        yield browser


def opened(browser, address):
    """Return a page after its model was loaded, and the list to which it adds its requests and errors."""
    page, seen = browser.new_page(), []
    page.set_default_timeout(300_000)
    page.on("request", lambda request: seen.append(request.url))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("console", lambda message: seen.append(message.text))
    page.goto(address)
    page.locator("#status:empty").wait_for(state="attached")
    return page, seen


def encode(samples):
    return base64.b64encode(np.asarray(samples, "<f4").tobytes()).decode()


@pytest.fixture(scope="module", params=["musicnn_msd", "fma_small"])
def preset(request, runtime, chromium, tmp_path_factory):
    """A preset, and its page, opened from the disk."""
    model, folder = gk.GenreClassifier.from_preset(request.param), tmp_path_factory.mktemp("web") / "page"
    clips = tones(np.random.default_rng(5), 2, model.input_shape[1], model.sample_rate) / 2
    assert export.export(model, folder, "web", clips, runtime=runtime) < 1e-4
    page, seen = opened(chromium, (folder / "index.html").as_uri())
    yield model, page
    assert [one for one in seen if not one.startswith(("file:///", "blob:null/"))] == []
    page.close()


@pytest.mark.slow
def test_same_samples(preset):
    """Tracks of 2.96 clips (of which three are taken), of a clip and a sample, and one that is padded."""
    model, page = preset
    samples = model.input_shape[1]
    for length in (round(2.96 * samples), samples + 1, samples // 2):
        y = tones(np.random.default_rng(length), 1, length, model.sample_rate)[0] / 2
        expected = model.predict_waveform(y, model.sample_rate)
        result = page.evaluate(PREDICT, [encode(y), model.sample_rate])
        probabilities = [expected[f"probability_{genre}"] for genre in model.genres]
        np.testing.assert_allclose(result["probabilities"], probabilities, atol=1e-4)
        assert tuple(model.genres[label] for label in result["genres"]) == expected["genres"]
        assert (result["reason"] or None) == expected["reason"]
        if model.thresholds.max_ood_score:
            np.testing.assert_allclose(result["score"], expected["ood_score"], rtol=1e-3)


@pytest.mark.slow
def test_files_decoded_by_the_browser(preset, tmp_path):
    model, page = preset
    rng = np.random.default_rng(1)
    for name, rate in (("a.mp3", 44100), ("a.flac", 44100), ("b.wav", 48000), ("c.ogg", 22050)):
        # Noise in all frequencies, whose loudness changes, and a tone in one of the two channels.
        y = 0.1 * rng.standard_normal((10 * rate, 2)) * np.linspace(0.1, 1, 10 * rate)[:, None]
        y[:, 1] += 0.2 * np.sin(np.arange(len(y)) * 2 * np.pi * 440 / rate)
        options = {"format": "MP3", "subtype": "MPEG_LAYER_III"} if name.endswith("mp3") else {}
        soundfile.write(tmp_path / name, y, rate, **options)
        expected = model.predict_files(tmp_path / name).iloc[0]
        result = page.evaluate(PREDICT_FILE, base64.b64encode((tmp_path / name).read_bytes()).decode())
        probabilities = [expected[f"probability_{genre}"] for genre in model.genres]
        assert np.abs(np.subtract(result["probabilities"], probabilities)).max() < 2e-2, name


@pytest.mark.slow
def test_real_songs_decoded_by_the_browser(preset, real_songs):
    model, page = preset
    expected = model.predict_files(real_songs[0]).iloc[0]
    result = page.evaluate(PREDICT_FILE, base64.b64encode(real_songs[0].read_bytes()).decode())
    probabilities = [expected[f"probability_{genre}"] for genre in model.genres]
    assert np.abs(np.subtract(result["probabilities"], probabilities)).max() < 2e-2


@pytest.fixture(scope="module")
def small_page(runtime, chromium, tmp_path_factory):
    """A model for clips of 1 s with two genres and a mood, and the folder of its page."""
    clips = tones(np.random.default_rng(3), 8, 22050)
    model = small_model(genres=["Folk", "Rock", "sad"], multi_label=True, card={"labels": {"sad": "mood"}})
    calibrate(model, clips)
    model.thresholds = {"class_thresholds": [0.999, 0.999, 0.999]}
    folder = tmp_path_factory.mktemp("web") / "page"
    export.export(model, folder, "web", clips, runtime=runtime)
    return model, folder


@pytest.mark.slow
def test_clips_and_labels_are_chosen_as_in_python(small_page, chromium):
    model, folder = small_page
    page, seen = opened(chromium, (folder / "index.html").as_uri())
    for seconds in (0.5, 1.0, 1.94, 1.96, 29.97, 31.3, 600.0):
        np.testing.assert_allclose(page.evaluate("clipStarts", seconds), inference.clip_starts(seconds, 1.0, 30))
    rng = np.random.default_rng(0)
    limits = [{}, {"max_ood_score": 0.5}, {"min_confidence": 0.6, "max_ood_score": 1.5}, {"better_than_chance": False}]
    settings = [{}, *({"class_thresholds": [0.2, 0.8, 0.5], **limit} for limit in limits)]
    settings.append({"class_thresholds": [1.0, 0.8, 0.5], "min_confidence": 0.6})  # the first label is never predicted
    try:
        for thresholds in settings:
            model.thresholds = thresholds
            page.evaluate("values => Object.assign(thresholds, values)", export_thresholds(model))
            for probabilities, score in zip(rng.uniform(0, 1, (20, 3)) ** 2, rng.uniform(0, 2, 20), strict=True):
                best, labels = page.evaluate("predictedGenres", probabilities.tolist())
                row = to_row(model, None, [probabilities, score], 1.0)
                assert (model.genres[best], tuple(model.genres[x] for x in labels)) == (row["genre"], row["genres"])
                reason = page.evaluate("([p, score]) => lowConfidence(p, score)", [probabilities[best], score])
                assert (reason or None) == row["reason"]
    finally:
        model.thresholds = {"class_thresholds": [0.999, 0.999, 0.999]}
    assert len(seen) == 2  # the page and its worker


@pytest.mark.slow
def test_a_person_uses_the_page(small_page, chromium, tmp_path):
    """Over HTTP: several files, one of them no audio and one too short, on a phone."""
    _, folder = small_page
    for name, seconds in (("first.wav", 3), ("second.wav", 2), ("short.wav", 0.5)):
        soundfile.write(tmp_path / name, tones(np.random.default_rng(1), 1, round(22050 * seconds))[0] / 3, 22050)
    (tmp_path / "text.mp3").write_text("no audio")
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *arguments):
            requests.append(f"{self.command} {self.path}")

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page, seen = opened(chromium, f"http://127.0.0.1:{server.server_port}/")
        page.set_viewport_size({"width": 390, "height": 844})
        names = ["first.wav", "text.mp3", "short.wav", "second.wav"]
        page.set_input_files("#files", [tmp_path / name for name in names])
        page.locator("article:nth-of-type(4) li").first.wait_for()
        texts = page.locator("article").all_inner_texts()
        assert [text.splitlines()[0] for text in texts] == names
        assert "No genre is above its threshold" in texts[0] and "3 clips of 1 s" in texts[0]
        assert "This browser cannot decode the file" in texts[1] and "too short: 0.50 s" in texts[2]
        assert page.locator("article:nth-of-type(1) h3").all_text_contents() == ["genre", "mood"]
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator("progress").count() == 0
        assert requests == ["GET /"] and len(seen) == 2  # the page and its worker
        assert page.evaluate("fetch('/').then(() => 'allowed', () => 'refused')") == "refused"
    finally:
        server.shutdown()


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded(small_page, chromium, tmp_path):
    """The page names the reason, and analyses no file."""
    text = (small_page[1] / "index.html").read_text(encoding="utf-8")
    damaged = re.sub('(id="model">)[^<]*', rf"\1{web._compress(b'no model')}", text)
    (tmp_path / "index.html").write_text(damaged, encoding="utf-8")
    page = chromium.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    page.get_by_text("The model cannot be loaded in this browser").wait_for()
    soundfile.write(tmp_path / "track.wav", tones(np.random.default_rng(1), 1, 44100)[0] / 3, 22050)
    for _ in range(2):
        page.set_input_files("#files", tmp_path / "track.wav")
        page.locator("article").wait_for(state="detached")
    assert page.locator("#results").inner_text() == ""
    page.close()


def export_thresholds(model):
    """Return the thresholds of a model as they are in the card of an exported model."""
    names = ("min_confidence", "max_ood_score", "better_than_chance", "class_thresholds")
    return {name: getattr(model.thresholds, name) for name in names}
