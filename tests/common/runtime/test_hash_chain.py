"""A hash chain that is interrupted: at any instruction of an append, as Ctrl-C may."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from common.runtime import hash_chain
from common.runtime.hash_chain import Chain


class Interrupt:
    """A tracer that raises KeyboardInterrupt before instruction `at` of this module's functions."""

    def __init__(self, at: int) -> None:
        self.left, self.struck = at, False

    def __call__(self, frame: FrameType, event: str, _: Any) -> Interrupt | None:
        if frame.f_code.co_filename != hash_chain.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not self.struck:
            self.left -= 1
            if self.left < 0:
                self.struck = True
                raise KeyboardInterrupt
        return self


def interrupted(chain: Chain, at: int) -> bool:
    """Whether an append was; False: it has fewer instructions."""
    tracer, before = Interrupt(at), sys.gettrace()
    sys.settrace(tracer)
    try:
        chain.append("exchange", step=1)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return tracer.struck


@pytest.mark.parametrize("lines", [0, 2])
def test_an_interrupt_at_any_instruction_leaves_a_chain_that_goes_on(
    tmp_path: Path, lines: int
) -> None:
    at, counted = 0, set()
    while True:
        path = tmp_path / f"{at}.jsonl"
        chain = Chain(path)
        for n in range(lines):
            chain.append("exchange", step=-n)
        whole = not interrupted(chain, at)
        chain.append("stopped")
        chain.close()
        if whole:
            break
        kinds = [line["kind"] for line in Chain.contents(path).lines]
        assert kinds[-1] == "stopped"
        counted.add(len(kinds) - lines)
        assert [json.loads(x)["n"] for x in path.read_text().splitlines()] == [*range(len(kinds))]
        Chain(path).close()
        at += 1
    assert at > 100
    assert counted == {1, 2}, "the line that was interrupted is whole or gone"
