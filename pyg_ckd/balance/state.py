"""State that a training begins with the same values of, however often a module is trained."""

from __future__ import annotations

from torch import Tensor, nn


class FitState(nn.Module):
    """Base of objectives and of what they measure with: has buffers that every training begins anew."""

    def register_state(self, name: str, value: Tensor) -> None:
        """Add a buffer that has the same value whenever a training begins.

        Such are stages and counters of a schedule, and sums and means over steps: what is in them belongs to one
        training. Checkpoints store it as any buffer, and a resumed training goes on with it. To begin with another
        value, add it again, with this method.

        Args:
            name: Name of the buffer.
            value: Its first value.
        """
        self.register_buffer(name, value)
        self.__dict__.setdefault("_first_values", {})[name] = value.clone()  # A wrapper finds those of what is inside.

    def reset_state(self) -> None:
        """Give the state of this module its first values; a buffer of another shape that took its place is kept."""
        for name, value in self.__dict__.get("_first_values", {}).items():
            if getattr(self, name).shape == value.shape:
                getattr(self, name).copy_(value)
