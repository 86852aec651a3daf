"""`fedmets deploy`: make a federation's kits, enrol sites, start a coordinator or a courier, look
after a site."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence

from common.runtime.exit_status import ended, leave

EPILOG = """exit status: 0 done, 1 the doctor found something, 2 wrong option or key, 5 a courier that is not let in,
6 a file is in the way or cannot be written

at the coordinator:
  fedmets deploy provision federation.toml --out kits     # kits/coordinator, kits/sites/<name>
  fedmets deploy fingerprint kits/coordinator             # to be read out by telephone
  fedmets deploy site add kits/coordinator enrolment.json --fingerprint XXXX-XXXX-...
  fedmets deploy site list kits/coordinator
at a site:
  fedmets deploy enroll kit --fingerprint XXXX-XXXX-..."""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="fedmets deploy",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, told: str) -> argparse.ArgumentParser:
        c = commands.add_parser(name, help=told, description=told)
        c.add_argument("--json", action="store_true", help="print one JSON object")
        return c

    def link(c: argparse.ArgumentParser) -> None:
        c.add_argument(
            "--link",
            default="/run/fedmets",
            metavar="DIR",
            help="the folder in which SuperLink and signer meet (default /run/fedmets)",
        )

    c = command("provision", "make the coordinator's kit and one for each site")
    c.add_argument("file", metavar="FEDERATION.TOML", help="what the coordinator decided")
    c.add_argument("--out", default="kits", metavar="DIR", help="a new folder (default kits)")
    c.add_argument(
        "--images",
        default="",
        metavar="IMAGES.JSON",
        help="images by digest, as `make images` lists them (default: by the tags in the file)",
    )
    c = command(
        "fingerprint", "what is read out, of a coordinator's folder or of a site's kit or enrolment"
    )
    c.add_argument("folder", metavar="PATH", help="the folder, or enrolment.json")
    c = command("enroll", "at a site: pin the coordinator and make the site's keys")
    c.add_argument("folder", metavar="KIT", help="the folder that the coordinator sent")
    c.add_argument(
        "--fingerprint",
        required=True,
        metavar="TYPED",
        help="as the coordinator read it out by telephone",
    )
    c.add_argument(
        "--again",
        action="store_true",
        help="the folder has enrolled before: its keys and the files that you edited stay",
    )
    c.add_argument(
        "--new-keys",
        action="store_true",
        help="make new keys; the coordinator must take them in with `site renew`",
    )
    c = command("renew", "at the coordinator: a new TLS certificate")
    c.add_argument("folder", metavar="DIR", help="the coordinator's folder")
    c.add_argument(
        "--key",
        required=True,
        metavar="CA.KEY",
        help="the authority's key, where it is kept; of a new authority: where it shall be",
    )
    c.add_argument(
        "--authority",
        action="store_true",
        help="a new authority beside the old one; sites need the ca.pem of a new kit",
    )
    c = command(
        "coordinator",
        "at the coordinator: proxy and SuperLink, until it is stopped (what one of its containers "
        "runs)",
    )
    c.add_argument(
        "folder",
        metavar="DIR",
        nargs="?",
        default="/kit",
        help="the folder `door` of the coordinator's (default /kit)",
    )
    c.add_argument(
        "--state",
        default="/state",
        metavar="DIR",
        help="where Flower's database lies (default /state)",
    )
    link(c)
    c = command(
        "signer",
        "at the coordinator: what holds the plan key and runs the ServerApp, without a network, "
        "until it is stopped (what the other container runs)",
    )
    c.add_argument(
        "folder",
        metavar="DIR",
        nargs="?",
        default="/kit",
        help="the folder `signer` of the coordinator's (default /kit)",
    )
    c.add_argument(
        "--state",
        default="/state",
        metavar="DIR",
        help="where requests and runs lie (default /state)",
    )
    link(c)
    c = command(
        "courier",
        "at a site: the connection to the coordinator, until it is stopped (what its container "
        "runs)",
    )
    c.add_argument(
        "folder", metavar="KIT", nargs="?", default="/kit", help="the site's kit (default /kit)"
    )
    c.add_argument(
        "--socket",
        default="/run/fedmets/station.sock",
        metavar="PATH",
        help="the station's (default /run/fedmets/station.sock)",
    )
    for name, told in (
        ("doctor", "at a site: both halves of the doctor"),
        ("reach", "at a site: the courier's half of the doctor"),
    ):
        c = command(name, told)
        c.add_argument(
            "folder",
            metavar="KIT",
            nargs="?",
            default="." if name == "doctor" else "/kit",
            help="the site's kit",
        )
        if name == "doctor":
            c.add_argument(
                "--compose",
                default="",
                metavar="COMMAND",
                help="run each half in its container: 'docker compose' or 'podman-compose'",
            )
            c.add_argument(
                "--socket",
                default="/run/fedmets/station/station.sock",
                metavar="PATH",
                help="without containers: the station's",
            )
    site = commands.add_parser(
        "site",
        help="at the coordinator: who takes part",
        description="at the coordinator: who takes part",
    )
    sites = site.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, told in (
        ("kit", "write the kit of a site that federation.toml names"),
        ("add", "take a site's public keys in"),
        ("renew", "take a site's new public keys in, in place of its old ones"),
        ("revoke", "take a site's keys out"),
        ("list", "who is enrolled, and what expires when"),
    ):
        c = sites.add_parser(name, help=told, description=told)
        c.add_argument("folder", metavar="DIR", help="the coordinator's folder")
        c.add_argument("--json", action="store_true", help="print one JSON object")
        if name in ("add", "renew"):
            c.add_argument("file", metavar="ENROLMENT.JSON", help="as the site sent it back")
            c.add_argument(
                "--fingerprint",
                required=True,
                metavar="TYPED",
                help="as the site's IT read it out by telephone",
            )
        if name in ("kit", "revoke"):
            c.add_argument("site", metavar="NAME", help="the site's name in federation.toml")
        if name == "kit":
            c.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    args = parser().parse_args(argv)
    return ended(lambda: _do(args))


def _do(args: argparse.Namespace) -> int:
    if args.command in ("doctor", "reach"):
        return _doctor(args)
    do = {
        "provision": _provision,
        "fingerprint": _fingerprint,
        "enroll": _enroll,
        "renew": _renew,
        "site": _site,
    }
    done = {**do, "coordinator": _coordinator, "signer": _signer, "courier": _courier}[
        args.command
    ](args)
    print(json.dumps(done) if args.json else _plain(done))
    return 0


def _plain(done: Mapping[str, object]) -> str:
    lines = []
    for key, value in done.items():
        if isinstance(value, list):
            lines += [
                f"{key}:",
                *("  " + ", ".join(f"{k} {v}" for k, v in row.items()) for row in value),
            ]
        else:
            lines.append(f"{key}: {value}")
    return "\n".join(lines)


def _provision(args: argparse.Namespace) -> dict[str, object]:
    import datetime
    from pathlib import Path

    from deploy import provision

    out, images = Path(args.out), Path(args.images) if args.images else None
    read_out = provision.provision(
        Path(args.file), out, datetime.datetime.now(datetime.UTC), images
    )
    return {
        "kits": args.out,
        "take offline": str(out / provision.AUTHORITY),
        "fingerprint to read out to each site": read_out,
    }


def _fingerprint(args: argparse.Namespace) -> dict[str, object]:
    from pathlib import Path

    from deploy import kit, provision

    path = Path(args.folder)
    if path.is_file():
        return {"fingerprint": kit.read(path, kit.Enrolment).fingerprint}
    return {
        "fingerprint": provision.fingerprint(path)
        if (path / provision.SIGNER).is_dir()
        else kit.fingerprint(path)
    }


def _enroll(args: argparse.Namespace) -> dict[str, object]:
    from pathlib import Path

    from deploy import enroll, kit

    made = enroll.enroll(
        Path(args.folder), args.fingerprint, again=args.again, new_keys=args.new_keys
    )
    return {
        "site": made.site,
        "send back": str(Path(args.folder) / kit.ENROLMENT),
        "fingerprint to read out": made.fingerprint,
    }


def _renew(args: argparse.Namespace) -> dict[str, object]:
    import datetime
    from pathlib import Path

    from deploy import pki, provision

    now, home, key = datetime.datetime.now(datetime.UTC), Path(args.folder), Path(args.key)
    if args.authority:
        read_out = provision.renew_authority(home, key, now)
        return {
            "authority": "new, and the old one beside it",
            "take offline": args.key,
            "fingerprint to read out to each site with its new kit": read_out,
        }
    provision.renew(home, key, now)
    certificate = home / provision.DOOR / "server.pem"
    return {"certificate": str(certificate), "days left": round(pki.days_left(certificate, now))}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _doctor(args: argparse.Namespace) -> int:
    import datetime
    from pathlib import Path

    from common.runtime import health_check
    from deploy import doctor

    if args.command == "reach":
        found = doctor.reach(Path(args.folder), datetime.datetime.now(datetime.UTC))
    else:
        found = doctor.joined(Path(args.folder), Path(args.socket).resolve(), args.compose)
    print(
        json.dumps({"findings": [f.row() for f in found]})
        if args.json
        else health_check.text(found)
    )
    return health_check.status(found)


def _coordinator(args: argparse.Namespace) -> dict[str, object]:
    from pathlib import Path

    from deploy import coordinator

    coordinator.run(Path(args.folder), Path(args.state), Path(args.link).resolve(), _say)
    return {"stopped": args.folder}


def _signer(args: argparse.Namespace) -> dict[str, object]:
    from pathlib import Path

    from deploy import signer

    keys, state, link = (Path(p).resolve() for p in (args.folder, args.state, args.link))
    signer.run(keys, state, link, _say)
    return {"stopped": args.folder}


def _courier(args: argparse.Namespace) -> dict[str, object]:
    from pathlib import Path

    from deploy import courier

    courier.run(Path(args.folder), Path(args.socket).resolve(), _say)


def _site(args: argparse.Namespace) -> dict[str, object]:
    import datetime
    from pathlib import Path

    from deploy import federation, pki, provision

    home = Path(args.folder)
    if args.action == "kit":
        provision.site_kit(home, args.site, Path(args.out))
        return {"kit": args.out, "fingerprint to read out": provision.fingerprint(home)}
    if args.action in ("add", "renew"):
        found = provision.add(
            home, Path(args.file), args.fingerprint, instead=args.action == "renew"
        )
        return {"enrolled": found.site}
    if args.action == "revoke":
        provision.revoke(home, args.site)
        return {"revoked": args.site}
    now = datetime.datetime.now(datetime.UTC)
    listed = provision.sites(home)
    left = {
        name: round(pki.days_left(home / provision.DOOR / name, now))
        for name in ("ca.pem", "server.pem")
    }
    rows = [{"site": s, "key": k[:16]} for s, k in listed.items()]
    missing = [s for s in federation.load(home / "federation.toml").sites if s not in listed]
    soon = [
        f"{name} expires in {days} days: fedmets deploy renew"
        for name, days in left.items()
        if days <= pki.WARN_DAYS
    ]
    return {
        "enrolled": rows,
        "not enrolled": ", ".join(missing) or "none",
        "days left": [left],
        "warnings": "; ".join(soon) or "none",
    }


if __name__ == "__main__":
    leave(main)
