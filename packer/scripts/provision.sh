#!/usr/bin/env bash
# Makes gpushare a part of this image: root runs it on the builder, or on the host of a rehearsal.
#
# Given in the environment: UPLOAD, the folder that packer filled; PACKAGE, the name of the package in it.
# It looks first and changes nothing where it refuses. It starts no service: the image is what boots, not the builder.
set -euo pipefail

fail() { # WHAT MEND
    printf 'gpushare image: %s.\n  %s.\n' "$1" "$2" >&2
    exit 1
}

: "${UPLOAD:?}" "${PACKAGE:?}"
package=$UPLOAD/$PACKAGE
drop_in=/etc/eks/nodeadm.d/50-gpushare.yaml

check_host() {
    [[ $EUID == 0 ]] || fail "provision.sh runs as user $EUID" \
        "Run it as root: the user that packer logs in with needs sudo without a password"
    local id version
    # shellcheck source=/dev/null
    { read -r id && read -r version; } < <(. /etc/os-release && printf '%s\n%s\n' "${ID-}" "${VERSION_ID-}") ||
        fail "/etc/os-release cannot be read" "Build on the EKS image for Amazon Linux 2023"
    [[ $id == amzn && $version == 2023 ]] || fail "this is $id $version, and not Amazon Linux 2023" \
        "Build on the EKS image for Amazon Linux 2023 with NVIDIA's driver; base-image.pkr.hcl finds it"
    if [[ ! -d /etc/eks ]] || ! command -v nodeadm >/dev/null; then
        fail "this is no EKS image: /etc/eks or the program nodeadm is missing" \
            "Build on the EKS image for Amazon Linux 2023 with NVIDIA's driver; base-image.pkr.hcl finds it"
    fi
}

# The session begins before cloud-init has ended, and what it writes late would be in the image. On a builder without a GPU
# units of the driver fail, and with them its verdict.
wait_for_boot() {
    if command -v cloud-init >/dev/null; then
        timeout 300 cloud-init status --wait >/dev/null || true
    fi
}

# Files only: without a GPU no module is loaded. Newer images keep a tree per driver and choose one at boot.
check_driver() {
    local file name missing=()
    for file in bin/nvidia-cuda-mps-control bin/nvidia-cuda-mps-server 'lib64/libnvidia-ml.so.*'; do
        name=${file##*/}
        compgen -G "/usr/$file" >/dev/null || compgen -G "/opt/nvidia/*/usr/$file" >/dev/null || missing+=("${name%.\*}")
    done
    ((${#missing[@]} == 0)) || fail "this image has no NVIDIA driver: ${missing[*]} is missing" \
        "This is the standard EKS image: take the accelerated one (the SSM parameter with /nvidia/ in its name)"
    if [[ -e /dev/nvidiactl ]] || [[ $(findmnt --noheadings --output FSTYPE --mountpoint /usr/bin || true) == overlay ]]; then
        fail "this builder has a GPU, and its driver has been chosen" \
            "Build on an instance type without one (leave instance_type out): the image would fit this GPU alone"
    fi
}

check_package() {
    [[ -s $package ]] || fail "the package $package is not there, or empty" \
        "Give packer the file that \`cargo xtask dist\` made: -var package=target/dist/gpushare-VERSION-1.ARCHITECTURE.rpm"
    local name architecture query
    case $package in
    *.rpm)
        command -v dnf >/dev/null || fail "dnf is missing, and $PACKAGE is an rpm" "Amazon Linux 2023 has it: take its image"
        query=$(rpm --query --package --nosignature --queryformat '%{NAME} %{ARCH}' "$package") || query=
        ;;
    *.deb)
        command -v dpkg-deb >/dev/null || fail "dpkg-deb is missing, and $PACKAGE is a package for Debian" \
            "Give packer the rpm: the deb is for rehearsals on Debian"
        # shellcheck disable=SC2016 # It is dpkg-deb that expands them.
        query=$(dpkg-deb --show --showformat='${Package} ${Architecture}' "$package") || query=
        ;;
    *) fail "$PACKAGE is neither an rpm nor a deb" "Give packer the rpm that \`cargo xtask dist\` made" ;;
    esac
    [[ -n $query ]] || fail "$PACKAGE cannot be read as a package" "Build it again, and look whether the upload was cut short"
    read -r name architecture <<<"$query"
    [[ $name == gpushare ]] || fail "$PACKAGE is the package of $name" "Give packer the package of gpushare"
    case $architecture in amd64) architecture=x86_64 ;; arm64) architecture=aarch64 ;; esac
    [[ $architecture == "$(uname -m)" ]] || fail "$PACKAGE is for $architecture, and this machine is $(uname -m)" \
        "Give packer the package of this architecture, or set -var architecture to that of the package"
}

# From the file alone: nothing else in the base image changes, and no repository has to be reached. The package's scripts
# enable the agent, and start it unless they are told not to.
install_package() {
    local said
    export GPUSHARE_START=no
    case $package in
    *.rpm) set -- dnf install --assumeyes --disablerepo='*' "$package" ;;
    *.deb) set -- dpkg --install "$package" ;;
    esac
    if ! said=$("$@" 2>&1); then
        printf '%s\n' "$said" >&2
        fail "$PACKAGE does not install" "What $1 said stands above; nothing is fetched from a repository"
    fi
}

units_of_ours() {
    systemctl list-units --plain --no-legend --state=active,activating,failed 'gpushare*.service' | cut -d' ' -f1
}

check_absent() {
    local active
    active=$(units_of_ours)
    [[ -z $active ]] || fail "${active//$'\n'/, } is on this host already" \
        "Take a fresh host, or stop it first (systemctl stop, reset-failed): an upgrade would restart it"
}

check_started() {
    local active
    active=$(units_of_ours)
    [[ -z $active ]] || fail "${active//$'\n'/, } has been started" "Nothing is started in an image; see the package's scripts"
}

configure() {
    install -D -m 0644 "$UPLOAD/50-gpushare.yaml" "$drop_in"
    # A file of comments leaves the package's.
    if grep -qvE '^[[:space:]]*(#|$)' "$UPLOAD/config.toml"; then
        install -D -m 0644 "$UPLOAD/config.toml" /etc/gpushare/config.toml
    fi
}

check_host
check_driver
check_package
check_absent
wait_for_boot
install_package
check_started
configure
echo "gpushare image: $(gpushare --version) is installed"
