"""W&B's real client against servers that fail: training goes on, soon, with one warning, and nothing is told."""

import contextlib
import http.server
import json
import os
import re
import socket
import sys
import threading
import time

import processes
import pytest

KEY, SECRET, USER = "0123456789abcdef" * 2 + "01234567", "a secret of the environment", "ann-who-listens"

TRAIN = """
import json, sys, time, warnings
import numpy as np, genrekeras as gk, keras

model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
logger = gk.callbacks.WandbLogger(config={"seed": 3}, folder=sys.argv[1])
began = time.monotonic()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model.fit(np.ones((4, 2)), np.zeros(4), epochs=3, verbose=0, callbacks=[logger])
trained = time.monotonic()
logger.finish()
told = [str(warning.message) for warning in caught if "W&B" in str(warning.message)]
print(json.dumps({"fit": trained - began, "finish": time.monotonic() - trained, "warnings": told}))
"""

BUCKET = {"id": "a", "name": "b", "displayName": "c", "description": "", "config": "{}", "sweepName": None}
BUCKET |= {"historyLineCount": 0, "project": {"id": "d", "name": "e", "entity": {"id": "f", "name": "g"}}}


class Server(http.server.BaseHTTPRequestHandler):
    """Answers with an error, not at all, or (`"later"`) not any more once a run is open."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.received.append(self.path.encode() + b" " + body)
        code, answer = 200, {"data": {"upsertBucket": {"bucket": BUCKET, "inserted": True}}}
        if self.server.how == "hang" or (self.server.how == "later" and b"UpsertBucket" not in body):
            self.server.over.wait()
        if self.server.how.isdigit():
            code, answer = int(self.server.how), {"errors": [{"message": "no"}]}
        with contextlib.suppress(OSError):
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

    do_GET = do_PUT = do_POST

    def log_message(self, *arguments):
        pass


@pytest.fixture
def servers():
    """Function: how it fails -> a server that runs."""
    with contextlib.ExitStack() as stack:

        def serve(how):
            server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server))
            server.daemon_threads, server.how, server.received, server.over = True, how, [], threading.Event()
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            stack.callback(server.over.set)
            return server

        yield serve


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_server_that_fails_costs_seconds_and_one_warning(servers, tmp_path, monkeypatch):
    """All at once, since each waits most of the time; beside one that is offline, as slow as this machine is."""
    running = {how: servers(how) for how in ("401", "500", "hang", "later")}
    ports = {"offline": closed_port(), "none": closed_port()}
    ports |= {how: server.server_port for how, server in running.items()}
    for name in ("WANDB_MODE", "WANDB_SILENT", "WANDB_ERROR_REPORTING"):
        monkeypatch.delenv(name, raising=False)
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    started, began = {}, time.monotonic()
    for how, port in ports.items():
        environment = {"WANDB_BASE_URL": f"http://127.0.0.1:{port}", "WANDB_API_KEY": KEY, "SECRET_TOKEN": SECRET}
        environment |= {"HOME": str(tmp_path), "USER": USER, "LOGNAME": USER}
        environment |= {"WANDB_MODE": "offline"} if how == "offline" else {}
        (tmp_path / how).mkdir()
        outputs = tmp_path / f"{how}.stdout", tmp_path / f"{how}.stderr"
        process = processes.start(script, tmp_path / how, stdout=outputs[0], stderr=outputs[1], **environment)
        started[how] = process, *outputs
    for how, (process, *outputs) in started.items():
        code = processes.wait(process, 180)
        printed, said = (path.read_text() for path in outputs)
        assert code == 0, said
        assert KEY not in printed + said and "Traceback" not in said
        told = json.loads(printed.splitlines()[-1])
        if how == "offline":
            least = told
        assert told["fit"] < least["fit"] + 10 and told["finish"] < least["finish"] + 10, (how, told, least)  # 5 and 5
        assert len(told["warnings"]) == (how not in ("offline", "later")), (how, told)
        assert all("logged offline" in warning for warning in told["warnings"])
        runs = [name for name in os.listdir(tmp_path / how / "wandb") if name.startswith(("run-", "offline-run-"))]
        assert len([name for name in runs if name.startswith("offline")]) == (how != "later"), runs
    assert time.monotonic() - began < 120
    secrets = [re.escape(secret) for secret in (KEY, SECRET, USER, os.getcwd(), str(tmp_path), sys.executable)]
    secrets += [rf"\b{re.escape(socket.gethostname())}\b"]  # if it is short, ids hold it by chance
    for how, server in running.items():
        sent = b"\n".join(server.received)
        assert server.received and b"seed" in sent, how
        for secret in secrets:
            assert not re.search(secret.encode(), sent), (how, secret)
    for folder, _, names in os.walk(tmp_path):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                content = file.read()
            assert KEY.encode() not in content and SECRET.encode() not in content, (folder, name)
