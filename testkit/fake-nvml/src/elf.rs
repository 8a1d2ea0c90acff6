//! The names in the dynamic symbol table of a 64-bit little-endian ELF file, and where in the file they stand.
//!
//! Just enough of the format for a shared library that Cargo built on the machines EKS has (x86-64 and arm64). Every
//! read is bounds-checked: a file of another kind gives no names, never a panic.

/// Section type of the dynamic symbol table (`SHT_DYNSYM`).
const DYNAMIC_SYMBOLS: u32 = 11;

/// Length of a section header and of a symbol in 64-bit ELF.
const SECTION_LENGTH: usize = 64;
const SYMBOL_LENGTH: usize = 24;

/// A symbol of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Symbol {
    pub(crate) name: String,
    /// Offset of the name's first byte in the file.
    pub(crate) name_offset: usize,
    /// False for one that another library defines.
    is_defined: bool,
}

struct Section {
    kind: u32,
    link: usize,
    offset: usize,
    length: usize,
}

/// All symbols that the file defines and a dynamic linker can find.
pub(crate) fn defined_symbols(image: &[u8]) -> Vec<Symbol> {
    find_symbols(image).unwrap_or_default()
}

fn find_symbols(image: &[u8]) -> Option<Vec<Symbol>> {
    // Class 2 = 64 bits, data 1 = little endian.
    if image.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let sections: Vec<Section> = (0..number(image, 0x3c, 2)?)
        .map(|index| section(image, index))
        .collect::<Option<_>>()?;
    let table = sections.iter().find(|section| section.kind == DYNAMIC_SYMBOLS)?;
    let names = sections.get(table.link)?;
    let offsets = (table.offset..table.offset.checked_add(table.length)?).step_by(SYMBOL_LENGTH);
    let symbols: Vec<Symbol> = offsets
        .map(|at| symbol(image, at, names.offset))
        .collect::<Option<_>>()?;
    Some(symbols.into_iter().filter(|symbol| symbol.is_defined).collect())
}

fn section(image: &[u8], index: usize) -> Option<Section> {
    let at = number(image, 0x28, 8)?.checked_add(index * SECTION_LENGTH)?;
    Some(Section {
        kind: u32::try_from(number(image, at + 0x04, 4)?).ok()?,
        link: number(image, at + 0x28, 4)?,
        offset: number(image, at + 0x18, 8)?,
        length: number(image, at + 0x20, 8)?,
    })
}

fn symbol(image: &[u8], at: usize, names: usize) -> Option<Symbol> {
    let name_offset = names.checked_add(number(image, at, 4)?)?;
    let is_defined = number(image, at + 6, 2)? != 0;
    let name = image.get(name_offset..)?.split(|byte| *byte == 0).next()?;
    let name = String::from_utf8_lossy(name).into_owned();
    Some(Symbol {
        name,
        name_offset,
        is_defined,
    })
}

/// A little-endian number of up to eight bytes.
fn number(image: &[u8], at: usize, length: usize) -> Option<usize> {
    let bytes = image.get(at..at.checked_add(length)?)?;
    let value = bytes
        .iter()
        .rev()
        .fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    usize::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::defined_symbols;

    #[test]
    fn file_of_another_kind_or_cut_short_has_no_symbols() {
        let image = fs_err::read(crate::library_path()).expect("built");
        assert!(!defined_symbols(&image).is_empty());
        for cut in [0, 3, 16, 63, 64, image.len() / 2] {
            assert_eq!(defined_symbols(&image[..cut]), [], "cut at {cut}");
        }
        assert_eq!(defined_symbols(b"[[gpu]]\nuuid = \"x\"\n"), []);
    }
}
