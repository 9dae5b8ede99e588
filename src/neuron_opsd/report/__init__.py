"""Records and results -> the page, its Markdown twin and the model card, with the same numbers."""

from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.model_card import model_card
from neuron_opsd.report.write import write_report

__all__ = ["ReportInputs", "model_card", "write_report"]
