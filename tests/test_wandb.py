"""The client of W&B and servers that fail: training continues soon, with one warning, and no private data is sent."""

import contextlib
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import processes
import pytest

pytestmark = pytest.mark.slow

KEY, SECRET, USER = "0123456789abcdef" * 2 + "01234567", "a secret of the environment", "ann-who-listens"

TRAIN = """
import json, sys, time, warnings
import numpy as np, genrekeras as gk, keras
from genrekeras.utils import process

process.quiet_wandb()
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
logger = gk.callbacks.WandbLogger(config={"seed": 3}, folder=sys.argv[1])
start = time.monotonic()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model.fit(np.ones((4, 2)), np.zeros(4), epochs=3, verbose=0, callbacks=[logger])
trained = time.monotonic()
logger.finish()
messages = [str(warning.message) for warning in caught if "W&B" in str(warning.message)]
times = {"fit": trained - start, "finish": time.monotonic() - trained}
print(json.dumps({**times, "warnings": messages, "tensorflow": "tensorflow" in sys.modules}))
"""

BUCKET = {"id": "a", "name": "b", "displayName": "c", "description": "", "config": "{}", "sweepName": None}
BUCKET |= {"historyLineCount": 0, "project": {"id": "d", "name": "e", "entity": {"id": "f", "name": "g"}}}


class Server(http.server.BaseHTTPRequestHandler):
    """Answers according to `server.behaviour`: a status code, "hang" (not at all), or "later" (only to open a run)."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.received.append(self.path.encode() + b" " + body)
        behaviour = self.server.behaviour
        code, answer = 200, {"data": {"upsertBucket": {"bucket": BUCKET, "inserted": True}}}
        if behaviour == "hang" or (behaviour == "later" and b"UpsertBucket" not in body):
            self.server.closing.wait()
        if behaviour.isdigit():
            code, answer = int(behaviour), {"errors": [{"message": "no"}]}
        with contextlib.suppress(OSError):
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

    do_GET = do_PUT = do_POST

    def log_message(self, *arguments):
        pass


@pytest.fixture
def servers():
    """Function: behaviour -> a running server."""
    with contextlib.ExitStack() as stack:

        def serve(behaviour):
            server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server))
            server.daemon_threads, server.behaviour, server.received = True, behaviour, []
            server.closing = threading.Event()
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            stack.callback(server.closing.set)
            return server

        yield serve


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_servers_that_fail(servers, tmp_path, monkeypatch):
    """All processes run at the same time. Their times are compared with that of an offline run."""
    running = {behaviour: servers(behaviour) for behaviour in ("401", "500", "hang", "later")}
    ports = {"offline": closed_port(), "none": closed_port()}
    ports |= {behaviour: server.server_port for behaviour, server in running.items()}
    for name in ("WANDB_MODE", "WANDB_SILENT", "WANDB_ERROR_REPORTING"):
        monkeypatch.delenv(name, raising=False)
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    started, start = {}, time.monotonic()
    for name, port in ports.items():
        environment = {"WANDB_BASE_URL": f"http://127.0.0.1:{port}", "WANDB_API_KEY": KEY, "SECRET_TOKEN": SECRET}
        environment |= {"HOME": str(tmp_path), "USER": USER, "LOGNAME": USER}
        environment |= {"WANDB_MODE": "offline"} if name == "offline" else {}
        (tmp_path / name).mkdir()
        outputs = tmp_path / f"{name}.stdout", tmp_path / f"{name}.stderr"
        process = processes.start(script, tmp_path / name, stdout=outputs[0], stderr=outputs[1], **environment)
        started[name] = process, *outputs
    for name, (process, *outputs) in started.items():
        code = processes.wait(process, 180)
        stdout, stderr = (path.read_text() for path in outputs)
        assert code == 0, stderr
        assert KEY not in stdout + stderr and "Traceback" not in stderr
        result = json.loads(stdout.splitlines()[-1])
        if name == "offline":
            reference = result
        for part in ("fit", "finish"):  # W&B may delay each by 5 s
            assert result[part] < reference[part] + 10, (name, result, reference)
        assert len(result["warnings"]) == (name not in ("offline", "later")), (name, result)
        assert all("logged offline" in warning for warning in result["warnings"])
        runs = [run for run in os.listdir(tmp_path / name / "wandb") if run.startswith(("run-", "offline-run-"))]
        assert len([run for run in runs if run.startswith("offline")]) == (name != "later"), runs
    assert time.monotonic() - start < 120
    secrets = [re.escape(secret) for secret in (KEY, SECRET, USER, os.getcwd(), str(tmp_path), sys.executable)]
    secrets += [rf"\b{re.escape(socket.gethostname())}\b"]  # random ids may contain a short name
    for name, server in running.items():
        sent = b"\n".join(server.received)
        assert server.received and b"seed" in sent, name
        for secret in secrets:
            assert not re.search(secret.encode(), sent), (name, secret)
    for folder, _, names in os.walk(tmp_path):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                content = file.read()
            assert KEY.encode() not in content and SECRET.encode() not in content, (folder, name)


def test_offline_without_a_prompt_and_without_tensorflow(tmp_path):
    """The process has no terminal, so a prompt would end it."""
    environment = {**os.environ, "KERAS_BACKEND": "torch", "WANDB_API_KEY": "", "NETRC": str(tmp_path / "none")}
    environment.pop("WANDB_MODE", None)
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, tmp_path],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert not result["tensorflow"] and not result["warnings"]
    assert [name for name in os.listdir(tmp_path / "wandb") if name.startswith("offline-run")]
