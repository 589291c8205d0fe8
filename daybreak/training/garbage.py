"""Python's collection of garbage, out of the steps: it happens where a run pauses anyway.

Left to itself the collector stops the process whenever enough objects have been made, and looks at all there are, torch's and the
compiler's hundreds of thousands too, at a moment of its own on each of many devices, which then wait for one another.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

_MOST = 200_000
"""New objects after which it is done all the same, lest cycles fill the memory of a run that never pauses."""


@contextlib.contextmanager
def kept() -> Iterator[Callable[[bool], None]]:
    """Within it garbage is collected when the function that it gives is called: `collect(True)` at a pause, `collect(False)` between two
    steps, where it does so only if very much has gathered. Afterwards all is as it was."""
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()  # what is there now stays, and is not looked at again
    gc.disable()

    def collect(pausing: bool) -> None:
        if pausing or gc.get_count()[0] > _MOST:
            gc.collect()

    try:
        yield collect
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
