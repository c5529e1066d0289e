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

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a buffer as PyTorch does; if it takes the place of one of :meth:`register_state`, trainings keep it."""
        super().register_buffer(name, tensor, persistent)
        self.__dict__.get("_first_values", {}).pop(name, None)

    def reset_state(self) -> None:
        """Give the state of this module its first values."""
        for name, value in self.__dict__.get("_first_values", {}).items():
            getattr(self, name).copy_(value)
