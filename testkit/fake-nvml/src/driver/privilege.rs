//! Whether the driver would take the caller for an administrator: `CAP_SYS_ADMIN` in effect, and not the user id 0.

/// `CAP_SYS_ADMIN` of `linux/capability.h`.
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Whether this thread may change settings. One whose capabilities cannot be read may not.
pub(super) fn is_admin() -> bool {
    fs_err::read_to_string("/proc/thread-self/status")
        .ok()
        .and_then(|status| effective(&status))
        .is_some_and(|capabilities| capabilities & CAP_SYS_ADMIN != 0)
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::{CAP_SYS_ADMIN, effective};

    #[test]
    fn effective_capabilities_are_read_and_not_the_permitted_ones() {
        let status = "Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t0000000000200000\n";
        assert_eq!(effective(status), Some(CAP_SYS_ADMIN));
        assert_eq!(effective("CapPrm:\t0000000000200000\n"), None);
    }
}
