"""The tutorials in docs/tutorials run, and their stored outputs are small and name nothing of a machine."""

import importlib.util
import json
import pathlib
import re

import pytest

pytest.importorskip("nbclient")
FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MAX_BYTES = 300_000


def load_execute():
    """Return the module docs/tutorials/execute.py."""
    spec = importlib.util.spec_from_file_location("execute_tutorials", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, tmp_path):
    notebook = load_execute().execute(path, tmp_path)  # An error in a cell is an exception here.
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


def test_solutions_are_executed(tmp_path):
    """A solution that is folded away in Markdown runs, and its error is an error of the notebook."""
    from nbclient.exceptions import CellExecutionError
    from nbformat import v4, write

    solution = "<details>\n\n```python\nassert x == 2, 'solution'\n```\n\n</details>"
    path = tmp_path / "notebook.ipynb"
    write(v4.new_notebook(cells=[v4.new_code_cell("x = 1"), v4.new_markdown_cell(solution)]), path)
    with pytest.raises(CellExecutionError, match="solution"):
        load_execute().execute(path, tmp_path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < MAX_BYTES
    assert not re.search(r"/(tmp|home|root|work|usr)/|audio/|<audio", text)
    codes = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in codes] == list(range(1, len(codes) + 1))
    outputs = [output for cell in codes for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    assert {kind for output in outputs for kind in output.get("data", ())} <= {"text/plain", "image/png"}


def test_index_lists_all():
    listed = re.findall(r"^\| \[.*?\]\((.*?\.ipynb)\)", (FOLDER / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == [path.name for path in NOTEBOOKS] and len(listed) == 9
