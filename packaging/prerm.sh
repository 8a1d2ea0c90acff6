#!/bin/sh
# Before the files go. rpm: 0 removal, 1 upgrade; dpkg: "remove", or "upgrade" and the like.
#
# A removal leaves nothing running: the agent first, because it would start MPS again, then MPS on every GPU, each by its
# own ExecStop=, which restores the compute mode. CUDA programs that still use MPS end with it. An upgrade does nothing.

agent=gpushare.service
mps='gpushare-mps@*.service'

warn() {
    echo "gpushare: $*" >&2
}

stop_all() {
    systemctl stop "$agent" || warn "the agent is not stopped: systemctl stop $agent"
    # What failed earlier is not this removal's, and failed units would stay in systemd's lists.
    systemctl reset-failed "$agent" "$mps" 2>/dev/null
    systemctl stop "$mps" || warn "MPS is not stopped: systemctl stop '$mps'"
    # `stop` succeeds even where the daemon had to be killed.
    left=$(systemctl list-units --no-legend --plain --state=failed,active,deactivating "$mps")
    [ -z "$left" ] || warn "MPS did not end in order; look at the compute mode (nvidia-smi -q -d COMPUTE):
$left"
}

# A unit that had failed has no ExecStop=, and a configuration that never was right makes ExecStop= fail: what is left is put
# back here, with the configuration that the package documents, which is that of every node that sets no other directory.
restore_modes() {
    for kept in /run/gpushare/mps/*/gpushare.compute-mode; do
        [ -e "$kept" ] || continue
        gpu=${kept%/*}
        gpu=${gpu##*/}
        timeout 45 gpushare --config /usr/share/gpushare/gpushare.toml mps quit "$gpu" >/dev/null ||
            warn "$gpu keeps its compute mode, which was $(cat "$kept") before MPS; to set it: nvidia-smi -i $gpu -c MODE"
    done
}

remove() {
    if [ -d /run/systemd/system ]; then
        stop_all
        restore_modes
    fi
    systemctl --no-reload disable --quiet "$agent" || warn "$agent stays enabled: systemctl disable $agent"
}

case $1 in
0 | remove) remove ;;
esac
exit 0
