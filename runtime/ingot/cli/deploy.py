# SPDX-License-Identifier: Apache-2.0
"""`ingot deploy`: a file into the model store of a device, over ssh."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from ingot.cli.arguments import Subparsers, UsageError, add_command, add_file
from ingot.cli.progress import moving_line
from ingot.cli.signing import add_signing, signed_manifest
from ingot.deploy import Connection, Deployment, Destination, Options, deploy
from ingot.errors import InvalidArgumentError

__all__ = ["add_parser", "run"]

_EPILOG = """examples:
  ingot deploy smol.ingot pi@board:models                  # into the store ~/models of the board
  ingot deploy smol.ingot pi@board:models --dry-run        # check space and profile only
  ingot deploy smol.ingot board:models --ssh "ssh -p 2222 -i key" --key release.pem
  ingot deploy smol.ingot board:models --check "systemctl --user restart chat"

The device needs ssh and an installed ingot (`ingot bundle` makes an offline installer). Space and
profile are checked before anything is sent. Only pieces that no version on the device has are sent;
after a cut, deploy again goes on where it stopped. The device checks all digests, runs the file's
conformance vectors, and only then switches: models/NAME/current.ingot is the old or the new version
at every moment. If --check fails after the switch, the device goes back by itself.

A key that may only bring models: command="ingot store receive models" in the device's
authorized_keys; `ingot store trust` there says whose."""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser."""
    parser = add_command(subparsers, "deploy", "bring a file onto a device over ssh", _EPILOG)
    add_file(parser)
    parser.add_argument("destination", metavar="[USER@]HOST:DIR", help="the device, and its store")
    add_signing(parser)
    parser.add_argument("--dry-run", action="store_true", help="send nothing but the manifest")
    parser.add_argument(
        "--any-target", action="store_true", help="also to a device that the file was not made for"
    )
    parser.add_argument(
        "--allow-older", action="store_true", help="also a version older than one it has had"
    )
    parser.add_argument("--no-canary", action="store_true", help="switch without trying the file")
    parser.add_argument(
        "--check", default="", metavar="COMMAND", help="run there after the switch; else go back"
    )
    group = parser.add_argument_group("connection")
    group.add_argument("--ssh", default="ssh", metavar="COMMAND", help="default: ssh")
    group.add_argument(
        "--remote-ingot", default="ingot", metavar="COMMAND", help="ingot on the device"
    )
    group.add_argument(
        "--retries", type=int, default=3, metavar="N", help="after a cut, at once (default 3)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if not 0 <= args.retries <= 1000:
        raise UsageError(f"--retries is {args.retries}, expected 0 to 1000")
    try:
        destination = Destination.parse(args.destination)
    except InvalidArgumentError as error:
        raise UsageError(str(error)) from error
    connection = Connection(args.ssh, args.remote_ingot, args.retries)
    options = Options(args.any_target, args.allow_older, args.no_canary, args.check)
    signed = signed_manifest(args)
    done = deploy(args.file, signed, destination, connection, options, moving_line(), args.dry_run)
    if args.json:
        print(json.dumps(dataclasses.asdict(done)))
    else:
        _show(done)
    return 0


def _show(done: Deployment) -> None:
    """Print what was done, for people."""
    for remark in done.remarks:
        print(f"note: {remark}", file=sys.stderr)
    sizes = (
        f"{done.total_bytes / 1e6:.1f} MB: {done.reused_bytes / 1e6:.1f} MB were there, "
        f"{done.resumed_bytes / 1e6:.1f} MB from a transfer before"
    )
    if not done.installed:
        print(
            f"{done.name} {done.version[:12]}, {sizes}; {done.missing_bytes / 1e6:.2f} MB to send"
        )
        return
    print(f"{done.name} {done.version[:12]}, {sizes}; {done.sent_bytes / 1e6:.2f} MB sent")
    before = f" (before: {done.previous[:12]})" if done.previous else ""
    print(f"current at {done.path}{before}; canary: {done.canary}; {done.seconds:.1f} s")
