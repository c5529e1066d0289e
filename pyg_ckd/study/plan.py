"""The runs of teachers and contenders, as whoever plans a study asks for them."""

from __future__ import annotations

from collections.abc import Sequence

from pyg_ckd.nn import Backbone
from pyg_ckd.study.contenders import Contender, side_by_side
from pyg_ckd.study.runs import Run, trained
from pyg_ckd.study.settings import TEACHER, StudySettings


def teacher_run(modality: str, data: str, backbone: type[Backbone], settings: StudySettings, seed: int) -> Run:
    """Return the run of a teacher, which all contenders of a seed share.

    Args:
        modality: Its modality.
        data: Fingerprint of the graph.
        backbone: Class of the model.
        settings: What the study is made of.
        seed: Its seed.
    """
    own = side_by_side(settings.teacher, backbone)
    model = {**settings.model, **own.model}
    trainer = {**settings.trainer, **own.trainer, "track_views": False, "seed": seed}
    name = f"{TEACHER}{modality}"
    return trained(name, "teacher", seed, data, backbone, model, own.strategy, own.options, trainer, modality)


def contender_run(
    name: str,
    contender: Contender,
    data: str,
    backbone: type[Backbone],
    settings: StudySettings,
    seed: int,
    teachers: Sequence[Run] = (),
) -> Run:
    """Return the run of a contender.

    Args:
        name: Its name.
        contender: The contender.
        data: Fingerprint of the graph.
        backbone: Class of the model.
        settings: What the study is made of.
        seed: Its seed.
        teachers: Runs of the teachers under the same seed; those who need none leave them alone.
    """
    model = {**settings.model, **contender.model}
    trainer = {**settings.trainer, **contender.trainer, "seed": seed}
    needed = tuple(teachers) if contender.needs_teachers else ()
    what = (contender.strategy, contender.options)
    return trained(name, "contender", seed, data, backbone, model, *what, trainer, teachers=needed)
