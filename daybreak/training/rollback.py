"""How often, and how far, a run has gone back: a value that the story keeps and a checkpoint carries.

Going back alone would meet the same trouble again, as the same weights see the same batches: the data of the troubled steps is left
out as well (`data.skipped`), as in PaLM (Chowdhery et al. 2022, section 5.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from daybreak.training.guard import Trouble, Troubled


class Rollback(NamedTuple):
    """One time that a run went back."""

    first: int
    """First and last step of the trouble."""
    last: int
    back_to: int
    """Steps done in the checkpoint that it went back to."""


@dataclass(frozen=True)
class Rollbacks:
    """All of a run's rollbacks, oldest first."""

    taken: tuple[Rollback, ...] = ()

    def latest(self, trouble: Trouble, most: int) -> int:
        """The most steps that a checkpoint may have done to be worth going back to.

        It is from before the trouble; and where the last rollback led into trouble again before it was past the old one, from before
        that rollback's own, which may have held the seed of it. Raises Troubled if the run has gone back `most` times already.
        """
        if len(self.taken) >= most:
            raise Troubled(trouble, f", after {len(self.taken)} rollbacks" if self.taken else "")
        again = self.taken and self.taken[-1].back_to <= trouble.first <= self.taken[-1].last
        return self.taken[-1].back_to - 1 if again else trouble.first

    def with_one(self, trouble: Trouble, back_to: int) -> Rollbacks:
        """These and one more."""
        return Rollbacks((*self.taken, Rollback(trouble.first, trouble.last, back_to)))
