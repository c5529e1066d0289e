"""How a training is laid out over several processes."""

from pyg_ckd.training.layouts.base import Layout
from pyg_ckd.training.layouts.choice import STRATEGIES, choose_layout, open_processes
from pyg_ckd.training.layouts.columns import Columns
from pyg_ckd.training.layouts.users import Users
from pyg_ckd.training.layouts.whole import Whole

__all__ = ["STRATEGIES", "Columns", "Layout", "Users", "Whole", "choose_layout", "open_processes"]
