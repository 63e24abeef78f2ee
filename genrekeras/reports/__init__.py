"""Model cards and HTML reports of training runs."""

from genrekeras.reports.model_card import describe, model_card
from genrekeras.reports.run_page import Run, html, load_run

__all__ = ["Run", "describe", "html", "load_run", "model_card"]
