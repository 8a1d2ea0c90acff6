#!/usr/bin/env bash
# Looks whether the image is what it should be, after cleanup.sh and before it is taken.
#
# Given in the environment: VERSION, which the package has by its name.
set -euo pipefail

fail() { # WHAT MEND
    printf 'gpushare image: %s.\n  %s.\n' "$1" "$2" >&2
    exit 1
}

: "${VERSION:?}"
units=/usr/lib/systemd/system
drop_in=/etc/eks/nodeadm.d/50-gpushare.yaml
label=k8s.amazonaws.com/accelerator=vgpu

check_program() {
    local found
    found=$(gpushare --version) || fail "gpushare does not run here" "Is the package built for this system's C library?"
    # Package managers sort 1.0.0~rc.1 before 1.0.0; the program calls it 1.0.0-rc.1.
    [[ $found == "gpushare ${VERSION/\~/-}" ]] || fail "the package says that it is $VERSION, and the program is $found" \
        "Build the package anew with \`cargo xtask dist\`, and do not rename it"
}

check_units() {
    local said unit
    for unit in gpushare.service gpushare-mps@.service; do
        [[ -f $units/$unit ]] || fail "$units/$unit is missing" "The package is incomplete: build it anew"
    done
    said=$(systemctl is-enabled gpushare.service 2>&1) || true
    [[ $said == enabled ]] || fail "gpushare.service is $said, and would not start at boot" \
        "The package enables it when it is first installed: build on an image that never had it"
    if ! said=$(systemd-analyze verify --man=no --recursive-errors=no "$units/gpushare.service" \
        "$units/gpushare-mps@.service" 2>&1); then
        fail "this systemd does not take the units: $said" "The package and the image do not fit together: report it"
    fi
    said=$(systemctl list-units --plain --no-legend --state=active,activating 'gpushare*.service' | cut -d' ' -f1)
    [[ -z $said ]] || fail "${said//$'\n'/, } runs" "Nothing of gpushare runs in an image; see provision.sh"
}

# 78 is a mistake in the configuration. All else that the check finds is of this machine, which has no GPU.
check_configuration() {
    local said status=0
    said=$(gpushare check 2>&1) || status=$?
    [[ $status != 78 ]] || fail "the configuration of the image is wrong: $said" "Mend the file that -var config names"
    ((status == 0 || status == 1)) || fail "\`gpushare check\` ended with $status: $said" "Report it"
}

check_drop_in() {
    [[ -f $drop_in ]] || fail "$drop_in is missing" "provision.sh writes it: has it run?"
    [[ $(stat --format='%U %a' "$drop_in") == "root 644" ]] || fail "$drop_in is not root's with mode 644" \
        "provision.sh writes it: who changed it?"
    local line
    for line in 'apiVersion: node.eks.aws/v1alpha1' 'kind: NodeConfig' "      - --node-labels=$label"; do
        grep -qxF -- "$line" "$drop_in" || fail "$drop_in lacks the line \"$line\"" "Take it as it is in packer/files"
    done
}

# What must not be in two machines, or tells of the one that the image was made on.
check_clean() {
    local path home left existing=()
    shopt -s nullglob
    left=(
        /etc/ssh/ssh_host_* /var/lib/gpushare /var/lib/systemd/random-seed
        /var/lib/systemd/credential.secret
        /var/lib/cloud/instance /var/lib/cloud/instances /var/lib/cloud/data
        /var/log/journal/* /var/log/audit/* /var/log/cloud-init.log /var/log/cloud-init-output.log
        /var/log/messages /var/log/secure /var/log/dnf*.log /tmp/gpushare-image
    )
    shopt -u nullglob
    while read -r home; do
        left+=("$home/.ssh/authorized_keys" "$home/.bash_history")
    done < <(getent passwd | cut -d: -f6 | sort -u)
    for path in "${left[@]}"; do
        # Those without a star are in the list whether they are there or not.
        if [[ -e $path ]]; then
            existing+=("$path")
        fi
    done
    ((${#existing[@]} == 0)) || fail "${existing[*]} would be in the image" "cleanup.sh removes it: what made it again?"
    # It writes on as long as this session lasts.
    systemctl --quiet is-active forget-builder.service || fail "the session manager's files would be in the image" \
        "cleanup.sh starts forget-builder.service, which removes them at the end: who stopped it?"
    [[ ! -s /etc/machine-id ]] || fail "/etc/machine-id names this machine" "cleanup.sh empties it: what wrote it again?"
}

check_program
check_units
check_configuration
check_drop_in
check_clean
echo "gpushare image: valid"
