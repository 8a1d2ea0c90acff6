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
# Where rpm puts a configuration that was changed when it removes the package.
saved=/etc/gpushare/config.toml.rpmsave

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
    [ ! -e "$saved" ] || warn "the configuration of the installation before is not used. To use it:
mv $saved ${saved%.rpmsave} && systemctl restart $unit"
    [ "$GPUSHARE_START" != no ] && systemctl is-enabled --quiet "$unit" || return
    systemctl start "$unit" || warn "the agent does not start: journalctl -u $unit says why; gpushare check, too"
}

# What the new version says against the configuration; fails where it takes it. Any command that reads the configuration
# first, and ends soon, tells. Its environment is that of the agent that runs: its unit may set keys there.
refusal() {
    pid=$(systemctl show --property=MainPID --value "$unit")
    # Who does not run loses nothing by a start that fails.
    [ "${pid:-0}" -gt 0 ] || return
    # xargs turns what a command fails with into 123.
    xargs -0 -a "/proc/$pid/environ" sh -c 'env -i "$@" gpushare status 2>&1 >/dev/null; test $? -ne 78' sh
    [ $? -eq 123 ]
}

upgrade() {
    systemd_runs || return
    take_over_units
    if words=$(refusal); then
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
