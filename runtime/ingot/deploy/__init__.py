# SPDX-License-Identifier: Apache-2.0
"""Models onto other devices: over ssh into their store, only what they lack, tried there first."""

from ingot.deploy.options import Options
from ingot.deploy.receiver import receive
from ingot.deploy.sender import Connection, Deployment, Destination, deploy

__all__ = ["Connection", "Deployment", "Destination", "Options", "deploy", "receive"]
