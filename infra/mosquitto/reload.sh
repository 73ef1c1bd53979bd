#!/bin/sh
# Bring the users and permissions that the controller wrote to Mosquitto, and have it read them.
#
#   vedette controller serve --broker mqtts://broker.example:8883 --broker-reload-command infra/mosquitto/reload.sh
#
# The controller's user needs the rights for both steps, for example by sudo. Elsewhere than on the
# broker's own machine, copy with scp and reload through ssh instead.
set -eu
from="${VEDETTE_HOME:?is not set}/controller/broker/mosquitto"
to=/etc/mosquitto/vedette
install -m 0640 -g mosquitto "$from/passwords" "$from/acl" "$to/"
systemctl reload mosquitto
