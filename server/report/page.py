from typing import Any
from collections.abc import Mapping


def render(report: Mapping[str, Any]) -> str:
    return ""
