#!/bin/sh
# The files are there. rpm: 1 first installation, 2 upgrade; dpkg: "configure" and the version that was configured before,
# or "abort-remove" and the like where something else went wrong.
#
# A first installation enables the agent and, where systemd runs and GPUSHARE_START is not "no", starts it. An upgrade
# restarts the agent if it runs or has failed, unless the new version refuses the configuration, and never MPS: CUDA programs
# notice nothing. Whatever fails here is told and leaves a package that is installed: a package manager that stops half way
# helps nobody.

mark=/run/gpushare.not-there-before
unit=gpushare.service

warn() {
    echo "gpushare: $*" >&2
}

systemd_runs() {
    [ -d /run/systemd/system ]
}

take_over_units() {
    systemctl daemon-reload || warn "systemd does not read its units again: systemctl daemon-reload"
    systemd-tmpfiles --create gpushare.conf || warn "not all folders were made: systemd-tmpfiles --create gpushare.conf"
}

install_first() {
    # As the preset of this package says, unless an administrator's says otherwise.
    systemctl --no-reload preset --quiet "$unit" || warn "$unit is not enabled: systemctl enable --now $unit"
    systemd_runs || return
    take_over_units
    [ "$GPUSHARE_START" != no ] && systemctl is-enabled --quiet "$unit" || return
    systemctl start "$unit" || warn "the agent does not start: journalctl -u $unit says why; gpushare check, too"
}

upgrade() {
    systemd_runs || return
    take_over_units
    # Any command that reads the configuration first, and ends soon, tells whether the new version takes it.
    words=$(gpushare status 2>&1 >/dev/null)
    if [ $? -eq 78 ]; then
        warn "the new version refuses the configuration; an agent that runs goes on as it is, but would not start again.
Correct it, then: systemctl try-restart $unit
$words"
        return
    fi
    # One that the version before has refused is what this version is here for.
    verb=try-restart
    if systemctl is-failed --quiet "$unit" && systemctl is-enabled --quiet "$unit"; then
        verb=start
    fi
    systemctl "$verb" "$unit" ||
        warn "the new version does not start: journalctl -u $unit says why; MPS and CUDA programs go on"
}

case $1 in
1) install_first ;;
2) upgrade ;;
configure)
    if [ -z "$2" ] || [ -e "$mark" ]; then
        install_first
    else
        upgrade
    fi
    ;;
# prerm has stopped and disabled it, and then it was not removed.
abort-remove) install_first ;;
esac
rm -f "$mark"
exit 0
