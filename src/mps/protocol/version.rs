//! What the control program says of itself, and what its daemon can do by that. Pure.
//!
//! Measured with the control programs of 535.x, 550.163.01, 580.178.04 and 595.99.02.

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

    /// Whether the daemon knows `-multiuser-server`, which came together with `-v`.
    #[must_use]
    pub fn has_multi_user(self) -> bool {
        self != Self::Untold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m24_the_control_program_tells_its_version_from_580_on_and_knows_several_users_since() {
        let said = |text: &str| Version::read(text.as_bytes());
        let told = said("CUDA MPS Control for Linux/Unix/QNX. Binary version: 13000\n");
        assert_eq!(told, Version::Binary(13_000));
        assert!(told.has_multi_user());
        for text in [
            "",
            "Binary version: ?",
            "Binary version:",
            "Binary version: 99999999999",
            "\u{0}",
        ] {
            assert_eq!(said(text), Version::Untold, "{text:?}");
        }
        assert!(!Version::Untold.has_multi_user());
    }
}
