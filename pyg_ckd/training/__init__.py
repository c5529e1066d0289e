"""Training: trainer, teachers, early stopping, checkpoints and history."""

from pyg_ckd.evaluation.metrics import parse_metric
from pyg_ckd.training.averaging import WeightAverage
from pyg_ckd.training.batches import Pace
from pyg_ckd.training.callbacks import CallbackError
from pyg_ckd.training.checkpoint import load_checkpoint, save_checkpoint, seeded
from pyg_ckd.training.history import History
from pyg_ckd.training.model import about_training, load_model, open_model, save_model
from pyg_ckd.training.optimizer import RowAdam
from pyg_ckd.training.safe_file import read_model
from pyg_ckd.training.schedule import Schedule
from pyg_ckd.training.stopping import EarlyStopping
from pyg_ckd.training.teachers import Teacher, Teachers, build, train_teachers
from pyg_ckd.training.trainer import Trainer
from pyg_ckd.training.warm_start import warm_start

__all__ = [
    "CallbackError",
    "EarlyStopping",
    "History",
    "Pace",
    "RowAdam",
    "Schedule",
    "Teacher",
    "Teachers",
    "Trainer",
    "WeightAverage",
    "about_training",
    "build",
    "load_checkpoint",
    "load_model",
    "open_model",
    "parse_metric",
    "read_model",
    "save_checkpoint",
    "save_model",
    "seeded",
    "train_teachers",
    "warm_start",
]
