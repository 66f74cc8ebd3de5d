"""A decoding process that goes wrong in the way its question says (or that cannot start)."""

from __future__ import annotations

import ctypes
import os
import sys
import time

from agcxr.data.isolation import Answer, address_space, confine, limit_memory, serve


def prepare(start: object) -> Answer:
    if start == "cannot start":
        print("warning: nothing", file=sys.stderr)
        raise ModuleNotFoundError("No module named 'decoder'")
    base = address_space()
    confine()

    def answer(question: list[bytes]) -> list[bytes]:
        what = question[0] if isinstance(start, type(None)) else str(start).encode()
        if what == b"abort":
            os.abort()
        if what == b"segfault":
            ctypes.string_at(0)
        if what == b"hang":
            time.sleep(600)
        if what == b"memory":
            limit_memory(base + (1 << 28))
            try:
                bytearray(1 << 29)
            except MemoryError:
                return [b"no memory"]
        if what == b"garbage":
            os.write(3, b"\xff" * 64)
            for number in range(3, 32):
                try:
                    os.write(number, b"\xff" * 64)
                except OSError:
                    continue
            time.sleep(600)
        if what == b"write":
            with open(question[1], "wb") as file:
                file.write(b"x")
        print("chatter")
        print("chatter", file=sys.stderr)
        return [str(os.getpid()).encode(), *question]

    return answer


if __name__ == "__main__":
    serve(prepare)
