"""From examples to a pack: capture, experts and strength (how), gate (when)."""

from fs_local.fitting.fit_gate import gated
from fs_local.fitting.fitter import Fitted, fit, fit_untried
from fs_local.fitting.options import Examples, FitOptions

__all__ = ["Examples", "FitOptions", "Fitted", "fit", "fit_untried", "gated"]
