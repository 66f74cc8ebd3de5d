"""Which films of a source are taken, and how they are stored: the same for every source."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Storing:
    """What every source shares. The fields are flags of the `agcxr prepare ...` commands."""

    size: int = 256
    """Side of the stored films in pixels."""
    seed: int = 0
    """Of the draw and of the split."""
    limit: int | None = None
    """Take about so many films, as whole patients."""
    fraction: float | None = None
    """Take this share of the films, as whole patients."""
    subset: bool = False
    """The folder holds only a part of the table: leave out rows without a file."""
    workers: int | None = None
    """Processes; default one a core."""
    max_rejected: float = 0.01
    """Largest share of unreadable films that is no error."""

    def check(self) -> None:
        """Raises ValueError for values that cannot be meant."""
        if not 16 <= self.size <= 4096:
            raise ValueError(f"size {self.size}; expected 16 to 4096 pixels")
        if not 0 <= self.max_rejected <= 1:
            raise ValueError(f"max_rejected {self.max_rejected}; expected a share from 0 to 1 (0.01 is 1 %)")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers {self.workers}; expected at least 1")


USUAL = Storing()
