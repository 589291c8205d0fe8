"""Text that arrives in pieces of bytes: only whole characters leave, so that a terminal never shows half of one."""

from __future__ import annotations

import codecs
from typing import final


@final
class Utf8Stream:
    """Decodes UTF-8 piece by piece. All that `push` and `flush` returned, joined, is `b"".join(pieces).decode("utf-8", "replace")`.

        stream = Utf8Stream()
        for token in generated:
            print(stream.push(tokenizer.token_bytes(token)), end="", flush=True)
        print(stream.flush())

    A tail that may still become a character is held back; bytes that cannot become one leave as U+FFFD. Never raises.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, piece: bytes) -> str:
        """The characters that `piece` completes, possibly none."""
        return self._decoder.decode(piece)

    def flush(self) -> str:
        """What is left of an unfinished character, as U+FFFD; afterwards the stream is as new."""
        return self._decoder.decode(b"", final=True)
