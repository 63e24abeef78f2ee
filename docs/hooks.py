"""Hooks of MkDocs: notebooks become pages."""

import re

import nbconvert
from mkdocs.structure.files import File


def on_files(files, config):
    """Add a page for each notebook, and its pictures. The notebook itself stays, to be downloaded."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        base = notebook.src_uri.removesuffix(".ipynb")
        resources = {"output_files_dir": base.rpartition("/")[2]}
        text, resources = nbconvert.MarkdownExporter().from_filename(notebook.abs_src_path, resources=resources)
        name = notebook.src_uri.rpartition("/")[2]
        title, _, body = text.partition("\n")
        text = f"{title}\n\n[Download this notebook]({name}){{ download }}\n{body}"
        files.append(File.generated(config, f"{base}.md", content=text))
        for path, content in resources["outputs"].items():
            files.append(File.generated(config, f"{notebook.src_uri.rpartition('/')[0]}/{path}", content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Omit titles that are for the tests only, and link tutorials to pages instead of notebooks."""
    markdown = re.sub(r'(```sh) title="not executed by the tests[^"]*"', r"\1", markdown)
    if page.file.src_uri.startswith("tutorials/"):
        return re.sub(r"\.ipynb\)(?!\{ download)", ".md)", markdown)
    return markdown
