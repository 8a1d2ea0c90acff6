//! Refuses a binary that would not start on Amazon Linux 2023, whose C library is glibc 2.34.
//!
//! Read is what the dynamic loader reads: the libraries, the versions wanted of each, and the symbols behind them. A
//! version can be wanted without any symbol (`GLIBC_ABI_DT_RELR`), so that the list of versions decides and the symbols
//! only explain. The `object` crate reads it, the same on every machine and without the text of a foreign tool; the
//! rules are pure.

use std::fmt;

use anyhow::Context;
use object::elf::{DT_NEEDED, FileHeader64, SHT_DYNSYM};
use object::read::elf::{Dyn, FileHeader, SectionTable, Sym, SymbolTable};
use object::{Endianness, SymbolIndex};

use super::architecture::Architecture;

/// The C library that every node has at least.
const GLIBC: Version = Version(2, 34, 0);
/// Libraries of that C library and of the compiler, which every node has. All else would have to be installed.
const LIBRARIES: [&str; 5] = [
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
];

type Header = FileHeader64<Endianness>;

/// What the dynamic loader has to find.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wants {
    machine: u16,
    libraries: Vec<String>,
    versions: Vec<Wanted>,
}

/// A version of a library, as `GLIBC_2.34` is one of `libc.so.6`.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    name: String,
    library: String,
    /// Why; none for a version that stands for a property of the loader.
    symbols: Vec<String>,
}

/// 2.34, or 2.2.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

impl Version {
    /// Of a name such as `GLIBC_2.34`; none for `GLIBC_PRIVATE` and the like.
    fn of_glibc(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("GLIBC_")?.split('.').map(str::parse);
        let version = Self(
            parts.next()?.ok()?,
            parts.next()?.ok()?,
            parts.next().unwrap_or(Ok(0)).ok()?,
        );
        parts.next().is_none().then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(major, minor, 0) => write!(f, "{major}.{minor}"),
            Self(major, minor, patch) => write!(f, "{major}.{minor}.{patch}"),
        }
    }
}

/// What a binary that passes wants, for people to read; an error that names all that is wrong with one that does not.
pub(super) fn pass(bytes: &[u8], architecture: Architecture) -> anyhow::Result<String> {
    let wants = read(bytes).context("read it as a 64-bit ELF file")?;
    let refusals = refusals(&wants, architecture);
    anyhow::ensure!(
        refusals.is_empty(),
        "it would not start on an {} node with glibc {GLIBC}:\n  {}",
        architecture.name(),
        refusals.join("\n  ")
    );
    let newest = wants
        .versions
        .iter()
        .filter_map(|wanted| Version::of_glibc(&wanted.name))
        .max();
    let newest = newest.map_or_else(|| "none".to_owned(), |version| version.to_string());
    Ok(format!("glibc {newest}; {}", wants.libraries.join(", ")))
}

/// Everything that is wrong, and what brought it.
fn refusals(wants: &Wants, architecture: Architecture) -> Vec<String> {
    let mut found = Vec::new();
    if wants.machine != architecture.machine() {
        found.push(format!(
            "it is made for another machine (ELF machine {})",
            wants.machine
        ));
    }
    let strange = wants
        .libraries
        .iter()
        .filter(|library| !LIBRARIES.contains(&library.as_str()));
    found.extend(strange.map(|library| format!("it wants the library {library}")));
    for wanted in &wants.versions {
        let symbols = wanted.symbols.join(", ");
        let why = if symbols.is_empty() {
            "no symbol, but the loader"
        } else {
            &symbols
        };
        match Version::of_glibc(&wanted.name) {
            Some(version) if version <= GLIBC => {}
            None if !wanted.name.starts_with("GLIBC_") => {}
            _ => found.push(format!(
                "{} of {} is wanted by {why}",
                wanted.name, wanted.library
            )),
        }
    }
    found
}

fn read(bytes: &[u8]) -> object::read::Result<Wants> {
    let header = Header::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let symbols = sections.symbols(endian, bytes, SHT_DYNSYM)?;
    Ok(Wants {
        machine: header.e_machine(endian).0,
        libraries: libraries(&sections, endian, bytes)?,
        versions: versions(&sections, &symbols, endian, bytes)?,
    })
}

fn libraries(
    sections: &SectionTable<Header>,
    endian: Endianness,
    bytes: &[u8],
) -> object::read::Result<Vec<String>> {
    let Some((entries, link)) = sections.dynamic(endian, bytes)? else {
        return Ok(Vec::new());
    };
    let strings = sections.strings(endian, bytes, link)?;
    let needed = entries.iter().filter(|entry| entry.tag(endian) == DT_NEEDED);
    needed
        .map(|entry| entry.string(endian, strings).map(text))
        .collect()
}

fn versions(
    sections: &SectionTable<Header>,
    symbols: &SymbolTable<Header>,
    endian: Endianness,
    bytes: &[u8],
) -> object::read::Result<Vec<Wanted>> {
    let Some((mut libraries, link)) = sections.gnu_verneed(endian, bytes)? else {
        return Ok(Vec::new());
    };
    let strings = sections.strings(endian, bytes, link)?;
    let table = sections.versions(endian, bytes)?;
    let mut found = Vec::new();
    while let Some((library, mut entries)) = libraries.next()? {
        while let Some(entry) = entries.next()? {
            let number = entry.vna_other.get(endian);
            let wants_it = |index: SymbolIndex| {
                table
                    .as_ref()
                    .is_some_and(|table| table.version_index(endian, index).index() == number)
            };
            let users = symbols.enumerate().filter(|(index, _)| wants_it(*index));
            let names = users.map(|(_, symbol)| symbol.name(endian, symbols.strings()).map(text));
            found.push(Wanted {
                name: text(entry.name(endian, strings)?),
                library: text(library.file(endian, strings)?),
                symbols: names.collect::<Result<_, _>>()?,
            });
        }
    }
    Ok(found)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, symbols: &[&str]) -> Wanted {
        Wanted {
            name: name.to_owned(),
            library: "libc.so.6".to_owned(),
            symbols: symbols.iter().map(|&symbol| symbol.to_owned()).collect(),
        }
    }

    fn wants(libraries: &[&str], versions: Vec<Wanted>) -> Wants {
        Wants {
            machine: Architecture::X86_64.machine(),
            libraries: libraries.iter().map(|&library| library.to_owned()).collect(),
            versions,
        }
    }

    #[test]
    fn versions_compare_as_numbers() {
        let version = |name: &str| Version::of_glibc(name);
        assert_eq!(version("GLIBC_2.2.5"), Some(Version(2, 2, 5)));
        assert!(version("GLIBC_2.4") < version("GLIBC_2.34") && version("GLIBC_2.34") < version("GLIBC_3.0"));
        for odd in [
            "GLIBC_PRIVATE",
            "GLIBC_ABI_DT_RELR",
            "GCC_3.0",
            "GLIBC_2.x",
            "GLIBC_2.1.1.1",
        ] {
            assert_eq!(version(odd), None, "{odd}");
        }
    }

    #[test]
    fn what_amazon_linux_2023_has_passes() {
        let all = wants(
            &LIBRARIES,
            vec![
                wanted("GLIBC_2.34", &["dlopen"]),
                wanted("GLIBC_2.2.5", &["read"]),
                wanted("GCC_3.0", &["_Unwind_Resume"]),
            ],
        );
        assert_eq!(refusals(&all, Architecture::X86_64), [""; 0]);
    }

    #[test]
    fn what_it_lacks_is_named_with_the_symbol() {
        let all = wants(
            &["libc.so.6", "libssl.so.3"],
            vec![
                wanted("GLIBC_2.35", &["_dl_find_object"]),
                wanted("GLIBC_ABI_DT_RELR", &[]),
            ],
        );
        assert_eq!(
            refusals(&all, Architecture::Aarch64),
            [
                "it is made for another machine (ELF machine 62)",
                "it wants the library libssl.so.3",
                "GLIBC_2.35 of libc.so.6 is wanted by _dl_find_object",
                "GLIBC_ABI_DT_RELR of libc.so.6 is wanted by no symbol, but the loader",
            ]
        );
    }

    #[test]
    fn a_real_program_is_read_and_what_is_none_is_refused() {
        let this = fs_err::read(std::env::current_exe().unwrap()).unwrap();
        let wants = read(&this).unwrap();
        assert_eq!(wants.machine, Architecture::of_this_machine().machine());
        assert!(wants.libraries.contains(&"libc.so.6".to_owned()), "{wants:?}");
        let mut symbols = wants.versions.iter().flat_map(|wanted| &wanted.symbols);
        assert!(symbols.any(|symbol| symbol == "read"), "{wants:?}");
        let error = pass(b"#!/bin/sh\n", Architecture::X86_64).unwrap_err();
        assert!(
            format!("{error:#}").starts_with("read it as a 64-bit ELF file"),
            "{error:#}"
        );
    }
}
