#!/bin/sh
# The files are gone. rpm: 0 removal, 1 upgrade; dpkg: "remove", "purge", or "upgrade" and the like.
#
# Configuration and state (/etc/gpushare, /var/lib/gpushare) stay; dpkg's purge takes the state along, and dpkg itself the
# configuration.

warn() {
    echo "gpushare: $*" >&2
}

remove() {
    rm -rf /run/gpushare || warn "/run/gpushare stays until the next boot"
    [ -d /run/systemd/system ] || return
    systemctl daemon-reload || warn "systemd still knows the units: systemctl daemon-reload"
    # Units that ended with an error stay in its lists otherwise.
    systemctl reset-failed gpushare.service 'gpushare-mps@*.service' 2>/dev/null
}

case $1 in
0 | remove) remove ;;
purge) rm -rf /var/lib/gpushare || warn "/var/lib/gpushare is not removed" ;;
abort-install) rm -f /run/gpushare.not-there-before ;;
esac
exit 0
