"""The command line: `daybreak VERB ...`.

Standard output carries results (with --json one JSON object), standard error everything else. Exit status: 0 done, 1 the work
failed, 2 a wrong request, told in one line per error, 130 after Ctrl-C. A traceback appears only with --debug.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    # Read when torch is first imported. OpenMP's threads spin for milliseconds while they wait, which brings both programs to a crawl
    # when another one wants the cores; a shorter spin is as fast on a quiet machine (docs/LOG.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from daybreak.cli import speak
    from daybreak.cli.app import command

    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        verbs = command()
        with verbs.make_context("daybreak", words) as context:  # not `verbs()`, which has its own ways with Ctrl-C and broken pipes
            status = verbs.invoke(context)
    except KeyboardInterrupt:
        speak.say("stopped; the same command goes on from what is saved")
        return 130
    except BrokenPipeError:  # the reader of a pipe went away, as `head` does
        speak.let_go(sys.stdout)
        return 0
    except Exception as error:
        if debug:
            raise
        return speak.failure(error)
    return status if isinstance(status, int) else 0
