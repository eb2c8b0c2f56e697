# SPDX-License-Identifier: Apache-2.0
"""The small text files of a bundle. @PREFIX@ is filled in on the device."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["bundle_texts"]

_INSTALL = """#!/bin/sh
# Installs runtime, model and service below --prefix without any network.
exec "${PYTHON:-python3}" "$(dirname "$0")/install.py" "$@"
"""

_START = """#!/bin/sh
# Talks to the model on standard input and output, one line a message.
PREFIX="@PREFIX@"
export PYTHONPATH="$PREFIX/site"
exec ${PYTHON:-@PYTHON@} -m ingot chat "$PREFIX/models/models/@NAME@/current.ingot" "$@"
"""

_PROGRAM = """#!/bin/sh
PREFIX="@PREFIX@"
export PYTHONPATH="$PREFIX/site"
exec ${PYTHON:-@PYTHON@} -m ingot "$@"
"""

_SOCKET = """[Unit]
Description=@NAME@: conversations

[Socket]
ListenStream=%t/ingot-@NAME@.sock
SocketMode=0660
Accept=yes
MaxConnections=2

[Install]
WantedBy=sockets.target
"""

_SERVICE = """[Unit]
Description=@NAME@: one conversation
After=ingot-@NAME@-recover.service

[Service]
ExecStart=@PREFIX@/start.sh
StandardInput=socket
StandardOutput=socket
StandardError=journal
MemoryMax=@MEMORY@
DynamicUser=yes
CacheDirectory=ingot
Environment=INGOT_CACHE_DIR=/var/cache/ingot
NoNewPrivileges=yes
PrivateNetwork=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
RestrictAddressFamilies=AF_UNIX
"""

_RECOVER = """[Unit]
Description=@NAME@: undo an update whose check never ended
Before=ingot-@NAME@.socket

[Service]
Type=oneshot
ExecStart=@PREFIX@/bin/ingot store recover @PREFIX@/models

[Install]
WantedBy=multi-user.target
"""

_README = """@NAME@, to be installed without network.

    sh install.sh --prefix DIR            # runtime, model, service files; checks every file first
    DIR/start.sh                          # talk to it

As root, for a service that answers on a socket:

    cp DIR/service/ingot-@NAME@* /etc/systemd/system/
    systemctl daemon-reload
    systemctl enable --now ingot-@NAME@-recover.service ingot-@NAME@.socket

It needs Python @PYTHON_VERSION@ on @MACHINE@ and nothing else: no compiler, no pip, no network.
Installing again, or a newer bundle, keeps the version before: DIR/bin/ingot store rollback.
"""


def bundle_texts(values: Mapping[str, str]) -> dict[str, str]:
    """Return the texts by path in the bundle, @KEY@ replaced where the value is known."""
    name = values["NAME"]
    texts = {
        "install.sh": _INSTALL,
        "README.txt": _README,
        "device/start.sh": _START,
        "device/bin/ingot": _PROGRAM,
        f"device/service/ingot-{name}.socket": _SOCKET,
        f"device/service/ingot-{name}@.service": _SERVICE,
        f"device/service/ingot-{name}-recover.service": _RECOVER,
    }
    return {path: _filled(text, values) for path, text in texts.items()}


def _filled(text: str, values: Mapping[str, str]) -> str:
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text
