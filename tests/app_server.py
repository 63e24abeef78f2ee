"""`genrekeras app` in a separate process, which records the names that it looks up."""

import contextlib
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import pytest

# Python runs this module at its start. The look-up of `CONTROL` shows that look-ups are recorded.
CONTROL = "control.invalid"
SITECUSTOMIZE = f"""
import contextlib, os, socket, sys

log = os.open(os.environ["LOOKUPS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def record(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        os.write(log, f"{{arguments[0]}}\\n".encode())
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg") and isinstance(arguments[1], tuple):
        os.write(log, f"{{arguments[1][0]}}\\n".encode())

sys.addaudithook(record)
with contextlib.suppress(OSError):
    socket.getaddrinfo("{CONTROL}", 80)
"""


class AppServer(NamedTuple):
    """A running server.

    Attributes:
        url: str, address of the page.
        process: `subprocess.Popen`.
        temporary: `pathlib.Path`, folder of its temporary files.
        lookups_file: `pathlib.Path`.
    """

    url: str
    process: subprocess.Popen
    temporary: pathlib.Path
    lookups_file: pathlib.Path

    def uploads(self):
        """Return the uploaded files that are still there, and their folders."""
        [folder] = self.temporary.iterdir()
        return [path for path in folder.rglob("*") if path.name != "vibe_edit_history"]  # Gradio makes this folder

    def lookups(self):
        """Return the names and addresses that the process has looked up or connected to."""
        return set(self.lookups_file.read_text().split())


@contextlib.contextmanager
def app_server(folder, *flags, port=0):
    """Run `genrekeras app` with some flags in a folder, and end it with SIGTERM.

    Yields:
        `AppServer`.
    """
    pytest.importorskip("gradio", reason="the extra app is not installed")
    temporary = folder / "temporary"
    temporary.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = {"TMPDIR": str(temporary), "LOOKUPS": str(folder / "lookups"), "PYTHONPATH": path}
    command = [sys.executable, "-m", "genrekeras", "app", "--port", str(port), *map(str, flags)]
    with (
        open(folder / "stderr", "wb") as stderr,
        subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        line = process.stdout.readline().decode()
        assert line.startswith("Open http://"), (folder / "stderr").read_text()
        try:
            yield AppServer(line.split()[1], process, temporary, folder / "lookups")
        finally:
            process.terminate()
            process.wait(60)
