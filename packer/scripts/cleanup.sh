#!/usr/bin/env bash
# Takes off what belongs to the builder and not to an image: its identity, its keys, its logs, and what was uploaded.
#
# The list is that of EKS's own images, with the secrets of systemd, what an agent keeps, and the session manager's state. The
# host forgets who it was: where a rehearsal ran it is a new machine at its next boot.
set -euo pipefail

: "${UPLOAD:?}"

# An agent that ever ran here has numbered its GPUs, knows its instance, and may have a spool that waits.
rm -rf /var/lib/gpushare

rm -rf "$UPLOAD"
rm -f /etc/hostname
# A link leads to what the running system knows: without it this session could not be kept up.
[[ -L /etc/resolv.conf ]] || rm -f /etc/resolv.conf
# Empty and not missing: every instance finds one for itself, and takes its units as they are enabled here.
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id
# Two machines with the same seed draw the same secrets. Stopped, its unit does not save another one at the end.
systemctl stop systemd-random-seed.service
rm -f /var/lib/systemd/random-seed /var/lib/systemd/credential.secret

rm -f /etc/ssh/ssh_host_*
while read -r home; do
    rm -f "$home/.ssh/authorized_keys" "$home/.bash_history"
done < <(getent passwd | cut -d: -f6 | sort -u)
rm -rf /var/lib/cloud/data /var/lib/cloud/instance /var/lib/cloud/instances /var/lib/cloud/sem
rm -rf /var/lib/dhclient/* /var/lib/dhcp/dhclient.*

if command -v dnf >/dev/null; then
    dnf clean all --quiet
fi
rm -rf /var/cache/dnf

# The journal goes to /run from now on, until the machine is switched off.
journalctl --quiet --relinquish-var
rm -rf /var/log/journal/*
rm -rf /var/log/audit/* /var/log/cloud-init.log /var/log/cloud-init-output.log /var/log/messages /var/log/secure
rm -f /var/log/dnf*.log /var/log/wtmp /var/log/btmp /var/log/lastlog

# This runs in a session of the session manager's agent, which keeps the builder's instance id and logs until it ends. At
# the end of the machine this unit is stopped after that agent is.
systemd-run --quiet --unit=forget-builder --property=Type=oneshot --property=RemainAfterExit=yes \
    --property=Before=amazon-ssm-agent.service \
    --property='ExecStop=-/usr/bin/find /var/lib/amazon/ssm /var/log/amazon/ssm -mindepth 1 -delete' /usr/bin/true
