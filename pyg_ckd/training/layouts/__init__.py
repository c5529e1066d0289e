"""How a training is laid out over several processes."""

from pyg_ckd.training.layouts.base import Layout
from pyg_ckd.training.layouts.choice import STRATEGIES, choose_layout, open_processes
from pyg_ckd.training.layouts.whole import Whole

__all__ = ["STRATEGIES", "Layout", "Whole", "choose_layout", "open_processes"]
