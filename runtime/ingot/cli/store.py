# SPDX-License-Identifier: Apache-2.0
"""`ingot store`: the models of a device, their versions, and what becomes of them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

from ingot.cli.arguments import Subparsers, add_command, add_file
from ingot.cli.signing import add_signing, signed_manifest
from ingot.cli.table import print_table
from ingot.deploy.frames import Counted, PatientInput
from ingot.deploy.options import Options
from ingot.deploy.receiver import receive
from ingot.errors import TransferError
from ingot.store import Store, default_canary, install_file
from ingot.store.canary import command_check, no_canary
from ingot.store.durable import storage_errors, write_atomic
from ingot.store.profile import check_profile
from ingot.store.signing import make_keys

__all__ = ["add_parser", "run"]

_EPILOG = """examples:
  ingot store install models smol.ingot --name chat     # into the folder models, made if need be
  ingot chat models/models/chat/current.ingot           # always the old or the new version, whole
  ingot store list models
  ingot store rollback models chat
  ingot store keygen release.pem                        # then, on the device:
  ingot store trust models release.pem.pub              # from now on only what this key signed

A version is tried on this device (its conformance vectors) before it becomes current, and stays
beside the one before it. A cut or a kill at any moment leaves the old or the new one current; gc
removes the rest. The service's start should run `ingot store recover`: a switch whose --check never
ended is undone."""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser with one subcommand for each action."""
    parser = add_command(subparsers, "store", "keep models and their versions", _EPILOG)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    install = _action(actions, "install", "take in a file, try it, switch to it", _install)
    add_file(install)
    add_signing(install)
    _add_install(install)
    _action(actions, "list", "show models and versions", _list)
    back = _action(actions, "rollback", "go back to the version before", _rollback)
    back.add_argument("name", metavar="NAME")
    back.add_argument("--to", default="", metavar="VERSION", help="or to this one")
    pin = _action(actions, "pin", "keep a version from gc", _pin)
    pin.add_argument("name", metavar="NAME")
    pin.add_argument("version", metavar="VERSION", nargs="?", default="", help="default: current")
    pin.add_argument("--remove", action="store_true", help="let gc have it again")
    gc = _action(actions, "gc", "remove versions and rests that no model needs", _gc)
    gc.add_argument("--keep", type=int, default=1, metavar="N", help="earlier versions (default 1)")
    _action(actions, "recover", "undo switches whose check never ended", _recover)
    trust = _action(
        actions, "trust", "take only what this key, or one trusted before, signed", _trust
    )
    trust.add_argument("key", metavar="KEY.pub", type=Path)
    receiver = _action(actions, "receive", "the far side of `ingot deploy`", _receive)
    _add_install(receiver)
    receiver.add_argument("--any-target", action="store_true", help="also what is for others")
    keygen = _action(actions, "keygen", "make a key pair: FILE and FILE.pub", _keygen, False)
    keygen.add_argument("key", metavar="FILE", type=Path)
    sign = _action(actions, "sign", "write a signed manifest for a file", _sign, False)
    add_file(sign)
    add_signing(sign)
    sign.add_argument("--out", type=Path, metavar="FILE", help="default: FILE.manifest")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    handler: Callable[[argparse.Namespace], int] = args.handler
    return handler(args)


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    handler: Callable[[argparse.Namespace], int],
    on_store: bool = True,
) -> argparse.ArgumentParser:
    parser = add_command(actions, name, summary, "`ingot store --help` has examples.")
    parser.set_defaults(handler=handler)
    if on_store:
        parser.add_argument("store", metavar="STORE", type=Path, help="the store's folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_install(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-canary", action="store_true", help="switch without trying the file")
    parser.add_argument(
        "--check", default="", metavar="COMMAND", help="run after the switch; else go back"
    )
    parser.add_argument("--allow-older", action="store_true", help="also an older signed version")


def _install(args: argparse.Namespace) -> int:
    signed = signed_manifest(args)
    fit = check_profile(signed.manifest.requirements)
    for line in (*fit.problems, *fit.remarks):
        print(f"note: {line}", file=sys.stderr)
    canary = no_canary if args.no_canary else default_canary()
    check = command_check(args.check) if args.check else None
    store = Store(args.store, create=True)
    done = install_file(store, args.file, signed, canary, check, args.allow_older)
    values = {**dataclasses.asdict(done), "path": str(done.path)}
    before = f" (before: {done.previous[:12]})" if done.previous else ""
    text = f"{done.name} {done.version[:12]} is current at {done.path}{before}; {done.canary}"
    return _say(args, values, text)


def _list(args: argparse.Namespace) -> int:
    store = Store(args.store)
    rows, values = [], []
    for state in store.models():
        for version in reversed(state.history.versions):
            there = store.objects.has(version)
            size = store.objects.data(version).stat().st_size if there else 0
            words = {
                "current": version == state.current,
                "pinned": version in state.history.pinned,
                "failed": version in state.history.failed,
                "on trial": version == state.history.trial,
                "gone": not there,
            }
            marks = [word for word, holds in words.items() if holds]
            rows.append((state.name, version[:12], f"{size / 1e6:.1f} MB", ", ".join(marks)))
            values.append(
                {"name": state.name, "version": version, "size_bytes": size, "marks": marks}
            )
    if args.json:
        print(json.dumps(values, indent=2))
    else:
        print_table(("model", "version", "size", ""), rows)
    return 0


def _rollback(args: argparse.Namespace) -> int:
    version = Store(args.store).rollback(args.name, args.to)
    return _say(args, {"version": version}, f"{args.name} is at {version[:12]}")


def _pin(args: argparse.Namespace) -> int:
    version = Store(args.store).pin(args.name, args.version, args.remove)
    what = "is no longer pinned" if args.remove else "is pinned"
    return _say(args, {"version": version}, f"{args.name} {version[:12]} {what}")


def _gc(args: argparse.Namespace) -> int:
    done = Store(args.store).gc(args.keep)
    text = f"{len(done.versions)} versions and {done.debris} rests removed"
    return _say(args, dataclasses.asdict(done), f"{text}, {done.freed_bytes / 1e6:.1f} MB freed")


def _recover(args: argparse.Namespace) -> int:
    lines = Store(args.store).recover()
    return _say(args, {"undone": lines}, "\n".join(lines) or "nothing to undo")


def _trust(args: argparse.Namespace) -> int:
    key = Store(args.store, create=True).trust(args.key)
    return _say(
        args, {"key": key.name}, f"trusts {key.name}; unsigned files are refused from now on"
    )


def _receive(args: argparse.Namespace) -> int:
    """Serve a deployment; standard output belongs to it alone."""
    streams = Counted(PatientInput(sys.stdin.fileno()), sys.stdout.buffer)
    options = Options(args.any_target, args.allow_older, args.no_canary, args.check)
    try:
        receive(args.store, streams, default_canary(), options)
        return 0
    except TransferError as error:
        print(f"ingot: error: {error}", file=sys.stderr)
        return 1


def _keygen(args: argparse.Namespace) -> int:
    public = make_keys(args.key)
    text = f"{args.key} signs and stays secret; {public} is for `ingot store trust` on devices"
    return _say(args, {"private": str(args.key), "public": str(public)}, text)


def _sign(args: argparse.Namespace) -> int:
    signed = signed_manifest(args)
    out = args.out or args.file.with_name(args.file.name + ".manifest")
    with storage_errors(out, "write it"):
        write_atomic(out, signed.to_bytes())
    who = f"signed by {signed.key}" if signed.signature else "not signed: give --key"
    values: dict[str, object] = {
        "manifest": str(out),
        "version": signed.manifest.version,
        "key": signed.key,
    }
    return _say(args, values, f"{out}: {signed.manifest.version[:12]}, {who}")


def _say(args: argparse.Namespace, values: dict[str, object], text: str) -> int:
    print(json.dumps(values) if args.json else text)
    return 0
