"""Execute the tutorials, and write their outputs back without anything that depends on the machine.

    python docs/tutorials/execute.py         # all
    python docs/tutorials/execute.py 01 04   # those whose names begin so

Each notebook runs in a temporary folder, with an empty cache of genrekeras. The solutions of exercises, which are
folded away in Markdown, are executed too, each after the cell in which it stands.
"""

import base64
import copy
import io
import os
import pathlib
import re
import sys
import tempfile
import time

import nbclient
import nbformat
from PIL import Image

FOLDER = pathlib.Path(__file__).parent
TIMEOUT = 600  # seconds for a cell; on a machine that does nothing else, a whole notebook takes less than 180
SOLUTION = re.compile(r"<details.*?</details>", re.DOTALL)
COLORS = 128  # in a picture; spectrograms then take half of the space
CODE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def notebooks():
    """Return the paths of the tutorials, in order."""
    return sorted(FOLDER.glob("*.ipynb"))


def execute(path, folder):
    """Execute a notebook.

    Args:
        path: path-like, the notebook.
        folder: path-like, an empty folder, in which the notebook runs.

    Returns:
        `nbformat.NotebookNode`, the notebook with its new outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell or a solution fails.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "markdown":
            codes = [code for solution in SOLUTION.findall(cell.source) for code in CODE.findall(solution)]
            cells += [nbformat.v4.new_code_cell(code) for code in codes]
    with_solutions = copy.copy(notebook)
    with_solutions.cells = cells
    # MPLBACKEND: the figures belong into the notebook, whatever the environment of this process says.
    environment = {
        **os.environ,
        "KERAS_BACKEND": "torch",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "GENREKERAS_CACHE": os.path.join(folder, ".cache"),
    }
    client = nbclient.NotebookClient(
        with_solutions, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": os.fspath(folder)}}
    )
    client.execute(env=environment)
    return notebook


def clean(notebook):
    """Remove from a notebook, in place, what depends on the machine or the time, and what a reader does not need.

    These are progress bars and warnings on standard error, times of execution, versions, and HTML beside text. Pictures
    get a palette, so that they are smaller.
    """
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    number = 0
    for index, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{index}", {}
        if cell.cell_type != "code":
            continue
        number += 1
        cell.execution_count = number
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
            if "data" in output:
                if "image/png" in output.data:
                    output.data = {"image/png": smaller(output.data["image/png"])}
                else:
                    output.data = {"text/plain": output.data["text/plain"]}
                output.metadata = {}


def smaller(png):
    """Return a PNG picture, base64-encoded as in a notebook, with a palette of `COLORS` colors."""
    picture, file = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main(prefixes):
    for path in notebooks():
        if prefixes and not path.name.startswith(tuple(prefixes)):
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, folder)
        clean(notebook)
        nbformat.write(notebook, path)
        size = path.stat().st_size / 1000
        sys.stderr.write(f"{path.name}: {time.monotonic() - start:.0f} s, {size:.0f} kB\n")


if __name__ == "__main__":
    main(sys.argv[1:])
