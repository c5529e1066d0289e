"""What says of itself whether its training steps can be captured as a CUDA graph."""

from __future__ import annotations

from typing import Any


class Capturing:
    """The base of what takes part in a training step and may be captured, see :class:`~pyg_ckd.training.Trainer`.

    A captured step runs the same kernels on the same memory again. It must not wait for a number on the device, decide
    by one that changes from step to step, or keep anything but in tensors that are changed in place. The same
    parameters get a gradient in all steps of an epoch.
    """

    capturable: bool = False
    """Whether its steps can be captured as a CUDA graph. A subclass says so anew, for only itself knows; an object
    whose options say otherwise sets it to :obj:`False`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take nothing over from the base class."""
        super().__init_subclass__(**kwargs)
        cls.capturable = cls.__dict__.get("capturable", False)
