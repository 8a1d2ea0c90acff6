//! The architectures of EKS nodes, and what each tool calls them.

use crate::args::UsageError;

/// What a node's processor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// Intel and AMD.
    X86_64,
    /// Graviton.
    Aarch64,
}

impl Architecture {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// The one that this tool was compiled for.
    pub(crate) fn of_this_machine() -> Self {
        if cfg!(target_arch = "aarch64") {
            Self::Aarch64
        } else {
            Self::X86_64
        }
    }

    /// The other one.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::X86_64 => Self::Aarch64,
            Self::Aarch64 => Self::X86_64,
        }
    }

    pub(super) fn parse(name: &str) -> Result<Self, UsageError> {
        let found = Self::ALL.into_iter().find(|one| one.name() == name);
        found.ok_or_else(|| UsageError::new(format!("--target {name}: x86_64 or aarch64 is wanted")))
    }

    /// As `uname -m` has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Rust's target.
    pub(super) fn triple(self) -> String {
        format!("{}-unknown-linux-gnu", self.name())
    }

    /// As nfpm and Debian have it; nfpm turns it into rpm's name.
    pub(super) fn goarch(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// `e_machine` in the header of an ELF file.
    pub(super) fn machine(self) -> u16 {
        match self {
            Self::X86_64 => object::elf::EM_X86_64.0,
            Self::Aarch64 => object::elf::EM_AARCH64.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_architecture_is_known_by_the_name_that_it_prints() {
        for one in Architecture::ALL {
            assert_eq!(Architecture::parse(one.name()).unwrap(), one);
            assert_eq!(one.other().other(), one);
        }
        let error = Architecture::parse("arm64").unwrap_err().to_string();
        assert_eq!(error, "--target arm64: x86_64 or aarch64 is wanted");
    }
}
