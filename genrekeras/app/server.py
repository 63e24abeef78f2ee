"""The server of the page. It keeps each upload in a folder of its own until the answer, and contacts no other host."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable

from genrekeras.app import page
from genrekeras.app.analysis import Analyser

# In s. Older uploads that were not analysed are deleted. The answer for many files may take hours.
_MAX_UPLOAD_AGE = 24 * 3600.0
_SECONDS_TO_CLOSE = 2  # for open pages, after Ctrl-C


def serve(host: str, port: int, make_analyser: Callable[[], Analyser], started: Callable[[str], None]) -> None:
    """Serve the page until the process gets SIGINT (Ctrl-C) or SIGTERM.

    This function is a program: it changes environment variables and the handler of SIGTERM.

    Args:
        host: name or address of the network interface.
        port: port, or 0 for any free port.
        make_analyser: function that loads the models. It is called after the port is open, because it may take long.
        started: function that is called with the address of the page.

    Raises:
        OSError: the port cannot be opened.
        ModuleNotFoundError: Gradio is not installed.
    """
    signal.signal(signal.SIGTERM, lambda *arguments: sys.exit())  # so that the folder is removed
    with tempfile.TemporaryDirectory(prefix="genrekeras-app-") as folder:
        _prepare_gradio(folder)
        with _open_port(host, port) as server_socket:
            server = _server(make_analyser(), pathlib.Path(folder).resolve())
            address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
            address = f"[{address}]" if ":" in address else address
            started(f"http://{address}:{server_socket.getsockname()[1]}")
            with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after the server has stopped.
                server.run(sockets=[server_socket])


def _open_port(host, port):
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(f"Port {port} of {host} cannot be opened ({error.strerror}). Choose another `--port`.") from error


def _prepare_gradio(folder):
    """Import Gradio so that it keeps its files in a folder, sends no usage statistics, and downloads nothing."""
    os.environ["GRADIO_TEMP_DIR"] = folder
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    import gradio
    from gradio import processing_utils

    async def refuse(*arguments, **options):
        raise gradio.Error("Web addresses are not accepted. Upload the file.", print_exception=False)

    # A request with a web address in place of an upload would otherwise make the server download it.
    processing_utils.async_ssrf_protected_download = refuse


def _server(analyser, folder):
    """Return a uvicorn server of the page, whose uploads are below a folder."""
    import gradio
    import uvicorn
    from gradio.route_utils import upload_fn
    from gradio.routes import file_upload_statuses
    from starlette.applications import Starlette
    from starlette.formparsers import MultiPartException
    from starlette.requests import ClientDisconnect
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Route

    def delete(paths):
        for path in paths:
            name = pathlib.Path(os.path.abspath(path)).relative_to(folder).parts[0]
            shutil.rmtree(folder / name, ignore_errors=True)

    max_bytes = page.MAX_UPLOAD_MB << 20

    # Gradio's own route stores equal files of two users at one path, so that the answer to one user would delete the
    # file of the other. It also keeps what it has received if the connection is lost.
    async def upload(request):
        _delete_old_uploads(folder)
        if float(request.headers.get("content-length", "inf")) > max_bytes:
            return PlainTextResponse(f"too large: the maximum is {page.MAX_UPLOAD_MB} MB", 413)
        own_folder, files = tempfile.mkdtemp(dir=folder), []
        try:
            upload_id = request.query_params.get("upload_id")
            progress = file_upload_statuses if upload_id else None
            files, _, _ = await upload_fn(request, own_folder, max_bytes, upload_id, upload_progress=progress)
        except MultiPartException as error:
            return PlainTextResponse(error.message, 400)
        except ClientDisconnect:
            return PlainTextResponse(status_code=400)  # not sent, because the connection is closed
        finally:
            if not files:
                shutil.rmtree(own_folder)
        return JSONResponse(files)

    app = Starlette(routes=[Route("/gradio_api/upload", upload, methods=["POST"])])
    blocks = page.build(analyser, delete)
    gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=["api"],
        run_history=False,
        max_file_size=max_bytes,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=True,
        theme=gradio.themes.Default(**page.FONTS),
        css=page.CSS,
    )
    blocks.has_launched = True  # Otherwise, Gradio accepts paths of files that were not uploaded.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_SECONDS_TO_CLOSE)
    return uvicorn.Server(config)


def _delete_old_uploads(folder):
    for upload in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # deleted in the meantime
            if upload.stat().st_mtime < time.time() - _MAX_UPLOAD_AGE:
                shutil.rmtree(upload)
