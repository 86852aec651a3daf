"""Images by digest, for kits: `fedmets deploy provision --images images.json`.

    python deploy/containers/digests.py [--engine podman] [--tag latest] [--out images.json]

A digest is that of the image's manifest, as a registry or an OCI archive carries it; the names are
those under which sites will find the images (`--prefix registry.example.org/`).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

IMAGES = ("coordinator", "courier", "station")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
Ask = Callable[[list[str]], str]


def digest(engine: str, image: str, ask: Ask) -> str:
    """As the engine has it; Docker knows one once the image has been pushed or pulled."""
    form = "{{.Digest}}" if engine == "podman" else '{{join .RepoDigests "\\n"}}'
    found = _DIGEST.search(ask([engine, "image", "inspect", "--format", form, image]))
    if found is None:
        raise SystemExit(
            f"{engine} knows no digest of {image}; push it to a registry first, or build it with "
            "podman"
        )
    return found[0]


def listed(engine: str, prefix: str, tag: str, ask: Ask) -> dict[str, str]:
    names = {part: f"{prefix}fedmets-{part}" for part in IMAGES}
    return {p: f"{n}@{digest(engine, f'{n}:{tag}', ask)}" for p, n in names.items()}


def _ask(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("podman", "docker"), default="podman")
    parser.add_argument("--prefix", default="localhost/")
    parser.add_argument("--tag", default="latest")
    parser.add_argument("--out", default="images.json")
    given = parser.parse_args()
    images = listed(given.engine, given.prefix, given.tag, _ask)
    Path(given.out).write_text(json.dumps(images, indent=1) + "\n")
    print(given.out)


if __name__ == "__main__":
    main()
