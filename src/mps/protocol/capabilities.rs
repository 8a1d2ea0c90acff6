//! What the daemon of a driver can do. Pure.
//!
//! Measured with the control daemons of 535.x, 550.163.01, 580.178.04 and 595.99.02; of 615 the documentation says
//! it. A driver in between counts as the next older one.

/// What `nvidia-cuda-mps-control -v` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Nothing: the option is unknown before 580.
    Untold,
    /// `Binary version: N`, the CUDA version in thousands and tens: 13020 is CUDA 13.2, of driver 595.
    Binary(u32),
}

impl Version {
    /// Reads standard output. The return code says nothing: without the option, a daemon that runs makes it 0.
    #[must_use]
    pub fn read(stdout: &[u8]) -> Self {
        let text = String::from_utf8_lossy(stdout);
        let number = text.split("Binary version:").nth(1).and_then(|rest| {
            let digits: String = rest
                .trim_start()
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            digits.parse().ok()
        });
        number.map_or(Self::Untold, Self::Binary)
    }
}

/// What the control daemon of a driver can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a row of a table: one column for each difference between the drivers"
)]
pub struct Capabilities {
    /// `get_server_status`. Without it whether a server is active cannot be asked.
    pub server_status: bool,
    /// `nvidia-cuda-mps-control.pid`. Never believed, only explained.
    pub pid_file: bool,
    /// `-multiuser-server` and `-v`.
    pub multi_user: bool,
    /// It initialises CUDA first: exit code 100 is "no device", 244 is "no libcuda.so.1", both without a word.
    pub initialises_cuda: bool,
    /// `set_default_device_pinned_mem_limit` takes a UUID in place of an ordinal. Before, it was silently ignored.
    pub limit_by_uuid: bool,
    /// Static partitions (`-S`, `lspart`).
    pub static_partitions: bool,
    /// Protocol 3 can be switched on, and has to be kept off.
    pub protocol_3: bool,
}

/// One driver.
struct Row {
    /// The first number of its version.
    driver: u32,
    /// What `-v` says, from this driver on; `None` where it says nothing, or is not known.
    binary: Option<u32>,
    can: Capabilities,
}

const R535: Capabilities = Capabilities {
    server_status: false,
    pid_file: false,
    multi_user: false,
    initialises_cuda: false,
    limit_by_uuid: false,
    static_partitions: false,
    protocol_3: false,
};
const R550: Capabilities = Capabilities {
    server_status: true,
    pid_file: true,
    ..R535
};
const R580: Capabilities = Capabilities {
    multi_user: true,
    initialises_cuda: true,
    limit_by_uuid: true,
    ..R550
};
const R595: Capabilities = Capabilities {
    static_partitions: true,
    ..R580
};
const R615: Capabilities = Capabilities {
    protocol_3: true,
    ..R595
};

const ROWS: [Row; 5] = [
    Row {
        driver: 535,
        binary: None,
        can: R535,
    },
    Row {
        driver: 550,
        binary: None,
        can: R550,
    },
    Row {
        driver: 580,
        binary: Some(13_000),
        can: R580,
    },
    Row {
        driver: 595,
        binary: Some(13_020),
        can: R595,
    },
    Row {
        driver: 615,
        binary: None,
        can: R615,
    },
];

impl Capabilities {
    /// By the driver's version, such as "580.95.05" (`nvmlSystemGetDriverVersion`). What is older than 535 counts as
    /// 535; `None` for a text that is no version.
    #[must_use]
    pub fn of_driver(version: &str) -> Option<Self> {
        let driver: u32 = version.split('.').next()?.trim().parse().ok()?;
        let newest = ROWS.iter().rev().find(|row| row.driver <= driver);
        Some(newest.map_or(R535, |row| row.can))
    }

    /// By the control program itself. Without an answer to `-v` it may be as old as 535.
    #[must_use]
    pub fn of_version(version: Version) -> Self {
        let Version::Binary(number) = version else {
            return R535;
        };
        let told = |row: &&Row| row.binary.is_some_and(|least| least <= number);
        // Whatever answers `-v` is 580 at least.
        ROWS.iter().rev().find(told).map_or(R580, |row| row.can)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_can_what_the_next_older_one_of_the_table_can() {
        for (version, can) in [
            ("470.256.02", R535),
            ("535.183.01", R535),
            ("550.163.01", R550),
            ("570.86.10", R550),
            ("580.95.05", R580),
            ("595.99.02", R595),
            ("615.12", R615),
            ("700.1", R615),
        ] {
            assert_eq!(Capabilities::of_driver(version), Some(can), "{version}");
        }
        for version in ["", "unknown", ".", "-1.0", "580x"] {
            assert_eq!(Capabilities::of_driver(version), None, "{version:?}");
        }
    }

    #[test]
    fn the_control_program_tells_its_version_from_580_on() {
        let said = |text: &str| Version::read(text.as_bytes());
        let told = said("CUDA MPS Control for Linux/Unix/QNX. Binary version: 13000\n");
        assert_eq!(told, Version::Binary(13_000));
        assert_eq!(Capabilities::of_version(told), R580);
        assert_eq!(Capabilities::of_version(said("Binary version: 13010")), R580);
        assert_eq!(Capabilities::of_version(said("Binary version: 13020")), R595);
        assert_eq!(
            Capabilities::of_version(said("Binary version: 12090")),
            R580,
            "it answers -v"
        );
        for text in [
            "",
            "Binary version: ?",
            "Binary version:",
            "Binary version: 99999999999",
            "\u{0}",
        ] {
            assert_eq!(said(text), Version::Untold, "{text:?}");
        }
        assert_eq!(Capabilities::of_version(Version::Untold), R535);
    }
}
