#!/bin/sh
# Before the files come. dpkg: "install" (also after a removal that kept the configuration) or "upgrade OLD"; rpm: 1 or 2.
#
# dpkg's postinst is told "configure OLD" in both cases. This mark tells it that the package was not there before, so that
# it is enabled again, as the removal has disabled it.

mark=/run/gpushare.not-there-before

if [ "$1" = install ]; then
    : >"$mark" || echo "gpushare: cannot write $mark; if the agent is not enabled afterwards: systemctl enable --now gpushare" >&2
fi
exit 0
