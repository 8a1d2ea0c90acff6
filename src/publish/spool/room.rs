//! Whether there is room for what is to be written. Pure.

use super::disk::Usage;

/// What the spool may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// `spool.max_bytes`.
    pub(super) max_bytes: u64,
    /// `spool.min_free_bytes`.
    pub(super) min_free_bytes: u64,
}

/// Whether there is room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// There is.
    Enough,
    /// There is after so many bytes of the oldest windows have gone.
    After(u64),
    /// The file system is too full for the file to grow.
    None,
}

/// Whether `bytes` more fit into a store of this size on a file system with so many bytes free. What is free within the
/// file costs the file system nothing.
pub(super) fn room(bytes: u64, usage: Usage, bounds: Bounds, free: u64) -> Room {
    let wanted = usage.used + bytes;
    if wanted > bounds.max_bytes {
        return Room::After(wanted - bounds.max_bytes);
    }
    let growth = wanted.saturating_sub(usage.file);
    if growth > 0 && free < bounds.min_free_bytes.saturating_add(growth) {
        return Room::None;
    }
    Room::Enough
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c14_the_spool_keeps_its_size_and_the_free_space_of_the_disk() {
        let bounds = Bounds {
            max_bytes: 100,
            min_free_bytes: 50,
        };
        let table = [
            // (bytes, used, file, free, room)
            (10, 0, 0, 60, Room::Enough),
            (10, 0, 0, 59, Room::None),
            (10, 20, 40, 0, Room::Enough),
            (30, 20, 40, 59, Room::None),
            (30, 20, 40, 60, Room::Enough),
            (10, 90, 90, 1000, Room::Enough),
            (11, 90, 90, 1000, Room::After(1)),
            (40, 90, 90, 0, Room::After(30)),
        ];
        for (bytes, used, file, free, expected) in table {
            let found = room(bytes, Usage { used, file }, bounds, free);
            assert_eq!(found, expected, "{bytes} into {used} of {file}, {free} free");
        }
    }
}
